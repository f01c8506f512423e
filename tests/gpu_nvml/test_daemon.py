"""The daemon on a GPU host: a site file with its own GPUs as a group, checked and run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from curtaild.cli.run import check
from curtaild_config import check_site
from gpu_nvml.test_node import busy, wall_w
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus
from running_site import until

SITE_FILE = """
[site]
name = "ai"
[grid]
brokers = ["mqtt://127.0.0.1:9"]
failsafe_limit_w = 5_000
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


def site_file(folder: Path, more: str = "") -> Path:
    path = folder / "site.toml"
    path.write_text(SITE_FILE.format(folder=folder, more=more))
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
def daemon(make_gpus: MakeGpus, tmp_path: Path) -> Iterator[tuple[StubGpus, subprocess.Popen[bytes]]]:
    gpus = make_gpus(speed=1.0)
    busy(gpus)
    command = [
        sys.executable,
        "-c",
        "from curtaild.cli import main; main()",
        "run",
        "--config",
        str(site_file(tmp_path)),
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **gpus.environment})
    yield gpus, process
    process.kill()
    process.wait()


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
    daemon: tuple[StubGpus, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    gpus, process = daemon

    def drawn_w() -> float:
        return wall_w(sum(gpus.power_w(gpu) for gpu in range(8)))

    assert drawn_w() > 8_000
    await until("the node is under the fail-safe limit", lambda: drawn_w() <= 5_000, within_s=120)
    gpus.lose(3)
    lost = "WARNING node/localhost: says of itself: GPU 3: the GPU is lost"
    await until("the lost GPU is told of", lambda: lost in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert all(200 < gpus.requested_w(gpu) < 350 for gpu in range(8)), "and not back at 700"
    found = json.loads((tmp_path / "gpu-state.json").read_text())
    assert list(found["limits_mw"].values()) == [700_000] * 8
