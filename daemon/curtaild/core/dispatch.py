"""Which device gets what: greedy over hull increments under the feeder tree, starting from the present setpoints.

Shed takes the increments that earn least per watt below every feeder that is over; raise gives back those that earn
most, as far as every feeder on the path has room even if everything in flight went the worst way.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from curtaild.core import hull
from curtaild.core.device import Device, point_at
from curtaild.core.events import ActuationStage, Condition
from curtaild.core.feeders import FeederTree
from curtaild.core.policy import Policy
from curtaild_drivers.contract import DeviceId, FeederId, OperatingPoint, OperatingPoints, Seconds, Watts

UNREADABLE = frozenset({Condition.UNREACHABLE, Condition.AUTH_FAILED, Condition.BAD_REPLY, Condition.STALE})
AHEAD_S = 2.0  # a command reaches its device within this: two cycles
MILLIWATT = 0.001  # what rounding may leave of a sum is nothing
SMALLEST_RAISE = 0.05  # of rated draw: what is less is not worth a command


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
    by or have free there (W)."""

    at: Seconds
    over_w: dict[FeederId, Watts]
    free_w: dict[FeederId, Watts]


@dataclass(slots=True)
class Room:
    """What a feeder is over its limit by, or has free (W). `over_w`: to be shed. `free_w`: may be given out. `edge_w2`:
    at the feeders where a meter lets the units' spreads be added up by their squares, the sum of those. `coming`: the
    lower limits ahead, the next one first."""

    over_w: dict[FeederId, Watts] = field(default_factory=dict)
    free_w: dict[FeederId, Watts] = field(default_factory=dict)
    edge_w2: dict[FeederId, float] = field(default_factory=dict)
    coming: list[Window] = field(default_factory=list)


def earning(device: Device, lower: OperatingPoint, upper: OperatingPoint) -> tuple[float, float]:
    """What the step between two points earns, as something to sort by: money per watt-hour where the site gives a
    price, else priority, then rate per watt."""
    per_watt = (upper.rate - lower.rate) / max(upper.draw_w - lower.draw_w, 1e-9)
    price = device.spec.price_per_rate_h
    return (0.0, price * per_watt) if price is not None else (float(device.spec.priority), per_watt)


def loses_money(device: Device, lower: OperatingPoint, upper: OperatingPoint, policy: Policy) -> bool:
    """Whether the step earns less than its energy costs; never where either price is not given."""
    if device.spec.price_per_rate_h is None or policy.energy_price_per_wh is None:
        return False
    return earning(device, lower, upper)[1] < policy.energy_price_per_wh


def earns_too_little(device: Device, policy: Policy) -> bool:
    """Whether the step that it stands on earns less than its energy."""
    points, setpoint = device.spec.points, device.setpoint
    if points is None or setpoint is None or policy.energy_price_per_wh is None:
        return False
    lower = hull.below(points, setpoint.draw_w)
    return lower is not None and loses_money(device, lower, setpoint, policy)


def unprofitable(devices: Iterable[Device], policy: Policy, now: Seconds) -> list[Move]:
    """What is lowered though the limit would allow it: points that earn less than their energy, past min-on."""
    moves: list[Move] = []
    for device in devices:
        points, target = device.spec.points, device.setpoint
        if points is None or target is None or device.in_flight or now < device.fixed_until or device.conditions:
            continue
        if now - device.on_since < device.spec.min_on_s:
            continue
        while (lower := hull.below(points, target.draw_w)) is not None and loses_money(device, lower, target, policy):
            target = lower
        if target is not device.setpoint:
            moves.append(Move(device.spec.id, target, is_raise=False, rule="earns less than its energy"))
    return moves


