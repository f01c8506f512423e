"""Exchange for value: what earns little makes room for what earns more, once a site is at rest and it pays.

Shed and give-back each take the best step there is, but from where the site happens to stand: a shed under one feeder,
devices that were away, or a limit that moved leave a poor device running while a better one sleeps. So all is given out
anew on paper. If that earns enough more, those go down that have less there, and once they are down the others rise.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from curtaild.core import hull
from curtaild.core.device import Device
from curtaild.core.dispatch import worst_w
from curtaild.core.feeders import FeederTree
from curtaild.core.market import LASTS_S, PRICED, fine_step_down, fine_step_up, loses_money, restart_loss
from curtaild.core.policy import Policy
from curtaild.core.room import Move, Room
from curtaild_drivers.contract import DeviceId, OperatingPoint, Seconds, Watts

ENDS_WITHIN_S = 300.0
PAYS_BACK_S = 1_800.0
"""What an exchange loses while devices fall and rise must be earned again within this time."""


_draw_w = attrgetter("draw_w")


@dataclass(slots=True)
class Exchange:
    """`falls`: to be sent at once. `raises`: who rises, and where to, once all of those are down (`is_down`), and
    nobody else before; at the latest at `until` all of it is over."""

    falls: list[Move]
    raises: dict[DeviceId, OperatingPoint]
    until: Seconds
    is_down: bool = False


def exchange(devices: Iterable[Device], tree: FeederTree, room: Room, policy: Policy, now: Seconds) -> Exchange | None:
    """What had better stand elsewhere though no limit asks for it."""
    present = {device: setpoint for device in devices if (setpoint := _movable_from(device, now)) is not None}
    if not _is_anything_upside_down(present, policy, now):
        return None
    best = _made_anew(present, tree, room, policy, now)
    if not _pays(present, best, policy):
        return None
    rule = "makes room for what earns more"
    return Exchange(
        [
            Move(device.spec.id, best[device], False, rule, tree.root)
            for device, point in present.items()
            if best[device].draw_w < point.draw_w
        ],
        {device.spec.id: best[device] for device, point in present.items() if best[device].draw_w > point.draw_w},
        now + ENDS_WITHIN_S,
    )


def _movable_from(device: Device, now: Seconds) -> OperatingPoint | None:
    """Where a device stands that may be moved freely; the others stay where they are."""
    is_free = device.actuation is None and not device.conditions and now >= device.fixed_until
    return device.setpoint if is_free and device.spec.points is not None and device.draw_w is not None else None


def _may_fall(device: Device, now: Seconds) -> bool:
    return now - device.on_since >= device.spec.min_on_s


def _least(device: Device, point: OperatingPoint, now: Seconds) -> OperatingPoint:
    """How far down an exchange may take it: no further than its flex."""
    points = device.spec.points
    if points is None or not _may_fall(device, now):
        return point
    floor = device.flex_floor() or points.lowest
    return floor if floor.draw_w < point.draw_w else point


def _is_anything_upside_down(present: dict[Device, OperatingPoint], policy: Policy, now: Seconds) -> bool:
    """Whether any step that is not taken earns more than one that is."""
    ups = (
        step[0]
        for device, point in present.items()
        if now >= device.restore_after
        and (step := fine_step_up(device, point)) is not None
        and not loses_money(device, point, step[1], policy)
    )
    downs = (
        step[0]
        for device, point in present.items()
        if _may_fall(device, now) and (step := fine_step_down(device, point)) is not None
    )
    best, worst = max(ups, default=None), min(downs, default=None)
    return best is not None and worst is not None and best > worst


def _made_anew(
    present: dict[Device, OperatingPoint], tree: FeederTree, room: Room, policy: Policy, now: Seconds
) -> dict[Device, OperatingPoint]:
    """Every device's point if all of them were raised from their lowest, the most earning step first."""
    free_w = dict(room.free_w)
    best: dict[Device, OperatingPoint] = {}
    heap: list[tuple[tuple[float, ...], int, Device, OperatingPoint]] = []
    for device, point in present.items():
        best[device] = _least(device, point, now)
        freed_w = device.reserved_w - device.upper_w(best[device])
        for feeder in tree.paths[device.spec.feeder]:
            free_w[feeder] += freed_w
        _offer(heap, device, best[device], point, policy, now)
    heapq.heapify(heap)
    while heap:
        _, _, device, upper = heapq.heappop(heap)
        path = tree.paths[device.spec.feeder]
        free_here_w = min(free_w[feeder] for feeder in path)
        held_w = _counted_w(device, best[device], policy)
        target = _as_far_as(device, best[device], upper, held_w + free_here_w, policy)
        if target is None:
            continue
        taken_w = _counted_w(device, target, policy) - held_w
        for feeder in path:
            free_w[feeder] -= taken_w
        best[device] = target
        if target is upper:
            following: list[tuple[tuple[float, ...], int, Device, OperatingPoint]] = []
            _offer(following, device, target, present[device], policy, now)
            for entry in following:
                heapq.heappush(heap, entry)
    return best


