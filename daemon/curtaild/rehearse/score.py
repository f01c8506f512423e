"""What a rehearsal came to: responses, energy, overshoot, actuations. Arithmetic on traces, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curtaild.rehearse.play import Order
from curtaild.rehearse.run import Rehearsal
from curtaild.rehearse.trace import SLOT_S, FeederTrace, Trace
from curtaild_drivers.contract import FeederId, Seconds, Watts

ACCURACY = 0.005
"""Meters that bill are of class 0.5: what lies within that of the limit cannot be told from it."""
BEGUN = 0.05
"""A response has begun when this share of the way is done."""
SECONDS_PER_HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Response:
    """How the site answered one change of its limit. Times count from when the limit began (s); `None`: not before the
    next change. `from_w` is what was drawn then; `to_w` the limit, or the demand where that is lower."""

    at_s: Seconds
    from_w: Watts
    to_w: Watts
    first_s: Seconds | None
    most_s: Seconds | None
    within_s: Seconds | None

    @property
    def lowers(self) -> bool:
        return self.to_w < self.from_w


@dataclass(frozen=True, slots=True)
class Overshoot:
    """A feeder over its limit after the grace: how many slots, the worst of them (W), the energy (Wh). `broken_at_s`:
    when those slots began that are over by more than a meter's accuracy."""

    slots: int
    worst_w: Watts
    energy_wh: float
    broken_at_s: tuple[Seconds, ...]

    @property
    def broken(self) -> int:
        return len(self.broken_at_s)


@dataclass(frozen=True, slots=True)
class Score:
    """A whole play. `used_wh` counts no watt above the limit, and what those earn is not in `earned`; `allowed_wh` is
    the limit (with its ramp) or the demand, whichever is less. `grace_s`: how long after a lower limit the draw may
    still be above it."""

    grace_s: Seconds
    allowed_wh: float
    used_wh: float
    earned: float
    responses: tuple[Response, ...]
    overshoot: dict[FeederId, Overshoot]
    actuations: int
    devices_moved: int

    @property
    def utilisation(self) -> float:
        """Energy used ÷ energy allowed."""
        return self.used_wh / self.allowed_wh if self.allowed_wh > 0 else 1.0

    @property
    def is_broken(self) -> bool:
        """Whether any limit was broken for certain."""
        return any(over.broken for over in self.overshoot.values())


def score(rehearsal: Rehearsal, root: FeederId) -> Score:
    """Judge a rehearsal."""
    trace = rehearsal.trace
    grace_s = rehearsal.emulated.response_s
    allowed_w = list(allowed(rehearsal))
    used_w = [min(true_w, may_w) for true_w, may_w in zip(trace.true_w, allowed_w, strict=True)]
    return Score(
        grace_s=grace_s,
        allowed_wh=sum(allowed_w) / SECONDS_PER_HOUR,
        used_wh=sum(used_w) / SECONDS_PER_HOUR,
        earned=sum(_earned(trace, used_w)) / SECONDS_PER_HOUR,
        responses=tuple(responses(rehearsal)),
        overshoot={feeder: overshoot(slots, rehearsal.play.orders, grace_s) for feeder, slots in trace.feeders.items()},
        actuations=len(trace.commands),
        devices_moved=len(rehearsal.moved),
    )


def _earned(trace: Trace, used_w: Sequence[Watts]) -> Iterator[float]:
    """Slot by slot, with the energy that was used: what is drawn above what is allowed is not the site's to earn by."""
    for number, per_h in enumerate(trace.earned_per_h):
        seconds = slice(number * SLOT_S, (number + 1) * SLOT_S)
        drawn_w = sum(trace.true_w[seconds])
        yield per_h * SLOT_S * (sum(used_w[seconds]) / drawn_w if drawn_w > 0.0 else 1.0)


