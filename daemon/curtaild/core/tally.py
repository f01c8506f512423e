"""Adds up what the devices draw, reserve and are planned to draw, feeder by feeder, from the leaves to the root.

Only feeders are added up anew below which something changed. All sums are whole numbers of 1/1024 W, so that what one
of a thousand rows draws more can be added to the site's sum without an error gathering.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from curtaild.core.auxiliary import MeteredFeeder
from curtaild.core.device import exact
from curtaild.core.feeders import FeederTree
from curtaild.core.policy import Policy
from curtaild.core.roster import Members, Roster
from curtaild_drivers.contract import FeederId, Seconds, Watts


@dataclass(slots=True)
class FeederTally:
    """Sums over all devices at and below one feeder (W), then what the feeder itself comes to.

    `reserved_w`, `planned_w`, `measured_w`: plain sums. `unseen_w`: what devices may draw beyond their own word where
    no meter has seen them since they moved; `just_moved_w` what they may have been drawing more when the meter was last
    read. `in_doubt_w`: how far unread devices and unconfirmed actuations leave the sum open. `never_heard_w`: reserved
    by those that are given up and never said what they draw; in `measured_w` they are nothing. `beside_w`: the most
    that may be drawn beside all that is reserved, by the site file's word, or by that of meters below which all are
    heard. `edge_w`: what of `planned_w` is there for each unit's own spread; `edge_w2` the sum of its squares.
    `spread_w`: where a meter sees them all, what the edges come to less together than one by one, not held against the
    limit. `spared_w`: what devices draw that only a firm limit may take. `lowest_w`, `highest_w`, `allowed_w`: as in
    `Share`. `last_move_at`: when a device below last settled.
    `total_reserved_w`, `total_planned_w`: with auxiliary load, what is held against the limit.
    """

    devices: int = 0
    in_flight: int = 0
    reserved_w: Watts = 0.0
    planned_w: Watts = 0.0
    measured_w: Watts = 0.0
    unseen_w: Watts = 0.0
    just_moved_w: Watts = 0.0
    in_doubt_w: Watts = 0.0
    never_heard_w: Watts = 0.0
    beside_w: Watts = 0.0
    edge_w: Watts = 0.0
    edge_w2: float = 0.0
    spread_w: Watts = 0.0
    spared_w: Watts = 0.0
    lowest_w: Watts = 0.0
    highest_w: Watts = 0.0
    allowed_w: Watts = 0.0
    last_move_at: Seconds = 0.0
    auxiliary_w: Watts = 0.0
    total_reserved_w: Watts = 0.0
    total_planned_w: Watts = 0.0

    def stands_otherwise(self, before: FeederTally) -> bool:
        """Whether anything that the grid is told of a feeder is another than `before`."""
        return (
            self.total_reserved_w != before.total_reserved_w
            or self.total_planned_w != before.total_planned_w
            or self.lowest_w != before.lowest_w
            or self.spared_w != before.spared_w
            or self.auxiliary_w != before.auxiliary_w
        )

    def add(self, other: FeederTally, instead_of: FeederTally) -> None:
        """Count `other` where `instead_of` was counted before."""
        self.devices += other.devices - instead_of.devices
        self.in_flight += other.in_flight - instead_of.in_flight
        self.reserved_w += other.reserved_w - instead_of.reserved_w
        self.planned_w += other.planned_w - instead_of.planned_w
        self.measured_w += other.measured_w - instead_of.measured_w
        self.unseen_w += other.unseen_w - instead_of.unseen_w
        self.just_moved_w += other.just_moved_w - instead_of.just_moved_w
        self.in_doubt_w += other.in_doubt_w - instead_of.in_doubt_w
        self.never_heard_w += other.never_heard_w - instead_of.never_heard_w
        self.beside_w += other.beside_w - instead_of.beside_w
        self.edge_w += other.edge_w - instead_of.edge_w
        self.edge_w2 += other.edge_w2 - instead_of.edge_w2
        self.spared_w += other.spared_w - instead_of.spared_w
        self.lowest_w += other.lowest_w - instead_of.lowest_w
        self.highest_w += other.highest_w - instead_of.highest_w
        self.allowed_w += other.allowed_w - instead_of.allowed_w
        self.last_move_at = max(self.last_move_at, other.last_move_at)
        self.auxiliary_w += other.auxiliary_w - instead_of.auxiliary_w
        self.total_reserved_w += other.total_reserved_w - instead_of.total_reserved_w
        self.total_planned_w += other.total_planned_w - instead_of.total_planned_w


_NOTHING = FeederTally()

FIGURE_ERROR = 0.25
"""How far the site file's own figure of an auxiliary load may be too low, where that is all that is known of it."""


