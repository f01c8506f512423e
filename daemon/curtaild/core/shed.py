"""What must go down: increments by what they earn, the least first, below every feeder that is over.

Devices whose next step earns the same are one cohort, sorted only once it is its turn: thirty thousand devices of a few
kinds cost little more than their number.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from operator import attrgetter, sub
from typing import NamedTuple, TypeAlias

from curtaild.core import hull
from curtaild.core.device import Device, Earning, Step, exact
from curtaild.core.events import ActuationStage, Condition
from curtaild.core.feeders import FeederTree
from curtaild.core.market import step_down
from curtaild.core.room import AHEAD_S, MILLIWATT, Move, Room
from curtaild_drivers.contract import FeederId, OperatingPoint, Seconds, Watts

UNREADABLE = frozenset({Condition.UNREACHABLE, Condition.AUTH_FAILED, Condition.BAD_REPLY, Condition.STALE})

ROUGHLY = 1.1
"""How far a guess of what can be freed may be too high."""

_planned_w = attrgetter("planned_w")

_Candidate: TypeAlias = tuple[bool, float, int, Device, OperatingPoint]
"""Within a cohort: past its min-on first, then who has slept least, then by place in the site file; and where to."""

_OnLeaf: TypeAlias = tuple[FeederId, list[Device]]
"""Devices that hang on a feeder itself: one at least."""


class _Alike(NamedTuple):
    """Devices that hang on one feeder itself and whose next step leads to the same point."""

    leaf: FeederId
    target: OperatingPoint
    devices: list[Device]


@dataclass(slots=True)
class _Freed:
    """What was freed of devices on one feeder itself (W), and which of their edges a meter above need share no more."""

    watts: Watts = 0.0
    edge_w: Watts = 0.0
    edge_w2: float = 0.0

    def give_up(self, edge_w: Watts) -> None:
        self.edge_w += edge_w
        self.edge_w2 += edge_w * edge_w


@dataclass(slots=True)
class _Shedding:
    """The choice as far as it has come: where devices are to go, what they are counted with there, why, and what each
    feeder is still over by."""

    over_w: dict[FeederId, Watts]
    edge_w2: dict[FeederId, float]
    unmetered: float = 1.0
    metered: Mapping[FeederId, float] = field(default_factory=dict)
    in_order: bool = False
    targets: dict[Device, OperatingPoint] = field(default_factory=dict)
    left_w: dict[Device, Watts] = field(default_factory=dict)
    rules: dict[Device, tuple[str, FeederId]] = field(default_factory=dict)

    def count(self, freed: Mapping[FeederId, _Freed], tree: FeederTree) -> None:
        """Take what was freed off every feeder that carried it."""
        for leaf, gain in freed.items():
            gain_w, counts = gain.watts, self.unmetered
            for feeder in tree.paths[leaf]:
                counts = self.metered.get(feeder, counts)
                if gain.edge_w2 > 0.0 and feeder in self.edge_w2:
                    before_w2 = self.edge_w2[feeder]
                    self.edge_w2[feeder] = max(0.0, before_w2 - gain.edge_w2)
                    gain_w = gain.watts - gain.edge_w + math.sqrt(before_w2) - math.sqrt(self.edge_w2[feeder])
                self.over_w[feeder] -= counts * gain_w

    def counts_at(self, feeder: FeederId, leaf: FeederId, tree: FeederTree) -> float:
        """What a watt of a device on `leaf` is held against the limit of `feeder` above it as."""
        counts = self.unmetered
        for member in tree.paths[leaf]:
            counts = self.metered.get(member, counts)
            if member == feeder:
                break
        return counts

    def onward(self, over_w: dict[FeederId, Watts]) -> _Shedding:
        """The same choice, of what else is over."""
        return replace(self, over_w=over_w)


def shed(
    by_feeder: Mapping[FeederId, Iterable[Device]],
    tree: FeederTree,
    room: Room,
    now: Seconds,
    in_order: bool = False,
) -> tuple[list[Move], dict[FeederId, Watts]]:
    """What must go down, and what each feeder is still over by once it has.

    Outranks everything: min-on only orders the candidates, it never spares one. A device's flex spares it from a
    routine limit, not from a firm one.

    Devices that are silent are asked once no other is left, as many as it takes, and the next if those do not fall in
    time: a site that hears nobody for a minute does not stop for it. Those that misbehave are asked last and not
    counted on; whatever is still over afterwards is the deficit. For a limit still to come each device is asked its own
    settle time ahead, so that the draw is down when the window opens.

    `in_order`: the moves are wanted in the order in which devices are asked, even where all are needed anyway.
    """
    if not room.coming and not any(over_w > 0 for over_w in room.over_w.values()):
        return [], dict(room.over_w)
    shedding = _Shedding(dict(room.over_w), dict(room.edge_w2), room.unmetered, room.metered, in_order)
    _choose(shedding, by_feeder, tree, now)
    _choose_firmly(shedding, room.over_w, room.firm_over_w, by_feeder, tree, now)
    left_w = dict(shedding.over_w)
    sent, rules = shedding.targets, shedding.rules
    if room.coming:
        sent, rules = _shed_ahead(shedding, by_feeder, tree, room, now)
    moves = [
        Move(device.spec.id, target, False, rule, feeder)
        for device, target in sent.items()
        for rule, feeder in (rules[device],)
    ]
    return moves, left_w


def _shed_ahead(
    shedding: _Shedding, by_feeder: Mapping[FeederId, Iterable[Device]], tree: FeederTree, room: Room, now: Seconds
) -> tuple[dict[Device, OperatingPoint], dict[Device, tuple[str, FeederId]]]:
    """Go on choosing for each coming window in turn; sent is what must be on its way by now to be down in time."""
    sent, rules = dict(shedding.targets), dict(shedding.rules)
    for window in room.coming:
        freed_w = {feeder: room.over_w[feeder] - shedding.over_w[feeder] for feeder in tree.specs}
        ahead = shedding.onward({feeder: window.over_w[feeder] - freed_w[feeder] for feeder in tree.specs})
        _choose(ahead, by_feeder, tree, now)
        _choose_firmly(ahead, window.over_w, window.firm_over_w, by_feeder, tree, now)
        for feeder in tree.specs:
            chosen_w = window.over_w[feeder] - freed_w[feeder] - ahead.over_w[feeder]
            shedding.over_w[feeder] -= chosen_w
        for device, target in shedding.targets.items():
            if window.at - now <= device.spec.settle_down_s + AHEAD_S:
                sent[device], rules[device] = target, shedding.rules[device]
    return sent, rules


def _choose_firmly(
    shedding: _Shedding,
    over_w: Mapping[FeederId, Watts],
    firm_over_w: Mapping[FeederId, Watts],
    by_feeder: Mapping[FeederId, Iterable[Device]],
    tree: FeederTree,
    now: Seconds,
) -> None:
    """Go past the devices' flex where what was freed within it leaves a feeder over a firm limit."""
    left_w = {feeder: firm_w - over_w[feeder] + shedding.over_w[feeder] for feeder, firm_w in firm_over_w.items()}
    if not any(watts > MILLIWATT for watts in left_w.values()):
        return
    firmly = shedding.onward(dict(left_w))
    _choose(firmly, by_feeder, tree, now, is_firm=True)
    for feeder, watts in left_w.items():
        shedding.over_w[feeder] -= watts - firmly.over_w[feeder]


