"""One GPU as a node sees it, whoever made it: what it is, what it draws, what it keeps. All calls block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from curtaild_drivers.contract import DriverError, Unreachable, Watts

Milliwatts: TypeAlias = int
"""What the vendors' libraries count power limits in; whole ones only."""

MOST_MW: Milliwatts = 20_000_000
"""No GPU and no module draws more: what says so says nonsense."""


class CardLost(Unreachable):
    """The GPU no longer answers its driver (fallen off the bus). A reboot, often a power cycle, brings it back."""


class LibraryGone(Unreachable):
    """The vendor's library must be opened anew: the driver was unloaded or updated under it."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What does not change while the driver is loaded.

    `least_mw` and `most_mw` bound its power limit, `default_mw` is the maker's; `None` where it does not say, and then
    it takes no limit. `is_persistent`: limits outlive the driver's last client. `missing` names what this driver
    version cannot tell or do, in words.
    """

    index: int
    uuid: str
    model: str
    least_mw: Milliwatts | None = None
    most_mw: Milliwatts | None = None
    default_mw: Milliwatts | None = None
    takes_limit: bool = False
    locks_clocks: bool = False
    scope: str = "gpu"
    is_mig: bool = False
    is_persistent: bool | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CardPower:
    """The one hot answer. `average_w` is the mean of the last second, `instant_w` of the last sample; `enforced_mw` the
    limit it keeps, `requested_mw` the one last asked for; `energy_j` its running total. `None`: not said."""

    instant_w: Watts | None = None
    average_w: Watts | None = None
    energy_j: float | None = None
    enforced_mw: Milliwatts | None = None
    requested_mw: Milliwatts | None = None

    @property
    def power_w(self) -> Watts | None:
        """The mean of a second where there is one: a single sample of a training GPU may be hundreds of watts off."""
        return self.average_w if self.average_w is not None else self.instant_w


@dataclass(frozen=True, slots=True)
class CardActivity:
    """What it is doing: `utilisation` and `clock_fraction` (of its highest clock) 0..1. `is_capped`: its limit binds
    right now. `xid`: the last error that its driver told of since the last asking, errors of programs left out."""

    utilisation: float | None = None
    clock_fraction: float | None = None
    is_capped: bool | None = None
    temperature_c: float | None = None
    xid: int | None = None


class Card(Protocol):
    """One GPU. Every call blocks and belongs into the card's own thread; all raise `DriverError` only."""

    @property
    def facts(self) -> CardFacts: ...

    def power(self) -> CardPower:
        """Draw and limits, in a single call into the driver where its version allows."""
        ...

    def activity(self) -> CardActivity:
        """What it is doing; several calls. What it does not tell is `None`."""
        ...

    def set_limit(self, limit_mw: Milliwatts) -> None:
        """Ask for a limit, once. Its silence proves nothing: read back."""
        ...

    def lock_clocks(self, mhz: int) -> None:
        """Hold the clock at or under `mhz`."""
        ...

    def release_clocks(self) -> None: ...

    def close(self) -> None: ...


class Host(Protocol):
    """The GPUs of this host under one vendor's library. Calls block."""

    make: str

    def open(self) -> tuple[str, int]:
        """Load the library: the driver's version, and how many GPUs there are. Raises `DriverError`."""
        ...

    def renew(self) -> None:
        """Have the library look at its GPUs anew, without letting go of the driver, which might forget limits. Raises
        `DriverError`."""
        ...

    def card(self, index: int) -> Card:
        """Find out what one of them can do. Raises `DriverError`."""
        ...

    def close(self) -> None: ...


def milliwatts_or_none(value: object) -> Milliwatts | None:
    """A claim of milliwatts, or `None` where it is absent or absurd."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MOST_MW else None


def of_card(index: int, error: DriverError) -> str:
    """An error's words with the GPU that they are about."""
    return f"GPU {index}: {error}"