# ---- shed -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shedding:
    """The choice as far as it has come: where devices are to go, why, and what each feeder is still over by."""

    over_w: dict[FeederId, Watts]
    edge_w2: dict[FeederId, float]
    targets: dict[Device, OperatingPoint] = field(default_factory=dict)
    rules: dict[Device, tuple[str, FeederId]] = field(default_factory=dict)

    def lower(self, device: Device, target: OperatingPoint, path: Iterable[FeederId]) -> None:
        """Count the device on its way down to `target`, at each feeder of `path`."""
        earlier = self.targets.get(device)
        self.targets[device] = target
        all_of_it_w = device.upper_w(earlier) if earlier is not None else device.planned_w
        all_of_it_w -= device.upper_w(target)
        edge_w = device.share.edge_w if earlier is None else 0.0
        gain_w = all_of_it_w
        for feeder in path:
            if edge_w > 0.0 and feeder in self.edge_w2:
                before_w2 = self.edge_w2[feeder]
                after_w2 = self.edge_w2[feeder] = max(0.0, before_w2 - edge_w * edge_w)
                gain_w = all_of_it_w - edge_w + math.sqrt(before_w2) - math.sqrt(after_w2)
            self.over_w[feeder] -= gain_w


def shed(
    by_feeder: Mapping[FeederId, Iterable[Device]],
    tree: FeederTree,
    room: Room,
    now: Seconds,
) -> tuple[list[Move], dict[FeederId, Watts]]:
    """What must go down, and what each feeder is still over by once it has.

    Outranks everything: min-on only orders the candidates, it never spares one.

    Devices that misbehave are asked last and not counted on; whatever is still over afterwards is the deficit. For a
    limit still to come each device is asked its own settle time ahead, so that the draw is down when the window opens.
    """
    if not room.coming and not any(over_w > 0 for over_w in room.over_w.values()):
        return [], dict(room.over_w)
    shedding = _Shedding(dict(room.over_w), dict(room.edge_w2))
    _choose(shedding, by_feeder, tree, now)
    moves = [
        Move(device.spec.id, target, False, *shedding.rules[device]) for device, target in shedding.targets.items()
    ]
    left_w = dict(shedding.over_w)
    if room.coming:
        moves = _shed_ahead(shedding, by_feeder, tree, room, now)
    return moves, left_w


def _shed_ahead(
    shedding: _Shedding, by_feeder: Mapping[FeederId, Iterable[Device]], tree: FeederTree, room: Room, now: Seconds
) -> list[Move]:
    """Go on choosing for each coming window in turn; sent is what must be on its way by now to be down in time."""
    sent, rules = dict(shedding.targets), dict(shedding.rules)
    for window in room.coming:
        freed_w = {feeder: room.over_w[feeder] - shedding.over_w[feeder] for feeder in tree.specs}
        ahead = _Shedding(
            {feeder: window.over_w[feeder] - freed_w[feeder] for feeder in tree.specs},
            shedding.edge_w2,
            shedding.targets,
            shedding.rules,
        )
        _choose(ahead, by_feeder, tree, now)
        for feeder in tree.specs:
            chosen_w = window.over_w[feeder] - freed_w[feeder] - ahead.over_w[feeder]
            shedding.over_w[feeder] -= chosen_w
        for device, target in shedding.targets.items():
            if window.at - now <= device.spec.settle_down_s + AHEAD_S:
                sent[device], rules[device] = target, shedding.rules[device]
    return [Move(device.spec.id, target, False, *rules[device]) for device, target in sent.items()]


def _choose(
    shedding: _Shedding, by_feeder: Mapping[FeederId, Iterable[Device]], tree: FeederTree, now: Seconds
) -> None:
    """Bring every feeder under, from the leaves to the root."""
    over_w = shedding.over_w
    for feeder in tree.bottom_up:
        if over_w[feeder] <= MILLIWATT:
            continue
        rule, chosen = f"{feeder} over by {over_w[feeder]:.0f} W", len(shedding.targets)
        trusted: list[Device] = []
        others: list[Device] = []
        for member in tree.below[feeder]:
            for device in by_feeder.get(member, ()):
                if device.conditions:
                    if now >= device.fixed_until and not _awaits_read_back(device) and not _is_falling_unproven(device):
                        others.append(device)
                elif now >= device.fixed_until and (device.actuation is None or not _awaits_read_back(device)):
                    trusted.append(device)
        _shed_from(trusted, feeder, tree, shedding, now, counted_on=True)
        if over_w[feeder] > MILLIWATT:
            _shed_from(others, feeder, tree, shedding, now, counted_on=False)
        for device in islice(shedding.targets, chosen, None):
            shedding.rules[device] = rule, feeder


