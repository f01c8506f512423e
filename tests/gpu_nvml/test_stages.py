"""Below the least limit: clocks held down, the site's own programs. In, out again, and after a crash in between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from curtaild.cli.gpu import CAP_SYS_ADMIN
from curtaild_drivers.contract import OFF, OperatingPoint, Outcome, OutcomeUnknown, Refused, RunState, Unsupported
from curtaild_drivers.gpu import hooks
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.reading import CLOCKS, SUSPEND
from gpu_nvml.conftest import OpenNode
from gpu_nvml.test_node import at, busy, near, wall_w
from loop_clock import comes_true, cut_short
from nvml_stub.fixtures import MakeGpus
from nvml_stub.models import H100

CLOCK_LOCK = {"mhz": 345, "draw_w": 2_200.0, "rate": 0.1}
WRITES_DOWN = "import json, sys; open(sys.argv[1], 'a').write(sys.argv[2] + ' ' + sys.stdin.read())"


def hook_stage(folder: Path, name: str, draw_w: float) -> dict[str, Any]:
    """A stage whose programs write down that they were run, and what they were told."""
    argv = [sys.executable, "-c", WRITES_DOWN, str(folder / "told"), name]
    return {"shed": argv, "restore": argv, "draw_w": draw_w}


def told(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    path = folder / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, json.loads(document)) for name, _, document in (line.partition(" ") for line in lines)]


def point(key: str, draw_w: float) -> OperatingPoint:
    return OperatingPoint(key, draw_w, 0.0)


@pytest.fixture
def staged(tmp_path: Path) -> dict[str, Any]:
    """All three stages below four H100."""
    return {
        "clock_lock": CLOCK_LOCK,
        "suspend": hook_stage(tmp_path, "suspend", 2_100.0),
        "off": hook_stage(tmp_path, "off", 150.0),
    }


async def test_the_stages_lie_below_the_limits_in_their_order(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any]
) -> None:
    async with open_node(make_gpus([H100] * 4), **staged) as node:
        points = (await node.operating_points()).points
        assert node.capabilities.stops
    assert [each.key for each in points[:5]] == [OFF, SUSPEND, CLOCKS, LIMIT, LIMIT]
    assert [each.draw_w for each in points[:4]] == [150.0, 2_100.0, 2_200.0, near(wall_w(800))]
    assert [each.rate for each in points[:3]] == [0.0, 0.0, 0.1]
    assert not any(each.divisible for each in points[:4])


async def test_a_stage_that_does_not_lie_below_the_limits_is_told(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    async with open_node(make_gpus([H100]), clock_lock=CLOCK_LOCK) as node:
        with pytest.raises(Unsupported, match=r"clocks\.draw_w \(2200 W\) must be below .* 2030 W"):
            await node.operating_points()


async def test_locked_clocks_bring_down_work_that_no_limit_reaches(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any]
) -> None:
    gpus = make_gpus([H100] * 4, speed=0.0)
    busy(gpus, 190.0)
    async with open_node(gpus, **staged) as node:
        await node.apply(at(wall_w(800)))
        gpus.pass_time(10)
        capped = await node.read()
        assert capped.power_w == near(wall_w(4 * 190)), "a limit of 200 W each does nothing"
        assert await node.apply(point(CLOCKS, 2_200.0)) is Outcome.ACKNOWLEDGED
        assert [gpus.locked_mhz(gpu) for gpu in range(4)] == [345] * 4
        gpus.pass_time(10)
        locked = await node.read()
        assert (locked.point_key, locked.limit_w, locked.state) == (CLOCKS, None, RunState.RUNNING)
        assert locked.power_w is not None
        assert locked.power_w < wall_w(4 * 190) - 100
        assert await node.apply(point(CLOCKS, 2_200.0)) is Outcome.ALREADY_THERE
        await node.apply(at(wall_w(4 * 700)))
        assert [gpus.locked_mhz(gpu) for gpu in range(4)] == [None] * 4
        assert [gpus.requested_w(gpu) for gpu in range(4)] == [700.0] * 4
        assert (await node.read()).point_key == LIMIT


async def test_a_driver_without_clock_locks_leaves_that_stage_out_and_says_so(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    gpus = make_gpus([H100] * 4, lacking=["nvmlDeviceSetGpuLockedClocks"])
    async with open_node(gpus, **staged) as node:
        points = (await node.operating_points()).points
        with pytest.raises(Unsupported, match="clocks is not among"):
            await node.apply(point(CLOCKS, 2_200.0))
        assert await node.apply(at(wall_w(2_800))) is Outcome.ALREADY_THERE
    assert [each.key for each in points[:3]] == [OFF, SUSPEND, LIMIT]
    assert caplog.messages.count("clock_lock has no effect: the driver of these GPUs has no clock locks") == 1


async def test_hooks_are_told_what_is_wanted_and_limits_go_before_them(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 4, speed=0.0)
    async with open_node(gpus, **staged) as node:
        assert await node.apply(point(SUSPEND, 2_100.0)) is Outcome.ACKNOWLEDGED
        assert [gpus.requested_w(gpu) for gpu in range(4)] == [200.0] * 4
        assert told(tmp_path) == [
            ("suspend", {"node": socket.gethostname(), "target_w": 2_100.0, "deadline_s": 30.0, "reason": "shed"})
        ]
        reading = await node.read()
        assert (reading.state, reading.point_key, reading.limit_w) == (RunState.ASLEEP, SUSPEND, None)

        await node.apply(point(OFF, 150.0))
        await node.apply(at(wall_w(2_000)))
        steps = [(name, document["reason"]) for name, document in told(tmp_path)[1:]]
        assert steps == [("off", "shed"), ("off", "restore"), ("suspend", "restore")]
        assert (await node.read()).state is RunState.IDLE
        assert await node.apply(at(wall_w(2_000))) is Outcome.ALREADY_THERE


async def test_what_a_hook_prints_is_told_beside_the_outcome(make_gpus: MakeGpus, open_node: OpenNode) -> None:
    stage = {
        "shed": ["/bin/sh", "-c", "echo 3 jobs; echo suspended"],
        "restore": ["/bin/sh", "-c", ":"],
        "draw_w": 2_100.0,
    }
    async with open_node(make_gpus([H100] * 4), suspend=stage) as node:
        await node.apply(point(SUSPEND, 2_100.0))
        assert node.last_words == "hook /bin/sh (shed), saying: 3 jobs suspended"
        await node.apply(point(SUSPEND, 2_100.0))
        assert node.last_words == "", "no hook was run"
        await node.apply(at(wall_w(2_800)))
        assert node.last_words == "hook /bin/sh (restore), saying nothing"


async def test_a_suspended_node_that_goes_on_working_is_not_called_asleep(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any]
) -> None:
    gpus = make_gpus([H100] * 4, speed=0.0)
    busy(gpus)
    async with open_node(gpus, **staged) as node:
        await node.apply(point(SUSPEND, 2_100.0))
        assert (await node.read()).state is RunState.RUNNING


async def test_after_a_crash_a_stage_is_left_again(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], tmp_path: Path
) -> None:
    """The stage is on the disk before its program is run, so that one that was cut short is undone as well."""
    gpus = make_gpus([H100] * 4)
    cut_short = {**staged["suspend"], "shed": [sys.executable, "-c", "raise SystemExit(3)"]}
    async with open_node(gpus, **{**staged, "suspend": cut_short}) as node:
        with pytest.raises(OutcomeUnknown, match="failed with status 3"):
            await node.apply(point(SUSPEND, 2_100.0))
    async with open_node(gpus, **staged) as node:
        assert (await node.read()).point_key == SUSPEND
        await node.apply(at(wall_w(2_800)))
        assert [(name, document["reason"]) for name, document in told(tmp_path)] == [("suspend", "restore")]


async def test_a_program_that_failed_is_run_again_when_the_stage_is_asked_for_again(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], tmp_path: Path
) -> None:
    fails_once = f"test -e {tmp_path}/once && echo now || {{ touch {tmp_path}/once; exit 1; }}"
    stage = {**staged["suspend"], "shed": ["/bin/sh", "-c", fails_once]}
    async with open_node(make_gpus([H100] * 4), suspend=stage) as node:
        with pytest.raises(OutcomeUnknown, match="failed with status 1"):
            await node.apply(point(SUSPEND, 2_100.0))
        assert await node.apply(point(SUSPEND, 2_100.0)) is Outcome.ACKNOWLEDGED
        assert node.last_words.endswith("saying: now")
        assert await node.apply(point(SUSPEND, 2_100.0)) is Outcome.ALREADY_THERE


async def test_a_program_that_said_yes_is_run_again_where_the_work_goes_on(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 4, speed=0.0)
    busy(gpus)
    async with open_node(gpus, **staged) as node:
        for _ in range(2):
            assert await node.apply(point(SUSPEND, 2_100.0)) is Outcome.ACKNOWLEDGED
    assert [document["reason"] for _, document in told(tmp_path)] == ["shed", "shed"]


async def test_no_two_programs_run_at_once(make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path) -> None:
    runs, said = tmp_path / "runs", tmp_path / "told"
    alone = f"mkdir {runs} && cat >> {said} && rmdir {runs}"
    stage = {"shed": ["/bin/sh", "-c", alone], "restore": ["/bin/sh", "-c", alone], "draw_w": 2_100.0}
    async with open_node(make_gpus([H100] * 4), suspend=stage) as node:
        await asyncio.gather(node.apply(point(SUSPEND, 2_100.0)), node.apply(at(wall_w(2_800))))
    reasons = [json.loads(line)["reason"] for line in said.read_text().splitlines()]
    assert reasons == ["shed", "restore"]


async def test_a_program_that_ended_with_the_daemon_is_run_again_by_the_next(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], tmp_path: Path
) -> None:
    """It knows of the stage, and does not take it for reached."""
    gpus = make_gpus([H100] * 4)
    began = tmp_path / "began"
    never = {**staged["suspend"], "shed": ["/bin/sh", "-c", f"touch {began}; exec sleep 1000"]}
    async with open_node(gpus, **{**staged, "suspend": never}) as killed:
        command = asyncio.create_task(killed.apply(point(SUSPEND, 2_100.0)))
        await comes_true(began.exists)
        command.cancel()
        await asyncio.wait([command])
    async with open_node(gpus, **staged) as node:
        assert (await node.read()).point_key == SUSPEND
        assert await node.apply(point(SUSPEND, 2_100.0)) is Outcome.ACKNOWLEDGED
    assert [(name, document["reason"]) for name, document in told(tmp_path)] == [("suspend", "shed")]


async def test_a_stage_that_the_site_file_no_longer_has_is_not_forgotten(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any]
) -> None:
    gpus = make_gpus([H100] * 4)
    async with open_node(gpus, **staged) as node:
        await node.apply(point(SUSPEND, 2_100.0))
    async with open_node(gpus) as node:
        with pytest.raises(Refused, match="in suspend, which the site file no longer says how to leave"):
            await node.apply(at(wall_w(2_800)))


async def test_a_deeper_stage_is_entered_though_a_gpu_takes_no_limit(
    make_gpus: MakeGpus, open_node: OpenNode, staged: dict[str, Any], tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 4)
    gpus.deny_permission()
    async with open_node(gpus, **staged) as node:
        with pytest.raises(OutcomeUnknown, match="reached suspend, but not its limits: GPU 0: the driver wants root"):
            await node.apply(point(SUSPEND, 2_100.0))
    assert [name for name, _ in told(tmp_path)] == ["suspend"]


# ---- the programs themselves ----------------------------------------------------------------------

CALL = hooks.Call("gpu-7", "shed", 2_000.0, deadline_s=20.0)


async def test_a_program_that_is_not_there_changed_nothing() -> None:
    with pytest.raises(Refused, match="hook /nowhere/sleep could not be started: No such file"):
        await hooks.run(["/nowhere/sleep"], CALL)


async def test_no_shell_reads_the_arguments() -> None:
    assert await hooks.run(["/bin/echo", "$HOME; exit 1", "`id`"], CALL) == "$HOME; exit 1 `id`"


async def test_what_it_says_is_bounded_and_its_end_is_kept() -> None:
    chatty = "import sys; print('x' * 1_000_000); print('the end', file=sys.stderr); sys.exit(1)"
    with pytest.raises(OutcomeUnknown) as failed:
        await hooks.run([sys.executable, "-c", chatty], CALL)
    assert str(failed.value).endswith("x the end")
    assert len(str(failed.value)) < hooks.MOST_OUTPUT_BYTES + 200


async def test_it_need_not_listen(tmp_path: Path) -> None:
    assert await hooks.run(["/bin/sh", "-c", "exec <&-; echo done"], CALL) == "done"


async def test_at_the_deadline_it_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    started = f"echo waiting; sleep 1000 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/child; wait"
    with pytest.raises(OutcomeUnknown, match=r"was killed after 20 s, saying: waiting"):
        await cut_short(hooks.run(["/bin/sh", "-c", started], CALL), (tmp_path / "child").exists)
    child = int((tmp_path / "child").read_text())
    await comes_true(lambda: not is_alive(child))


def is_alive(pid: int) -> bool:
    """A killed process that nobody has waited for yet is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_is_between_systemd_and_the_daemon_is_kept_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("KUBECONFIG", "/etc/kube")
    said = await hooks.run(["/usr/bin/env"], CALL)
    assert "KUBECONFIG=/etc/kube" in said
    assert "NOTIFY_SOCKET" not in said


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root and setpriv")
def test_it_gets_none_of_the_rights_that_the_unit_lends_the_daemon() -> None:
    """As under the unit's drop-in: no root, CAP_SYS_ADMIN in the ambient set."""
    lent = ["setpriv", "--securebits=+noroot", "--inh-caps=-all,+sys_admin", "--ambient-caps=-all,+sys_admin"]
    asked = """
import asyncio
from pathlib import Path
from curtaild_drivers.gpu import hooks
call = hooks.Call("gpu-7", "shed", 2_000.0, deadline_s=50.0)
print(asyncio.run(hooks.run(["/bin/grep", "CapEff", "/proc/self/status"], call)))
print(*[line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")])
"""
    done = subprocess.run([*lent, sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert [int(line.split()[1], 16) for line in done.stdout.splitlines()] == [0, 1 << CAP_SYS_ADMIN]
