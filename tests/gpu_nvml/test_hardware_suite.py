"""The suite for real GPUs, run on emulated ones beside a stand-in for nvidia-smi: it runs, and finds differences."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_nvml import test_hardware as suite
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus
from nvml_stub.library import LACKING_BEFORE_535
from nvml_stub.models import H100, L40S

SMI = """#!{python} -IS
import json, sys
rows = json.load(open("{rows}"))
columns = sys.argv[1].removeprefix("--query-gpu=").split(",")
unknown = [column for column in columns if column not in rows[0]]
if unknown:
    sys.exit('Field "%s" is not a valid field to query.' % unknown[0])
for row in rows:
    print(", ".join(row[column] for column in columns))
"""
OLD = (*suite.DRAWS, suite.CAPPED[0])
READS = (
    suite.test_it_is_who_nvidia_smi_says,
    suite.test_limits_are_those_that_nvidia_smi_prints,
    suite.test_draw_clock_and_temperature_are_near_those_that_nvidia_smi_prints,
    suite.test_what_it_does_is_told_where_nvidia_smi_tells_it,
    suite.test_its_energy_counter_runs_as_fast_as_it_draws,
)


class Smi:
    """What a stand-in for nvidia-smi prints; a test may have it say otherwise."""

    def __init__(self, folder: Path, gpus: StubGpus) -> None:
        self.file = folder / "rows.json"
        self.rows = [self._row(gpus, gpu) for gpu in range(len(gpus.models))]
        program = folder / "nvidia-smi"
        program.write_text(SMI.format(python=sys.executable, rows=self.file))
        program.chmod(0o755)
        self.prints()

    def prints(self, but: Sequence[str] = ()) -> None:
        """All columns but those that it does not have."""
        rows = [{name: text for name, text in row.items() if name not in but} for row in self.rows]
        self.file.write_text(json.dumps(rows))

    def _row(self, gpus: StubGpus, gpu: int) -> dict[str, str]:
        model, draw = gpus.models[gpu], f"{gpus.power_w(gpu):.2f}"
        return {
            "uuid": gpus.uuid(gpu),
            "name": model.name,
            "driver_version": "570.124.06",
            "power.min_limit": f"{model.min_w:.2f}",
            "power.max_limit": f"{model.max_w:.2f}",
            "power.default_limit": f"{model.default_w:.2f}",
            "power.limit": f"{gpus.requested_w(gpu):.2f}",
            "enforced.power.limit": "500.00" if gpu == 0 else f"{gpus.requested_w(gpu):.2f}",
            **dict.fromkeys(("power.draw", *suite.DRAWS), draw),
            "temperature.gpu": f"{28 + 50 * gpus.power_w(gpu) / model.max_w:.0f}",
            "clocks.sm": str(model.max_clock_mhz),
            "clocks.max.sm": str(model.max_clock_mhz),
            "utilization.gpu": "100",
            "mig.mode.current": "[N/A]" if model is L40S else "Disabled",
            "persistence_mode": "Disabled",
            **dict.fromkeys(suite.CAPPED, "Active" if gpu == 0 else "Not Active"),
        }


@pytest.fixture
def host(make_gpus: MakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A host of two kinds of GPU at work, one of which somebody else limits."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(suite, "WATCHED_S", 0.2)

    @contextmanager
    def opened(**how: Any) -> Iterator[Smi]:
        gpus = make_gpus([H100, L40S], **how)
        gpus.demand_w(0, 650.0)
        gpus.demand_w(1, 300.0)
        gpus.drift(0, 500.0)
        gpus.pass_time(60)
        with gpus.here():
            yield Smi(tmp_path, gpus)

    return opened


async def test_the_whole_suite_passes_where_both_say_the_same(host: Callable[..., Any], tmp_path: Path) -> None:
    (folder := tmp_path / "state").mkdir()
    with host():
        told = suite.compared()
        for reads in READS:
            reads(told)
        await suite.test_the_node_reads_them_all_and_changes_none(told, folder)


def test_it_passes_on_an_old_driver_too(host: Callable[..., Any]) -> None:
    with host(lacking=LACKING_BEFORE_535, highest_field=184) as smi:
        smi.prints(but=OLD)
        told = suite.compared()
        assert told[0].power.energy_j is None
        assert told[0].activity.is_capped
        for reads in READS:
            reads(told)


LIES: dict[str, str | None] = {
    "uuid": "GPU-0",
    "name": "NVIDIA H200",
    "mig.mode.current": "Enabled",
    "persistence_mode": "Enabled",
    "power.min_limit": "150.00",
    "power.max_limit": None,
    "power.default_limit": "600.00",
    "power.limit": "699.00",
    "enforced.power.limit": "450.00",
    "power.draw": "120.00",
    "power.draw.average": "120.00",
    "power.draw.instant": "1200.00",
    "temperature.gpu": "20",
    "clocks.sm": "345",
    "utilization.gpu": None,
    suite.CAPPED[0]: "Not Active",
}


def test_each_difference_is_found(host: Callable[..., Any]) -> None:
    with host():
        (told, _) = suite.compared()
    for column, text in LIES.items():
        before, after = (row | {column: text} for row in told.rows)
        lied = replace(told, rows=(before, after))
        assert [reads for reads in READS[:-1] if finds_a_difference(reads, lied)], column


def finds_a_difference(reads: Callable[[list[suite.Compared]], None], gpu: suite.Compared) -> bool:
    try:
        reads([gpu])
    except AssertionError:
        return True
    return False
