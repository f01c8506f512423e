"""What must go down: increments by what they earn, the least first, below every feeder that is over.

Devices whose next step earns the same are one cohort, sorted only once it is its turn: thirty thousand devices of a few
kinds cost little more than their number.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from curtaild.core import hull
from curtaild.core.device import Device, Earning
from curtaild.core.events import ActuationStage, Condition
from curtaild.core.feeders import FeederTree
from curtaild.core.market import step_down
from curtaild.core.room import AHEAD_S, MILLIWATT, Move, Room
from curtaild_drivers.contract import FeederId, OperatingPoint, Seconds, Watts

UNREADABLE = frozenset({Condition.UNREACHABLE, Condition.AUTH_FAILED, Condition.BAD_REPLY, Condition.STALE})

_Candidate: TypeAlias = tuple[bool, float, int, Device, OperatingPoint]
"""Within a cohort: past its min-on first, then who has slept least, then by place in the site file; and where to."""


@dataclass(slots=True)
class _Freed:
    """What was freed of devices on one feeder itself (W), and which of their edges a meter above need share no more."""

    watts: Watts = 0.0
    edge_w: Watts = 0.0
    edge_w2: float = 0.0


@dataclass(slots=True)
class _Shedding:
    """The choice as far as it has come: where devices are to go, why, and what each feeder is still over by."""

    over_w: dict[FeederId, Watts]
    edge_w2: dict[FeederId, float]
    unmetered: float = 1.0
    metered: Mapping[FeederId, float] = field(default_factory=dict)
    in_order: bool = False
    targets: dict[Device, OperatingPoint] = field(default_factory=dict)
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
        return _Shedding(over_w, self.edge_w2, self.unmetered, self.metered, self.in_order, self.targets, self.rules)


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
        if over_w[feeder] <= MILLIWATT:
            continue
        rule = f"{feeder} over by {over_w[feeder]:.0f} W{why}", feeder
        trusted: list[Device] = []
        silent: list[Device] = []
        others: list[Device] = []
        for member in tree.below[feeder]:
            for device in by_feeder.get(member, ()):
                if device.conditions:
                    if now >= device.fixed_until and not _awaits_read_back(device) and not _is_falling_unproven(device):
                        (silent if device.is_merely_silent else others).append(device)
                elif now >= device.fixed_until and (device.actuation is None or not _awaits_read_back(device)):
                    trusted.append(device)
        taken = _Cohorts(shedding, trusted, feeder, now, is_firm).shed(tree)
        if over_w[feeder] > MILLIWATT:
            taken += _Cohorts(shedding, silent, feeder, now, is_firm).shed(tree)
        if over_w[feeder] > MILLIWATT:
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
        self, shedding: _Shedding, pool: Sequence[Device], feeder: FeederId, now: Seconds, is_firm: bool
    ) -> None:
        self._shedding, self._feeder, self._now, self._is_firm = shedding, feeder, now, is_firm
        self._pool = pool
        self._cohorts: dict[Earning, list[_Candidate]] = {}
        self._least: list[Earning] = []

    def shed(self, tree: FeederTree) -> list[Device]:
        """Take steps, the least earning first, until the feeder is no longer over; whose."""
        over_w, taken = self._shedding.over_w, []
        if self._are_all_needed(tree):
            return self._take([(False, 0.0, 0, device, _lowest(device)) for device in self._pool], tree)
        self._enlist(self._pool)
        while self._least and over_w[self._feeder] > MILLIWATT:
            earning = heapq.heappop(self._least)
            cohort = self._cohorts.pop(earning)
            cohort.sort()
            now_taken = self._take(cohort, tree)
            taken += now_taken
            if over_w[self._feeder] > MILLIWATT:
                if len(now_taken) < len(cohort):
                    self._cohorts[earning] = cohort[len(now_taken) :]
                    heapq.heappush(self._least, earning)
                self._enlist(now_taken)
        return taken

    def shed_uncounted(self) -> list[Device]:
        """Take every step that there is, and count on none; whose."""
        targets, taken = self._shedding.targets, []
        self._enlist(self._pool)
        while self._least:
            cohort = self._cohorts.pop(heapq.heappop(self._least))
            cohort.sort()
            for _, _, _, device, target in cohort:
                targets[device] = target
            now_taken = [device for _, _, _, device, _ in cohort]
            taken += now_taken
            self._enlist(now_taken)
        return taken

    def _are_all_needed(self, tree: FeederTree) -> bool:
        """Whether every step that there is would be taken: nobody then need ask in which order."""
        shedding, left_w = self._shedding, self._shedding.over_w[self._feeder]
        if shedding.in_order:
            return False
        counts = {leaf: shedding.counts_at(self._feeder, leaf, tree) for leaf in tree.below[self._feeder]}
        for device in self._pool:
            spec = device.spec
            if spec.points is None or (spec.flex is not None and not self._is_firm) or device in shedding.targets:
                return False
            gain_w = max(0.0, device.planned_w - device.upper_w(spec.points.lowest))
            left_w -= counts[spec.feeder] * gain_w + device.share.edge_w
            if left_w <= 0.0:
                return False
        return True

    def _enlist(self, devices: Iterable[Device]) -> None:
        """Put each device into the cohort of its next step."""
        targets, cohorts, now, is_firm = self._shedding.targets, self._cohorts, self._now, self._is_firm
        for device in devices:
            actuation = device.actuation
            present = targets.get(device) or (device.setpoint if actuation is None else actuation.target)
            step = step_down(device, present)
            if step is None:
                continue
            earning, target = step
            if earning[0] and not is_firm:
                continue  # at its flex
            cohort = cohorts.get(earning)
            if cohort is None:
                cohort = cohorts[earning] = []
                heapq.heappush(self._least, earning)
            cohort.append((now - device.on_since < device.spec.min_on_s, device.slept_s, device.order, device, target))

    def _take(self, cohort: list[_Candidate], tree: FeederTree) -> list[Device]:
        """Take the cohort's steps one by one while the feeder is over, the last no further than it must; whose."""
        shedding, targets = self._shedding, self._shedding.targets
        over_w = shedding.over_w[self._feeder]
        shared_w2 = shedding.edge_w2.get(self._feeder)
        freed: dict[FeederId, _Freed] = {}
        leaves: dict[FeederId, tuple[float, _Freed]] = {}
        taken: list[Device] = []
        for _, _, _, device, target in cohort:
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
            gain_w = device.upper_w(present) if present is not None else device.planned_w
            edge_w = device.share.edge_w if present is None else 0.0
            left_w = device.upper_w(target)
            if counted * (gain_w - left_w) > over_w and (present := present or device.headed_for()) is not None:
                target = _no_further(device, present, target, over_w / counted)
                left_w = device.upper_w(target)
            targets[device] = target
            gain_w -= left_w
            if gain_w < 0.0:
                gain_w = 0.0  # at boot some are planned with nothing yet: stopping them adds nothing
            gain.watts += gain_w
            over_w -= counted * gain_w
            if edge_w > 0.0:
                gain.edge_w += edge_w
                gain.edge_w2 += edge_w * edge_w
                if shared_w2 is not None:
                    left_w2 = max(0.0, shared_w2 - edge_w * edge_w)
                    over_w += edge_w - math.sqrt(shared_w2) + math.sqrt(left_w2)
                    shared_w2 = left_w2
        shedding.count(freed, tree)
        return taken


def _lowest(device: Device) -> OperatingPoint:
    assert device.spec.points is not None, "only devices that offer points are shed"
    return device.spec.points.lowest


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
