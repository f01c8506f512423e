"""Reads a `SiteStatus` off the site: the one way from the core's records to what people and machines are shown."""

from __future__ import annotations

from operator import attrgetter

from curtaild.core.device import Device
from curtaild.core.events import Condition
from curtaild.core.limits import UNLIMITED
from curtaild.core.site import Site
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild_drivers.contract import FeederId, RunState, Seconds


def status_of(site: Site, now: Seconds) -> SiteStatus:
    """The site at `now`, by the records of the last cycle."""
    read_off(site, now)
    root = site.tallies[site.tree.root]
    link = site.link
    return SiteStatus(
        at=now,
        phase=link.phase,
        phase_reason=link.phase_reason,
        root=site.tree.root,
        heartbeat_age_s=now - link.last_heartbeat_at if link.last_heartbeat_at is not None else None,
        allocation_id=next((held.id for held in link.in_force(now) if held.feeder == site.tree.root), None),
        flexible_up_w=max(0.0, root.highest_w - root.planned_w),
        flexible_down_w=max(0.0, root.planned_w - root.lowest_w),
        actuations_in_flight=root.in_flight,
        next_limit_change_at=link.next_change_at(now),
        feeders=_feeders(site, now),
        devices=site.shown.copy(),
    )


def _feeders(site: Site, now: Seconds) -> list[FeederStatus]:
    """In the order of the site file; those with a meter always anew."""
    for feeder in site.meters:
        site.shown_feeders[feeder] = _feeder(site, feeder, now)
    return list(site.shown_feeders.values())


def _feeder(site: Site, feeder: FeederId, now: Seconds) -> FeederStatus:
    spec, sums, meter = site.tree.specs[feeder], site.tallies[feeder], site.meters.get(feeder)
    ceiling, source = site.limits.get(feeder, (UNLIMITED, "rating"))
    limit_w = site.limit_w(feeder)
    return FeederStatus(
        id=feeder,
        parent=spec.parent,
        rating_w=spec.rating_w,
        limit_w=limit_w,
        ceiling=ceiling,
        limit_source=source,
        metered_w=meter.power_w if meter is not None else None,
        meter_is_fresh=meter is not None and meter.is_fresh,
        meter_age_s=meter.age_s(now) if meter is not None else None,
        measured_w=sums.measured_w,
        reserved_w=sums.reserved_w,
        planned_w=sums.planned_w,
        auxiliary_w=sums.auxiliary_w,
        headroom_w=limit_w - sums.total_reserved_w,
        deficit_w=site.deficits[feeder],
        curtailed_w=max(0.0, sums.highest_w - sums.allowed_w),
        devices=sums.devices,
    )


def read_off(site: Site, now: Seconds) -> None:
    """Read those off anew in which something happened since they last were: all devices, and the feeders without a
    meter. Also between two statuses, so that the next one has little to read."""
    shown, unshown = site.shown, site.roster.unshown
    if len(shown) != len(site.devices):
        shown[:] = [_device(device) for device in site.devices.values()]
    else:
        for device in unshown:
            shown[device.order] = _device(device)
    unshown.clear()
    if len(site.shown_feeders) != len(site.tree.specs):
        site.shown_feeders = {feeder: _feeder(site, feeder, now) for feeder in site.tree.specs}
    else:
        for feeder in site.unshown_feeders.difference(site.meters):
            site.shown_feeders[feeder] = _feeder(site, feeder, now)
    site.unshown_feeders.clear()


def _device(device: Device) -> DeviceStatus:
    spec, reading, setpoint, actuation = device.spec, device.reading, device.setpoint, device.actuation
    headed_for = actuation.target if actuation is not None else setpoint
    conditions = device.conditions
    return DeviceStatus(
        spec.id,
        spec.feeder,
        reading.state if reading is not None else RunState.UNKNOWN,
        reading.power_w if reading is not None else None,
        device.reserved_w,
        spec.rated_w,
        reading.rate if reading is not None else None,
        reading.temperature_c if reading is not None else None,
        headed_for.key if headed_for is not None else None,
        headed_for.draw_w if headed_for is not None else None,
        setpoint.key if setpoint is not None else None,
        actuation.stage if actuation is not None else None,
        device.drawn_at is None or Condition.STALE in conditions,
        device.drawn_at,
        tuple(sorted(conditions, key=attrgetter("value"))) if conditions else (),
        reading.fault if reading is not None else None,
    )
