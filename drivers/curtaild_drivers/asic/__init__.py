"""ASIC miners: eleven firmwares in own, checked wire code (see `identify.OWN`); all others watched through pyasic."""

from curtaild_drivers.asic import (
    antminer,
    auradine,
    avalon,
    axeos,
    braiins,
    epic,
    longtail,
    luxos,
    marathon,
    vnish,
    whatsminer_v2,
    whatsminer_v3,
)
from curtaild_drivers.asic.device import AsicDevice, open_device
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.registry import Driver

SUPPORT = (
    antminer.SUPPORT,
    whatsminer_v2.SUPPORT,
    whatsminer_v3.SUPPORT,
    luxos.SUPPORT,
    vnish.SUPPORT,
    avalon.SUPPORT,
    braiins.SUPPORT,
    auradine.SUPPORT,
    epic.SUPPORT,
    axeos.SUPPORT,
    marathon.SUPPORT,
    longtail.SUPPORT,
)

DRIVER = Driver(name="asic", settings=AsicSettings, open_device=open_device, support=SUPPORT, counts_hashes=True)

__all__ = ["DRIVER", "AsicDevice", "AsicSettings"]