def allowed(rehearsal: Rehearsal) -> Iterator[Watts]:
    """Second by second what the site may draw and has use for: limits at once, ramps upwards as they were stated."""
    trace, capacity = rehearsal.trace, rehearsal.emulated.capacity
    own_ramp = rehearsal.emulated.site.policy.ramp_up_w_per_min
    orders = [order for order in rehearsal.play.orders if order.feeder is None]
    place, may_w = -1, capacity.demand_w
    for second, limit_w in enumerate(trace.limit_w):
        while place + 1 < len(orders) and orders[place + 1].at_s <= second:
            place += 1
        stated = orders[place].max_ramp_up_w_per_min if place >= 0 else None
        ramps = [ramp for ramp in (own_ramp, stated) if ramp is not None]
        highest_w = may_w + min(ramps) / 60.0 if ramps else capacity.demand_w
        may_w = min(limit_w, capacity.demand_w, highest_w)
        yield may_w


def overshoot(slots: FeederTrace, orders: Sequence[Order], grace_s: Seconds) -> Overshoot:
    """Judge one feeder: each fall of its limit is binding its own grace later, and until then what held before it."""
    graces = {order.at_s: order.reach_by_s for order in orders if order.reach_by_s is not None}
    count = 0
    worst_w = energy_wh = 0.0
    broken_at_s: list[Seconds] = []
    binding: list[Watts] = []
    falls: list[tuple[Seconds, Watts]] = []  # until when, and what held before
    for number, limit_w in enumerate(slots.limit_w):
        at_s = float(SLOT_S * number)
        before_w = slots.limit_w[number - 1] if number else math.inf  # nothing held before the play
        if limit_w < before_w:
            falls.append((at_s + graces.get(at_s, grace_s), before_w))
        falls = [fall for fall in falls if at_s < fall[0]]
        binding.append(max([limit_w, *(held_w for _, held_w in falls)]))
    for number, (true_w, limit_w) in enumerate(zip(slots.true_w, binding, strict=True)):
        over_w = true_w - limit_w
        if over_w > 1e-6 * limit_w + 0.5:
            count += 1
            if over_w > ACCURACY * limit_w:
                broken_at_s.append(float(SLOT_S * number))
            worst_w = max(worst_w, over_w)
            energy_wh += over_w * SLOT_S / SECONDS_PER_HOUR
    return Overshoot(count, worst_w, energy_wh, tuple(broken_at_s))


def responses(rehearsal: Rehearsal) -> Iterator[Response]:
    """One per change of the root's limit that asked for anything."""
    trace = rehearsal.trace
    demand_w, floor_w = rehearsal.emulated.capacity.demand_w, rehearsal.emulated.capacity.floor_w
    changes = [n for n in range(1, trace.seconds) if trace.limit_w[n] != trace.limit_w[n - 1]]
    for begin, end in zip(changes, [*changes[1:], trace.seconds], strict=True):
        from_w = trace.true_w[begin - 1]
        to_w = max(floor_w, min(trace.limit_w[begin], demand_w))
        if abs(to_w - from_w) > ACCURACY * demand_w:
            yield _response(trace.true_w[begin:end], begin, from_w, to_w, trace.limit_w[begin])


def _response(true_w: Sequence[Watts], at_s: Seconds, from_w: Watts, to_w: Watts, limit_w: Watts) -> Response:
    way_w = to_w - from_w
    done = [(watts - from_w) / way_w for watts in true_w]
    first_s = next((float(n + 1) for n, share in enumerate(done) if share >= BEGUN), None)
    most_s = next((float(n + 1) for n, share in enumerate(done) if share >= 0.9), None)
    enough_w = max(limit_w, to_w) * (1 + ACCURACY)
    over = [n for n, watts in enumerate(true_w) if watts > enough_w]
    is_within = not over or over[-1] + 1 < len(true_w)
    within_s = float(over[-1] + 2 if over else 0) if is_within else None
    return Response(float(at_s), from_w, to_w, first_s, most_s, within_s if way_w < 0 else None)