class _Sight(NamedTuple):
    """What the meters above some feeders have seen of them. `until`: the last counted sample of the nearest one that is
    fresh or was of late, `None` where none is. `sampled_at`: the oldest of the newest samples of the fresh ones."""

    until: Seconds | None
    sampled_at: Seconds

    def is_less_than(self, before: _Sight) -> bool:
        """A meter came or was lost: another now looks at the devices, and it has seen other things."""
        if self.until is None or before.until is None:
            return self.until is not before.until or self.sampled_at < before.sampled_at
        return self.until < before.until or self.sampled_at < before.sampled_at


class Tallies:
    """One tally per feeder, kept from cycle to cycle. `restated`: those of which something else is to be told the grid
    than before, until somebody takes them off. `_looking`: by the nearest meter of a feeder, it and those above it.
    `_moving`: feeders with devices that moved since a meter saw them, whom its next sample concerns."""

    __slots__ = ("_by_feeder", "_children", "_looking", "_meters", "_moving", "_policy", "_roster", "_seen_by",
                 "_sights", "_tree", "restated")  # fmt: skip

    def __init__(
        self, tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder], roster: Roster, policy: Policy
    ) -> None:
        self._tree, self._meters, self._roster, self._policy = tree, meters, roster, policy
        self._by_feeder = {feeder: FeederTally() for feeder in tree.specs}
        self._children = {feeder: FeederTally() for feeder, below in tree.children.items() if below}
        self._seen_by = {
            feeder: next((above for above in path if above in meters), None) for feeder, path in tree.paths.items()
        }
        self._looking: dict[FeederId | None, list[MeteredFeeder]] = {None: []}
        for seer in meters:
            self._looking[seer] = [meters[above] for above in tree.paths[seer] if above in meters]
        self._sights: dict[FeederId | None, _Sight] = {}
        self._moving: set[FeederId] = set()
        self.restated: set[FeederId] = set(tree.specs)
        roster.changed.update(tree.specs)

    def __getitem__(self, feeder: FeederId) -> FeederTally:
        return self._by_feeder[feeder]

    @property
    def are_counted(self) -> bool:
        """Whether there was a first `refresh`."""
        return bool(self._sights)

    def refresh(self) -> set[FeederId]:
        """Bring all up to the roster and the meters, whose estimates are fed on the way; the feeders counted anew."""
        before, self._sights = self._sights, {seer: self._sight_of(seer) for seer in self._looking}
        due = self._take_changed() | self._meters.keys()
        due.update([feeder for feeder in self._moving if self._is_news_of(feeder, before)])
        lost = [seer for seer, sight in self._sights.items() if seer in before and sight.is_less_than(before[seer])]
        if lost:
            due.update(feeder for feeder, seer in self._seen_by.items() if seer in lost)
        self._moving = {feeder for feeder in due | self._moving if self._roster.members[feeder].has_movers}
        return self._count_anew(due)

    def _is_news_of(self, feeder: FeederId, before: Mapping[FeederId | None, _Sight]) -> bool:
        """Whether a meter has now seen more of those that moved there than when it was last added up."""
        seer = self._seen_by[feeder]
        then = before.get(seer)
        if then is None or self._sights[seer].until != then.until:
            return True
        return self._roster.members[feeder].last_move_at >= then.sampled_at

    def count_draws(self) -> set[FeederId]:
        """Bring the sums up to what those devices draw of whom nothing else is another than before: something follows
        only where a meter compares itself with that, and those are found anew by `refresh`. Which sums have changed."""
        changed: set[FeederId] = set()
        for feeder, more_w, more_doubt_w in self._roster.take_redrawn():
            path = self._tree.paths[feeder]
            changed.update(path)
            for sums in [self._by_feeder[above] for above in path] + [self._children[above] for above in path[1:]]:
                sums.measured_w += more_w
                sums.in_doubt_w += more_doubt_w
        return changed

    def recount(self) -> set[FeederId]:
        """Bring those up to the roster that have no meter, which the next `refresh` then finds done; who they are."""
        if not self.are_counted:
            return set()
        due = self._take_changed() - self._meters.keys()
        self._moving.update(feeder for feeder in due if self._roster.members[feeder].has_movers)
        return self._count_anew(due, stops_at=self._meters)

    def _take_changed(self) -> set[FeederId]:
        changed, self._roster.changed = self._roster.changed, set()
        return changed

    def _count_anew(self, due: set[FeederId], stops_at: Container[FeederId] = ()) -> set[FeederId]:
        """Those `due` and all above them, up to those it `stops_at`."""
        for feeder in self._tree.bottom_up:
            if feeder not in due:
                continue
            own = self._own(feeder, self._roster.members[feeder])
            children = self._children.get(feeder)
            if children is not None:
                own.add(children, _NOTHING)
            meter = self._meters.get(feeder)
            if meter is not None:
                _apply_meter(own, meter, self._policy)
                own.auxiliary_w = exact(own.auxiliary_w)
                if own.never_heard_w == 0.0 and meter.is_estimated and (meter.is_fresh or meter.is_remembered):
                    own.beside_w = own.auxiliary_w + own.unseen_w
                own.total_reserved_w, own.total_planned_w = exact(own.total_reserved_w), exact(own.total_planned_w)
            before, self._by_feeder[feeder] = self._by_feeder[feeder], own
            if own.stands_otherwise(before):
                self.restated.add(feeder)
            parent = self._tree.specs[feeder].parent
            if parent is not None:
                self._children[parent].add(own, before)
                if parent not in stops_at:
                    due.add(parent)
        return due

    def _sight_of(self, seer: FeederId | None) -> _Sight:
        """What those see who look at the feeders that `seer` is the nearest meter of."""
        until: Seconds | None = None
        sampled_at = math.inf
        for meter in self._looking[seer]:
            is_fresh = meter.is_fresh
            if until is None and (meter.is_remembered or (is_fresh and meter.is_estimated)):
                until = meter.counted_at
            if is_fresh and meter.changed_at < sampled_at:
                sampled_at = meter.changed_at
        return _Sight(until, sampled_at)

    def _own(self, feeder: FeederId, members: Members) -> FeederTally:
        """The devices that hang on the feeder itself."""
        sums, error_fraction = members.sums, self._policy.reading_error_fraction
        sight = self._sights[self._seen_by[feeder]]
        figure_w = self._tree.specs[feeder].auxiliary_w
        auxiliary_w = exact(figure_w)
        return FeederTally(
            len(members.devices),
            len(members.flying),
            sums.reserved_w,
            sums.planned_w,
            sums.measured_w,
            exact(error_fraction * members.unseen_w(sight.until)),
            exact(members.just_moved_w(sight.sampled_at)),
            sums.in_doubt_w,
            sums.never_heard_w,
            exact(error_fraction * sums.erring_w + (1 + FIGURE_ERROR) * figure_w),
            sums.edge_w,
            sums.edge_w2,
            0.0,
            sums.spared_w,
            sums.lowest_w,
            sums.highest_w,
            sums.allowed_w,
            members.last_move_at,
            auxiliary_w,
            exact(sums.reserved_w * (1 + error_fraction)) + auxiliary_w,
            exact(sums.planned_w * (1 + error_fraction)) + auxiliary_w,
        )


