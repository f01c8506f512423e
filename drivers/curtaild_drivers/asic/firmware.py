"""What every firmware's wire code offers the driver, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from curtaild_drivers.asic.models import Rating, rating
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.contract import (
    OFF,
    BadReply,
    Capabilities,
    Identity,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    Reading,
    Seconds,
    Unsupported,
    Watts,
)

STANDBY_W: Watts = 50.0
"""What a stopped miner still draws, where its firmware is not known to differ (assumed: 30-100 W)."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one miner, and what is known of it before asking. `rated_w` is the site file's word."""

    host: str
    settings: AsicSettings
    password: str | None = field(default=None, repr=False)
    rated_w: Watts | None = None
    model: str = ""

    def rating(self) -> Rating | None:
        """What this unit is rated at: its model's table entry, scaled to the site file's word where there is one."""
        table = rating(self.model)
        if self.rated_w is None:
            return table
        if table is None:
            return Rating(self.rated_w, self.rated_w * _TYPICAL_HASH_PER_JOULE)
        return Rating(self.rated_w, table.rate_hs * self.rated_w / table.power_w)


_TYPICAL_HASH_PER_JOULE = 1e12 / 30.0  # 30 J/TH, a mid-generation machine


class Firmware(Protocol):
    """One miner in its firmware's own language. `until` is a moment on the loop's clock; all calls raise
    `DriverError` only, `apply` as `contract.Device.apply` says."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def describe(self, until: Seconds) -> Identity: ...

    async def read(self, until: Seconds) -> Reading: ...

    async def operating_points(self, until: Seconds) -> OperatingPoints: ...

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome: ...

    async def close(self) -> None: ...


MakeFirmware = Callable[[Access], Firmware]


def off_point(draw_w: Watts = STANDBY_W) -> OperatingPoint:
    """Stopped: no hashes, standby draw."""
    return OperatingPoint(OFF, draw_w, 0.0)


def unknown_draw(model: str) -> Unsupported:
    """Nobody can say what the device would draw, so nothing may be planned with it."""
    return Unsupported(f"nobody knows what a {model or 'miner of unknown model'} draws: set rated_w in the site file")


_FOREIGN = {
    "antminer": ("luxminer", "bosminer", "boser", "btminer", "whatsminer", "vnish", "hiveon", "kaonsu"),
    "auradine": ("luxminer", "bmminer", "cgminer", "bosminer", "boser", "btminer", "whatsminer", "vnish"),
    "avalon": ("luxminer", "bmminer", "bosminer", "boser", "btminer", "whatsminer", "vnish"),
    "luxos": ("bmminer", "cgminer", "bosminer", "boser", "btminer", "whatsminer", "vnish"),
    "vnish": ("luxminer", "bosminer", "boser", "btminer", "whatsminer", "hiveon"),
    "whatsminer-v2": ("luxminer", "bmminer", "cgminer", "bosminer", "boser", "vnish"),
}


def check_still(firmware: str, named: str) -> None:
    """Raises `BadReply` if the answer names another firmware than the one that was identified: somebody has
    reflashed the machine, or another one has taken its address."""
    lowered = named.lower()
    for other in _FOREIGN[firmware]:
        if other in lowered:
            raise BadReply(f"identified as {firmware}, now answers as {named[:60]!r}: identify it again")
