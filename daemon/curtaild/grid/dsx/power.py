"""The power state of a feed as DSX Flex tells it: what it may draw, whether it is on its way, and what set it off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from curtaild.clock import UnixSeconds
from curtaild.core.status import FeederStatus
from curtaild.grid import fields
from curtaild.grid.dsx.targets import Target
from curtaild_drivers.contract import Seconds, Watts

TOLERANCE = 0.005
"""A feed is at its target within this fraction of it: the meter's noise."""
STALLED_AFTER_S = 120.0
"""A ramp up without a further watt for this long is over: what is left has its own reasons to stay down."""


class Trigger(Enum):
    """Why a snapshot is sent."""

    TARGET_SET = "target_set"
    START_RAMP_DOWN = "start_ramp_down"
    END_RAMP_DOWN = "end_ramp_down"
    START_RAMP_UP = "start_ramp_up"
    END_RAMP_UP = "end_ramp_up"
    PERIODIC = "periodic"


@dataclass(slots=True)
class Ramp:
    """Follows one feed from status to status."""

    limit_w: Watts | None = None
    drawn_w: Watts = 0.0
    was_full: bool = True
    is_down: bool | None = None  # None: at rest
    highest_planned_w: Watts = 0.0
    risen_at: Seconds = 0.0

    def follow(self, feeder: FeederStatus, now: Seconds) -> Trigger | None:
        """What has begun or ended since the last status. A ramp that fits between two has begun with the first, and
        ends with the next."""
        before_w, self.limit_w = self.limit_w, feeder.limit_w
        last_drawn_w, self.drawn_w = self.drawn_w, _drawn_w(feeder)
        is_over = self.drawn_w > feeder.limit_w * (1 + TOLERANCE)
        was_over = last_drawn_w > feeder.limit_w * (1 + TOLERANCE)
        was_full = self.was_full
        is_full = self.was_full = feeder.curtailed_w <= TOLERANCE * feeder.rating_w
        if before_w is None or feeder.limit_w < before_w:
            if (is_over or was_over) and self.is_down is not True:
                self.is_down = True
                return Trigger.START_RAMP_DOWN
        elif feeder.limit_w > before_w and not (is_full and was_full) and self.is_down is not False:
            self.is_down, self.highest_planned_w, self.risen_at = False, feeder.planned_w, now
            return Trigger.START_RAMP_UP
        if self.is_down is True and (not is_over or feeder.deficit_w > 0):
            self.is_down = None
            return Trigger.END_RAMP_DOWN
        if self.is_down is False:
            if feeder.planned_w > self.highest_planned_w * (1 + TOLERANCE):
                self.highest_planned_w, self.risen_at = feeder.planned_w, now
            if is_full or is_over or now - self.risen_at >= STALLED_AFTER_S:
                self.is_down = None
                return Trigger.END_RAMP_UP
        return None


def feed_state(
    feeder: FeederStatus,
    targets: Sequence[Target],
    enforced: Sequence[Target],
    trigger: Trigger,
    ramp: Ramp,
    minimum_w: Watts,
    default_w: Watts,
    event_since: UnixSeconds | None,
) -> dict[str, object]:
    """One feed of a snapshot. `enforced` are those of `targets` that hold now."""
    lowest_w = min((target.limit_w for target in enforced), default=math.inf)
    state: dict[str, object] = {
        "metadata": {
            "power_minimum": power(minimum_w),
            "power_maximum": power(feeder.rating_w),
            "default_constraint": power(default_w),
        },
        "targets": [_target(target, target in enforced) for target in targets],
        "calculated_load": power(feeder.planned_w),
        "in_flight": ramp.is_down is not None,
        "event": trigger.value,
        "compliant": feeder.planned_w <= lowest_w * (1 + TOLERANCE),
    }
    if event_since is not None:
        state["power_event_start_time"] = fields.timestamp(event_since)
    return state


def power(watts: Watts) -> Mapping[str, object]:
    """To a tenth of a watt; what is not finite or below nothing is nothing, as the schema has it."""
    return {"value": round(max(0.0, watts), 1) if math.isfinite(watts) else 0.0, "unit": "watt"}


def _target(target: Target, is_active: bool) -> dict[str, object]:
    interval = {}
    if target.stated_start is not None:
        interval["start_time"] = fields.timestamp(target.stated_start)
    if target.end is not None:
        interval["end_time"] = fields.timestamp(target.end)
    return {
        "active": is_active,
        "load_constraint": power(target.limit_w),
        "interval": interval,
        "strategy": {"best_effort": target.is_best_effort},
        "correlation_id": target.correlation_id,
    }


def _drawn_w(feeder: FeederStatus) -> Watts:
    if feeder.meter_is_fresh and feeder.metered_w is not None:
        return feeder.metered_w
    return feeder.reserved_w + feeder.auxiliary_w
