"""Finds drivers by entry point (`curtaild.drivers`), and says what a driver is: a name, settings, a way to open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from curtaild_drivers.contract import Device, Identity, Interlock, Meter, Watts
from curtaild_drivers.maturity import Support

GROUP = "curtaild.drivers"


class Doubt(NamedTuple):
    """The key within the settings, what is odd about its value, what to do."""

    key: tuple[str, ...]
    reason: str
    remedy: str
    value: object


class DriverSettings(BaseModel):
    """What every driver's own settings model derives from: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def doubts(self) -> Iterator[Doubt]:
        """What is allowed and hardly meant, as far as this host shows it: for `curtaild check`."""
        yield from ()


@dataclass(frozen=True, slots=True)
class OpenContext:
    """What the daemon hands a driver beside its settings.

    `remembered` is the identity found earlier (so that no probing is needed), `secrets` are the values of the
    settings' `*_file` and credential keys, by key name; they must never reach a log. `rated_w` is the site file's
    word on the most the device draws, if any; `flex` 0..1 its word on how much of the device's highest rate a routine
    limit may take, `None` for all of it.
    """

    remembered: Identity | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    rated_w: Watts | None = None
    flex: float | None = None


OpenDevice = Callable[[str, DriverSettings, OpenContext], Device]
OpenMeter = Callable[[str, DriverSettings, OpenContext], Meter]
OpenInterlock = Callable[[str, DriverSettings, OpenContext], Interlock]


@dataclass(frozen=True, slots=True)
class Driver:
    """One driver: `settings` is its own pydantic model; `open_device`, `open_meter` and `open_interlock` (each `None`
    where it has none) take an address, settings and context, do no I/O, and return the object that does. `support`
    says, for people, what it can do on which devices and how far that is proven. `counts_hashes`: a device's rate is
    hashes per second, and has its price; else it is the fraction of full throughput."""

    name: str
    settings: type[DriverSettings]
    open_device: OpenDevice | None = None
    open_meter: OpenMeter | None = None
    open_interlock: OpenInterlock | None = None
    support: tuple[Support, ...] = ()
    counts_hashes: bool = False


class UnknownDriver(LookupError):
    """No installed distribution offers a driver of that name."""


@cache
def drivers() -> dict[str, Driver]:
    """All installed drivers by name, from the entry points of this and of third parties' distributions."""
    found: dict[str, Driver] = {}
    for point in entry_points(group=GROUP):
        loaded = point.load()
        if isinstance(loaded, Driver):
            found[point.name] = loaded
    return found


def driver(name: str) -> Driver:
    """The driver called `name`; raises `UnknownDriver`."""
    try:
        return drivers()[name]
    except KeyError:
        raise UnknownDriver(f"no driver {name!r}; installed: {', '.join(sorted(drivers()))}") from None
