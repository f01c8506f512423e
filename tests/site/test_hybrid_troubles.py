"""A mining and AI site in trouble: a BMC with a stranger's certificate, one that hangs, a host and the daemon killed.
The limit holds, nobody waits for anybody, and what is the matter is said in words that help."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from curtaild_emulator import BmcFault
from hybrid.hosts import FAILSAFE_W, GpuHosts
from hybrid.site import Miners, Nodes, hybrid_site
from running_site import METER_NOISE, RunningSite, Status, until

pytestmark = pytest.mark.broker

MINERS: Miners = {"whatsminer-m60": 15, "luxos-s21": 5}
NODES: Nodes = {("nvidia-dgx", "hgx-h100"): 3}
STRANGER, HANGING = "nvidia-dgx-hgx-h100-1", "nvidia-dgx-hgx-h100-2"
FULL_NODE_W = 8_240.0


async def test_a_site_in_trouble_keeps_its_limit_and_says_what_is_the_matter(tmp_path: Path) -> None:
    site_in_trouble = hybrid_site(tmp_path, 63, hosts=2, miners=MINERS, nodes=NODES, heartbeat_timeout_s=6.0)
    async with site_in_trouble as (site, hosts):
        for group in site.file.groups:
            group["stale_after_s"] = 5
            if group["driver"] == "redfish":
                group["settings"] |= {"read_deadline_s": 4, "write_deadline_s": 4, "identify_deadline_s": 20}
        site.farm.set_bmc_fault(STRANGER, BmcFault.OTHER_AUTHORITY)
        await site.start()
        await a_strangers_certificate(site)
        await site.operator.release()
        await site.true_over(0.95 * site.full_w)
        await a_bmc_that_hangs(site)
        await killed_in_the_middle(site, hosts)
        await a_host_that_dies(site, hosts)
        await until("all jobs are at work", lambda: not hosts.suspended)


def device(site: RunningSite, status: Status, name: str) -> dict[str, Any]:
    name = site.file.device_id(site.farm.bmc_addresses[name]) if name in site.farm.bmc_addresses else name
    found: dict[str, Any] = next(each for each in status["devices"] if each["id"] == name)
    return found


async def a_strangers_certificate(site: RunningSite) -> None:
    """Nothing is sent to it. It counts with all it can draw, and the log says what to write where."""

    def is_told(status: Status) -> bool:
        return "unreachable" in device(site, status, STRANGER)["conditions"]

    status = await site.until("the stranger is told of", is_told, devices=True)
    assert device(site, status, STRANGER)["reserved_w"] == FULL_NODE_W
    (line,) = site.daemon.lines("WARNING", site.farm.bmc_addresses[STRANGER], "unreachable")
    for words in ("signed by 'Somebody Else'", "is signed by nobody in ca_file", "into fingerprints"):
        assert words in line


async def a_bmc_that_hangs(site: RunningSite) -> None:
    """The others shed in its place, in the usual time; it is counted with what it drew, and comes back."""
    site.farm.set_bmc_fault(HANGING, BmcFault.HANG)
    await keeps(site, 0.6)
    await site.until(
        "the BMC that hangs is told of",
        lambda status: "unreachable" in device(site, status, HANGING)["conditions"],
        devices=True,
    )
    (line,) = site.daemon.lines("WARNING", site.farm.bmc_addresses[HANGING], "unreachable")
    assert "did not answer" in line
    site.farm.set_bmc_fault(HANGING, BmcFault.HANG, on=False)
    await site.until(
        "it is back", lambda status: not device(site, status, HANGING)["conditions"], within_s=180, devices=True
    )


async def killed_in_the_middle(site: RunningSite, hosts: GpuHosts) -> None:
    """SIGKILL as the shed begins: what was told goes on, the hosts fall back, the next run takes it from there."""
    limit_w = round(0.4 * site.full_w, -2)
    await site.operator.allocate(limit_w)
    await site.until("the shed has begun", lambda status: status["actuations_in_flight"] > 3)
    site.daemon.signal(signal.SIGKILL)
    site.daemon.kill()
    await until("all hosts are at their fail-safe", lambda: all(host.power_w <= FAILSAFE_W for host in hosts.hosts))
    await site.start()
    await site.true_under(limit_w)
    since = time.monotonic()
    await site.lives_on(3.0)
    assert site.trace.highest_w(since, time.monotonic()) <= METER_NOISE * limit_w
    assert (await site.status())["phase"] == "limited"


def is_down(host: dict[str, Any]) -> bool:
    """Whether it draws no more than it was limited to."""
    setpoint_w = host["setpoint_w"]
    return setpoint_w is not None and setpoint_w < 6_000 and host["power_w"] <= max(FAILSAFE_W, 1.02 * setpoint_w)


async def a_host_that_dies(site: RunningSite, hosts: GpuHosts) -> None:
    """The broker says so at once. It counts with what it was told last, or its fail-safe; restarted, it follows."""
    host = hosts.hosts[0]
    name = f"hosts/{host.name}"
    await keeps(site, 0.3)
    await site.until("it is limited, and down", lambda status: is_down(device(site, status, name)), devices=True)
    host.kill()
    await until("the host is missed", lambda: site.daemon.lines("WARNING", name, "offline: connection lost"))
    await site.lives_on(2 * 5.0 + 1.0)
    status = await site.status(devices=True)
    assert device(site, status, name)["is_stale"]
    told_w, reserved_w = (device(site, status, name)[key] for key in ("setpoint_w", "reserved_w"))
    assert reserved_w < 0.8 * FULL_NODE_W, f"with what its draw is known to come to at {told_w:g} W"
    await hosts.start(host)
    await site.until(
        "it follows again", lambda status: not device(site, status, name)["conditions"], within_s=180, devices=True
    )


async def keeps(site: RunningSite, share: float) -> None:
    """Under the limit in time, and not over it again."""
    limit_w, published_at = round(share * site.full_w, -2), time.monotonic()
    await site.operator.allocate(limit_w)
    await site.true_under(limit_w)
    under_at = site.trace.first_under(limit_w, published_at)
    await site.lives_on(3.0)
    assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w
