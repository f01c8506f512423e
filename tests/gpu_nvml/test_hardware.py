"""This host's own NVIDIA GPUs, read and compared with what nvidia-smi prints. Nothing is written, and nothing can be.

`pytest -m gpu_hardware`; left out of every other run. nvidia-smi is asked before and after the driver is read, because
work comes and goes: what moves must lie near one of its two answers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from curtaild_drivers.contract import DriverError, RunState
from curtaild_drivers.gpu.card import CardActivity, CardFacts, CardPower, Milliwatts
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.nvml import NvmlHost
from curtaild_drivers.gpu.nvml_card import NvmlCard
from curtaild_drivers.gpu.settings import NvmlSettings
from curtaild_drivers.gpu.upkeep import Seen, look

pytestmark = pytest.mark.gpu_hardware

Row = dict[str, str | None]

COLUMNS = (
    "uuid",
    "name",
    "driver_version",
    "power.min_limit",
    "power.max_limit",
    "power.default_limit",
    "power.limit",
    "enforced.power.limit",
    "power.draw",
    "temperature.gpu",
    "clocks.sm",
    "clocks.max.sm",
    "utilization.gpu",
    "mig.mode.current",
    "persistence_mode",
)
DRAWS = ("power.draw.average", "power.draw.instant")
"""Told from driver 525 or so on; with what older ones do not know, nvidia-smi answers nothing at all."""
CAPPED = ("clocks_event_reasons.sw_power_cap", "clocks_throttle_reasons.sw_power_cap")
"""The same, after and before driver 535."""
WATCHED_S = 3.0


def nvidia_smi(*columns: str) -> list[Row]:
    """One row per GPU, `None` for what it does not know. Raises `CalledProcessError` for a column that it has not."""
    command = ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    lines = [line.split(", ") for line in printed.splitlines()]
    return [dict(zip(columns, map(_known, line), strict=True)) for line in lines]


def _known(text: str) -> str | None:
    """[N/A], [Not Supported], [Unknown Error] … by its version."""
    return None if text.startswith("[") or text == "N/A" else text


def all_of_nvidia_smi() -> list[Row]:
    rows = nvidia_smi(*COLUMNS)
    for optional in (*DRAWS, *CAPPED):
        try:
            told = nvidia_smi(optional)
        except subprocess.CalledProcessError:
            continue
        rows = [row | more for row, more in zip(rows, told, strict=True)]
    return rows


@dataclass(frozen=True, slots=True)
class Compared:
    """One GPU by our word, and by nvidia-smi's before and after."""

    facts: CardFacts
    power: CardPower
    activity: CardActivity
    rows: tuple[Row, Row]

    def are(self, column: str) -> set[str | None]:
        """Its two answers."""
        return {row.get(column) for row in self.rows}

    def is_near(self, said: float | None, column: str, rel: float, abs: float) -> bool:
        """Whether this lies near, or between, its two answers; as unknown as they are."""
        told = [float(text) for text in self.are(column) if text is not None]
        if not told:
            return True  # not asked, or not told: ours may know more, as older versions print less
        return said is not None and min(told) * (1 - rel) - abs <= said <= max(told) * (1 + rel) + abs


@pytest.fixture(autouse=True)
def writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*what: object) -> None:
        raise AssertionError(f"the suite reads only, and would have written {what}")

    for write in ("set_limit", "lock_clocks", "release_clocks"):
        monkeypatch.setattr(NvmlCard, write, refused)


@pytest.fixture(scope="module")
def gpus() -> list[Compared]:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("needs real hardware: there is no nvidia-smi here")
    try:
        look(NvmlHost())
    except DriverError as error:
        pytest.skip(f"needs real hardware: {error}")
    return compared()


def compared() -> list[Compared]:
    before = all_of_nvidia_smi()
    version, seen = look(NvmlHost())
    after = all_of_nvidia_smi()
    assert {row["driver_version"] for row in before} == {version}
    assert len(before) == len(seen) == len(after)
    return [_told(gpu, rows) for gpu, *rows in zip(seen, before, after, strict=True)]


def _told(seen: Seen, rows: list[Row]) -> Compared:
    assert seen.facts is not None, seen.error
    assert seen.power is not None, seen.error
    assert seen.activity is not None, seen.error
    return Compared(seen.facts, seen.power, seen.activity, (rows[0], rows[1]))


def watts(milliwatts: Milliwatts | None) -> str | None:
    """As nvidia-smi prints them."""
    return f"{milliwatts / 1000:.2f}" if milliwatts is not None else None


def test_it_is_who_nvidia_smi_says(gpus: list[Compared]) -> None:
    for gpu in gpus:
        assert gpu.are("uuid") == {gpu.facts.uuid}
        assert gpu.are("name") == {gpu.facts.model}
        assert gpu.are("persistence_mode") == {mode(gpu.facts.is_persistent)}
        assert (gpu.are("mig.mode.current") == {"Enabled"}) == gpu.facts.is_mig