def _offer(
    heap: list[tuple[tuple[float, ...], int, Device, OperatingPoint]],
    device: Device,
    point: OperatingPoint,
    present: OperatingPoint,
    policy: Policy,
    now: Seconds,
) -> None:
    """Its next step up, no further than where it stands if it may not rise yet."""
    step = fine_step_up(device, point)
    if step is None or loses_money(device, point, step[1], policy):
        return
    earning, upper = step
    if upper.draw_w > present.draw_w and now < device.restore_after:
        if point.draw_w >= present.draw_w:
            return
        upper = present
    heap.append((tuple(-part for part in earning), device.order, device, upper))


def _counted_w(device: Device, point: OperatingPoint, policy: Policy) -> Watts:
    """What it would be counted with at `point`, until a meter has seen it there."""
    is_raise = device.setpoint is not None and point.draw_w > device.setpoint.draw_w
    return worst_w(device, point, policy) if is_raise else device.upper_w(point)


def _as_far_as(
    device: Device, lower: OperatingPoint, upper: OperatingPoint, watts: Watts, policy: Policy
) -> OperatingPoint | None:
    """`upper`, or as far towards it as fits into `watts`; `None` if that is no further than `lower`."""
    counted_w, points = _counted_w(device, upper, policy), device.spec.points
    if counted_w <= watts:
        return upper
    if points is None or not upper.divisible:
        return None
    target = hull.point_at(points, upper.draw_w * watts / counted_w)
    fits = lower.draw_w < target.draw_w < upper.draw_w and _counted_w(device, target, policy) <= watts
    return target if fits else None


def _pays(present: dict[Device, OperatingPoint], best: dict[Device, OperatingPoint], policy: Policy) -> bool:
    """Whether it earns more by more than the dead-band, and soon enough what moving costs: at the highest priority
    where that makes a difference."""
    before: defaultdict[float, float] = defaultdict(float)
    gained: defaultdict[float, float] = defaultdict(float)
    lost: defaultdict[float, float] = defaultdict(float)
    restarts: defaultdict[float, float] = defaultdict(float)
    down_s = up_s = 0.0
    for device, point in present.items():
        price = device.spec.price_per_rate_h
        priority, price = (float(device.spec.priority), 1.0) if price is None else (PRICED, price)
        before[priority] += price * point.rate
        change = price * (best[device].rate - point.rate)
        if best[device].draw_w == point.draw_w:
            continue
        gained[priority] += change
        lost[priority] += max(0.0, -change)
        restarts[priority] += price * restart_loss(device, *sorted((point, best[device]), key=_draw_w)) * LASTS_S
        if best[device].draw_w < point.draw_w:
            down_s = max(down_s, device.spec.settle_down_s)
        else:
            up_s = max(up_s, device.spec.settle_up_s)
    for priority in sorted(gained, reverse=True):
        band = max(policy.dead_band_fraction, 1e-9) * before[priority]
        if gained[priority] < -band:
            return False
        if gained[priority] > band:
            return gained[priority] * PAYS_BACK_S >= lost[priority] * (down_s + up_s) + restarts[priority]
    return False
