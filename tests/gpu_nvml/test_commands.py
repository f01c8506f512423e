"""`curtaild gpu …` as a person types it, on emulated GPUs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from curtaild.cli.main import app
from curtaild_drivers.gpu.memory import NodeMemory
from gpu_nvml.conftest import OpenNode
from gpu_nvml.test_daemon import site_file
from gpu_nvml.test_node import at, wall_w
from gpu_nvml.test_stages import CLOCK_LOCK
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus
from nvml_stub.models import GH200_MODULE_ONLY, H100


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Type = Callable[..., Done]


@pytest.fixture
def curtaild(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Types a command, in this process: to start it anew takes seconds."""
    monkeypatch.setenv("COLUMNS", "160")

    def typed(gpus: StubGpus, *words: str) -> Done:
        with gpus.here(), pytest.raises(SystemExit) as ended:
            app(words)
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return typed


def test_show_in_json(make_gpus: MakeGpus, curtaild: Type) -> None:
    said = json.loads(curtaild(make_gpus([GH200_MODULE_ONLY]), "gpu", "show", "--json").stdout)
    assert said["driver_version"] == "570.124.06"
    assert said["may_set_limits"] is (os.geteuid() == 0)
    (gpu,) = said["gpus"]
    assert (gpu["facts"]["scope"], gpu["facts"]["least_mw"], gpu["facts"]["most_mw"]) == ("module", 200_000, 1_000_000)
    assert gpu["power"]["enforced_mw"] == 900_000


def test_show_prints_what_the_driver_says(make_gpus: MakeGpus, curtaild: Type) -> None:
    gpus = make_gpus([H100, GH200_MODULE_ONLY], speed=0.0)
    gpus.demand_w(0, 650.0)
    gpus.pass_time(10)
    gpus.drift(0, 500.0)
    gpus.pass_time(10)
    gpus.mig(0)
    gpus.lose(1)
    done = curtaild(gpus, "gpu", "show")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "H100" in line)
    cells = row.split()
    assert (cells[-8:-3], cells[-1]) == (["500", "500", "700", "200–700–700", "100%"], "yes")
    assert "GPU 1: the GPU is lost" in done.stdout
    assert "GPU 0: MIG is on" in done.stdout
    assert "GPU 0: persistence mode is off" in done.stdout
    assert gpus.requested_w(0) == 700.0