def _awaits_read_back(device: Device) -> bool:
    """A write of unknown outcome is read back before anything is sent again, unless the device cannot be read."""
    actuation, reading = device.actuation, device.reading
    if actuation is None or actuation.stage is not ActuationStage.OUTCOME_UNKNOWN or device.conditions & UNREADABLE:
        return False
    return reading is None or actuation.answered_at is None or reading.taken_at < actuation.answered_at


def _is_falling_unproven(device: Device) -> bool:
    """A misbehaving device with a shed to its lowest point under way: telling it again helps nobody."""
    actuation, points = device.actuation, device.spec.points
    return actuation is not None and points is not None and not device.is_trusted and actuation.target == points.lowest


_Entry: TypeAlias = tuple[tuple[float, float], bool, float, int, Device, OperatingPoint]


def _shed_from(
    pool: list[Device], feeder: FeederId, tree: FeederTree, shedding: _Shedding, now: Seconds, counted_on: bool
) -> None:
    """Take increments, the least earning first, until `feeder` is no longer over."""
    over_w, targets = shedding.over_w, shedding.targets
    steps: _Steps = {}
    heap = [
        entry
        for device in pool
        if (entry := _next_lower(device, targets.get(device) or device.headed_for(), now, steps)) is not None
    ]
    heapq.heapify(heap)
    while heap and over_w[feeder] > MILLIWATT:
        _, _, _, _, device, lower = heap[0]
        present = targets.get(device) or device.headed_for()
        target = lower
        points = device.spec.points
        if points is not None and present is not None and present.divisible and counted_on:
            ratio = max(device.upper_w(present) / present.draw_w, 0.1) if present.draw_w > 0 else 1.0
            steps_down = max(1, math.ceil(over_w[feeder] / ratio / points.step_w))
            if present.draw_w - steps_down * points.step_w > lower.draw_w:
                target = point_at(points, present.draw_w - steps_down * points.step_w)
        if counted_on:
            shedding.lower(device, target, tree.paths[device.spec.feeder])
        else:
            targets[device] = target
        following = _next_lower(device, target, now, steps)
        if following is not None:
            heapq.heapreplace(heap, following)
        else:
            heapq.heappop(heap)


_Steps: TypeAlias = dict[tuple[int, str, Watts, int, float | None], tuple[tuple[float, float], OperatingPoint] | None]
"""The next step down from a point and what it earns, found once for all devices of a kind."""


def _next_lower(device: Device, present: OperatingPoint | None, now: Seconds, steps: _Steps) -> _Entry | None:
    spec = device.spec
    points = spec.points
    if points is None:
        return None
    if present is None:
        step = _step_down(device, points, None)
    else:
        kind = (id(points), present.key, present.draw_w, spec.priority, spec.price_per_rate_h)
        if kind in steps:
            step = steps[kind]
        else:
            step = steps[kind] = _step_down(device, points, present)
    if step is None:
        return None
    is_young = now - device.on_since < spec.min_on_s
    return step[0], is_young, device.slept_s, device.order, device, step[1]


def _step_down(
    device: Device, points: OperatingPoints, present: OperatingPoint | None
) -> tuple[tuple[float, float], OperatingPoint] | None:
    """Where the device's draw is unknown it is taken to be all that it is planned with."""
    upper = present or point_at(points, max(device.planned_w, points.lowest.draw_w + points.step_w))
    lower = hull.below(points, upper.draw_w if present is not None else max(device.planned_w, upper.draw_w))
    return (earning(device, lower, upper), lower) if lower is not None else None


# ---- raise ----------------------------------------------------------------------------------------


