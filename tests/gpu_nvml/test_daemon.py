"""The daemon on a GPU host: a site file with its own GPUs as a group, checked and run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curtaild.cli.run import check
from curtaild_config import check_site
from gpu_nvml.test_node import busy, wall_w
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus
from running_site import DaemonProcess, until

SITE_FILE = """
[site]
name = "ai"
[grid]
brokers = ["mqtt://127.0.0.1:9"]
failsafe_limit_w = {failsafe_w}
[[feeder]]
id = "hall"
rating_w = 20_000
[[devices]]
name = "node"
driver = "nvml"
addresses = ["localhost"]
feeder = "hall"
poll_s = 1
stale_after_s = 5
[devices.settings]
base_w = 1_800
gpu_factor = 1.15
state_file = "{folder}/gpu-state.json"
{more}
[telemetry]
listen = "127.0.0.1:0"
[ledger]
path = "{folder}/curtaild.db"
"""


CUT_SHORT = """\
#!/bin/sh
# The first never ends; each later one keeps what it was told. Neither is half there at any moment.
if mkdir "$1/first"; then echo $$ > "$1/writing"; mv "$1/writing" "$1/hanging"; exec sleep 1000; fi
cat > "$1/writing" && mv "$1/writing" "$1/told"
"""


def site_file(folder: Path, more: str = "", failsafe_w: int = 5_000) -> Path:
    path = folder / "site.toml"
    path.write_text(SITE_FILE.format(folder=folder, more=more, failsafe_w=failsafe_w))
    return path


def test_check_takes_a_gpu_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(site_file(tmp_path)) == 0
    assert "node: 1 device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "place", "reason"),
    [
        ("bas_w = 3", "devices[node].settings.bas_w", "base_w"),
        ("curve = [[0.9, 1.0], [0.5, 0.5]]", "devices[node].settings.curve", "must begin with [1.0, 1.0]"),
        ('suspend = { shed = ["a"], draw_w = 1 }', "devices[node].settings.suspend.restore", "is required"),
        ('suspend = { shed = "rm -rf /", restore = ["b"], draw_w = 1 }', "devices[node].settings.suspend.shed", ""),
        (
            "clock_lock = { mhz = 345, draw_w = 900, rate = 0.1 }\n"
            'suspend = { shed = ["a"], restore = ["b"], draw_w = 1_000 }',
            "devices[node].settings",
            "suspend.draw_w (1000) must be below clock_lock.draw_w (900)",
        ),
        ("least_gpu_w = 500\nmost_gpu_w = 400", "devices[node].settings", "least_gpu_w is above most_gpu_w"),
    ],
)
def test_check_says_what_is_wrong_with_its_settings(tmp_path: Path, more: str, place: str, reason: str) -> None:
    _, problems = check_site(site_file(tmp_path, more), {})
    assert any(place in str(problem) and reason in str(problem) for problem in problems), problems


@pytest.fixture
def gpus(make_gpus: MakeGpus) -> StubGpus:
    """Eight H100, all of them busy."""
    gpus = make_gpus(speed=1.0)
    busy(gpus)
    return gpus


OpenDaemon = Callable[[Path], DaemonProcess]


@pytest.fixture
def open_daemon(gpus: StubGpus, tmp_path: Path) -> Iterator[OpenDaemon]:
    """The daemon of `gpus` on a site file, to be started."""
    opened: list[DaemonProcess] = []

    def on(site_file: Path) -> DaemonProcess:
        opened.append(DaemonProcess(site_file, tmp_path / "log", gpus.environment))
        return opened[-1]

    yield on
    for daemon in opened:
        daemon.kill()


def test_check_warns_of_hooks_that_would_fail_when_they_are_needed(tmp_path: Path) -> None:
    anybodys = tmp_path / "hook"
    anybodys.write_text("#!/bin/sh\n")
    anybodys.chmod(0o777)
    stage = f'suspend = {{ shed = ["/nowhere/sleep", "now"], restore = ["{anybodys}"], draw_w = 2000 }}'
    _, problems = check_site(site_file(tmp_path, stage), {})
    told = {problem.key_path: problem.reason for problem in problems if problem.key_path.startswith("devices")}
    assert told == {
        "devices[node].settings.suspend.shed": "no program here that can be run",
        "devices[node].settings.suspend.restore": "every user of this host may change what it does",
    }


async def test_it_holds_its_own_gpus_under_the_failsafe_limit_and_leaves_them_there(
    gpus: StubGpus, open_daemon: OpenDaemon, tmp_path: Path
) -> None:
    daemon = open_daemon(site_file(tmp_path))
    await daemon.start()

    def drawn_w() -> float:
        return wall_w(sum(gpus.power_w(gpu) for gpu in range(8)))

    assert drawn_w() > 8_000
    await until("the node is under the fail-safe limit", lambda: drawn_w() <= 5_000, within_s=120)
    gpus.lose(3)
    lost = "WARNING node/localhost: says of itself: GPU 3: the GPU is lost"
    await until("the lost GPU is told of", lambda: lost in daemon.log)
    assert await daemon.stop() == 0, daemon.log
    assert all(200 < gpus.requested_w(gpu) < 350 for gpu in range(8)), "and not back at 700"
    found = json.loads((tmp_path / "gpu-state.json").read_text())
    assert list(found["limits_mw"].values()) == [700_000] * 8


async def test_killed_in_the_middle_of_a_hook_it_runs_it_again(
    gpus: StubGpus, open_daemon: OpenDaemon, tmp_path: Path
) -> None:
    """The hook outlives the daemon until systemd ends what is left of the unit, as is done here."""
    hook, hanging, told = tmp_path / "hook", tmp_path / "hanging", tmp_path / "told"
    hook.write_text(CUT_SHORT)
    hook.chmod(0o755)
    run = f'["{hook}", "{tmp_path}"]'
    stage = f"suspend = {{ shed = {run}, restore = {run}, draw_w = 2_500, timeout_s = 50 }}"
    daemon = open_daemon(site_file(tmp_path, stage, failsafe_w=3_000))
    await daemon.start()
    await until("the hook is at work", hanging.exists)
    daemon.kill()
    os.killpg(int(hanging.read_text()), signal.SIGKILL)
    assert json.loads((tmp_path / "gpu-state.json").read_text())["stages"] == ["suspend"], "it may have been entered"
    assert {gpus.requested_w(gpu) for gpu in range(8)} == {200.0}, "limits go before hooks"
    assert not told.exists()

    await daemon.start()
    await until("the hook is run again", told.exists)
    assert json.loads(told.read_text())["reason"] == "shed"
    await until("the daemon has heard of its end", lambda: daemon.lines("hook", "(shed of ", "took"))
    assert await daemon.stop() == 0, daemon.log