def test_eight_gpus_and_their_bounds_fit_into_a_small_window(
    make_gpus: MakeGpus, curtaild: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = curtaild(make_gpus([H100] * 7 + [GH200_MODULE_ONLY]), "gpu", "show").stdout
    assert said.count("200–700–700") == 7
    assert "200–900–1000" in said
    assert "GPU 0, 1, 2, 3, 4, 5, 6, 7: persistence mode is off" in said
    assert "GPU 7: it takes limits for its whole module" in said


@pytest.mark.parametrize("verb", ["show", "restore"])
def test_without_a_driver_it_is_one_line(make_gpus: MakeGpus, curtaild: Type, verb: str) -> None:
    gpus = make_gpus([H100])
    gpus.init_fails()
    state = gpus.path.parent / "gpu-state.json"
    state.write_text('{"limits_mw": {"GPU-1": 700000}}')
    done = curtaild(gpus, "gpu", verb, *(["--state", str(state)] if verb == "restore" else []))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no NVIDIA driver is at work on this host" in done.stderr


async def test_restore_puts_back_what_was_there_before(
    make_gpus: MakeGpus, open_node: OpenNode, curtaild: Type, tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 2)
    gpus.overwrite(1, 650.0)
    async with open_node(gpus, base_w=3_000.0, clock_lock=CLOCK_LOCK) as node:
        points = await node.operating_points()
        await node.apply(at(wall_w(600)))
        await node.apply(points.lowest)
    assert gpus.locked_mhz(0) == CLOCK_LOCK["mhz"]
    done = curtaild(gpus, "gpu", "restore", "--state", str(tmp_path / "gpu-state.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "GPU 0: back at 700 W" in done.stdout
    assert "GPU 1: back at 650 W" in done.stdout
    assert [gpus.requested_w(gpu) for gpu in range(2)] == [700.0, 650.0]
    assert gpus.locked_mhz(0) is None
    again = curtaild(gpus, "gpu", "restore", "--state", str(tmp_path / "gpu-state.json"))
    assert (again.returncode, again.stdout.startswith("nothing is remembered")) == (0, True)


async def test_a_module_s_limit_is_put_back_for_the_module(
    make_gpus: MakeGpus, open_node: OpenNode, curtaild: Type, tmp_path: Path
) -> None:
    gpus = make_gpus([GH200_MODULE_ONLY])
    async with open_node(gpus, base_w=100.0, gpu_factor=1.0) as node:
        await node.apply(at(600.0))
    assert gpus.requested_w(0, module=True) == 500.0
    done = curtaild(gpus, "gpu", "restore", "--state", str(tmp_path / "gpu-state.json"))
    assert (done.returncode, gpus.requested_w(0, module=True)) == (0, 900.0)


async def test_the_site_file_says_where_they_are_remembered(
    make_gpus: MakeGpus, open_node: OpenNode, curtaild: Type, tmp_path: Path
) -> None:
    gpus = make_gpus([H100])
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(300)))
    done = curtaild(gpus, "gpu", "restore", "--config", str(site_file(tmp_path)))
    assert (done.returncode, gpus.requested_w(0)) == (0, 700.0)
    other = curtaild(gpus, "gpu", "restore", "--driver", "amdsmi", "--config", str(site_file(tmp_path)))
    assert other.returncode == 2
    assert 'no group with driver = "amdsmi"' in " ".join(other.stderr.replace("│", " ").split())


async def test_what_cannot_be_put_back_stays_remembered(
    make_gpus: MakeGpus, open_node: OpenNode, curtaild: Type, tmp_path: Path
) -> None:
    gpus = make_gpus([H100] * 2)
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(600)))
    gpus.lose(1)
    done = curtaild(gpus, "gpu", "restore", "--state", str(tmp_path / "gpu-state.json"))
    assert done.returncode == 1
    assert "GPU 0: back at 700 W" in done.stdout
    assert "not back at 700 W: no such GPU answers on this host" in done.stderr
    memory = NodeMemory(tmp_path / "gpu-state.json")
    memory.load()
    assert list(memory.limits_mw.values()) == [700_000]


def shell(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


async def test_restore_wakes_no_work_and_says_what_would(
    make_gpus: MakeGpus, open_node: OpenNode, curtaild: Type, tmp_path: Path
) -> None:
    gpus = make_gpus([H100])
    woken = tmp_path / "woken"
    hook = {"shed": ["/bin/true"], "restore": ["/usr/bin/tee", str(woken)], "draw_w": 1_900.0}
    async with open_node(gpus, suspend=hook) as node:
        await node.apply((await node.operating_points()).lowest)
    site = site_file(
        tmp_path, f'suspend = {{ shed = ["/bin/true"], restore = ["/usr/bin/tee", "{woken}"], draw_w = 1900 }}'
    )
    done = curtaild(gpus, "gpu", "restore", "--config", str(site))
    assert (done.returncode, gpus.requested_w(0), woken.exists()) == (1, 700.0, False)
    (line,) = done.stderr.splitlines()
    said, _, command = line.partition("; to leave it: ")
    assert said == "the node is still in suspend"
    shell(command)
    assert json.loads(woken.read_text())["reason"] == "restore"


async def test_restore_waits_for_the_daemon_to_be_stopped(
    make_gpus: MakeGpus, open_node: OpenNode, curtaild: Type, tmp_path: Path
) -> None:
    gpus = make_gpus([H100])
    async with open_node(gpus) as node:
        await node.apply(at(wall_w(300)))
        done = curtaild(gpus, "gpu", "restore", "--state", str(tmp_path / "gpu-state.json"))
        assert done.returncode == 1
        assert "another curtaild holds these GPUs" in done.stderr
        assert gpus.requested_w(0) == 300.0
