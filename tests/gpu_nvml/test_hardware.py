"""This host's own NVIDIA GPUs, read and compared with what nvidia-smi prints. Nothing is written.

`pytest -m gpu_hardware`; left out of every other run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from curtaild_drivers.contract import DriverError, RunState
from curtaild_drivers.gpu.card import Milliwatts
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.nvml import NvmlHost
from curtaild_drivers.gpu.settings import NvmlSettings
from curtaild_drivers.gpu.upkeep import Seen, look

pytestmark = pytest.mark.gpu_hardware

COLUMNS = (
    "uuid",
    "name",
    "power.min_limit",
    "power.max_limit",
    "power.default_limit",
    "power.limit",
    "enforced.power.limit",
    "power.draw",
    "temperature.gpu",
    "persistence_mode",
)


def nvidia_smi() -> list[dict[str, str]]:
    """One row per GPU; what it does not know reads [N/A]."""
    command = ["nvidia-smi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv,noheader,nounits"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [dict(zip(COLUMNS, line.split(", "), strict=True)) for line in printed.splitlines()]


@pytest.fixture(scope="module")
def gpus() -> list[Seen]:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("needs real hardware: there is no nvidia-smi here")
    try:
        return look(NvmlHost())[1]
    except DriverError as error:
        pytest.skip(f"needs real hardware: {error}")


def watts(milliwatts: Milliwatts | None) -> str:
    """As nvidia-smi prints them."""
    return f"{milliwatts / 1000:.2f}" if milliwatts is not None else "[N/A]"


def test_limits_are_those_that_nvidia_smi_prints(gpus: list[Seen]) -> None:
    rows = nvidia_smi()
    assert len(rows) == len(gpus)
    for seen, row in zip(gpus, rows, strict=True):
        facts, power = seen.facts, seen.power
        assert facts is not None, seen.error
        assert power is not None, seen.error
        assert (facts.uuid, facts.model) == (row["uuid"], row["name"])
        if facts.scope == "gpu":
            said = [watts(mw) for mw in (facts.least_mw, facts.most_mw, facts.default_mw)]
            assert said == [row[f"power.{name}_limit"] for name in ("min", "max", "default")]
            assert watts(power.requested_mw) == row["power.limit"]
            assert watts(power.enforced_mw) == row["enforced.power.limit"]
        assert facts.is_persistent is (row["persistence_mode"] == "Enabled")


def test_draw_and_temperature_are_near_those_that_nvidia_smi_prints(gpus: list[Seen]) -> None:
    for seen, row in zip(look(NvmlHost())[1], nvidia_smi(), strict=True):
        assert seen.power is not None
        assert seen.activity is not None
        if row["power.draw"] != "[N/A]":
            assert seen.power.power_w == pytest.approx(float(row["power.draw"]), rel=0.3, abs=30), "work comes and goes"
        if row["temperature.gpu"] != "[N/A]":
            assert seen.activity.temperature_c == pytest.approx(float(row["temperature.gpu"]), abs=5)
        assert seen.activity.is_capped is not None


async def test_the_node_reads_them_all_and_changes_none(gpus: list[Seen], tmp_path: Path) -> None:
    before = [(row["power.limit"], row["enforced.power.limit"]) for row in nvidia_smi()]
    node = GpuNode("localhost", NvmlSettings(state_file=tmp_path / "gpu-state.json"), NvmlHost())
    identity, reading = await node.identify(), await node.read()
    if all(seen.facts is not None and seen.facts.takes_limit for seen in gpus):
        points = await node.operating_points()
        assert points.highest.rate == 1.0
        assert identity.rated_w is not None
        assert points.highest.draw_w <= identity.rated_w + 1
    await node.close()
    assert identity.model.startswith(f"{len(gpus)} × ")
    assert reading.power_w is not None
    assert reading.state in (RunState.RUNNING, RunState.IDLE)
    assert [(row["power.limit"], row["enforced.power.limit"]) for row in nvidia_smi()] == before
    assert os.listdir(tmp_path) == [], "and writes nothing down"