def _choose(
    shedding: _Shedding,
    by_feeder: Mapping[FeederId, Iterable[Device]],
    tree: FeederTree,
    now: Seconds,
    is_firm: bool = False,
) -> None:
    """Bring every feeder under, from the leaves to the root."""
    over_w = shedding.over_w
    why = ", past the flex of what it feeds" if is_firm else ""
    for feeder in tree.bottom_up:
        if over_w[feeder] <= MILLIWATT or not any(by_feeder.get(leaf) for leaf in tree.below[feeder]):
            continue
        rule = f"{feeder} over by {over_w[feeder]:.0f} W{why}", feeder
        trusted: list[_OnLeaf] = []
        silent: list[_OnLeaf] = []
        others: list[_OnLeaf] = []
        for leaf in tree.below[feeder]:
            of_leaf: tuple[list[Device], list[Device], list[Device]] = [], [], []
            for device in by_feeder.get(leaf, ()):
                if device.conditions:
                    if now >= device.fixed_until and not _awaits_read_back(device) and not _is_falling_unproven(device):
                        of_leaf[1 if device.is_merely_silent else 2].append(device)
                elif now >= device.fixed_until and (device.actuation is None or not _awaits_read_back(device)):
                    of_leaf[0].append(device)
            for group, devices in zip((trusted, silent, others), of_leaf, strict=True):
                if devices:
                    group.append((leaf, devices))
        taken: list[Device] = []
        for pool in (trusted, silent):
            if pool and over_w[feeder] > MILLIWATT:
                taken += _Cohorts(shedding, pool, feeder, now, is_firm).shed(tree)
        if others and over_w[feeder] > MILLIWATT:
            taken += _Cohorts(shedding, others, feeder, now, is_firm).shed_uncounted()
        for device in taken:
            if is_firm or device not in shedding.rules:
                shedding.rules[device] = rule


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


