"""What a site file may say, but hardly means: ratings that do not add up, a fail-safe above the contract, a password in
the clear. Warnings do not stop the daemon.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Mapping

from curtaild_config.addresses import expand_addresses
from curtaild_config.openadr import OpenAdrConnection
from curtaild_config.problems import Problem, Severity
from curtaild_config.secrets import SecretSource
from curtaild_config.site import Site, grid_secret_sources, group_secret_sources
from curtaild_config.source import Location, SiteSource
from curtaild_drivers import registry


def warnings(site: Site, source: SiteSource) -> list[Problem]:
    """Every warning about a site that has no errors."""

    def warn(location: Location, reason: str, remedy: str, value: object = None) -> Problem:
        return source.problem(location, reason, remedy, value, Severity.WARNING)

    doubts = (*_grid(site), *_ratings(site), *_use_of_feeders(site), *_prices(site), *_settings(site))
    return [warn(*what) for what in doubts] + [
        Problem(
            Severity.WARNING,
            source.file,
            secret.key_path,
            repr(str(secret.file)),
            "every user of this host can read it",
            f"chmod o-rwx {secret.file}",
        )
        for secret in all_secret_sources(site)
        if _world_readable(secret)
    ]


def all_secret_sources(site: Site) -> tuple[SecretSource, ...]:
    """Where all secrets of a site lie, each once."""
    of_groups = [source for group in site.devices for source in group_secret_sources(group)]
    of_meters = [source for meter in site.meters() for source in meter.secret_sources]
    return (*grid_secret_sources(site), *of_groups, *of_meters)


_Warning = tuple[Location, str, str, object]


def _grid(site: Site) -> Iterator[_Warning]:
    grid, root = site.grid, site.root
    failsafe: Location = ("grid", "failsafe_limit_w")
    if grid.allocation_cap_w is not None and grid.failsafe_limit_w > grid.allocation_cap_w:
        reason = f"above allocation_cap_w, {watts(grid.allocation_cap_w)}: silence would grant more than the contract"
        yield failsafe, reason, "lower it", grid.failsafe_limit_w
    if grid.failsafe_limit_w > root.rating_w:
        reason = f"above the rating of {root.id}, {watts(root.rating_w)}: it never binds"
        yield failsafe, reason, "lower it", grid.failsafe_limit_w
    for place, brokers in (
        (("grid",), grid),
        *(
            (("grid", "connection", number), each)
            for number, each in enumerate(grid.connection)
            if not isinstance(each, OpenAdrConnection)
        ),
    ):
        for index, broker in enumerate(brokers.brokers):
            if brokers.username is not None and not broker.tls and not _is_loopback(broker.host):
                reason = "the password goes over the network in the clear"
                yield (*place, "brokers", index), reason, "use mqtts://", str(broker)


def _ratings(site: Site) -> Iterator[_Warning]:
    own_w = {feeder.id: feeder.auxiliary_w for feeder in site.feeder}
    for group in site.devices:
        own_w[group.feeder] += (group.rated_w or 0.0) * len(expand_addresses(group.addresses))
    drawn_w = _summed_upwards(site, own_w)
    children_w = dict.fromkeys(own_w, 0.0)
    for feeder in site.feeder:
        if feeder.parent is not None:
            children_w[feeder.parent] += feeder.rating_w
    for index, feeder in enumerate(site.feeder):
        place: Location = ("feeder", index, "rating_w")
        if children_w[feeder.id] > feeder.rating_w:
            reason = f"the feeders under it are rated {watts(children_w[feeder.id])} together"
            yield place, reason, "right if it is meant: dispatch keeps every rating", feeder.rating_w
        if drawn_w[feeder.id] > feeder.rating_w:
            reason = f"devices and auxiliary load may draw {watts(drawn_w[feeder.id])}"
            yield place, reason, "right if it is meant: they will never all run", feeder.rating_w


def _use_of_feeders(site: Site) -> Iterator[_Warning]:
    groups = dict.fromkeys((feeder.id for feeder in site.feeder), 0.0)
    for group in site.devices:
        groups[group.feeder] += 1
    groups_below = _summed_upwards(site, groups)
    for index, feeder in enumerate(site.feeder):
        if groups_below[feeder.id] == 0:
            yield ("feeder", index), "no device hangs on it or under it", "is a group's feeder mistyped?", None
        if feeder.parent is None and feeder.meter is None:
            reason = "the root has no meter: what the grid bills is not seen, and margins grow"
            yield ("feeder", index, "meter"), reason, f"add [feeder.meter] to {feeder.id}", None


def _prices(site: Site) -> Iterator[_Warning]:
    for index, group in enumerate(site.devices):
        if group.earns_usd_per_h is not None and registry.driver(group.driver).counts_hashes:
            reason = "miners earn by their hashrate: this has no effect"
            remedy = "set hashprice_usd_per_ph_day in [policy]"
            yield ("devices", index, "earns_usd_per_h"), reason, remedy, group.earns_usd_per_h


def _settings(site: Site) -> Iterator[_Warning]:
    """What drivers say of their own keys."""
    for index, group in enumerate(site.devices):
        settings = registry.driver(group.driver).settings.model_validate(group.settings)
        for doubt in settings.doubts():
            yield ("devices", index, "settings", *doubt.key), doubt.reason, doubt.remedy, doubt.value


def _summed_upwards(site: Site, own: Mapping[str, float]) -> dict[str, float]:
    """For each feeder its own amount and those of all feeders under it."""
    parents = {feeder.id: feeder.parent for feeder in site.feeder}
    total = dict.fromkeys(own, 0.0)
    for feeder_id, amount in own.items():
        here: str | None = feeder_id
        while here is not None:
            total[here] += amount
            here = parents[here]
    return total


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _world_readable(secret: SecretSource) -> bool:
    try:
        return secret.file is not None and bool(secret.file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def watts(power_w: float) -> str:
    """For people: 12.5 MW, 850 kW, 90 W."""
    for unit_w, unit in ((1e6, "MW"), (1e3, "kW")):
        if power_w >= unit_w:
            return f"{power_w / unit_w:.4g} {unit}"
    return f"{power_w:.4g} W"
