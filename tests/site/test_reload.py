"""SIGHUP: a wrong file changes nothing, a right one is taken, and neither moves a device by itself."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan
from running_site import ANY_PORTS, METER_NOISE, RunningSite, series_of, site_of, until

pytestmark = pytest.mark.broker


async def commands(site: RunningSite) -> float:
    """How many were issued so far."""
    scrape = series_of(await site.get("/metrics"))
    return sum(scrape[f'curtaild_actuations_total{{direction="{way}",stage="issued"}}'] for way in ("shed", "restore"))


async def test_a_new_site_file_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(
        12, feeders=2, network="127.39.0.0/24", speed=20.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
    )
    async with RunningSite(tmp_path, plan, failsafe_w=100_000) as site:
        late = site.file.groups.pop()  # row-2's LuxOS come later
        site.file.policy["dead_band_fraction"] = 0.05  # nothing is moved for what is learned meanwhile
        await site.start()
        await site.all_known()
        limit_w = round(0.8 * site.full_w)
        allocation = await site.operator.allocate(limit_w)
        await site.acks.stage(allocation, "reached")
        await site.true_under(limit_w)
        await site.at_rest()
        issued = await nothing_left_to_do(site)
        drawn_w = site.trace.now_w()

        # A wrong one: told once, the old one stays in force, and /readyz says so until it is mended.
        site.file.grid["failsafe_limit_w"] = -5
        await reload(site, "the old one stays in force")
        assert len(site.daemon.lines("failsafe_limit_w")) == 1
        assert (await site.code("/readyz"), await site.code("/healthz")) == (503, 200)
        assert "site file" in await site.get("/readyz")

        # The right one, with another fail-safe: nothing moves, nothing is forgotten.
        site.file.grid["failsafe_limit_w"] = 30_000
        await reload(site, "the new site file is in force: 9 devices")
        assert await site.code("/readyz") == 200
        status = await site.lives_on(3.0)
        assert (status["phase"], status["allocation_id"]) == ("limited", allocation)
        assert (site_of(status)["limit_w"], site_of(status)["limit_source"]) == (limit_w, allocation)
        assert await commands(site) == issued
        assert site.trace.now_w() == pytest.approx(drawn_w, rel=0.01)

        # Another group: the limit holds while it becomes known.
        begun_at = time.monotonic()
        site.file.groups.append(late)
        await reload(site, "the new site file is in force: 12 devices")
        await site.until("they are there", lambda status: len(status["devices"]) == 12, devices=True)
        status = await site.all_known()
        assert (status["phase"], status["allocation_id"]) == ("limited", allocation)
        assert site.trace.highest_w(begun_at, time.monotonic()) <= METER_NOISE * limit_w
        assert not site.daemon.lines("grid link: limited →")

        # It goes on as before, with all of them.
        lower_w = round(0.15 * site.full_w)
        await site.acks.stage(await site.operator.allocate(lower_w), "reached")
        await site.true_under(lower_w)


async def nothing_left_to_do(site: RunningSite) -> float:
    """Until no command was issued for five seconds; how many there were."""
    while True:
        before = await commands(site)
        status = await site.lives_on(5.0)
        if before == await commands(site) and not status["actuations_in_flight"]:
            return before


async def reload(site: RunningSite, told: str) -> None:
    """Write the file, tell the daemon, wait for its word on it."""
    site.file.write(site.path)
    site.daemon.signal(signal.SIGHUP)
    await until(told, lambda: site.daemon.lines(told))