def give_back(
    candidates: Iterable[Device],
    tree: FeederTree,
    room: Room,
    policy: Policy,
    most_starts: int,
    now: Seconds,
) -> list[Move]:
    """What may go up. `candidates` have passed `may_rise`; `room.free_w` counts all that is reserved. A device that
    could not be up and down again before a lower limit begins must fit under that one too."""
    if room.free_w[tree.root] <= 0:
        return []
    free = [(now, dict(room.free_w)), *((window.at, dict(window.free_w)) for window in room.coming)]
    targets: dict[Device, OperatingPoint] = {}
    rules: dict[Device, str] = {}
    heap = [entry for device in candidates if (entry := _next_upper(device, device.setpoint, policy)) is not None]
    heapq.heapify(heap)
    while heap:
        _, _, _, device, upper = heapq.heappop(heap)
        earlier, points, present = targets.get(device), device.spec.points, targets.get(device) or device.setpoint
        if points is None or present is None or (earlier is None and len(targets) >= most_starts):
            continue
        path = tree.paths[device.spec.feeder]
        away_s = device.spec.settle_up_s + device.spec.settle_down_s
        bound_by = [free_w for begins_at, free_w in free if begins_at - now <= away_s]
        free_here_w, bottleneck = min((free_w[member], member) for free_w in bound_by for member in path)
        held_w = device.reserved_w if earlier is None else _worst_w(device, present, policy)
        target = upper
        if _worst_w(device, upper, policy) - held_w > free_here_w:
            if not upper.divisible or _worst_w(device, present, policy) - held_w > free_here_w:
                continue
            ratio = _worst_w(device, upper, policy) / upper.draw_w
            target = point_at(points, (held_w + free_here_w) / ratio)
            if target.draw_w - present.draw_w < max(points.step_w, SMALLEST_RAISE * device.spec.rated_w):
                continue
            if _worst_w(device, target, policy) - held_w > free_here_w:
                continue
        targets[device] = target
        rules[device] = f"{bottleneck} has {free_here_w:.0f} W free"
        taken_w = max(0.0, _worst_w(device, target, policy) - held_w)
        for free_w in bound_by:
            for member in path:
                free_w[member] -= taken_w
        if target is upper and (following := _next_upper(device, target, policy)) is not None:
            heapq.heappush(heap, following)
    return [Move(device.spec.id, target, True, rules[device], tree.root) for device, target in targets.items()]


def _worst_w(device: Device, point: OperatingPoint, policy: Policy) -> Watts:
    """What a raise to `point` adds to, what is reserved for the device included, until the meter has seen it: the error
    of what no meter saw, and the edge that it no longer shares with the other units."""
    reach_w = max(device.reserved_w, device.may_reach_w(point))
    unseen_w = min(reach_w, max(abs(reach_w - device.seen_w), reach_w - device.reserved_w))
    return reach_w + policy.reading_error_fraction * unseen_w + device.share.edge_w


def _next_upper(
    device: Device, present: OperatingPoint | None, policy: Policy
) -> tuple[tuple[float, float], float, int, Device, OperatingPoint] | None:
    points = device.spec.points
    if points is None or present is None:
        return None
    upper = hull.above(points, present.draw_w)
    if upper is None or loses_money(device, present, upper, policy):
        return None
    priority, per_watt = earning(device, present, upper)
    return (-priority, -per_watt), -device.slept_s, device.order, device, upper


def may_rise(device: Device, now: Seconds, room_since: Seconds, policy: Policy) -> bool:
    """Restore is earned: read, settled, known, past min-off, not in disgrace, and its turn since there is room."""
    setpoint, points = device.setpoint, device.spec.points
    return (
        device.actuation is None
        and setpoint is not None
        and points is not None
        and now >= device.fixed_until
        and now >= device.restore_after
        and device.draw_w is not None
        and not device.conditions & UNREADABLE
        and setpoint.draw_w < points.highest.draw_w
        and (not setpoint.is_off or now >= room_since + _jitter_s(device, policy))
    )


def _jitter_s(device: Device, policy: Policy) -> Seconds:
    """How long a start waits for its turn: drawn from name and count, so that equal devices part, and the same history
    gives the same answer."""
    if device.turn is None:
        digest = hashlib.blake2b(f"{device.spec.id}/{device.sheds}".encode(), digest_size=8).digest()
        device.turn = int.from_bytes(digest, "big") / 2**64
    return device.turn * policy.restart_jitter_s


def restore_after(device: Device, target: OperatingPoint, now: Seconds) -> Seconds:
    """When a device shed now may rise again at the earliest."""
    return now + (device.spec.min_off_s if target.is_off else 0.0)
