"""ASIC miners: stock Antminer, Whatsminer v2 and v3, and LuxOS in own, checked wire code; all others through pyasic."""

from curtaild_drivers.asic.device import AsicDevice, open_device
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.registry import Driver

DRIVER = Driver(name="asic", settings=AsicSettings, open_device=open_device)

__all__ = ["DRIVER", "AsicDevice", "AsicSettings"]
