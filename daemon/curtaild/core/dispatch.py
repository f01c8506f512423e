"""What may go up, and what had better go down though no limit asks: greedy over hull increments, from the present
setpoints, the most earning first, as far as every feeder on the path has room even if all in flight went the worst way.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from curtaild.core import hull
from curtaild.core.device import Device
from curtaild.core.feeders import FeederTree
from curtaild.core.market import loses_money, step_up
from curtaild.core.policy import Policy
from curtaild.core.room import Move, Room
from curtaild.core.shed import UNREADABLE
from curtaild_drivers.contract import DeviceId, OperatingPoint, OperatingPoints, Seconds, Watts

MOVING_S = 60.0
"""A limit that moved within so long may well move on."""
SMALLEST_RAISE = 0.05  # of rated draw: what is less is not worth a command


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


def give_back(
    candidates: Iterable[Device],
    tree: FeederTree,
    room: Room,
    policy: Policy,
    most_starts: int,
    now: Seconds,
    wanted: Mapping[DeviceId, OperatingPoint] | None = None,
    limited_at: Seconds = -math.inf,
) -> list[Move]:
    """What may go up. `candidates` have passed `may_rise`; `room.free_w` counts all that is reserved. A device that
    could not be up and down again before a lower limit begins must fit under that one too. `wanted`: only these, and
    each in one step as far as that. `limited_at`: when the limit last moved; while it does, what restarts at every
    change waits until there is room for its whole step, for it would soon restart again for the rest."""
    free = [(now, dict(room.free_w)), *((window.at, dict(window.free_w)) for window in room.coming)]
    free_now_w = free[0][1]
    choice = _Choice(policy, wanted)
    for device in candidates:
        choice.offer(device, device.setpoint)
    targets: dict[Device, OperatingPoint] = {}
    rules: dict[Device, str] = {}
    for device, upper in choice:
        if free_now_w[tree.root] <= 0.0:
            break
        earlier = targets.get(device)
        if earlier is None and len(targets) >= most_starts:
            if not choice.has_followers:
                break
            continue
        points, present = device.spec.points, earlier or device.setpoint
        if points is None or present is None:
            continue
        path = tree.paths[device.spec.feeder]
        bound_by = [free_now_w]
        if len(free) > 1:
            away_s = device.spec.settle_up_s + device.spec.settle_down_s
            bound_by = [free_w for begins_at, free_w in free if begins_at - now <= away_s]
        free_here_w, bottleneck = min((free_w[member], member) for free_w in bound_by for member in path)
        held_w = device.reserved_w if earlier is None else worst_w(device, present, policy)
        target, needed_w = upper, worst_w(device, upper, policy) - held_w
        if needed_w > free_here_w:
            if device.spec.restarts and now < limited_at + MOVING_S:
                continue
            fitting = _as_far_as(device, points, present, upper, held_w + free_here_w, policy)
            if fitting is None:
                continue
            target, needed_w = fitting, worst_w(device, fitting, policy) - held_w
        targets[device] = target
        rules[device] = f"{bottleneck} has {free_here_w:.0f} W free"
        if needed_w > 0.0:
            for free_w in bound_by:
                for member in path:
                    free_w[member] -= needed_w
        if target is upper and wanted is None:
            choice.offer(device, target, follows=True)
    return [Move(device.spec.id, target, True, rules[device], tree.root) for device, target in targets.items()]


_Place: TypeAlias = tuple[float, int, Device, OperatingPoint, bool]
"""Within a cohort: who has slept most, then by place in the site file; where to, and whether that follows a step."""


class _Choice:
    """Steps up by what they earn, the most first. Those that earn the same are one cohort, sorted when it is its turn.

    `has_followers`: whether any waits that follows a step already taken.
    """

    def __init__(self, policy: Policy, wanted: Mapping[DeviceId, OperatingPoint] | None) -> None:
        self._policy, self._wanted = policy, wanted
        self._cohorts: dict[tuple[float, ...], list[_Place]] = {}
        self._most: list[tuple[float, ...]] = []
        self._followers = 0

    @property
    def has_followers(self) -> bool:
        return self._followers > 0

    def offer(self, device: Device, present: OperatingPoint | None, follows: bool = False) -> None:
        """The next step up from `present`, unless it earns less than its energy."""
        step = step_up(device, present, self._policy) if present is not None else None
        if present is None or step is None:
            return
        (protection, priority, worth), upper = step
        if self._wanted is not None:
            if device.spec.id not in self._wanted:
                return
            upper = self._wanted[device.spec.id]
        key = (-protection, -priority, -worth)
        cohort = self._cohorts.get(key)
        if cohort is None:
            cohort = self._cohorts[key] = []
            heapq.heappush(self._most, key)
        cohort.append((-device.slept_s, device.order, device, upper, follows))
        self._followers += follows

    def __iter__(self) -> Iterator[tuple[Device, OperatingPoint]]:
        while self._most:
            cohort = self._cohorts.pop(heapq.heappop(self._most))
            cohort.sort()
            for _, _, device, upper, follows in cohort:
                self._followers -= follows
                yield device, upper


def _as_far_as(
    device: Device,
    points: OperatingPoints,
    present: OperatingPoint,
    upper: OperatingPoint,
    most_w: Watts,
    policy: Policy,
) -> OperatingPoint | None:
    """As far towards `upper` as fits into `most_w`, if that is worth a command."""
    if worst_w(device, present, policy) > most_w:
        return None
    on_the_way = [point for point in hull.hull(points) if present.draw_w < point.draw_w < upper.draw_w]
    target = next((point for point in reversed(on_the_way) if worst_w(device, point, policy) <= most_w), present)
    following = next((point for point in on_the_way if point.draw_w > target.draw_w), upper)
    if following.divisible:
        ratio = worst_w(device, following, policy) / following.draw_w
        part = hull.point_at(points, most_w / ratio)
        is_worth_it = part.draw_w - present.draw_w >= max(points.step_w, SMALLEST_RAISE * device.spec.rated_w)
        if is_worth_it and part.draw_w > target.draw_w and worst_w(device, part, policy) <= most_w:
            return part
    return target if target is not present else None


def worst_w(device: Device, point: OperatingPoint, policy: Policy) -> Watts:
    """What a raise to `point` adds to, what is reserved for the device included, until the meter has seen it: the error
    of what no meter saw, and the edge that it no longer shares with the other units."""
    reach_w = max(device.reserved_w, device.may_reach_w(point))
    unseen_w = min(reach_w, max(abs(reach_w - device.seen_w), reach_w - device.reserved_w))
    return reach_w + policy.reading_error_fraction * unseen_w + device.share.edge_w


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
