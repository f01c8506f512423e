"""What a cycle tells the grid: how each feeder stands, held against the allocations in force."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from curtaild.core.compliance import Standing
from curtaild.core.events import Ack, Event
from curtaild.core.site import Site
from curtaild_drivers.contract import FeederId, Seconds, Watts


def tell(site: Site, now: Seconds) -> list[Event]:
    """Where each allocation stands, and who is over its limit for too long."""
    standings: dict[FeederId, Standing | None] = {}

    def standing_of(feeder: FeederId) -> Standing | None:
        if feeder not in standings:
            standings[feeder] = _standing(site, feeder)
        return standings[feeder]

    in_force = site.link.in_force(now)
    reach_by_s = {
        allocation.feeder: allocation.reach_by_s for allocation in in_force if allocation.reach_by_s is not None
    }
    changed, site.tallies.restated = site.tallies.restated | site.meters.keys(), set()
    held = {allocation.id for allocation in site.link.memory.allocations}
    return [
        *site.compliance.follow(in_force, held, standing_of, changed, now),
        *site.compliance.watch(standing_of, changed, _may_be_over(site, changed), site.policy, reach_by_s, now),
    ]


def _may_be_over(site: Site, changed: Iterable[FeederId]) -> list[FeederId]:
    """Which of these are to be judged: whose limit is another than before, or by their meter, else by what is reserved,
    may not be kept."""
    limits_w, before_w = site.limit_w_of, site.compliance.limit_w
    return [
        feeder
        for feeder in changed
        if before_w.get(feeder) != limits_w[feeder] or _lasting_w(site, feeder) > limits_w[feeder]
    ]


def _lasting_w(site: Site, feeder: FeederId) -> Watts:
    meter = site.meters.get(feeder)
    return meter.smoothed_w if meter is not None and meter.is_fresh else site.tallies[feeder].total_reserved_w


def _standing(site: Site, feeder: FeederId) -> Standing | None:
    if feeder not in site.tree.specs:
        return None
    sums, limit_w = site.tallies[feeder], site.limit_w(feeder)
    meter = site.meters.get(feeder)
    is_metered = meter is not None and meter.is_fresh
    spared_w = sums.spared_w if limit_w < site.firm_w[feeder] else 0.0
    metered_w = meter.settled_w if meter is not None and is_metered else None
    return Standing(
        limit_w,
        drawn_w=metered_w if metered_w is not None else sums.total_reserved_w,
        lasting_w=_lasting_w(site, feeder),
        metered_w=metered_w,
        applied_w=sums.total_planned_w,
        floor_w=sums.lowest_w + spared_w + sums.auxiliary_w,
        deficit_w=site.deficits[feeder],
    )


def with_watts(site: Site, events: list[Event]) -> list[Event]:
    """The link's own acks know no watts yet. Before the first cycle nobody does."""
    told: list[Event] = []
    for event in events:
        if isinstance(event, Ack) and event.applied_w is None and site.tallies.are_counted and event.feeder is not None:
            standing = _standing(site, event.feeder)
            if standing is not None:
                event = replace(
                    event, applied_w=standing.applied_w, metered_w=standing.metered_w, floor_w=standing.floor_w
                )
        told.append(event)
    return told
