"""What the grid will say in a rehearsal, and when. Plain data; times are seconds since the play begins."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild.core.allocation import Urgency
from curtaild_drivers.contract import FeederId, Seconds, Watts


@dataclass(frozen=True, slots=True)
class Order:
    """One limit: it holds from `at_s`, for `lasts_s` (`None`: until another follows), and is told `announced_s` before.

    `limit_w` `None` releases; `feeder` `None` is the root; `reach_by_s` and `max_ramp_up_w_per_min` as in allocations.
    """

    at_s: Seconds
    limit_w: Watts | None
    feeder: FeederId | None = None
    lasts_s: Seconds | None = None
    announced_s: Seconds = 0.0
    reach_by_s: Seconds | None = None
    max_ramp_up_w_per_min: float | None = None
    urgency: Urgency = Urgency.NORMAL


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the emulated site would draw with nothing to hold it back, and with everything off (W, at the root)."""

    demand_w: Watts
    floor_w: Watts

    def at(self, share: float) -> Watts:
        """The limit at which this share of what can be shed is still drawn: 0 is the floor, 1 the demand."""
        return self.floor_w + share * (self.demand_w - self.floor_w)


@dataclass(frozen=True, slots=True)
class Play:
    """A name, what it is a picture of, its orders by rising `at_s`, and how long it lasts."""

    name: str
    says: str
    orders: tuple[Order, ...]
    duration_s: Seconds