class _Cohorts:
    """The candidates below one feeder, by what their next step earns."""

    def __init__(
        self, shedding: _Shedding, pool: Sequence[_OnLeaf], feeder: FeederId, now: Seconds, is_firm: bool
    ) -> None:
        self._shedding, self._feeder, self._now, self._is_firm = shedding, feeder, now, is_firm
        self._pool = pool
        self._cohorts: dict[Earning, list[_Alike]] = {}
        self._least: list[Earning] = []

    def shed(self, tree: FeederTree) -> list[Device]:
        """Take steps, the least earning first, until the feeder is no longer over; whose."""
        shedding, taken = self._shedding, list[Device]()
        if self._may_all_be_needed() and self._take_whole(_stopped(self._pool), tree):
            return [device for _, devices in self._pool for device in devices]
        for leaf, devices in self._pool:
            self._enlist(leaf, devices)
        while self._least and shedding.over_w[self._feeder] > MILLIWATT:
            cohort = self._cohorts.pop(heapq.heappop(self._least))
            if not shedding.in_order and self._take_whole(cohort, tree):
                for alike in cohort:
                    taken += alike.devices
                    self._enlist(alike.leaf, alike.devices)
            else:
                candidates = self._in_turn(cohort)
                taken += self._take(candidates, tree)
                if shedding.over_w[self._feeder] > MILLIWATT:
                    for _, _, _, device, _ in candidates:
                        self._enlist(device.spec.feeder, (device,))
        return taken

    def shed_uncounted(self) -> list[Device]:
        """Take every step that there is, and count on none; whose."""
        shedding, taken = self._shedding, list[Device]()
        for leaf, devices in self._pool:
            self._enlist(leaf, devices)
        while self._least:
            for _, _, _, device, target in self._in_turn(self._cohorts.pop(heapq.heappop(self._least))):
                shedding.targets[device] = target
                shedding.left_w[device] = device.upper_w(target)
                taken.append(device)
                self._enlist(device.spec.feeder, (device,))
        return taken

    def _may_all_be_needed(self) -> bool:
        """Whether it is worth adding up if every step that there is must be taken: nobody then need ask in which order.
        A few devices tell."""
        shedding, pool = self._shedding, self._pool
        if shedding.in_order:
            return False
        freed_w = 0.0
        for _, devices in pool:
            device = devices[0]
            points = device.spec.points
            if points is not None:
                freed_w += len(devices) * (device.planned_w - device.upper_w(points.lowest))
        return freed_w < ROUGHLY * shedding.over_w[self._feeder] and not any(
            device.spec.points is None or (device.spec.flex is not None and not self._is_firm)
            for _, devices in pool
            for device in devices
        )

    def _enlist(self, leaf: FeederId, devices: Iterable[Device]) -> None:
        """Put devices on `leaf` into the cohorts of their next steps."""
        targets = self._shedding.targets
        alike: dict[int, tuple[Step, list[Device]]] = {}
        for device in devices:
            actuation = device.actuation
            present = targets.get(device) or (device.setpoint if actuation is None else actuation.target)
            step = step_down(device, present)
            if step is None:
                continue
            found = alike.get(id(step))
            if found is None:
                alike[id(step)] = step, [device]
            else:
                found[1].append(device)
        for (earning, target), members in alike.values():
            if earning[0] and not self._is_firm:
                continue  # at their flex
            cohort = self._cohorts.get(earning)
            if cohort is None:
                cohort = self._cohorts[earning] = []
                heapq.heappush(self._least, earning)
            cohort.append(_Alike(leaf, target, members))

    def _in_turn(self, cohort: list[_Alike]) -> list[_Candidate]:
        now = self._now
        return sorted(
            (now - device.on_since < device.spec.min_on_s, device.slept_s, device.order, device, alike.target)
            for alike in cohort
            for device in alike.devices
        )

    def _take_whole(self, cohort: list[_Alike], tree: FeederTree) -> bool:
        """Take all of the cohort's steps at once if the feeder is sure to be over until the last of them; whether."""
        shedding = self._shedding
        enough_w = shedding.over_w[self._feeder] - MILLIWATT
        counts: dict[FeederId, float] = {}
        lefts_w: list[list[Watts]] = []
        freed: defaultdict[FeederId, _Freed] = defaultdict(_Freed)
        for leaf, target, devices in cohort:
            counted = counts.get(leaf)
            if counted is None:
                counted = counts[leaf] = shedding.counts_at(self._feeder, leaf, tree)
            key, nominal_w = target.key, exact(target.draw_w)
            left_w = [device.upper_w(target) if key in device.learned else nominal_w for device in devices]
            gains_w = list(map(sub, map(shedding.left_w.get, devices, map(_planned_w, devices)), left_w))
            gain_w = sum(gains_w) if min(gains_w) >= 0.0 else sum(max(0.0, watts) for watts in gains_w)
            enough_w -= counted * gain_w
            if enough_w <= 0.0:
                return False
            freed[leaf].watts += gain_w
            lefts_w.append(left_w)
        for (leaf, target, devices), left_w in zip(cohort, lefts_w, strict=True):
            for device in devices if shedding.edge_w2 else ():
                if device.share.edge_w > 0.0 and device not in shedding.targets:
                    freed[leaf].give_up(device.share.edge_w)
            shedding.targets.update(zip(devices, repeat(target)))
            shedding.left_w.update(zip(devices, left_w, strict=True))
        shedding.count(freed, tree)
        return True

    def _take(self, candidates: list[_Candidate], tree: FeederTree) -> list[Device]:
        """Take their steps one by one while the feeder is over, the last no further than it must; whose."""
        shedding, targets = self._shedding, self._shedding.targets
        over_w = shedding.over_w[self._feeder]
        shared_w2 = shedding.edge_w2.get(self._feeder)
        freed: dict[FeederId, _Freed] = {}
        leaves: dict[FeederId, tuple[float, _Freed]] = {}
        taken: list[Device] = []
        for _, _, _, device, target in candidates:
            if over_w <= MILLIWATT:
                break
            taken.append(device)
            feeder = device.spec.feeder
            leaf = leaves.get(feeder)
            if leaf is None:
                freed[feeder] = _Freed()
                leaf = leaves[feeder] = shedding.counts_at(self._feeder, feeder, tree), freed[feeder]
            counted, gain = leaf
            present = targets.get(device)
            gain_w = shedding.left_w[device] if present is not None else device.planned_w
            edge_w = device.share.edge_w if present is None else 0.0
            left_w = device.upper_w(target)
            if counted * (gain_w - left_w) > over_w and (present := present or device.headed_for()) is not None:
                target = _no_further(device, present, target, over_w / counted)
                left_w = device.upper_w(target)
            targets[device] = target
            shedding.left_w[device] = left_w
            gain_w -= left_w
            if gain_w < 0.0:
                gain_w = 0.0  # at boot some are planned with nothing yet: stopping them adds nothing
            gain.watts += gain_w
            over_w -= counted * gain_w
            if edge_w > 0.0:
                gain.give_up(edge_w)
                if shared_w2 is not None:
                    left_w2 = max(0.0, shared_w2 - edge_w * edge_w)
                    over_w += edge_w - math.sqrt(shared_w2) + math.sqrt(left_w2)
                    shared_w2 = left_w2
        shedding.count(freed, tree)
        return taken


