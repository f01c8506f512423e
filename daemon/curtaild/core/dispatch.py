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

from curtaild.core import hull
from curtaild.core.device import Device, point_at
from curtaild.core.events import ActuationStage, Condition
from curtaild.core.feeders import FeederTree
from curtaild.core.policy import Policy
from curtaild_drivers.contract import DeviceId, FeederId, OperatingPoint, Seconds, Watts

UNREADABLE = frozenset({Condition.UNREACHABLE, Condition.AUTH_FAILED, Condition.BAD_REPLY, Condition.STALE})
SMALLEST_RAISE = 0.05  # of rated draw: what is less is not worth a command


@dataclass(frozen=True, slots=True)
class Move:
    """One device is to go to `target`; `rule` says why, in watts."""

    device: DeviceId
    target: OperatingPoint
    is_raise: bool
    rule: str


@dataclass(slots=True)
class Room:
    """What a feeder is over its limit by, or has free (W). `over_w`: to be shed. `free_w`: may be given out."""

    over_w: dict[FeederId, Watts] = field(default_factory=dict)
    free_w: dict[FeederId, Watts] = field(default_factory=dict)


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


def unprofitable(devices: Iterable[Device], policy: Policy, now: Seconds) -> list[Move]:
    """What is lowered though the limit would allow it: points that earn less than their energy, past min-on."""
    if policy.energy_price_per_wh is None:
        return []
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


def shed(
    by_feeder: Mapping[FeederId, list[Device]],
    tree: FeederTree,
    room: Room,
    now: Seconds,
) -> tuple[list[Move], dict[FeederId, Watts]]:
    """What must go down, and what each feeder is still over by once it has.

    Outranks everything: min-on only orders the candidates, it never spares one.

    Devices that misbehave are asked last and not counted on; whatever is still over afterwards is the deficit.
    """
    over_w = dict(room.over_w)
    targets: dict[DeviceId, OperatingPoint] = {}
    rules: dict[DeviceId, str] = {}
    for feeder in tree.bottom_up:
        if over_w[feeder] <= 0:
            continue
        rule = f"{feeder} over by {over_w[feeder]:.0f} W"
        below = [device for member in _members(tree, feeder) for device in by_feeder.get(member, ())]
        for counted_on in (True, False):
            pool = [
                device
                for device in below
                if device.is_trusted is counted_on
                and now >= device.fixed_until
                and not _awaits_read_back(device)
                and not _is_falling_unproven(device)
            ]
            _shed_from(pool, feeder, tree, over_w, targets, now, counted_on)
            if over_w[feeder] <= 0:
                break
        for device_id in targets:
            rules.setdefault(device_id, rule)
    moves = [Move(device, target, is_raise=False, rule=rules[device]) for device, target in targets.items()]
    return moves, over_w


def _members(tree: FeederTree, feeder: FeederId) -> Iterable[FeederId]:
    return (member for member, path in tree.paths.items() if feeder in path)


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


def _shed_from(
    pool: list[Device],
    feeder: FeederId,
    tree: FeederTree,
    over_w: dict[FeederId, Watts],
    targets: dict[DeviceId, OperatingPoint],
    now: Seconds,
    counted_on: bool,
) -> None:
    """Take increments, the least earning first, until `feeder` is no longer over."""
    heap: list[tuple[tuple[float, float], bool, float, int, Device, OperatingPoint]] = []
    for order, device in enumerate(pool):
        _push_lower(heap, device, _present(device, targets), order, now)
    while heap and over_w[feeder] > 0:
        _, _, _, order, device, lower = heapq.heappop(heap)
        present = _present(device, targets)
        present_w = present.draw_w if present is not None else device.planned_w
        ratio = (
            max(device.upper_w(present) / present.draw_w, 0.1) if present is not None and present.draw_w > 0 else 1.0
        )
        target = lower
        points = device.spec.points
        if points is not None and present is not None and present.divisible and counted_on:
            step_w = points.step_w
            wanted_w = present_w - max(1, math.ceil(over_w[feeder] / ratio / step_w)) * step_w
            if wanted_w > lower.draw_w:
                target = point_at(points, wanted_w)
        present_planned_w = (
            device.planned_w if device.spec.id not in targets else device.upper_w(targets[device.spec.id])
        )
        gain_w = present_planned_w - device.upper_w(target)
        targets[device.spec.id] = target
        if counted_on:
            for member in tree.paths[device.spec.feeder]:
                over_w[member] -= gain_w
        _push_lower(heap, device, target, order, now)


