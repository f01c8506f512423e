"""The demo as a person starts it: the very command, a short play, real wires, and nothing left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from curtaild.demo.play import STEPS

COMMAND = (sys.executable, "-c", "from curtaild.cli import main; main()", "demo")
IN_TIME_S = 240.0
PLAY_S = 72
"""A twelfth of it is a step, for a daemon that decides once a second and may have to wait for its turn."""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=IN_TIME_S, check=False)


def test_every_step_ends_within_its_limit(tmp_path: Path) -> None:
    """A short play on a small farm: every step has its row, none is over, and the exit code says so."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        [*COMMAND, "--plain", "--seconds", str(PLAY_S), "--devices", "42"],
        capture_output=True,
        text=True,
        timeout=IN_TIME_S,
        check=False,
        env=environment,
    )
    told = f"{ran.stdout[-6000:]}\n{ran.stderr[-2000:]}"
    assert ran.returncode == 0, told
    results = {
        row["step"]: row for row in (json.loads(line[7:]) for line in ran.stdout.splitlines() if line[:7] == "result ")
    }
    assert list(results) == [step.name for step in STEPS]
    verdicts = {name: row["verdict"] for name, row in results.items()}
    assert verdicts == {step.name: "floor" if step.share == 0 else "kept" for step in STEPS}, told
    for name in ("60 %", "30 %", "0 %", "silence"):
        assert 0 < results[name]["first_command_s"] < results[name]["to_limit_s"], told
    assert results["60 %"]["end_w"] > 0.85 * results["60 %"]["limit_w"], "it shed what it had to, not all it could"
    assert results["back"]["end_w"] > 1.2 * results["silence"]["end_w"], "what the fail-safe shed came back"
    for stage in ("accepted", "follows", "reached", "falls short", "link unlimited → failsafe"):
        assert stage in ran.stdout
    assert ran.stdout.splitlines()[-1] == f"All {len(STEPS)} steps ended within their limits."
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("seconds", ["23.9", "nan"])
def test_a_play_too_short_to_show_anything_is_refused_with_the_reason(seconds: str) -> None:
    ran = _run("--plain", "--seconds", seconds)
    assert ran.returncode == 2
    assert "a play takes 24 to 3600 s" in " ".join(ran.stderr.replace("│", " ").split())


# ---- an early end ----------------------------------------------------------------------------------


@pytest.fixture
def playing(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose daemon already follows the grid, its folder under `tmp_path`."""
    demo = subprocess.Popen(
        [*COMMAND, "--plain", "--devices", "14"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert demo.stdout is not None
        said: list[str] = []
        for line in demo.stdout:
            said.append(line)
            if "link limited" in line:
                break
        else:
            pytest.fail("the demo ended before its daemon followed the grid:\n" + "".join(said[-20:]))
        yield demo
    finally:
        demo.kill()
        demo.wait()
        if demo.stdout is not None:
            demo.stdout.close()


def _children(parent: int) -> set[int]:
    """The processes that `parent` started, by /proc."""
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def _await_end(children: set[int]) -> None:
    """A pidfd becomes readable when its process ends; of one that is gone already there is none."""
    for child in children:
        try:
            descriptor = os.pidfd_open(child)
        except ProcessLookupError:
            continue
        try:
            readable, _, _ = select.select([descriptor], [], [], IN_TIME_S)
            assert readable, f"child {child} outlived the demo"
        finally:
            os.close(descriptor)


def test_ctrl_c_ends_everything_in_order(playing: subprocess.Popen[str], tmp_path: Path) -> None:
    children = _children(playing.pid)
    assert len(children) == 3, "farm, broker and daemon"
    playing.send_signal(signal.SIGINT)
    said, _ = playing.communicate(timeout=IN_TIME_S)
    assert playing.returncode == 130
    assert said.splitlines()[-1] == "interrupted; farm, broker and daemon have ended"
    assert "Traceback" not in said
    _await_end(children)
    assert not list(tmp_path.iterdir())


def test_children_die_with_a_demo_that_is_killed(playing: subprocess.Popen[str]) -> None:
    children = _children(playing.pid)
    playing.kill()
    _await_end(children)


def test_a_demo_whose_daemon_dies_fails_and_says_so(playing: subprocess.Popen[str]) -> None:
    daemon = max(_children(playing.pid))
    os.kill(daemon, signal.SIGKILL)
    said, _ = playing.communicate(timeout=IN_TIME_S)
    assert playing.returncode == 1
    assert "the demo failed: the daemon ended with exit code -9" in said
