"""What NVML and GPUs do wrong, and what the node makes of it: lost, hung, lying, old, forbidden."""

from __future__ import annotations

import asyncio
import importlib
import threading
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.contract import (
    AuthFailed,
    DriverError,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.gpu import slot
from curtaild_drivers.gpu.memory import NodeMemory
from curtaild_drivers.gpu.node import GpuNode
from gpu_nvml.conftest import OpenNode
from gpu_nvml.test_node import at, busy, near, wall_w
from loop_clock import comes_true, cut_short
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus
from nvml_stub.library import LACKING_BEFORE_535
from nvml_stub.models import GH200_MODULE_ONLY, H100

SETTER, ASKED = "nvmlDeviceSetPowerManagementLimit", "nvmlDeviceGetFieldValues"
NO_PERMISSION, UNKNOWN, GPU_IS_LOST = 4, 999, 15


def requested_w(gpus: StubGpus) -> list[float]:
    return [gpus.requested_w(gpu) for gpu in range(len(gpus.models))]


# ---- a GPU that is lost ---------------------------------------------------------------------------


async def test_a_lost_gpu_counts_at_its_limit_and_the_others_go_on(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus(speed=0.0)
    busy(gpus, 500.0)
    async with open_node(gpus) as node:
        await node.read()
        gpus.lose(6)
        reading = await node.read()
        assert reading.state is RunState.FAULT
        assert reading.fault is not None
        assert reading.fault.startswith("GPU 6: the GPU is lost (NVML error 15)")
        assert reading.power_w == near(wall_w(7 * 500 + 700)), "seven measured, one at the most it may draw"

        await node.apply(at(wall_w(7 * 300 + 700)))
        assert requested_w(gpus) == [300.0] * 6 + [700.0] + [300.0]
        gpus.recover(6)
        assert (await node.read()).power_w == near(wall_w(8 * 500))


async def test_below_what_the_others_reach_a_lost_gpu_leaves_the_outcome_unknown(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus()
    async with open_node(gpus) as node:
        await node.read()
        gpus.lose(0)
        await node.read()
        with pytest.raises(OutcomeUnknown, match="GPU 0 does not answer and may draw more"):
            await node.apply(at(wall_w(8 * 200)))
    assert requested_w(gpus) == [700.0] + [200.0] * 7, "all that can be shed is shed"


async def test_a_gpu_lost_before_the_daemon_came_counts_at_the_most_of_the_others(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([H100] * 4, speed=0.0)
    gpus.lose(1)
    async with open_node(gpus) as node:
        assert (await node.identify()).rated_w == near(wall_w(4 * 700))
        assert (await node.operating_points()).lowest.draw_w == near(wall_w(3 * 200 + 700))
        assert (await node.read()).power_w == near(wall_w(3 * 70 + 700))
        gpus.recover(1)
        assert (await node.read()).power_w == near(wall_w(4 * 70)), "tried again at every read"


async def test_a_gpu_that_is_back_under_a_new_handle_is_found_and_none_of_the_others_let_go(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_gpus([H100] * 2, speed=0.0)
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(600)))
        gpus.lose(1)
        assert (await node.read()).state is RunState.FAULT
        gpus.recover(1, handles_survive=False)
        inits = gpus.calls("nvmlInitWithFlags")
        monkeypatch.setattr("curtaild_drivers.gpu.gpus.RENEW_S", 3_600.0)
        await node.read()
        for _ in range(5):
            reading = await node.read()
        assert reading.limit_w == near(wall_w(300 + 700)), "its limit is forgotten, as its driver says itself"
        assert reading.fault is not None
        assert "GPU 1: told 300 W, then somebody asked for 700 W" in reading.fault
        assert gpus.calls("nvmlInitWithFlags") == inits + 1, "looked for once"
        assert await node.apply(at(wall_w(600))) is Outcome.ACKNOWLEDGED
        assert requested_w(gpus) == [300.0] * 2


async def test_a_gpu_that_stays_lost_is_looked_for_now_and_then(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_gpus([H100] * 2, speed=0.0)
    async with open_node(gpus) as node:
        await node.read()
        gpus.lose(1)
        inits = gpus.calls("nvmlInitWithFlags")
        for _ in range(10):
            assert (await node.read()).power_w == near(wall_w(70 + 700))
        assert gpus.calls("nvmlInitWithFlags") == inits + 1
        monkeypatch.setattr("curtaild_drivers.gpu.gpus.RENEW_S", 0.0)
        await node.read()
        assert gpus.calls("nvmlInitWithFlags") == inits + 2


async def test_when_all_are_lost_nothing_answers(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100] * 2)
    async with open_node(gpus) as node:
        await node.read()
        gpus.lose(0)
        gpus.lose(1)
        with pytest.raises(Unreachable, match="lost"):
            await node.read()
        with pytest.raises(Unreachable, match="lost"):
            await node.apply(at(wall_w(400)))


# ---- a call that hangs ----------------------------------------------------------------------------


async def test_a_hung_gpu_is_waited_for_once_and_is_well_when_it_comes_back(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([H100] * 3, speed=0.0)
    async with open_node(gpus) as node:
        await node.read()
        gpus.hang(2)
        first = await cut_short(node.read(), lambda: is_hung(gpus, node, 2, ASKED))
        assert first.state is RunState.FAULT
        assert first.fault is not None
        assert first.fault.startswith("GPU 2: a call into the driver has not come back for")
        assert first.power_w == near(wall_w(2 * 70 + 700))
        threads = threading.active_count()
        calls = gpus.calls("nvmlDeviceGetFieldValues")
        for _ in range(50):
            assert (await node.read()).state is RunState.FAULT
        assert threading.active_count() == threads
        assert gpus.calls("nvmlDeviceGetFieldValues") - calls <= 2 * 50, "nothing was sent to the one that hangs"
        gpus.release(2)
        assert (await back_to(node, RunState.IDLE)).power_w == near(wall_w(3 * 70))


def is_hung(gpus: StubGpus, node: GpuNode, gpu: int, symbol: str) -> bool:
    """Whether this GPU's call hangs, and all that was asked of the others has come back."""
    return gpus.hanging(symbol) == 1 and all(slot.lane.is_idle for slot in node._slots if slot.index != gpu)


async def back_to(node: GpuNode, state: RunState) -> Reading:
    """A call that was let go comes back when its thread is scheduled, and what a GPU does is told after its draw."""
    async with asyncio.timeout(40):
        while (reading := await node.read()).state is not state:
            pass
    return reading


async def test_a_hung_write_has_an_unknown_outcome_and_the_others_were_told(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([H100] * 3)
    async with open_node(gpus) as node:
        await node.read()
        gpus.hang(1, after_writing=True)
        with pytest.raises(OutcomeUnknown, match=r"GPU 1: .*has not come back"):
            await cut_short(node.apply(at(wall_w(900))), lambda: is_hung(gpus, node, 1, SETTER))
        assert requested_w(gpus) == [300.0] * 3, "it worked, and nobody could know"
        gpus.release(1)
        assert (await back_to(node, RunState.IDLE)).limit_w == near(wall_w(900)), "the read-back decides"


async def test_a_gpu_that_hangs_in_a_raise_counts_at_what_it_may_have_taken(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([H100] * 2, speed=0.0)
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(600)))
        await node.read()
        gpus.hang(0)
        with pytest.raises(OutcomeUnknown):
            await cut_short(node.apply(at(wall_w(1_000))), lambda: is_hung(gpus, node, 0, ASKED))
        assert (await node.read()).power_w == near(wall_w(500 + 70))


async def test_a_host_that_hangs_while_it_opens_is_told_and_not_waited_for(
    make_gpus: MakeGpus, open_node: OpenNode
) -> None:
    gpus = make_gpus([H100])
    gpus.hang(0)
    async with open_node(gpus) as node:
        with pytest.raises(Unreachable, match="has not come back"):
            await cut_short(node.read(), lambda: gpus.hanging("nvmlDeviceGetUUID") == 1)
        for _ in range(2):
            with pytest.raises(Unreachable, match="has not come back"):
                await node.read()
        gpus.release(0)
        (opening,) = (slot.lane for slot in node._slots)
        await comes_true(lambda: not opening.is_hung)
        assert (await node.read()).power_w == near(wall_w(70))


# ---- a setter that lies or refuses ----------------------------------------------------------------


async def test_the_v2_setter_s_yes_is_not_believed(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    """NVIDIA's Python `nvmlDeviceSetPowerManagementLimit_v2` says that all is well whatever the library returns."""
    gpus = make_gpus([GH200_MODULE_ONLY])
    async with open_node(gpus, base_w=100.0, gpu_factor=1.0) as node:
        await node.read()
        gpus.fails(f"{SETTER}_v2", UNKNOWN)
        with pytest.raises(Refused, match="GPU 0: NVML said"):
            await node.apply(at(600.0))
        gpus.fails(f"{SETTER}_v2", 0)
        assert await node.apply(at(600.0)) is Outcome.ACKNOWLEDGED
    assert gpus.requested_w(0, module=True) == 500.0


async def test_a_yes_without_effect_is_a_refusal(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pynvml.nvmlDeviceSetPowerManagementLimit", lambda handle, limit_mw: None)
    gpus = make_gpus([H100] * 2)
    async with open_node(gpus) as node:
        with pytest.raises(Refused, match="GPU 0: said yes to 300 W and kept 700 W; GPU 1"):
            await node.apply(at(wall_w(600)))


async def test_without_permission_nothing_is_set_and_a_person_is_told(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100] * 2)
    gpus.deny_permission()
    async with open_node(gpus) as node:
        with pytest.raises(AuthFailed, match=r"root or CAP_SYS_ADMIN for that: see docs/gpu\.md"):
            await node.apply(at(wall_w(600)))
    assert requested_w(gpus) == [700.0] * 2


async def test_what_some_took_and_some_refused_is_unknown(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pynvml: Any = importlib.import_module("pynvml")
    truly = pynvml.nvmlDeviceSetPowerManagementLimit

    def set_limit(handle: Any, limit_mw: int) -> None:
        if pynvml.nvmlDeviceGetIndex(handle) == 1:
            raise pynvml.NVMLError(NO_PERMISSION)
        truly(handle, limit_mw)

    monkeypatch.setattr("pynvml.nvmlDeviceSetPowerManagementLimit", set_limit)
    gpus = make_gpus([H100] * 3)
    async with open_node(gpus) as node:
        with pytest.raises(OutcomeUnknown, match="GPU 1: the driver wants root"):
            await node.apply(at(wall_w(900)))
    assert requested_w(gpus) == [300.0, 700.0, 300.0]


@pytest.mark.parametrize("absurd_mw", [0xFFFFFFFF, 20_000_001])
async def test_watts_that_no_gpu_can_draw_are_unknown(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch, absurd_mw: int
) -> None:
    pynvml: Any = importlib.import_module("pynvml")
    truly = pynvml.nvmlDeviceGetFieldValues

    def told(handle: Any, fields: Any) -> Any:
        values = truly(handle, fields)
        for value in values:
            if value.fieldId in (185, 186) and pynvml.nvmlDeviceGetIndex(handle) == 1:
                value.value.uiVal = absurd_mw
        return values

    gpus = make_gpus([H100] * 2, speed=0.0)
    async with open_node(gpus) as node:
        assert (await node.read()).power_w == near(wall_w(140))
        monkeypatch.setattr("pynvml.nvmlDeviceGetFieldValues", told)
        reading = await node.read()
    assert (reading.power_w, reading.limit_w) == (None, near(wall_w(1_400)))


# ---- XID ------------------------------------------------------------------------------------------


async def test_an_xid_is_a_fault_for_ten_minutes_and_a_program_s_own_is_none(
    make_gpus: MakeGpus, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_gpus([H100] * 2)
    async with open_node(gpus) as node:
        await node.read()
        gpus.xid(1, 31)  # an illegal memory access of a program
        await node.read()
        assert (await node.read()).fault is None
        gpus.xid(1, 94)
        gpus.xid(1, 43)
        reading = await back_to(node, RunState.FAULT)
        assert reading.fault == "GPU 1: its driver told of XID 94"
        monkeypatch.setattr(slot, "XID_COUNTS_FOR_S", 0.0)
        assert (await node.read()).fault is None


# ---- an old driver, or none -----------------------------------------------------------------------


@pytest.mark.parametrize("highest_field", [184, 191, 250])
async def test_an_old_driver_is_driven_by_what_it_has(
    make_gpus: MakeGpus, open_node: OpenNode, highest_field: int
) -> None:
    """Before 530 there are no field values of power; before 535 two of the symbols are missing."""
    gpus = make_gpus([H100] * 2, speed=0.0, lacking=LACKING_BEFORE_535, highest_field=highest_field)
    busy(gpus)
    async with open_node(gpus) as node:
        assert (await node.operating_points()).lowest.draw_w == near(wall_w(400))
        assert await node.apply(at(wall_w(800))) is Outcome.ACKNOWLEDGED
        gpus.pass_time(10)
        reading = await node.read()
    assert (reading.power_w, reading.limit_w) == (near(wall_w(800)), near(wall_w(800)))
    assert reading.state is RunState.RUNNING


DISPENSABLE = [
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceSetGpuLockedClocks",
    "nvmlDeviceSetPowerManagementLimit_v2",
    "nvmlEventSetCreate",
    "nvmlEventSetWait_v2",
]


@pytest.mark.parametrize("lacking", [DISPENSABLE[:1], DISPENSABLE], ids=["field values", "all that is dispensable"])
async def test_whatever_else_a_driver_lacks_its_gpus_are_limited(
    make_gpus: MakeGpus, open_node: OpenNode, lacking: list[str]
) -> None:
    gpus = make_gpus([H100] * 2, speed=0.0, lacking=lacking)
    busy(gpus)
    async with open_node(gpus) as node:
        assert await node.apply(at(wall_w(800))) is Outcome.ACKNOWLEDGED
        gpus.pass_time(10)
        await node.read()
        reading = await node.read()
    assert (reading.power_w, reading.limit_w, reading.fault) == (near(wall_w(800)), near(wall_w(800)), None)
    assert reading.state is RunState.RUNNING, "what is not proved idle is at work"


async def test_a_driver_that_sets_no_limits_is_watched_only(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100], lacking=[SETTER])
    async with open_node(gpus) as node:
        with pytest.raises(Unsupported, match="takes no power limit: it lacks power limits"):
            await node.operating_points()
        assert (await node.read()).power_w == near(wall_w(70))


async def test_without_a_driver_it_says_so_until_there_is_one(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100])
    gpus.init_fails()
    async with open_node(gpus) as node:
        with pytest.raises(Unreachable, match="no NVIDIA driver is at work on this host"):
            await node.read()
        gpus.init_fails(0)
        assert (await node.read()).power_w == near(wall_w(70))


async def test_a_driver_that_was_updated_under_it_is_opened_anew(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100])
    async with open_node(gpus) as node:
        await node.read()
        gpus.fails(ASKED, 1)  # uninitialised
        async with asyncio.timeout(40):
            while gpus.calls("nvmlInitWithFlags") < 2:  # not while a call is under way in the old one
                with pytest.raises(DriverError, match="opened anew"):
                    await node.read()
        gpus.fails(ASKED, 0)
        assert (await node.read()).power_w == near(wall_w(70))


# ---- the state file -------------------------------------------------------------------------------


async def test_a_disk_that_fails_stops_no_shed_and_is_told_of(
    make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 2)
    (tmp_path / "file").write_text("")
    async with open_node(gpus, state_file=tmp_path / "file" / "state.json") as node:
        assert await node.apply(at(wall_w(600))) is Outcome.ACKNOWLEDGED
        reading = await node.read()
    assert requested_w(gpus) == [300.0] * 2
    assert reading.fault is not None
    assert "the limits found before cannot be kept" in reading.fault


@pytest.mark.parametrize("text", ["{", '{"limits_mw": {"GPU-1": -5}}', "[]", '{"stages": 7}', "\xff", "[" * 100_000])
async def test_a_damaged_state_file_is_put_aside(
    make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path, text: str
) -> None:
    """Whose the limits in force are is not known then: the maker's defaults are what may be gone back to."""
    path = tmp_path / "gpu-state.json"
    path.write_text(text, encoding="latin-1")
    gpus = make_gpus([H100])
    gpus.overwrite(0, 450.0)
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(300)))
    assert '": 700000' in path.read_text()
    assert (tmp_path / "gpu-state.json.damaged").exists()


async def test_a_state_file_that_could_not_be_read_at_first_is_not_overwritten(
    make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = make_gpus([H100])
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(300)))
    remembered = (tmp_path / "gpu-state.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(NodeMemory, "load", failing)
        async with open_node(gpus) as node:
            assert "cannot be read: no disk" in ((await node.read()).fault or "")
            await node.apply(at(wall_w(250)))
            assert "cannot be kept" in ((await node.read()).fault or "")
            patch.undo()
            await node.apply(at(wall_w(260)))
            assert (await node.read()).fault is None
    assert (tmp_path / "gpu-state.json").read_text() == remembered


def failing(memory: NodeMemory) -> None:
    raise OSError("no disk")


async def test_two_daemons_do_not_write_to_the_same_gpus(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100])
    async with open_node(gpus) as first:
        await first.apply(at(wall_w(300)))
        async with open_node(gpus) as second:
            with pytest.raises(Refused, match="another curtaild holds these GPUs"):
                await second.apply(at(wall_w(400)))
            assert (await second.read()).limit_w == near(wall_w(300))
            await first.close()
            assert await second.apply(at(wall_w(400))) is Outcome.ACKNOWLEDGED


async def test_nothing_is_remembered_of_a_point_that_was_refused(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    gpus = make_gpus([H100])
    async with open_node(gpus) as node:
        gpus.deny_permission()
        with pytest.raises(AuthFailed):
            await node.apply(OperatingPoint("limit", wall_w(300), 0.5))
        assert (await node.read()).fault is None, "700 W is no drift from a limit that was never taken"
