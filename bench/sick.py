"""A sick fleet: of all devices 5 % hang, 5 % reset every connection and 5 % are silent, from the moment that a limit
comes. Are the well ones shed as fast as if all were, is the limit held by others where there are some, and is the
deficit told where there are none?
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.emulated import CONTROL_PORT, emulator_on
from bench.farm import Bench, Farm, devices_of, farm_of
from bench.lags import SLEEP_S
from bench.shed import LAST_BAR_S
from bench.site import CannotRun, Daemon, Layout, daemon_on
from bench.table import Lag, Row
from curtaild_drivers.contract import Seconds, Watts

TIMEOUT_S = 90.0
AILMENTS = {
    **dict.fromkeys(range(3, 100, 20), "hang"),
    **dict.fromkeys(range(9, 100, 20), "refuse_connection"),
    **dict.fromkeys(range(16, 100, 20), "offline_silent"),
}
"""Of each hundred devices of the emulated farm."""
LIMIT_SHARE = 0.6
"""Of what all draw: the well ones can make up for the sick with ease."""
HELD_S = 20.0
"""The draw must stay under the limit so long to count as held."""
TOLD_S = 100.0
"""A command is given up after ten seconds, and a device that is merely silent is believed to be falling for as long as
the slowest takes; by then the site knows what it cannot shed."""


@dataclass(frozen=True, slots=True)
class WellOnes:
    """From the publish of `allocation` until the last of those that are never sick has obeyed; the daemon meanwhile."""

    allocation: str
    last_s: Seconds
    cpu_s: Seconds
    memory_mib: float
    lag: Lag | None


async def sick_rows(bench: Bench, layout: Layout) -> None:
    """The well ones' shed beside that in an all-healthy fleet; the deficit."""
    async with devices_of(bench, layout.devices) as devices:
        async with farm_of(bench, layout, devices) as farm:
            in_health = await _shed_the_well(bench, farm, "all well")
        await devices.reset()
        async with farm_of(bench, layout, devices) as farm:
            await devices.ail()
            in_sickness = await _shed_the_well(bench, farm, "15 % sick")
            await _compare_deficit(bench, farm, in_sickness.allocation)
        _speed_row(bench, layout, in_health, in_sickness)
        await devices.reset()


def _speed_row(bench: Bench, layout: Layout, in_health: WellOnes, in_sickness: WellOnes) -> None:
    bench.result.rows.append(
        Row(
            f"last well one of {layout.devices:,} devices, 15 % of them sick, has obeyed",
            "s",
            in_sickness.last_s,
            bar=LAST_BAR_S.get(layout.devices),
            peer=in_health.last_s,
            peer_name="ours, all well",
            cpu_s=in_sickness.cpu_s,
            memory_mib=in_sickness.memory_mib,
            lag=in_sickness.lag,
        )
    )
    bench.result.notes.append(
        f"sick fleet: the well ones obeyed in {in_sickness.last_s / in_health.last_s:.2f} × the time that the same "
        "ones took in an all-healthy fleet"
    )


async def _shed_the_well(bench: Bench, farm: Farm, what: str) -> WellOnes:
    devices, daemon = farm.devices, farm.daemon
    stopped, count = await devices.well()
    task = bench.progress.add_task(f"{farm.name}, {what}: shed", total=count)
    published, cpu_s = time.monotonic(), daemon.cpu_s()
    allocation = await daemon.operator.allocate(0.0)
    while stopped < count and time.monotonic() < published + TIMEOUT_S:
        await asyncio.sleep(0.05)
        stopped, _ = await devices.well()
        bench.progress.update(task, completed=stopped)
    used_s, ended = daemon.cpu_s() - cpu_s, time.monotonic()
    bench.progress.remove_task(task)
    if stopped < count:
        raise CannotRun(f"{what}: only {stopped:,} of {count:,} well devices obeyed within {TIMEOUT_S:g} s")
    lag = Lag.of(await daemon.lag_s(published, ended), SLEEP_S)
    last_ns = max(answered_ns for _, answered_ns in (await devices.report()).well)
    return WellOnes(allocation, last_ns / 1e9 - published, used_s, daemon.peak_mib(), lag)


async def _compare_deficit(bench: Bench, farm: Farm, allocation: str) -> None:
    """What the site says it cannot shed, beside what the devices draw in truth above a limit of 0 W."""
    began, daemon = time.monotonic(), farm.daemon
    heard_ns = await daemon.acked(allocation, "shortfall", within_s=TOLD_S)
    await asyncio.sleep(max(0.0, began + TOLD_S - time.monotonic()))
    site, drawn_w = await _site(daemon), await farm.devices.drawn_w()
    bench.result.notes.append(
        f"sick fleet at 0 W: `shortfall` heard {heard_ns / 1e9 - began:+.1f} s from when the last well one had obeyed; "
        f"`deficit_w` in the status {site['deficit_w'] / 1e6:.2f} MW, drawn in truth {drawn_w / 1e6:.2f} MW"
    )


async def slack_rows(bench: Bench, count: int) -> None:
    """On the emulated farm with its physics, for this takes more than stops: from the publish of a limit that the well
    ones can keep alone until the true draw is under it, to stay there."""
    layout = Layout(count, poll_s=5.0, meter='{ preset = "eastron-sdm630" }')
    folder = bench.fresh_folder(f"sick-{count}")
    name = f"{count:,} devices with their physics"
    task = bench.progress.add_task(f"{name}, 15 % sick: {LIMIT_SHARE:.0%} of their draw", total=count)
    async with (
        emulator_on(folder, count),
        daemon_on(layout, folder, on_known=lambda known: bench.progress.update(task, completed=known)) as daemon,
        aiohttp.ClientSession(f"http://127.0.0.1:{CONTROL_PORT}") as farm,
    ):
        limit_w = round(LIMIT_SHARE * await _drawn_w(farm))
        for number, fault in ((n, AILMENTS[n % 100]) for n in range(count) if n % 100 in AILMENTS):
            async with farm.post("/faults", json={"device": f"d{number}", "fault": fault}) as done:
                done.raise_for_status()
        published = time.monotonic()
        await daemon.operator.allocate(limit_w)
        under_since, now = None, published
        while now < published + TIMEOUT_S and (under_since is None or now < under_since + HELD_S):
            await asyncio.sleep(0.2)
            now, is_under = time.monotonic(), await _drawn_w(farm) <= limit_w
            under_since = (now if under_since is None else under_since) if is_under else None
        drawn_w, site = await _drawn_w(farm), await _site(daemon)
    bench.progress.remove_task(task)
    what = f"limit of {LIMIT_SHARE:.0%} held by {name}, 15 % of them sick, from the publish"
    bench.result.rows.append(Row(what, "s", under_since - published if under_since is not None else None))
    bench.result.notes.append(
        f"sick fleet at {limit_w / 1e6:.2f} MW: {drawn_w / 1e6:.2f} MW drawn in truth {now - published:.0f} s after "
        f"the publish, `deficit_w` {site['deficit_w'] / 1e6:.2f} MW; commands to the hung are given up after 10 s"
    )


async def _drawn_w(farm: aiohttp.ClientSession) -> Watts:
    """The plant's truth."""
    async with farm.get("/devices") as answer:
        devices = await answer.json()
    return float(sum(device["true_power_w"] for device in devices))


async def _site(daemon: Daemon) -> dict[str, Any]:
    """The site's own line of `/status`."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{daemon.url}/status") as answer:
        status = json.loads(await answer.read())
    site: dict[str, Any] = next(feeder for feeder in status["feeders"] if feeder["id"] == "site")
    return site
