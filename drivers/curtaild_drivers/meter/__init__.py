"""Power meters. `modbus` reads any meter that speaks Modbus TCP, itself or through a gateway."""

from curtaild_drivers.meter.modbus import open_meter
from curtaild_drivers.meter.registers import ModbusMeterSettings
from curtaild_drivers.registry import Driver

DRIVER = Driver(name="modbus", settings=ModbusMeterSettings, open_meter=open_meter)
