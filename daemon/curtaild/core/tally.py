"""Adds up what the devices draw, reserve and are planned to draw, feeder by feeder, from the leaves to the root."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from curtaild.core.auxiliary import MeteredFeeder
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
    by those that are given up and never said what they draw; in `measured_w` they are nothing. `edge_w`: what of
    `planned_w` is there for each unit's own spread; `edge_w2` the sum of its squares.
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

    def add(self, other: FeederTally) -> None:
        self.devices += other.devices
        self.in_flight += other.in_flight
        self.reserved_w += other.reserved_w
        self.planned_w += other.planned_w
        self.measured_w += other.measured_w
        self.unseen_w += other.unseen_w
        self.just_moved_w += other.just_moved_w
        self.in_doubt_w += other.in_doubt_w
        self.never_heard_w += other.never_heard_w
        self.edge_w += other.edge_w
        self.edge_w2 += other.edge_w2
        self.spared_w += other.spared_w
        self.lowest_w += other.lowest_w
        self.highest_w += other.highest_w
        self.allowed_w += other.allowed_w
        self.last_move_at = max(self.last_move_at, other.last_move_at)
        self.auxiliary_w += other.auxiliary_w
        self.total_reserved_w += other.total_reserved_w
        self.total_planned_w += other.total_planned_w


def tally(
    tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder], roster: Roster, policy: Policy
) -> dict[FeederId, FeederTally]:
    """One tally per feeder; feeds each fresh meter's estimate on the way."""
    tallies: dict[FeederId, FeederTally] = {}
    for feeder in tree.bottom_up:
        own = tallies[feeder] = _own(feeder, tree, meters, roster.members[feeder], policy)
        for child in tree.children[feeder]:
            own.add(tallies[child])
        meter = meters.get(feeder)
        if meter is not None:
            _apply_meter(own, meter, policy)
    return tallies


def _own(
    feeder: FeederId, tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder], members: Members, policy: Policy
) -> FeederTally:
    """The devices that hang on the feeder itself."""
    sums, error_fraction = members.sums, policy.reading_error_fraction
    auxiliary_w = tree.specs[feeder].auxiliary_w
    return FeederTally(
        devices=len(members.devices),
        in_flight=len(members.flying),
        reserved_w=sums.reserved_w,
        planned_w=sums.planned_w,
        measured_w=sums.measured_w,
        unseen_w=error_fraction * members.unseen_w(_seen_until(feeder, tree, meters)),
        just_moved_w=members.just_moved_w(_sampled_at(feeder, tree, meters)),
        in_doubt_w=sums.in_doubt_w,
        never_heard_w=sums.never_heard_w,
        edge_w=sums.edge_w,
        edge_w2=sums.edge_w2,
        spared_w=sums.spared_w,
        lowest_w=sums.lowest_w,
        highest_w=sums.highest_w,
        allowed_w=sums.allowed_w,
        last_move_at=members.last_move_at,
        auxiliary_w=auxiliary_w,
        total_reserved_w=sums.reserved_w * (1 + error_fraction) + auxiliary_w,
        total_planned_w=sums.planned_w * (1 + error_fraction) + auxiliary_w,
    )


def _seen_until(feeder: FeederId, tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder]) -> Seconds | None:
    """The last counted sample of the nearest meter above that is fresh or was of late; `None` where none is."""
    for above in tree.paths[feeder]:
        meter = meters.get(above)
        if meter is not None and (meter.is_remembered or (meter.is_fresh and meter.is_estimated)):
            return meter.counted_at
    return None


def _sampled_at(feeder: FeederId, tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder]) -> Seconds:
    """The oldest of the newest samples of the fresh meters above."""
    samples = [meters[above].changed_at for above in tree.paths[feeder] if above in meters and meters[above].is_fresh]
    return min(samples, default=math.inf)


def _apply_meter(own: FeederTally, meter: MeteredFeeder, policy: Policy) -> None:
    """Where a meter sees the whole feeder, or did so a moment ago, its word replaces the sum of guesses."""
    is_quiet = _in_doubt_w(own, policy) <= 0.01 * max(own.measured_w, 0.1 * meter.spec.rating_w)
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
    own.auxiliary_w = meter.upper_w(1.0, least_w)
    own.spread_w = max(0.0, own.edge_w - math.sqrt(own.edge_w2))
    own.total_reserved_w = own.reserved_w - own.spread_w + own.unseen_w + own.auxiliary_w
    own.total_planned_w = own.planned_w - own.spread_w + meter.upper_w(planned_share, least_w * min(planned_share, 1.0))


def _in_doubt_w(own: FeederTally, policy: Policy) -> Watts:
    """How far the sum is open for this meter. Devices that were never heard count with all they can draw whatever it
    shows; what they do draw of that is taken for auxiliary load, and so counted twice. Where they are a few, that is
    less than the error of all the others, which the meter rules out."""
    is_worth_it = own.never_heard_w <= policy.reading_error_fraction * own.measured_w
    return own.in_doubt_w if is_worth_it else own.in_doubt_w + own.never_heard_w
