"""A node of eight H100: what it says of itself, and what it does with a limit. Watts at the wall unless of a GPU."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.contract import OperatingPoint, Outcome, RunState, Unsupported
from curtaild_drivers.gpu.curve import LIMIT
from gpu_nvml.conftest import OpenNode
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus
from nvml_stub.models import A40, GH200, GH200_MODULE_ONLY, H100, L40S

BASE_W, FACTOR = 1_800.0, 1.15


def wall_w(gpus_w: float) -> float:
    return BASE_W + FACTOR * gpus_w


def near(power_w: float) -> Any:
    """Draw follows a limit with a lag, so it is never quite there."""
    return pytest.approx(power_w, abs=1.0)


def at(node_w: float) -> OperatingPoint:
    return OperatingPoint(LIMIT, node_w, 0.5, divisible=True)


def busy(gpus: StubGpus, power_w: float = 700.0) -> None:
    for gpu in range(len(gpus.models)):
        gpus.demand_w(gpu, power_w)
    gpus.pass_time(10)


async def test_it_says_who_it_is_and_what_it_may_draw(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    async with open_node(make_gpus()) as node:
        await node.apply(at(wall_w(8 * 300)))
        await node.read()
        identity = await node.identify()
    assert (identity.make, identity.model) == ("NVIDIA", "8 × NVIDIA H100 80GB HBM3")
    assert identity.version == "570.124.06"
    assert identity.serial.startswith("GPU-")
    assert identity.rated_w == near(wall_w(8 * 700))


async def test_it_offers_any_limit_between_all_least_and_all_default(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    async with open_node(make_gpus()) as node:
        points = await node.operating_points()
        assert not node.capabilities.stops
    assert {point.key for point in points.points} == {LIMIT}, "no hook, no off"
    assert points.lowest.draw_w == near(wall_w(8 * 200))
    assert not points.lowest.divisible, "below it nothing is held"
    assert points.highest.draw_w == near(wall_w(8 * 700))
    assert all(point.divisible for point in points.points[1:])
    kept = {round((point.draw_w - BASE_W) / FACTOR / 5_600, 3): point.rate for point in points.points}
    assert kept == pytest.approx({0.286: 0.72 * 200 / 350, 0.5: 0.72, 0.6: 0.86, 0.7: 0.92, 0.8: 0.96, 1.0: 1.0})
    slopes = [(b.rate - a.rate) / (b.draw_w - a.draw_w) for a, b in pairwise(points.points)]
    assert slopes[0] > slopes[-1], "the last watts earn least"


async def test_the_settings_narrow_the_limits(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([A40] * 2)
    settings = {"base_w": 300.0, "gpu_factor": 1.0, "least_gpu_w": 150.0, "most_gpu_w": 250.0}
    async with open_node(gpus, **settings) as node:
        points = await node.operating_points()
        await node.apply(points.lowest)
    assert (points.lowest.draw_w, points.highest.draw_w) == (600.0, 800.0)
    assert [gpus.requested_w(gpu) for gpu in range(2)] == [150.0, 150.0]


async def test_a_limit_is_shared_out_equally_and_obeyed(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus(speed=0.0)
    busy(gpus)
    async with open_node(gpus) as node:
        before = await node.read()
        assert before.power_w == near(wall_w(5_600))
        assert await node.apply(at(wall_w(8 * 400))) is Outcome.ACKNOWLEDGED
        assert [gpus.requested_w(gpu) for gpu in range(8)] == [400.0] * 8
        gpus.pass_time(10)
        after = await node.read()
        assert after.power_w == near(wall_w(8 * 400))
        assert after.limit_w == near(wall_w(8 * 400))
        assert (after.state, after.point_key, after.fault) == (RunState.RUNNING, LIMIT, None)
        assert after.taken_at > before.taken_at
        assert await node.apply(at(wall_w(8 * 400))) is Outcome.ALREADY_THERE
    assert [gpus.requested_w(gpu) for gpu in range(8)] == [400.0] * 8, "a stopped daemon restores nothing"


async def test_gpus_of_two_kinds_get_what_each_can_take(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100, L40S, L40S])
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(1_200)))
        assert [gpus.requested_w(gpu) for gpu in range(3)] == [500.0, 350.0, 350.0]
        await node.apply(at(wall_w(500)))
        assert [gpus.requested_w(gpu) for gpu in range(3)] == [200.0, 150.0, 150.0]


async def test_it_idles_until_there_is_work(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus(speed=0.0)
    async with open_node(gpus) as node:
        reading = await node.read()
    assert (reading.state, reading.rate) == (RunState.IDLE, 0.0)
    assert reading.power_w == near(wall_w(8 * 70))
    assert reading.temperature_c == pytest.approx(33, abs=1)


async def test_a_read_asks_each_gpu_once_and_the_rest_when_it_has_answered(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    """A call takes up to 20 ms: draw and limits come in one, all GPUs side by side."""
    symbols = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit")
    gpus = make_gpus()
    async with open_node(gpus) as node:
        await node.read()
        before = gpus.calls("nvmlDeviceGetFieldValues"), [gpus.calls(symbol) for symbol in symbols]
        await node.read()
        after = gpus.calls("nvmlDeviceGetFieldValues"), [gpus.calls(symbol) for symbol in symbols]
    assert after == (before[0] + 8, before[1])


async def test_all_gpus_are_asked_at_once_and_the_loop_turns_meanwhile(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    """Why eight GPUs take no longer than one: none has answered yet, and all eight calls are in the driver."""
    gpus, asked = make_gpus(), "nvmlDeviceGetFieldValues"
    async with open_node(gpus, read_deadline_s=50) as node, asyncio.timeout(20):
        await node.read()
        before = gpus.calls(asked)
        for gpu in range(8):
            gpus.hang(gpu)
        reading = asyncio.create_task(node.read())
        while gpus.calls(asked) < before + 8:
            await asyncio.to_thread(os.sched_yield)  # only a loop that is not held up comes here
        assert not reading.done()
        for gpu in range(8):
            gpus.release(gpu)
        assert (await reading).fault is None


async def test_no_reading_and_no_limit_waits_for_what_a_gpu_is_doing_to_be_told(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus, may_tell, is_asked = make_gpus([H100] * 2, speed=0.0), threading.Event(), threading.Event()
    busy(gpus)

    def slow(handle: Any, sensor: int) -> int:
        is_asked.set()
        may_tell.wait()
        return 77

    async with open_node(gpus, read_deadline_s=20, write_deadline_s=20) as node, asyncio.timeout(20):
        before = await node.read()
        monkeypatch.setattr("pynvml.nvmlDeviceGetTemperature", slow)
        while not is_asked.is_set():
            await node.read()
        assert await node.apply(at(wall_w(600))) is Outcome.ACKNOWLEDGED
        gpus.pass_time(10)
        meanwhile = await node.read()
        assert meanwhile.power_w == near(wall_w(600))
        assert meanwhile.temperature_c == before.temperature_c, "what was told last"
        may_tell.set()
        while (await node.read()).temperature_c != 77.0:
            await asyncio.to_thread(os.sched_yield)


async def test_a_limit_above_the_draw_changes_no_draw(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    """LLM decode draws 137–300 W on its own: the reading shows the draw, and beside it the limit that does not bind."""
    gpus = make_gpus(speed=0.0)
    busy(gpus, 250.0)
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(8 * 400)))
        gpus.pass_time(10)
        reading = await node.read()
    assert reading.power_w == near(wall_w(8 * 250))
    assert reading.limit_w == near(wall_w(8 * 400))
    assert reading.fault is None


async def test_near_its_least_a_limit_leaks_and_the_reading_says_so(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([A40] * 4, speed=0.0)
    busy(gpus, 300.0)
    async with open_node(gpus) as node:
        await node.apply((await node.operating_points()).lowest)
        gpus.pass_time(10)
        reading = await node.read()
    assert reading.limit_w == near(wall_w(4 * 100))
    assert reading.power_w == near(wall_w(4 * 121)), "an A40 at 100 W averages 121"


async def test_what_another_limits_is_budgeted_told_and_not_fought(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    """Of several writers the lowest wins: enforced is not what was asked for."""
    gpus = make_gpus(speed=0.0)
    busy(gpus)
    gpus.drift(3, 300.0)
    async with open_node(gpus) as node:
        assert await node.apply(at(wall_w(8 * 500))) is Outcome.ACKNOWLEDGED
        gpus.pass_time(10)
        reading = await node.read()
        assert reading.limit_w == near(wall_w(7 * 500 + 300))
        assert reading.fault == "GPU 3: keeps 300 W where 500 W is asked for"
        assert reading.state is RunState.RUNNING
        written = gpus.calls("nvmlDeviceSetPowerManagementLimit")
        await node.apply(at(wall_w(8 * 500)))
        assert gpus.calls("nvmlDeviceSetPowerManagementLimit") == written
        gpus.drift(3, None)
        assert (await node.read()).fault is None


async def test_a_second_writer_is_told_of(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus()
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(8 * 500)))
        gpus.overwrite(5, 650.0)
        reading = await node.read()
    assert reading.fault == "GPU 5: told 500 W, then somebody asked for 650 W"
    assert reading.limit_w == near(wall_w(7 * 500 + 650))
    assert gpus.requested_w(5) == 650.0


async def test_a_gh200_that_takes_limits_for_its_module_only(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([GH200_MODULE_ONLY], speed=0.0)
    busy(gpus, 900.0)
    async with open_node(gpus, base_w=100.0, gpu_factor=1.0) as node:
        points = await node.operating_points()
        assert (points.lowest.draw_w, points.highest.draw_w) == (300.0, 1_000.0)
        assert await node.apply(at(600.0)) is Outcome.ACKNOWLEDGED
        gpus.pass_time(10)
        reading = await node.read()
    assert gpus.requested_w(0, module=True) == 500.0
    assert gpus.requested_w(0) == 900.0
    assert (reading.power_w, reading.limit_w) == pytest.approx((600.0, 600.0), abs=1)


async def test_a_gh200_that_takes_limits_for_both_is_limited_by_its_gpu_s_own(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([GH200], speed=0.0)
    async with open_node(gpus, base_w=100.0, gpu_factor=1.0) as node:
        assert (await node.operating_points()).highest.draw_w == 1_000.0
        await node.apply(at(600.0))
    assert (gpus.requested_w(0), gpus.requested_w(0, module=True)) == (500.0, 900.0)


async def test_limits_that_a_stop_would_lose_are_told_of_once(
    make_gpus: MakeGpus, open_node: OpenNode, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = make_gpus([H100] * 2)
    async with open_node(gpus) as node:
        for _ in range(3):
            await node.read()
    assert [record.message for record in caplog.records] == [
        "persistence mode is off: when the daemon stops, GPU 0, 1 may forget its limit"
    ]


async def test_with_mig_nothing_is_said_of_utilisation_and_it_counts_as_at_work(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([H100], speed=0.0)
    gpus.mig(0)
    async with open_node(gpus) as node:
        assert (await node.read()).state is RunState.IDLE
        gpus.fails("nvmlDeviceGetUtilizationRates", 3)
        async with asyncio.timeout(20):
            while (await node.read()).state is not RunState.RUNNING:
                pass  # a reading answers first, and asks what its GPUs do afterwards


async def test_the_limits_found_are_remembered_before_the_first_write(
    make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 2)
    gpus.overwrite(1, 650.0)
    async with open_node(gpus) as node:
        gpus.deny_permission()
        with pytest.raises(Exception, match="CAP_SYS_ADMIN"):
            await node.apply(at(wall_w(800)))
        found = json.loads((tmp_path / "gpu-state.json").read_text())
        assert sorted(found["limits_mw"].values()) == [650_000, 700_000], "before anything was written"
        gpus.deny_permission(False)
        await node.apply(at(wall_w(800)))
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(600)))
    assert json.loads((tmp_path / "gpu-state.json").read_text()) == found, "a restart finds our own and knows it"


async def test_other_points_are_not_taken(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    async with open_node(make_gpus([H100])) as node:
        with pytest.raises(Unsupported, match="off is not among"):
            await node.apply(OperatingPoint("off", 0.0, 0.0))


async def test_only_this_host_s_gpus_are_its_own(make_gpus: MakeGpus, tmp_path: Path) -> None:
    from curtaild_drivers.gpu.nvml import DRIVER, open_device
    from curtaild_drivers.gpu.settings import NvmlSettings
    from curtaild_drivers.registry import OpenContext

    assert DRIVER.open_device is open_device
    with make_gpus([H100]).here():
        node = open_device("10.1.2.3", NvmlSettings(state_file=tmp_path / "state"), OpenContext())
        with pytest.raises(Unsupported, match="localhost, not at 10"):
            await node.read()
