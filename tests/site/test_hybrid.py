"""A mining and AI site follows its allocation: 200 miners of nine firmwares, 12 GPU nodes behind their makers' BMCs, by
TLS, and 12 GPU hosts with daemons of their own. Judged by the plant's true power, which no daemon sees."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hybrid.hosts import GpuHosts
from hybrid.site import hybrid_site
from running_site import METER_NOISE, PATIENCE_S, RunningSite, site_of, until

pytestmark = pytest.mark.broker


async def test_a_hybrid_farm_follows_its_allocation_and_jobs_live(tmp_path: Path) -> None:
    async with hybrid_site(tmp_path, 61) as (site, hosts):
        await site.start()
        known = await site.all_known(2 * PATIENCE_S)
        assert len(known["devices"]) == 200 + 12 + 12
        await site.operator.release()
        await site.true_over(0.99 * site.full_w)
        await follow(site, 1.0)
        hall_w = site.trace.now_w("hall")
        for share in (0.7, 0.4):
            await follow(site, share)
            assert site.trace.now_w("hall") > 0.97 * hall_w, "what has priority is not touched while miners can go"
        assert hosts.calls == [], "and no job hears of it"
        await follow(site, 0.15)
        assert site.trace.now_w("hall") < 0.8 * hall_w
        await until("miners and power limits suffice", lambda: not hosts.suspended)
        await follow(site, 0.1)
        await until("and now they do not", lambda: hosts.suspended)
        await nothing_left_to_shed(site, hosts)
        await back_to_full(site, hosts)


async def follow(site: RunningSite, share: float) -> None:
    """Under the limit in time, answered, and not over it again while it holds."""
    limit_w, published_at = round(share * site.full_w, -2), time.monotonic()
    allocation = await site.operator.allocate(limit_w)
    await site.acks.stage(allocation, "reached")
    await site.lives_on(3.0)
    under_at = site.trace.first_under(limit_w, published_at)
    assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w


async def nothing_left_to_shed(site: RunningSite, hosts: GpuHosts) -> None:
    """0 is a limit: every miner asleep, every host suspended, every other node at its least, the rest told."""
    allocation = await site.operator.allocate(0.0)
    ack = await site.acks.stage(allocation, "shortfall")
    assert ack["floor_w"] < 0.15 * site.full_w
    await until("every host is suspended", lambda: len(hosts.suspended) == len(hosts.hosts))
    await site.true_under(1.06 * ack["floor_w"])  # losses that follow the load are learned, not known
    assert site_of(await site.lives_on(1.0))["deficit_w"] > 0


async def back_to_full(site: RunningSite, hosts: GpuHosts) -> None:
    """Jobs wake, miners start; stock Antminers measure no watts and are held asleep for a minute."""
    await site.operator.release()
    await site.true_over(0.95 * site.full_w, 240)
    await until("every host is at work again", lambda: not hosts.suspended)
    assert site.trace.now_w() <= METER_NOISE * site.full_w
