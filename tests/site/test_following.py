"""The main job: a mixed farm of 300 on two rows follows its allocation, by every wire's real protocol."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from curtaild.grid.operator import Operator, operator_access
from curtaild_emulator import FarmPlan, Ports
from running_site import ANY_PORTS, METER_NOISE, PATIENCE_S, RunningSite, Status, series_of, site_of

pytestmark = pytest.mark.broker

DEVICES = 300
LATE = r": (unreachable|stale)\b"
"""The farm is emulated by a process that may have to wait for its turn: an answer may come late, and is told of."""


def real_ports_are_ours() -> bool:
    """Whether the devices' own ports may be listened on, where pyasic looks for them."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.33.255.254", 80))
        except PermissionError:
            return False
    return True


async def test_a_mixed_farm_follows_its_allocation(tmp_path: Path) -> None:
    is_identified = real_ports_are_ours()
    plan = FarmPlan.mixed(
        DEVICES,
        feeders=2,
        network="127.33.0.0/16",
        speed=20.0,
        ports=Ports(control=0) if is_identified else ANY_PORTS,
    )
    full_w = plan.plant().true_feeder_power_w("site")
    async with RunningSite(
        tmp_path, plan, failsafe_w=1.2 * full_w, identified=is_identified, one_socket=not is_identified
    ) as site:
        site.file.policy["ramp_up_w_per_min"] = 6 * full_w
        await site.start()
        known = await site.all_known(2 * PATIENCE_S)
        assert {device["id"] for device in known["devices"]} == {
            site.file.device_id(address) for address in site.farm.addresses.values()
        }
        retained = await site.operator.status()
        assert (retained["state"], retained["limit_w"]) == ("starting", pytest.approx(1.2 * full_w, abs=0.1))

        taken: list[str] = []
        for share in (1.0, 0.6, 0.3, 0.0, 0.5):
            await follow(site, round(share * site.full_w, -3), taken)
        await released(site, taken)

        consistent(*await same_instant(site))
        scrape = series_of(await site.get("/metrics"))
        assert scrape['curtaild_allocations_accepted_total{scheduled="false"}'] == len(taken)
        assert scrape['curtaild_acks_total{stage="ended"}'] == len(taken) - 1
        assert scrape['curtaild_acks_total{stage="rejected"}'] == 0
        (deficit,) = [line for line in site.daemon.lines("WARNING") if not re.search(LATE, line)]
        assert "deficit at site" in deficit, "a healthy farm gives nothing to warn of but what it cannot shed"
        await last_will(site)


async def follow(site: RunningSite, limit_w: float, taken: list[str]) -> None:
    """A new limit: kept in time, answered in order, and not broken again while it holds."""
    published_at = time.monotonic()
    allocation = await site.operator.allocate(limit_w)
    floor_w = limit_w
    if limit_w == 0.0:
        ack = await site.acks.stage(allocation, "shortfall")
        assert 0 < ack["floor_w"] < 0.1 * site.full_w
        floor_w = 0.05 * site.full_w  # standby, fans, losses: they come to 3 %
    else:
        ack = await site.acks.stage(allocation, "reached")
        assert ack["metered_w"] <= limit_w
    assert ack["limit_w"] == limit_w
    expected = ["accepted", "applying", ack["stage"]]
    assert site.acks.stages(allocation) == expected
    status = await site.lives_on(4.0)
    ended_at = time.monotonic()

    under_at = site.trace.first_under(floor_w, published_at)
    assert site.trace.highest_w(under_at, ended_at) <= METER_NOISE * floor_w, "over the limit once it had been reached"
    assert (status["phase"], status["allocation_id"]) == ("limited", allocation)
    assert (site_of(status)["limit_w"], site_of(status)["deficit_w"] > 0) == (limit_w, limit_w == 0.0)
    await previous_ended(site, taken)
    taken.append(allocation)


async def released(site: RunningSite, taken: list[str]) -> None:
    """Up again, no faster than the site's ramp."""
    before_w, begun_at = site.trace.now_w(), time.monotonic()
    allocation = await site.operator.release()
    await site.acks.stage(allocation, "reached")
    assert site.acks.stages(allocation) == ["accepted", "applying", "reached"]
    await site.true_over(0.72 * site.full_w, 180)  # stock Antminers prove no watts: they are held asleep for a minute
    ramp_w_per_s = site.file.policy["ramp_up_w_per_min"] / 60
    for sample in site.trace.samples:
        if sample.at > begun_at:
            risen_w = 0.5 * site.full_w + ramp_w_per_s * (sample.at - begun_at + 2.0)
            assert sample.power_w["site"] <= max(before_w, risen_w)
    await previous_ended(site, taken)
    taken.append(allocation)


async def previous_ended(site: RunningSite, taken: list[str]) -> None:
    """The one before ended as the new one began, and nothing is told of those before that."""
    for earlier in taken[-1:]:
        await site.acks.stage(earlier, "ended")
    for earlier in taken:
        stages = site.acks.stages(earlier)
        assert (stages[-1], stages.count("ended")) == ("ended", 1)


async def same_instant(site: RunningSite) -> tuple[Status, dict[str, float]]:
    """A status and a scrape of the very same cycle."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            before = await site.status(devices=True)
            scrape = series_of(await site.get("/metrics"))
            after = await site.status(devices=True)
            if before["at_s"] == after["at_s"]:
                return before, scrape


def consistent(status: Status, scrape: dict[str, float]) -> None:
    """Prometheus and `/status` say the same."""
    assert scrape[f'curtaild_link_phase{{phase="{status["phase"]}"}}'] == 1
    assert scrape["curtaild_actuations_in_flight"] == status["actuations_in_flight"]
    assert scrape["curtaild_flexible_down_watts"] == pytest.approx(status["flexible_down_w"])
    for feeder in status["feeders"]:
        for key in ("rating", "limit", "metered", "measured", "reserved", "planned", "auxiliary", "headroom"):
            series = f'curtaild_feeder_{key}_watts{{feeder="{feeder["id"]}"}}'
            assert scrape[series] == pytest.approx(feeder[f"{key}_w"]), series
    assert len(status["devices"]) == DEVICES
    for device in status["devices"]:
        labels = f'{{device="{device["id"]}",feeder="{device["feeder"]}"}}'
        optional: dict[str, Any] = {"power": device["power_w"], "setpoint": device["setpoint_w"]}
        for key, value in {"reserved": device["reserved_w"], **optional}.items():
            found = scrape.get(f"curtaild_device_{key}_watts{labels}")
            assert found == (None if value is None else pytest.approx(value)), (device["id"], key)
    true_w = sum(scrape[series] for series in scrape if series.startswith("curtaild_device_power_watts"))
    measuring = sum(device["power_w"] or 0.0 for device in status["devices"])
    assert true_w == pytest.approx(measuring)


async def last_will(site: RunningSite) -> None:
    """Who comes later hears of the site at once; when the daemon dies, the broker says so in its place."""
    access = operator_access("127.0.0.1", site.broker.port)
    async with Operator(access, site.topics, "late") as late, asyncio.timeout(PATIENCE_S):
        assert (await late.status())["state"] == "unlimited"
        site.daemon.kill()
        while (status := await late.status())["state"] != "offline":
            pass
        assert status["reason"] == "connection lost"
