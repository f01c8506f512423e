"""What dispatch is asked for and what it answers: watts to shed and watts to give out, feeder by feeder, and moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from curtaild_drivers.contract import DeviceId, FeederId, OperatingPoint, Seconds, Watts

AHEAD_S = 2.0  # a command reaches its device within this: two cycles
MILLIWATT = 0.001  # what rounding may leave of a sum is nothing


class Move(NamedTuple):
    """One device is to go to `target`; `rule` says why, in watts, and `feeder` where, if anywhere."""

    device: DeviceId
    target: OperatingPoint
    is_raise: bool
    rule: str
    feeder: FeederId | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A lower limit that is known to begin at `at`, somewhere in the tree, and what the site as it stands would be over
    by or have free there (W), as in `Room`."""

    at: Seconds
    over_w: dict[FeederId, Watts]
    free_w: dict[FeederId, Watts]
    firm_over_w: dict[FeederId, Watts] = field(default_factory=dict)


@dataclass(slots=True)
class Room:
    """What a feeder is over its limit by, or has free (W). `over_w`: to be shed. `firm_over_w`: to be shed even past
    the devices' flex, because a rating, an emergency or the fail-safe asks for it; empty where no device has one.
    `free_w`: may be given out. `edge_w2`: at the feeders where a meter lets the units' spreads add up by their squares,
    the sum of those. `coming`: the lower limits ahead, the next one first. A watt of a device's own word is held
    against a limit as `unmetered` watts, its error included, and from the nearest meter above it on as `metered` there
    says."""

    over_w: dict[FeederId, Watts] = field(default_factory=dict)
    free_w: dict[FeederId, Watts] = field(default_factory=dict)
    firm_over_w: dict[FeederId, Watts] = field(default_factory=dict)
    edge_w2: dict[FeederId, float] = field(default_factory=dict)
    coming: list[Window] = field(default_factory=list)
    unmetered: float = 1.0
    metered: dict[FeederId, float] = field(default_factory=dict)
