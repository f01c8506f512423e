"""What each feeder is over its limit by or has free: limits, sums and meters held against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable

from curtaild.core import interlock
from curtaild.core.limits import UNLIMITED, Ceiling, within
from curtaild.core.room import AHEAD_S, MILLIWATT, Room, Window
from curtaild.core.site import Site
from curtaild_drivers.contract import FeederId, Seconds, Watts

TRIM_AFTER_S = 20.0
"""A shed shows at the meter within this, or something else draws."""

TRIM_CONFIRMED_S = 5.0
"""So long a meter must stay above the limit: one noisy sample moves nothing."""


def room_of(site: Site, now: Seconds) -> Room:
    """What each feeder is over by or has free, now and under the lower limits that are known to come."""
    keep_room(site, site.stirred | site.meters.keys(), now)
    kept = site.room
    unmetered = 1.0 + site.policy.reading_error_fraction
    room = Room(
        over_w=dict(kept.over_w),
        free_w=dict(kept.free_w),
        firm_over_w=dict(kept.firm_over_w),
        edge_w2=dict(kept.edge_w2),
        coming=_coming(site, now),
        unmetered=unmetered,
        metered={
            feeder: 1.0 if meter.is_fresh or meter.is_remembered else unmetered for feeder, meter in site.meters.items()
        },
    )
    interlock.hold_room(site.interlocks, site.tree, room, now)
    return room


def keep_room(site: Site, feeders: Iterable[FeederId], now: Seconds) -> None:
    """Find anew what each of these is over by or has free."""
    kept, policy, meters = site.room, site.policy, site.meters
    for feeder in feeders:
        sums, limit_w = site.tallies[feeder], site.limit_w_of[feeder]
        margin_w = policy.margin_w(limit_w)
        over_w = sums.total_planned_w - limit_w
        if over_w <= MILLIWATT or (feeder in meters and _is_noise(site, feeder, limit_w)):
            over_w = _unexplained_w(site, feeder, limit_w, now) if feeder in meters else 0.0
        kept.over_w[feeder] = over_w + margin_w if over_w > 0 else 0.0
        kept.free_w[feeder] = _free_w(site, feeder)
        if site.has_flex:
            kept.firm_over_w[feeder] = _firm_part_w(kept.over_w[feeder], limit_w, site.firm_w[feeder], margin_w)
        if sums.spread_w > 0.0:
            kept.edge_w2[feeder] = sums.edge_w2
        else:
            kept.edge_w2.pop(feeder, None)


def free_room(site: Site, now: Seconds) -> Room:
    """What each feeder has free, now and under the lower limits that are known to come; nothing is over. Changes
    nothing in the site."""
    room = Room(
        over_w=dict.fromkeys(site.tree.specs, 0.0),
        free_w={feeder: _free_w(site, feeder) for feeder in site.tree.specs},
        coming=_coming(site, now),
    )
    interlock.hold_room(site.interlocks, site.tree, room, now)
    return room


def _free_w(site: Site, feeder: FeederId) -> Watts:
    ramp_w = site.ramp_w.get(feeder, 0.0)
    return ramp_w - site.policy.margin_w(ramp_w) - site.tallies[feeder].total_reserved_w


def _coming(site: Site, now: Seconds) -> list[Window]:
    horizon = now + site.slowest.down_s + site.slowest.up_s + AHEAD_S
    return [
        window
        for moment, ceilings in site.link.coming(now, horizon)
        if (window := _window(site, moment, ceilings)) is not None
    ]


def _is_noise(site: Site, feeder: FeederId, limit_w: Watts) -> bool:
    """Whether a fresh meter shows that a little over by the sum of upper edges is none in truth: with all added that is
    yet to rise, and nothing taken off that is yet to fall, the meter would still show the limit kept."""
    sums, meter = site.tallies[feeder], site.meters.get(feeder)
    if meter is None or not meter.is_fresh or not meter.is_estimated:
        return False
    if sums.total_planned_w - limit_w > site.policy.dead_band_w(limit_w):
        return False
    to_come_w = max(0.0, sums.planned_w - sums.spread_w - sums.measured_w)
    likely_w = meter.smoothed_w
    if meter.mean_w is not None and meter.counted_at == meter.changed_at:
        likely_w = min(likely_w, sums.measured_w + meter.mean_w)  # averaged over more samples
    return likely_w + to_come_w <= limit_w - site.policy.margin_w(limit_w)


def _window(site: Site, moment: Seconds, ceilings: dict[FeederId, Ceiling]) -> Window | None:
    """What stands in the way of the limits that begin at `moment`; `None` if none is lower than now."""
    window = Window(moment, {}, {})
    is_lower = False
    firm = site.link.firm(moment) if site.has_flex else None
    for feeder, spec in site.tree.specs.items():
        sums = site.tallies[feeder]
        limit_w = within(ceilings.get(feeder, UNLIMITED), spec.rating_w)
        margin_w = site.policy.margin_w(limit_w)
        is_lower |= limit_w < site.limit_w(feeder)
        window.over_w[feeder] = sums.total_planned_w - limit_w + margin_w if sums.total_planned_w > limit_w else 0.0
        window.free_w[feeder] = limit_w - margin_w - sums.total_reserved_w
        if firm is not None:
            firm_w = within(firm.get(feeder, UNLIMITED), spec.rating_w)
            window.firm_over_w[feeder] = _firm_part_w(window.over_w[feeder], limit_w, firm_w, margin_w)
    return window if is_lower else None


def _firm_part_w(over_w: Watts, limit_w: Watts, firm_w: Watts, margin_w: Watts) -> Watts:
    """How much of what is over `limit_w`, margin included, is over the firm limit too."""
    above_w = firm_w - limit_w
    return over_w - above_w if over_w - margin_w > above_w else 0.0


def _unexplained_w(site: Site, feeder: FeederId, limit_w: Watts, now: Seconds) -> Watts:
    """What a fresh meter shows above the limit though every command should have had its effect: whatever it is, it must
    be shed. Counted only after a while without commands below, so that no step is shed twice."""
    meter = site.meters.get(feeder)
    if meter is None or not meter.is_fresh or meter.settled_w <= limit_w:
        site.over_since.pop(feeder, None)
        return 0.0
    over_since = site.over_since.setdefault(feeder, now)
    is_lasting = now - over_since >= TRIM_CONFIRMED_S
    is_quiet = now - site.shed_at.get(feeder, -math.inf) >= TRIM_AFTER_S
    return meter.settled_w - limit_w if is_lasting and is_quiet else 0.0
