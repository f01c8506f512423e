"""The examples under config/hooks, run as the driver runs them, against programs and a server that stand in."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from curtaild_drivers.contract import OutcomeUnknown
from curtaild_drivers.gpu import hooks

HOOKS = Path(__file__).parents[2] / "config" / "hooks"

StandIn = Callable[[str, str], None]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts a program of some name first in the path: it writes down how it was called, then does `script` (sh)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))

    def put(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "$STAND_IN/called"\n{script}\n')
        path.chmod(0o755)

    return put


def called(tmp_path: Path, *names: str) -> list[str]:
    """What was called of these programs, since the last asking."""
    path = tmp_path / "called"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line for line in lines if line.split()[0] in names]


async def run(reason: str, hook: str, *words: str) -> str:
    return await hooks.run([str(HOOKS / hook), *words], hooks.Call("localhost", reason, 2_400.0, deadline_s=30.0))


# ---- Slurm ----------------------------------------------------------------------------------------

SQUEUE = 'case "$*" in *RUNNING*) cat "$STAND_IN/running";; *SUSPENDED*) cat "$STAND_IN/suspended";; esac'
SCONTROL = """
case "$1" in suspend) from=running to=suspended;; resume) from=suspended to=running;; esac
[ "$2" = 13 ] && exit 1
grep -v "^$2$" "$STAND_IN/$from" > "$STAND_IN/rest"; mv "$STAND_IN/rest" "$STAND_IN/$from"; echo "$2" >> "$STAND_IN/$to"
"""


async def test_slurm_jobs_are_suspended_once_and_resumed_once(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("squeue", SQUEUE)
    stand_in("scontrol", SCONTROL)
    (tmp_path / "running").write_text("101\n102\n")
    (tmp_path / "suspended").write_text("")
    await run("shed", "slurm", "--node", "gpu-7")
    assert called(tmp_path, "scontrol") == ["scontrol suspend 101", "scontrol suspend 102"]
    await run("shed", "slurm", "--node", "gpu-7")
    assert called(tmp_path, "scontrol") == []
    await run("restore", "slurm", "--node", "gpu-7")
    assert called(tmp_path, "scontrol") == ["scontrol resume 101", "scontrol resume 102"]


async def test_the_node_is_whom_the_daemon_names(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("squeue", ":")
    stand_in("kubectl", ":")
    for hook in ("slurm", "kubernetes"):
        await hooks.run([str(HOOKS / hook)], hooks.Call("gpu-07.example.org", "shed", 2_400.0, deadline_s=30.0))
    asked, *others = called(tmp_path, "squeue", "kubectl")
    assert "--nodelist=gpu-07 " in asked
    assert "kubectl cordon gpu-07.example.org" in others


async def test_a_slurm_job_that_goes_on_is_told(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("squeue", SQUEUE)
    stand_in("scontrol", SCONTROL)
    (tmp_path / "running").write_text("13\n102\n")
    (tmp_path / "suspended").write_text("")
    with pytest.raises(OutcomeUnknown, match="not suspended: 13"):
        await run("shed", "slurm", "--node", "gpu-7")
    assert (tmp_path / "suspended").read_text() == "102\n", "the others sleep"


# ---- Kubernetes -----------------------------------------------------------------------------------

KUBECTL = """
case "$*" in
  *annotations*) cat "$STAND_IN/mark" 2>/dev/null;;
  *unschedulable*) cat "$STAND_IN/cordoned" 2>/dev/null;;
  annotate*=yes*) printf yes > "$STAND_IN/mark";;
  annotate*-) rm "$STAND_IN/mark";;
  cordon*) printf true > "$STAND_IN/cordoned";;
  uncordon*) rm "$STAND_IN/cordoned";;
  drain*) [ ! -e "$STAND_IN/stuck" ];;
