"""Below the least limit of a node behind its BMC: the site's own programs, run on the daemon's host."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.contract import OFF, OperatingPoint, Outcome, OutcomeUnknown, RunState, Unsupported
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.reading import SUSPEND
from curtaild_drivers.gpu.redfish import DRIVER
from curtaild_drivers.gpu.suspended import Suspendable
from curtaild_drivers.registry import OpenContext
from gpu_redfish.makes import openbmc
from gpu_redfish.tiny_bmc import HOST, PASSWORD, USER, TinyBmc, refusal, tiny_bmc

METRICS = "/redfish/v1/Chassis/chassis/EnvironmentMetrics"
SUSPENDED = OperatingPoint(SUSPEND, 1_500.0, 0.0)
SIX_KW = OperatingPoint(LIMIT, 6_000.0, 0.9, divisible=True)
WRITES_DOWN = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read()); print('3 jobs')"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("curtaild_drivers.gpu.suspended.FILE_DEADLINE_S", 50.0)


@asynccontextmanager
async def opened(bmc: TinyBmc, folder: Path, **settings: Any) -> AsyncIterator[Suspendable]:
    argv = [sys.executable, "-c", WRITES_DOWN, str(folder / "told")]
    chosen = {
        "username": USER,
        "port": bmc.port,
        "scheme": "http",
        "allow_plain_http": True,
        "read_deadline_s": 50,
        "write_deadline_s": 50,
        "suspend": {"shed": argv, "restore": argv, "draw_w": SUSPENDED.draw_w, "timeout_s": 50},
        "node_names": {HOST: "gpu-07"},
        **settings,
    }
    assert DRIVER.open_device is not None
    node = DRIVER.open_device(HOST, DRIVER.settings.model_validate(chosen), OpenContext(secrets={"password": PASSWORD}))
    assert isinstance(node, Suspendable)
    try:
        yield node
    finally:
        await node.close()


def told(folder: Path) -> list[tuple[str, str]]:
    path = folder / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(said["node"], said["reason"]) for said in map(json.loads, lines)]


def draws(bmc: TinyBmc, power_w: float) -> None:
    bmc.put(METRICS, "PowerWatts", "Reading", value=power_w)


async def test_its_least_limit_comes_first_and_its_jobs_wake_last(tmp_path: Path) -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, tmp_path) as node:
        points = (await node.operating_points()).points
        assert [point.key for point in points[:2]] == [SUSPEND, LIMIT]
        least_w = points[1].draw_w
        await node.read()
        assert await node.apply(SUSPENDED) is Outcome.ACKNOWLEDGED
        assert node.last_words.endswith("(shed), saying: 3 jobs")
        assert bmc.documents[METRICS]["PowerLimitWatts"]["SetPoint"] == int(least_w)
        draws(bmc, 1_400.0)
        asleep = await node.read()
        assert (asleep.state, asleep.point_key, asleep.limit_w) == (RunState.ASLEEP, SUSPEND, None)
        assert await node.apply(SUSPENDED) is Outcome.ALREADY_THERE
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        assert (await node.read()).limit_w == 6_000.0
        assert await node.apply(SIX_KW) is Outcome.ALREADY_THERE
    assert told(tmp_path) == [("gpu-07", "shed"), ("gpu-07", "restore")]


async def test_work_that_goes_on_is_suspended_again(tmp_path: Path) -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, tmp_path) as node:
        await node.apply(SUSPENDED)
        draws(bmc, 4_000.0)
        awake = await node.read()
        assert (awake.state, awake.point_key) == (RunState.RUNNING, SUSPEND)
        assert await node.apply(SUSPENDED) is Outcome.ACKNOWLEDGED
    assert [reason for _, reason in told(tmp_path)] == ["shed", "shed"]


async def test_after_a_crash_it_is_woken_and_a_bmc_that_is_away_stops_no_hook(tmp_path: Path) -> None:
    async with tiny_bmc(openbmc()) as bmc:
        async with opened(bmc, tmp_path) as node:
            await node.read()
            bmc.behaviours["PATCH", METRICS] = lambda asked: refusal(503, "Base.1.8.ServiceTemporarilyUnavailable", "")
            with pytest.raises(OutcomeUnknown, match="reached suspend, but not its limit"):
                await node.apply(SUSPENDED)
            del bmc.behaviours["PATCH", METRICS]
        async with opened(bmc, tmp_path) as node:
            assert (await node.read()).point_key == SUSPEND
            await node.apply(SIX_KW)
            assert (await node.read()).point_key == LIMIT
    assert [reason for _, reason in told(tmp_path)] == ["shed", "restore"]


async def test_a_stage_that_does_not_lie_between_off_and_the_limits_is_told(tmp_path: Path) -> None:
    async with tiny_bmc(openbmc()) as bmc:
        async with opened(bmc, tmp_path, power_off="graceful", off_w=1_600) as node:
            with pytest.raises(Unsupported, match=r"suspend\.draw_w \(1500 W\) must be below .* and above off, 1600 W"):
                await node.operating_points()
        async with opened(bmc, tmp_path, power_off="graceful") as node:
            points = (await node.operating_points()).points
    assert [point.key for point in points[:3]] == [OFF, SUSPEND, LIMIT]


async def test_a_disk_that_fails_stops_no_hook_and_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "nowhere"))
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, tmp_path) as node:
        assert await node.apply(SUSPENDED) is Outcome.ACKNOWLEDGED
        assert "cannot be written" in ((await node.read()).fault or "")
    assert told(tmp_path) == [("gpu-07", "shed")]