def mode(is_on: bool | None) -> str | None:
    return {True: "Enabled", False: "Disabled", None: None}[is_on]


def test_limits_are_those_that_nvidia_smi_prints(gpus: list[Compared]) -> None:
    for gpu in (gpu for gpu in gpus if gpu.facts.scope == "gpu"):
        facts, power = gpu.facts, gpu.power
        if facts.least_mw is None:
            assert None in gpu.are("power.min_limit") | gpu.are("power.max_limit"), "it tells bounds that we do not see"
        else:
            assert gpu.are("power.min_limit") == {watts(facts.least_mw)}
            assert gpu.are("power.max_limit") == {watts(facts.most_mw)}
            assert gpu.are("power.default_limit") == {watts(facts.default_mw)}
        assert watts(power.requested_mw) in gpu.are("power.limit")
        assert watts(power.enforced_mw) in gpu.are("enforced.power.limit")


def test_draw_clock_and_temperature_are_near_those_that_nvidia_smi_prints(gpus: list[Compared]) -> None:
    for gpu in gpus:
        power, activity = gpu.power, gpu.activity
        if gpu.facts.scope == "gpu":
            assert gpu.is_near(power.power_w, "power.draw", rel=0.3, abs=30), (power, gpu.rows)
            assert gpu.is_near(power.average_w, "power.draw.average", rel=0.3, abs=30), (power, gpu.rows)
            assert gpu.is_near(power.instant_w, "power.draw.instant", rel=0.5, abs=50), (power, gpu.rows)
        assert gpu.is_near(activity.temperature_c, "temperature.gpu", rel=0.0, abs=5), (activity, gpu.rows)
        highest = max(float(mhz or 0) for mhz in gpu.are("clocks.max.sm"))
        if highest:
            clock_mhz = activity.clock_fraction * highest if activity.clock_fraction is not None else None
            assert gpu.is_near(clock_mhz, "clocks.sm", rel=0.3, abs=300), (activity, gpu.rows)


def test_what_it_does_is_told_where_nvidia_smi_tells_it(gpus: list[Compared]) -> None:
    for gpu in gpus:
        busy, capped = gpu.activity.utilisation, gpu.activity.is_capped
        assert (busy is None) == (gpu.are("utilization.gpu") == {None}), gpu.rows
        assert busy is None or 0.0 <= busy <= 1.0
        said = next((gpu.are(column) for column in CAPPED if gpu.are(column) != {None}), {None})
        if len(said) == 1 and said != {None}:  # it did not change meanwhile
            assert said == {"Active" if capped else "Not Active"}


def test_its_energy_counter_runs_as_fast_as_it_draws(gpus: list[Compared]) -> None:
    for gpu in (gpu for gpu in gpus if gpu.power.energy_j is not None and gpu.power.power_w is not None):
        first = last = counted(gpu.facts.index)
        draws = [first.power_w]
        while last.asked_at < first.answered_at + WATCHED_S:
            last = counted(gpu.facts.index)
            draws.append(last.power_w)
        drawn_j = last.energy_j - first.energy_j
        least_w = drawn_j / (last.answered_at - first.asked_at)
        most_w = drawn_j / (last.asked_at - first.answered_at)  # it told it at some moment in between
        assert least_w <= 1.5 * max(draws) + 30, (least_w, draws)
        assert most_w >= 0.5 * min(draws) - 30, (most_w, draws)


@dataclass(frozen=True, slots=True)
class Counted:
    """A GPU's energy counter and draw, asked and answered at these moments (monotonic s)."""

    energy_j: float
    power_w: float
    asked_at: float
    answered_at: float


def counted(index: int) -> Counted:
    asked_at = time.monotonic()
    power = look(NvmlHost())[1][index].power
    answered_at = time.monotonic()
    assert power is not None
    assert power.energy_j is not None
    assert power.power_w is not None
    return Counted(power.energy_j, power.power_w, asked_at, answered_at)


async def test_the_node_reads_them_all_and_changes_none(gpus: list[Compared], tmp_path: Path) -> None:
    limits = "power.limit", "enforced.power.limit"
    before = nvidia_smi(*limits)
    node = GpuNode("localhost", NvmlSettings(state_file=tmp_path / "gpu-state.json"), NvmlHost())
    try:
        identity, reading = await node.identify(), await node.read()
        if all(gpu.facts.takes_limit for gpu in gpus):
            points = await node.operating_points()
            assert points.highest.rate == 1.0
            assert identity.rated_w is not None
            assert points.highest.draw_w <= identity.rated_w + 1
    finally:
        await node.close()
    assert identity.model.startswith(f"{len(gpus)} × ")
    assert reading.power_w is not None
    assert reading.state in (RunState.RUNNING, RunState.IDLE), reading.fault
    assert nvidia_smi(*limits) == before
    assert os.listdir(tmp_path) == [], "and writes nothing down"
