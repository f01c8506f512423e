"""ASIC miners: ten firmwares in own, checked wire code (see `identify.OWN`); all others through pyasic."""

from curtaild_drivers.asic.device import AsicDevice, open_device
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.registry import Driver

DRIVER = Driver(name="asic", settings=AsicSettings, open_device=open_device)

__all__ = ["DRIVER", "AsicDevice", "AsicSettings"]