def _stopped(pool: Iterable[_OnLeaf]) -> list[_Alike]:
    """All of them, at their lowest points."""
    stopped: list[_Alike] = []
    for leaf, devices in pool:
        alike: dict[int, _Alike] = {}
        for device in devices:
            points = device.spec.points
            assert points is not None, "only devices that offer points are shed"
            found = alike.get(id(points))
            if found is None:
                found = alike[id(points)] = _Alike(leaf, points.lowest, [])
            found.devices.append(device)
        stopped += alike.values()
    return stopped


def _no_further(device: Device, present: OperatingPoint, lower: OperatingPoint, over_w: Watts) -> OperatingPoint:
    """Between `present` and `lower`, where `over_w` is freed."""
    points = device.spec.points
    if points is None:
        return lower
    if not present.divisible:
        if device.spec.restarts:
            return lower  # another step would be another restart
        enough_w = device.upper_w(present) - over_w
        between = (point for point in reversed(hull.hull(points)) if lower.draw_w < point.draw_w < present.draw_w)
        return next((point for point in between if device.upper_w(point) <= enough_w), lower)
    ratio = max(device.upper_w(present) / present.draw_w, 0.1) if present.draw_w > 0 else 1.0
    steps_down = max(1, math.ceil(over_w / ratio / points.step_w))
    draw_w = present.draw_w - steps_down * points.step_w
    return hull.point_at(points, draw_w) if draw_w > lower.draw_w else lower