esac
exit $?
"""


async def test_a_kubernetes_node_is_drained_and_let_in_again(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("kubectl", KUBECTL)
    (tmp_path / "mark").write_text("")
    (tmp_path / "cordoned").write_text("")
    await run("shed", "kubernetes", "--node", "gpu-7", "--selector", "app=batch")
    orders = [line for line in called(tmp_path, "kubectl") if " get " not in line]
    assert orders == [
        "kubectl annotate node/gpu-7 curtaild.cordoned=yes --overwrite",
        "kubectl cordon gpu-7",
        "kubectl drain gpu-7 --ignore-daemonsets --delete-emptydir-data --timeout=27s --pod-selector=app=batch",
    ]
    await run("shed", "kubernetes", "--node", "gpu-7")
    assert "kubectl cordon gpu-7" not in called(tmp_path, "kubectl")
    await run("restore", "kubernetes", "--node", "gpu-7")
    assert "kubectl uncordon gpu-7" in called(tmp_path, "kubectl")


async def test_a_node_that_somebody_else_cordoned_stays_cordoned(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("kubectl", KUBECTL)
    (tmp_path / "mark").write_text("")
    (tmp_path / "cordoned").write_text("true")
    await run("shed", "kubernetes", "--node", "gpu-7")
    await run("restore", "kubernetes", "--node", "gpu-7")
    assert "kubectl uncordon gpu-7" not in called(tmp_path, "kubectl")


async def test_a_drain_that_does_not_end_is_told(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("kubectl", KUBECTL)
    for name in ("mark", "cordoned", "stuck"):
        (tmp_path / name).write_text("")
    with pytest.raises(OutcomeUnknown, match=r"kubectl drain gpu-7 .* failed with status 1"):
        await run("shed", "kubernetes", "--node", "gpu-7")


# ---- vLLM -----------------------------------------------------------------------------------------


class SleepyServer(BaseHTTPRequestHandler):
    """As vLLM's development endpoints are."""

    sleeps: ClassVar[bool] = False
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(json.dumps({"is_sleeping": type(self).sleeps}).encode())

    def do_POST(self) -> None:
        type(self).asked.append(self.path)
        type(self).sleeps = self.path.startswith("/sleep")
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


async def test_vllm_sleeps_and_wakes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SleepyServer, "asked", [])
    with HTTPServer(("127.0.0.1", 0), SleepyServer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for reason in ("shed", "shed", "restore", "restore"):
            await run(reason, "vllm", url)
        await asyncio.to_thread(server.shutdown)
    assert SleepyServer.asked == ["/sleep?level=1", "/wake_up"]
    with pytest.raises(OutcomeUnknown, match=rf"{url}: .*refused"):
        await run("shed", "vllm", url)


# ---- cuda-checkpoint ------------------------------------------------------------------------------


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that compute, as far as a process table tells."""
    started = [subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(2)]
    yield started
    for worker in started:
        worker.kill()
        worker.wait()


async def test_cuda_processes_go_off_the_gpus_and_come_back(
    stand_in: StandIn, workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    stand_in("nvidia-smi", 'cat "$STAND_IN/on-gpus"')
    stand_in(
        "cuda-checkpoint",
        'if grep -q "^$3$" "$STAND_IN/on-gpus"; then grep -v "^$3$" "$STAND_IN/on-gpus" > "$STAND_IN/rest"; '
        'mv "$STAND_IN/rest" "$STAND_IN/on-gpus"; else echo "$3" >> "$STAND_IN/on-gpus"; fi',
    )
    state = ["--state", str(tmp_path / "off.json")]
    pids = sorted(str(worker.pid) for worker in workers)
    (tmp_path / "on-gpus").write_text("\n".join(pids) + "\n")
    await run("shed", "cuda-checkpoint", *state)
    assert called(tmp_path, "cuda-checkpoint") == [f"cuda-checkpoint --toggle --pid {pid}" for pid in pids]
    await run("shed", "cuda-checkpoint", *state)
    assert called(tmp_path, "cuda-checkpoint") == [], "they are off already"

    workers[0].kill()
    workers[0].wait()
    left = str(workers[1].pid)
    await run("restore", "cuda-checkpoint", *state)
    assert called(tmp_path, "cuda-checkpoint") == [f"cuda-checkpoint --toggle --pid {left}"]
    await run("restore", "cuda-checkpoint", *state)
    assert called(tmp_path, "cuda-checkpoint") == []


async def test_a_cuda_process_that_cannot_be_seen_is_told_of_and_not_forgotten(
    stand_in: StandIn, tmp_path: Path
) -> None:
    """As in a service that sees nobody else's processes."""
    stand_in("nvidia-smi", "echo 2147483646")
    stand_in("cuda-checkpoint", "exit 0")
    with pytest.raises(OutcomeUnknown, match=r"/proc does not show 2147483646.*not moved: 2147483646"):
        await run("shed", "cuda-checkpoint", "--state", str(tmp_path / "off.json"))
    assert called(tmp_path, "cuda-checkpoint") == []


@pytest.mark.parametrize("hook", sorted(path.name for path in HOOKS.iterdir()))
def test_each_can_be_run_and_explains_itself(hook: str) -> None:
    path = HOOKS / hook
    assert os.access(path, os.X_OK)
    assert "Running it twice does no harm" in " ".join(path.read_text().split())
