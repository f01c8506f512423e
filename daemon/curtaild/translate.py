"""From the site file's words to the core's: feeders, devices, policy, the grid link's rules."""

from __future__ import annotations

from collections.abc import Mapping

import curtaild_config as config
from curtaild.core.device import DeviceSpec
from curtaild.core.feeders import FeederSpec, FeederTree, InterlockSpec
from curtaild.core.link import LinkPolicy
from curtaild.core.policy import Policy
from curtaild_drivers.contract import DeviceId, FeederId, Identity
from curtaild_drivers.registry import driver

HASHES_PER_PETAHASH = 1e15
HOURS_PER_DAY = 24.0
WATTS_PER_MEGAWATT = 1e6


def feeder_tree(site: config.Site) -> FeederTree:
    """The tree; what the grid contract caps, the root's rating caps. Raises `FeederTreeError`."""
    return FeederTree(
        FeederSpec(
            id=FeederId(feeder.id),
            parent=FeederId(feeder.parent) if feeder.parent is not None else None,
            rating_w=_rating_w(site, feeder),
            auxiliary_w=feeder.auxiliary_w,
            meter_stale_after_s=feeder.meter.stale_after_s if feeder.meter is not None else None,
            interlock=InterlockSpec(feeder.interlock.draw_w, feeder.interlock.stale_after_s)
            if feeder.interlock is not None
            else None,
        )
        for feeder in site.feeder
    )


def _rating_w(site: config.Site, feeder: config.Feeder) -> float:
    cap_w = site.grid.allocation_cap_w
    return min(feeder.rating_w, cap_w) if feeder.parent is None and cap_w is not None else feeder.rating_w


def link_policy(site: config.Site, tree: FeederTree) -> LinkPolicy:
    expects_heartbeat = site.grid.heartbeat == "required"
    return LinkPolicy(
        root=tree.root,
        feeders=frozenset(tree.specs),
        failsafe_w=site.grid.failsafe_limit_w,
        heartbeat_timeout_s=site.grid.heartbeat_timeout_s if expects_heartbeat else site.grid.allocation_max_age_s,
        failsafe_hold_s=site.grid.failsafe_hold_s,
        expects_heartbeat=expects_heartbeat,
    )


def policy(site: config.Site) -> Policy:
    section = site.policy
    energy_price = section.energy_price_usd_per_mwh
    return Policy(
        energy_price_per_wh=energy_price / WATTS_PER_MEGAWATT if energy_price is not None else None,
        ramp_up_w_per_min=section.ramp_up_w_per_min,
        dead_band_fraction=section.dead_band_fraction,
        margin_fraction=section.margin_fraction,
        reading_error_fraction=section.reading_error_fraction,
        restart_jitter_s=section.restart_jitter_s,
        max_starts_per_s=section.max_starts_per_s,
    )


def device_specs(
    site: config.Site, listed: tuple[config.DeviceSpec, ...], identities: Mapping[DeviceId, Identity]
) -> list[DeviceSpec]:
    """The devices before anybody asked them: what nobody knows counts as the site's default rated draw."""
    hashprice = site.policy.hashprice_usd_per_ph_day
    hash_price = hashprice / HASHES_PER_PETAHASH / HOURS_PER_DAY if hashprice is not None else None
    specs: list[DeviceSpec] = []
    for device in listed:
        identity = identities.get(device.id)
        known_w = identity.rated_w if identity is not None else None
        specs.append(
            DeviceSpec(
                id=device.id,
                feeder=device.feeder,
                rated_w=device.rated_w or known_w or site.policy.default_rated_w,
                priority=device.priority,
                flex=device.flex_fraction,
                emergency_order=device.emergency_order,
                price_per_rate_h=hash_price if driver(device.driver).counts_hashes else device.earns_usd_per_h,
                stale_after_s=device.stale_after_s,
                min_on_s=device.min_on_s,
                min_off_s=device.min_off_s,
            )
        )
    return specs
