"""What happened in a rehearsal, second by second, by the plant's truth and by what the daemon held to be true."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from curtaild_drivers.contract import FeederId, Seconds

SLOT_S = 4
"""Settlement counts in intervals of four seconds, at which ERCOT moves its set points."""


def _column() -> array[float]:
    return array("d")


@dataclass(slots=True)
class FeederTrace:
    """One feeder, one value per slot: its mean true draw and the lowest limit stated in the slot (W)."""

    true_w: array[float] = field(default_factory=_column)
    limit_w: array[float] = field(default_factory=_column)


@dataclass(slots=True)
class Trace:
    """Of the root, one value per second: the limit, the true draw, what the meter said last, and the most the site may
    have been drawing as far as the daemon knew (all W). Per slot: each feeder, each group's devices (W), and what the
    site earned (per hour). `earned_unit` names what it is counted in."""

    feeders: dict[FeederId, FeederTrace]
    groups_w: dict[str, array[float]]
    limit_w: array[float] = field(default_factory=_column)
    true_w: array[float] = field(default_factory=_column)
    metered_w: array[float] = field(default_factory=_column)
    reserved_w: array[float] = field(default_factory=_column)
    earned_per_h: array[float] = field(default_factory=_column)
    commands: list[tuple[Seconds, bool]] = field(default_factory=list)

    @classmethod
    def of(cls, feeders: Iterable[FeederId], groups: Iterable[str]) -> Trace:
        """An empty one."""
        return cls(
            feeders={feeder: FeederTrace() for feeder in feeders}, groups_w={group: _column() for group in groups}
        )

    @property
    def seconds(self) -> int:
        return len(self.true_w)

    @property
    def slots(self) -> int:
        return len(self.earned_per_h)
