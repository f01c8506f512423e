"""docs/control.md says what the core does: its worked example is run on it, and what it quotes is the code's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.rig import MODES, ROW_A, ROW_B, SITE, SLIDER, PaperSite, ladder, spec_of
from curtaild.core import actuation
from curtaild.core.allocation import Allocation
from curtaild.core.device import Device, DeviceSpec
from curtaild.core.events import ActuationChanged, ActuationStage
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.market import step_down
from curtaild.core.policy import Policy
from curtaild.why import shed_order
from curtaild_drivers.contract import OFF, OperatingPoint

PAGE = (Path(__file__).parents[2] / "docs/control.md").read_text()
OLD = ladder((OFF, 0.0, 0.0), ("on", 1_000.0, 20.0))
"""A miner that is on or off, and yields 20 TH/s per kW."""
DEVICES = (
    spec_of("a1", MODES, ROW_A),
    spec_of("a2", MODES, ROW_A),
    spec_of("a3", SLIDER, ROW_A),
    spec_of("b1", MODES, ROW_B, priority=60),
    spec_of("b2", OLD, ROW_B),
)
AUXILIARY_W = 500.0
USUAL = Policy()


def example() -> PaperSite:
    """At rest, released, everything at its highest. `a2` has slept for two hours of its life, `a1` never."""
    tree = FeederTree(
        (
            FeederSpec(SITE, None, 20_000.0, auxiliary_w=AUXILIARY_W, meter_stale_after_s=10.0),
            FeederSpec(ROW_A, SITE, 12_000.0, meter_stale_after_s=10.0),
            FeederSpec(ROW_B, SITE, 12_000.0, meter_stale_after_s=10.0),
        )
    )
    paper = PaperSite(tree, DEVICES, Policy(restart_jitter_s=0.0), auxiliary_w=AUXILIARY_W)
    paper.tick(paper.states(None))
    paper.run(60)
    paper.device("a2").slept_s = 7_200.0
    assert not paper.commands
    return paper


def scene(paper: PaperSite, seconds: int, *said: Allocation) -> str:
    """What the grid says, and every command of the next seconds with its reason, as the page has them."""
    return "\n".join(_rows(paper, seconds, *said))


def _rows(paper: PaperSite, seconds: int, *said: Allocation) -> Iterator[str]:
    began, known = paper.now + 1.0, len(paper.events)
    paper.tick(*said)
    paper.run(seconds)
    for event in paper.events[known:]:
        if isinstance(event, ActuationChanged) and event.stage is ActuationStage.ISSUED:
            assert event.before is not None
            yield (
                f"| {event.at - began:.0f} s | {event.device} | {_point(event.before)} → {_point(event.target)} "
                f"| {event.rule} |"
            )


def _point(point: OperatingPoint) -> str:
    return f"{point.key}, {point.draw_w:,.0f} W"


def device_row(spec: DeviceSpec) -> str:
    assert spec.points is not None
    points = " · ".join(
        f"{'up to ' if point.divisible else ''}{_point(point)}: {point.rate:g} TH/s" for point in spec.points.points
    )
    device = Device(spec)
    earns, present = [], spec.points.highest
    while (step := step_down(device, present)) is not None:
        earning, present = step
        earns.append(f"{1_000.0 * earning[2]:.1f} to {present.key}")
    return f"| {spec.id} | {spec.feeder} | {spec.priority} | {points} | {', '.join(earns)} |"


def test_the_devices_of_the_example_are_those_that_are_run() -> None:
    assert "\n".join(device_row(spec) for spec in DEVICES) in PAGE


def test_the_order_is_the_core_s() -> None:
    paper = example()
    assert f"order is {', '.join(shed_order(paper.site, paper.now))}." in PAGE


def test_a_limit_that_falls_twice_and_rises() -> None:
    paper = example()
    planned_w = paper.site.tallies[SITE].total_planned_w
    assert f"{planned_w:,.0f} W" in PAGE
    for seconds, limit_w in ((30, 9_000.0), (30, 4_000.0), (130, 8_000.0)):
        told = scene(paper, seconds, paper.states(limit_w))
        assert told
        assert told in PAGE, told
        assert paper.true_w() <= limit_w


def test_a_limit_of_a_row_asks_the_row_alone() -> None:
    told = scene(paper := example(), 30, paper.states(6_100.0, feeder=ROW_A))
    assert told in PAGE, told
    assert "| b" not in told


def test_who_lies_is_replaced() -> None:
    paper = example()
    paper.deaf.add("b2")
    told = scene(paper, 120, paper.states(10_000.0))
    assert told in PAGE, told
    assert paper.true_w() <= 10_000.0


def test_a_window_that_is_announced_is_met_before_it_opens() -> None:
    paper = example()
    told = scene(paper, 125, paper.states(9_000.0, starts_in_s=120.0))
    assert told in PAGE, told


@pytest.mark.parametrize(
    "quoted",
    [
        f"{100 * USUAL.reading_error_fraction:g} % of its watts",
        f"{100 * USUAL.margin_fraction:g} % of the limit",
        f"{100 * USUAL.dead_band_fraction:g} % of the limit",
        f"{USUAL.poll_slack_s:g} s for a poll",
        f"{USUAL.restart_jitter_s:g} s, drawn from its name",
        f"up to {actuation.LONGEST_BACK_OFF_S / 60:g} minutes",
    ],
)
def test_the_figures_are_the_code_s(quoted: str) -> None:
    assert quoted in PAGE
