"""The sums of the whole site, device by device from nothing: what the core's running sums must agree with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from curtaild.core.device import LEARNED_SAMPLES, Device
from curtaild.core.site import Site
from curtaild_drivers.contract import FeederId, Seconds, Watts


@dataclass
class PlainSums:
    """Over all devices at and below one feeder (W)."""

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
    lowest_w: Watts = 0.0
    highest_w: Watts = 0.0
    allowed_w: Watts = 0.0


def plain_tally(site: Site) -> dict[FeederId, PlainSums]:
    sums = {feeder: PlainSums() for feeder in site.tree.specs}
    for device in site.devices.values():
        for feeder in site.tree.paths[device.spec.feeder]:
            _add(sums[feeder], device, site)
    return sums


def _add(sums: PlainSums, device: Device, site: Site) -> None:
    error_fraction = site.policy.reading_error_fraction
    is_given_up = device.draw_w is None and bool(device.conditions)
    draw_w = 0.0 if is_given_up else device.draw_w if device.draw_w is not None else device.reserved_w
    seen_until, sampled_at = _seen_until(site, device.spec.feeder), _sampled_at(site, device.spec.feeder)
    sums.devices += 1
    sums.reserved_w += device.reserved_w
    sums.planned_w += device.planned_w
    sums.measured_w += draw_w
    if is_given_up:
        sums.never_heard_w += device.reserved_w
    elif not device.is_draw_known:
        sums.in_doubt_w += device.reserved_w
    if device.actuation is not None:
        sums.in_flight += 1
        sums.in_doubt_w += abs(device.reserved_w - min(draw_w, device.actuation.target.draw_w))
    if seen_until is None:
        sums.unseen_w += error_fraction * device.reserved_w
    elif device.actuation is not None or device.settled_at > seen_until:
        sums.unseen_w += error_fraction * min(device.reserved_w, abs(device.reserved_w - device.seen_w))
    if device.settled_at >= sampled_at:
        sums.just_moved_w += max(0.0, device.spec.rated_w - device.reserved_w)
    points, headed_for, setpoint = device.spec.points, device.headed_for(), device.setpoint
    ratio = device.learned_at(setpoint) if setpoint is not None else None
    if setpoint is not None and ratio is not None and ratio.samples >= LEARNED_SAMPLES and device.actuation is None:
        upper_w, mean_w = device.upper_w(setpoint), setpoint.draw_w * ratio.middle
        edge_w = math.floor(max(0.0, device.reserved_w - mean_w))
        sums.edge_w += edge_w if device.reserved_w <= upper_w else 0.0
        sums.edge_w2 += edge_w**2 if device.reserved_w <= upper_w else 0.0
    highest_w = device.upper_w(points.highest) if points is not None else device.spec.rated_w
    sums.lowest_w += device.upper_w(points.lowest) if points is not None else device.spec.rated_w
    sums.highest_w += highest_w
    sums.allowed_w += min(highest_w, device.upper_w(headed_for)) if headed_for is not None else highest_w


def _seen_until(site: Site, feeder: FeederId) -> Seconds | None:
    """The last counted sample of the nearest fresh meter above."""
    for above in site.tree.paths[feeder]:
        meter = site.meters.get(above)
        if meter is not None and (meter.is_remembered or (meter.is_fresh and meter.is_estimated)):
            return meter.counted_at
    return None


def _sampled_at(site: Site, feeder: FeederId) -> Seconds:
    """The oldest of the newest samples of the fresh meters above."""
    above = [site.meters[member] for member in site.tree.paths[feeder] if member in site.meters]
    return min((meter.changed_at for meter in above if meter.is_fresh), default=math.inf)
