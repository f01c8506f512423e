"""What really happened: samples of the farm's own truth, and what the operator asked when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curtaild_drivers.contract import Seconds, Watts


@dataclass(frozen=True, slots=True)
class Sample:
    """The plant at one moment (monotonic s): the draw of each feeder (W), and how many commands that lower or raise
    have reached a device since the farm began."""

    at: Seconds
    feeders_w: dict[str, Watts]
    site_w: Watts
    lowered: int
    raised: int

    @classmethod
    def told(cls, line: dict[str, Any], root: str) -> Sample:
        """As the farm tells it."""
        feeders_w = {str(name): float(value) for name, value in line["feeders_w"].items()}
        return cls(float(line["at"]), feeders_w, feeders_w[root], int(line["lowered"]), int(line["raised"]))


@dataclass(frozen=True, slots=True)
class StepMark:
    """One step as it was played: `limit_w` (the rating where released) holds from `due_at`, after a publish, or a last
    heartbeat, at `asked_at`. `grace_s`: how long after `due_at` the draw may still be above.

    `demand_w` is what the devices would draw unlimited, `floor_w` what nobody can shed. With a ramp the draw may rise
    from `from_w` at `ramp_w_per_min`, no faster.
    """

    name: str
    asked_at: Seconds
    due_at: Seconds
    ends_at: Seconds
    limit_w: Watts
    from_w: Watts
    grace_s: Seconds
    demand_w: Watts
    floor_w: Watts
    ramp_w_per_min: float | None = None

    @property
    def lowers(self) -> bool:
        return self.limit_w < self.from_w

    @property
    def holds_from(self) -> Seconds:
        """From when on a draw above the limit is an overshoot."""
        return self.due_at + self.grace_s if self.lowers else self.due_at

    def allowed_w(self, at: Seconds) -> Watts:
        """What the site may draw at `at` and has use for."""
        may_w = self.limit_w
        if self.ramp_w_per_min is not None:
            may_w = min(may_w, self.from_w + self.ramp_w_per_min * max(0.0, at - self.due_at) / 60)
        return min(may_w, self.demand_w)