def _apply_meter(own: FeederTally, meter: MeteredFeeder, policy: Policy) -> None:
    """Where a meter sees the whole feeder, or did so a moment ago, its word replaces the sum of guesses."""
    is_quiet = _in_doubt_w(own, meter, policy) <= 0.01 * max(own.measured_w, 0.1 * meter.spec.rating_w)
    meter.estimate(own.measured_w, own.reserved_w + own.just_moved_w, own.last_move_at, is_quiet, policy.poll_slack_s)
    planned_share = (own.planned_w - own.never_heard_w) / own.measured_w if own.measured_w > 0 else 1.0
    if not meter.is_fresh and not meter.is_remembered:
        own.auxiliary_w = max(own.auxiliary_w, meter.upper_w(1.0, 0.0))
        error_w = policy.reading_error_fraction * own.reserved_w
        own.total_reserved_w = max(own.total_reserved_w, own.reserved_w + error_w + own.auxiliary_w)
        own.total_planned_w = max(
            own.total_planned_w, own.planned_w * (1 + policy.reading_error_fraction) + own.auxiliary_w
        )
        return
    if not meter.is_estimated:
        metered_w = meter.settled_w  # the smoothed one lags behind a shed, which would then be done twice
        own.total_reserved_w = max(own.total_reserved_w, metered_w)
        own.total_planned_w = max(own.total_planned_w, metered_w - own.reserved_w - own.just_moved_w + own.planned_w)
        return
    least_w = -policy.reading_error_fraction * own.measured_w
    auxiliary_w = meter.upper_w(1.0, least_w)
    planned_auxiliary_w = meter.upper_w(planned_share, least_w * min(planned_share, 1.0))
    if own.never_heard_w > 0.0 and meter.spec.auxiliary_w > 0.0:
        drawn_w = _drawn_unheard_w(own, auxiliary_w)
        shown_w = meter.floor_w + own.never_heard_w  # so that all they do not draw yet is above what the meter shows
        auxiliary_w = max(auxiliary_w, shown_w) - drawn_w
        planned_auxiliary_w = max(planned_auxiliary_w, shown_w) - drawn_w
    own.auxiliary_w = auxiliary_w
    own.spread_w = max(0.0, own.edge_w - math.sqrt(own.edge_w2))
    own.total_reserved_w = own.reserved_w - own.spread_w + own.unseen_w + own.auxiliary_w
    own.total_planned_w = own.planned_w - own.spread_w + planned_auxiliary_w


def _drawn_unheard_w(own: FeederTally, auxiliary_w: Watts) -> Watts:
    """What the never heard draw already of what is reserved for them, and the meter shows once more in `auxiliary_w`:
    all of that which nothing else explains. What is more than they can draw says that the site file's figure is too
    low, and is taken off again."""
    unexplained_w = auxiliary_w - own.beside_w
    beyond_w = max(0.0, unexplained_w - own.never_heard_w)
    return max(0.0, min(unexplained_w + own.unseen_w, own.never_heard_w - beyond_w))


def _in_doubt_w(own: FeederTally, meter: MeteredFeeder, policy: Policy) -> Watts:
    """How far the sum is open for this meter. Devices that were never heard count with all they can draw whatever it
    shows; where no figure says what is auxiliary load, what they do draw of that is taken for it, and so counted twice.
    Where they are a few, that is less than the error of all the others, which the meter rules out."""
    are_few = own.never_heard_w <= policy.reading_error_fraction * own.measured_w
    is_worth_it = are_few or meter.spec.auxiliary_w > 0.0
    return own.in_doubt_w if is_worth_it else own.in_doubt_w + own.never_heard_w
