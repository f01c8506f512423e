"""Power meters and contactors. `modbus` reads any meter that speaks Modbus TCP, itself or through a gateway;
`modbus-coil` starts the fans or pumps of a feeder by a contactor."""

from curtaild_drivers.maturity import Maturity, Support
from curtaild_drivers.meter.coil import ModbusCoilSettings, open_interlock
from curtaild_drivers.meter.modbus import open_meter
from curtaild_drivers.meter.registers import ModbusMeterSettings
from curtaild_drivers.registry import Driver

SUPPORT = Support(
    firmware="",
    device="Power meters on Modbus TCP: Eastron SDM630, Schneider PM5xxx, or a register map of the site's own",
    maturity=Maturity.EMULATED,
    proven="against our emulated meters; the frames are pymodbus's own",
    reads_watts="yes, with the energy counter where it has one",
    throttled_by="–",
    stopped_by="–",
    auth="none",
    ports="502",
    quirks=("A current transformer the wrong way round reads negative: that is no reading.",),
    sources=("the makers' register maps", "pymodbus"),
)

DRIVER = Driver(name="modbus", settings=ModbusMeterSettings, open_meter=open_meter, support=(SUPPORT,))

COIL_SUPPORT = Support(
    firmware="",
    device="Contactors of fans and pumps on Modbus TCP, with an auxiliary contact or an air-flow switch",
    maturity=Maturity.EMULATED,
    proven="against our emulated contactors; the frames are pymodbus's own",
    reads_watts="–",
    throttled_by="–",
    stopped_by="– (switched on only)",
    auth="none",
    ports="502",
    quirks=("A coil read back proves no more than that the controller took the command.",),
    sources=("Modbus application protocol 1.1b3",),
)

COIL_DRIVER = Driver(
    name="modbus-coil", settings=ModbusCoilSettings, open_interlock=open_interlock, support=(COIL_SUPPORT,)
)