def _present(device: Device, targets: Mapping[DeviceId, OperatingPoint]) -> OperatingPoint | None:
    return targets.get(device.spec.id) or device.headed_for()


def _push_lower(
    heap: list[tuple[tuple[float, float], bool, float, int, Device, OperatingPoint]],
    device: Device,
    present: OperatingPoint | None,
    order: int,
    now: Seconds,
) -> None:
    points = device.spec.points
    if points is None:
        return
    upper = present or point_at(points, max(device.planned_w, points.lowest.draw_w + points.step_w))
    lower = hull.below(points, upper.draw_w if present is not None else max(device.planned_w, upper.draw_w))
    if lower is None:
        return
    is_young = now - device.on_since < device.spec.min_on_s
    heapq.heappush(heap, (earning(device, lower, upper), is_young, device.slept_s, order, device, lower))


# ---- raise ----------------------------------------------------------------------------------------


def give_back(
    candidates: Iterable[Device],
    tree: FeederTree,
    room: Room,
    policy: Policy,
    most_starts: int,
) -> list[Move]:
    """What may go up. `candidates` have passed `may_rise`; `room.free_w` counts all that is reserved."""
    free_w = dict(room.free_w)
    if free_w[tree.root] <= 0:
        return []
    targets: dict[DeviceId, OperatingPoint] = {}
    rules: dict[DeviceId, str] = {}
    heap: list[tuple[tuple[float, float], float, int, Device, OperatingPoint]] = []
    for order, device in enumerate(candidates):
        _push_upper(heap, device, device.setpoint, order, policy)
    while heap:
        _, _, order, device, upper = heapq.heappop(heap)
        points, present = device.spec.points, _present(device, targets)
        if points is None or present is None or (len(targets) >= most_starts and device.spec.id not in targets):
            continue
        path = tree.paths[device.spec.feeder]
        free_here_w = min(free_w[member] for member in path)
        held_w = device.reserved_w if device.spec.id not in targets else _worst_w(device, present, policy)
        target = upper
        if _worst_w(device, upper, policy) - held_w > free_here_w:
            if not upper.divisible or _worst_w(device, present, policy) - held_w > free_here_w:
                continue
            ratio = _worst_w(device, upper, policy) / upper.draw_w
            target = point_at(points, (held_w + free_here_w) / ratio)
            if target.draw_w - present.draw_w < max(points.step_w, SMALLEST_RAISE * device.spec.rated_w):
                continue
        targets[device.spec.id] = target
        rules[device.spec.id] = f"{path[0]} has {free_here_w:.0f} W free"
        for member in path:
            free_w[member] -= max(0.0, _worst_w(device, target, policy) - held_w)
        if target is upper:
            _push_upper(heap, device, target, order, policy)
    return [Move(device, target, is_raise=True, rule=rules[device]) for device, target in targets.items()]


def _worst_w(device: Device, point: OperatingPoint, policy: Policy) -> Watts:
    """What a raise to `point` must be counted with until the meter has seen it."""
    return max(device.reserved_w, device.may_reach_w(point)) * (1 + policy.reading_error_fraction)


def _push_upper(
    heap: list[tuple[tuple[float, float], float, int, Device, OperatingPoint]],
    device: Device,
    present: OperatingPoint | None,
    order: int,
    policy: Policy,
) -> None:
    points = device.spec.points
    if points is None or present is None:
        return
    upper = hull.above(points, present.draw_w)
    if upper is None or loses_money(device, present, upper, policy):
        return
    priority, per_watt = earning(device, present, upper)
    heapq.heappush(heap, ((-priority, -per_watt), -device.slept_s, order, device, upper))


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
    digest = hashlib.blake2b(f"{device.spec.id}/{device.sheds}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * policy.restart_jitter_s


def restore_after(device: Device, target: OperatingPoint, now: Seconds) -> Seconds:
    """When a device shed now may rise again at the earliest."""
    return now + (device.spec.min_off_s if target.is_off else 0.0)
