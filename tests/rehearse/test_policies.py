"""The bench of policies: every figure is there, and each policy does what it is named for."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from bench.policies.compare import FORESIGHT, OURS, POLICIES, Row, compare
from bench.policies.table import markdown, terminal
from rich.console import Console

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """Three emergency cuts on a site of ten devices."""
    told: list[str] = []
    found = {row.policy: row for row in compare("healthy", "emergency", 10, told.append)}
    assert len(told) == len(POLICIES)
    return found


def test_every_policy_is_judged_and_the_bound_comes_last(rows: dict[str, Row]) -> None:
    assert list(rows) == [*POLICIES, FORESIGHT]
    assert rows[FORESIGHT].value_share == 1.0
    assert all(row.value_share <= 1.001 for row in rows.values() if row.over_wh == 0.0)


def test_ours_keeps_every_limit_and_earns_more_than_who_does_too(rows: dict[str, Row]) -> None:
    ours = rows[OURS]
    assert ours.over_wh == 0.0
    assert ours.slowest_s is not None
    assert ours.slowest_s <= 60.0
    kept = [row for row in rows.values() if row.over_wh == 0.0 and row.policy != FORESIGHT]
    assert all(ours.value_share >= row.value_share for row in kept)


def test_everything_off_moves_every_device_down_and_up(rows: dict[str, Row]) -> None:
    assert rows["all on or off"].actuations == 3 * 2 * 10
    assert rows["all on or off"].over_wh == 0.0


def test_both_tables_hold_every_row(rows: dict[str, Row]) -> None:
    lines = list(markdown(list(rows.values())))
    assert len(lines) == 2 + len(rows)
    assert lines[2].startswith("| emergency, healthy | **curtaild** |")
    console = Console(width=110, file=io.StringIO(), record=True)
    console.print(terminal(list(rows.values())))
    shown = console.export_text()
    assert all(name in shown for name in rows)


def test_a_signal_that_is_not_there_is_named_with_those_that_are() -> None:
    command = [sys.executable, "-m", "bench.policies", "--signals", "stepps"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "no 'stepps'; known: steps, ramps" in done.stderr
