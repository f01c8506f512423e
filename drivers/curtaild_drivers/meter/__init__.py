"""Power meters. `modbus` reads any meter that speaks Modbus TCP, itself or through a gateway."""

from curtaild_drivers.maturity import Maturity, Support
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
