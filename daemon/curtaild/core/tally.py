"""Adds up what the devices draw, reserve and are planned to draw, feeder by feeder, from the leaves to the root."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from curtaild.core.auxiliary import MeteredFeeder
from curtaild.core.device import Device
from curtaild.core.feeders import FeederTree
from curtaild.core.policy import Policy
from curtaild_drivers.contract import FeederId, Seconds, Watts


@dataclass(slots=True)
class FeederTally:
    """Sums over all devices at and below one feeder (W), then what the feeder itself comes to.

    `reserved_w`, `planned_w`, `measured_w`: plain sums. `unseen_w`: what devices may draw beyond their own word where
    no meter has seen them since they moved; `just_moved_w` what they may have been drawing more when the meter was last
    read. `in_doubt_w`: how far unread devices and unconfirmed
    actuations leave the sum open.
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
        self.lowest_w += other.lowest_w
        self.highest_w += other.highest_w
        self.allowed_w += other.allowed_w
        self.last_move_at = max(self.last_move_at, other.last_move_at)


def tally(
    tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder], devices: Iterable[Device], policy: Policy
) -> dict[FeederId, FeederTally]:
    """One tally per feeder; feeds each fresh meter's estimate on the way."""
    tallies = {feeder: FeederTally() for feeder in tree.specs}
    seen_until = {feeder: _seen_until(feeder, tree, meters) for feeder in tree.specs}
    sampled_at = {feeder: _sampled_at(feeder, tree, meters) for feeder in tree.specs}
    for device in devices:
        feeder = device.spec.feeder
        _count(tallies[feeder], device, seen_until[feeder], policy.reading_error_fraction)
        if device.settled_at >= sampled_at[feeder]:
            tallies[feeder].just_moved_w += max(0.0, device.spec.rated_w - device.reserved_w)
    for feeder in tree.bottom_up:
        own = tallies[feeder]
        own_unmetered_w = own.reserved_w * policy.reading_error_fraction
        own_auxiliary_w = tree.specs[feeder].auxiliary_w
        own.total_reserved_w = own.reserved_w + own_unmetered_w + own_auxiliary_w
        own.total_planned_w = own.planned_w * (1 + policy.reading_error_fraction) + own_auxiliary_w
        own.auxiliary_w = own_auxiliary_w
        for child in tree.children[feeder]:
            below = tallies[child]
            own.add(below)
            own.total_reserved_w += below.total_reserved_w
            own.total_planned_w += below.total_planned_w
            own.auxiliary_w += below.auxiliary_w
        meter = meters.get(feeder)
        if meter is not None:
            _apply_meter(own, meter, policy)
    return tallies


def _seen_until(feeder: FeederId, tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder]) -> Seconds | None:
    """The last counted sample of the nearest fresh meter above; `None` where none is."""
    for above in tree.paths[feeder]:
        meter = meters.get(above)
        if meter is not None and meter.is_fresh and meter.is_estimated:
            return meter.counted_at
    return None


def _sampled_at(feeder: FeederId, tree: FeederTree, meters: Mapping[FeederId, MeteredFeeder]) -> Seconds:
    """The oldest of the newest samples of the fresh meters above."""
    samples = [meters[above].changed_at for above in tree.paths[feeder] if above in meters and meters[above].is_fresh]
    return min(samples, default=math.inf)


def _count(own: FeederTally, device: Device, seen_until: Seconds | None, error_fraction: float) -> None:
    spec = device.spec
    own.devices += 1
    own.reserved_w += device.reserved_w
    own.planned_w += device.planned_w
    draw_w = device.draw_w if device.draw_w is not None else device.reserved_w
    own.measured_w += draw_w
    if not device.is_draw_known:
        own.in_doubt_w += device.reserved_w
    if device.actuation is not None:
        own.in_flight += 1
        own.in_doubt_w += abs(device.reserved_w - min(draw_w, device.actuation.target.draw_w))
        own.unseen_w += error_fraction * device.reserved_w
    elif seen_until is None or device.settled_at > seen_until:
        own.unseen_w += error_fraction * device.reserved_w
    own.last_move_at = max(own.last_move_at, device.settled_at)
    points = spec.points
    own.lowest_w += device.upper_w(points.lowest) if points is not None else spec.rated_w
    highest_w = device.upper_w(points.highest) if points is not None else spec.rated_w
    own.highest_w += highest_w
    headed_for = device.headed_for()
    own.allowed_w += min(highest_w, device.upper_w(headed_for)) if headed_for is not None else highest_w


def _apply_meter(own: FeederTally, meter: MeteredFeeder, policy: Policy) -> None:
    """Where a fresh meter sees the whole feeder, its word replaces the sum of guesses."""
    is_quiet = own.in_doubt_w <= 0.01 * max(own.measured_w, 0.1 * meter.spec.rating_w)
    meter.estimate(own.measured_w, own.reserved_w + own.just_moved_w, own.last_move_at, is_quiet, policy.poll_slack_s)
    planned_share = own.planned_w / own.measured_w if own.measured_w > 0 else 1.0
    if not meter.is_fresh:
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
    own.total_reserved_w = own.reserved_w + own.unseen_w + own.auxiliary_w
    own.total_planned_w = own.planned_w + meter.upper_w(planned_share, least_w * min(planned_share, 1.0))
