"""The solver's bound: no dispatch earns more, and its programs are right where a person can reckon them."""

from __future__ import annotations

from pathlib import Path

import pytest

from curtaild.rehearse import optimum
from curtaild.rehearse.optimum import WORTH_KEPT, Optimum
from curtaild.rehearse.play import Order, Play
from curtaild.rehearse.run import rehearse
from curtaild.rehearse.solver import Program
from curtaild.rehearse.summary import Summary, summarise
from curtaild.rehearse.troubles import Troubles
from curtaild.rehearse.ways import find_ways
from curtaild_drivers.contract import FeederId
from rehearse.sites import small_site


def test_a_program_is_solved() -> None:
    program = Program()
    knapsack = program.row(upper=5.0)
    gains = [program.column(gain, {knapsack: weight}, is_integer=True) for gain, weight in ((4, 3), (3, 2), (3, 3))]
    solved = program.maximise()
    assert solved is not None
    assert solved.bound == pytest.approx(7.0)
    assert [round(solved.values[column]) for column in gains] == [1, 1, 0]
    program.require(6.0)  # from here on, as few as will earn 6
    for column in gains:
        program.gain(column, -1.0)
    fewest = program.maximise()
    assert fewest is not None
    assert fewest.bound == pytest.approx(-2.0)
    impossible = Program()
    impossible.column(1.0, {impossible.row(lower=2.0): 1.0})
    assert impossible.maximise() is None


def test_a_program_in_parts_bounds_the_whole_one_and_follows_its_limits() -> None:
    def bounds(in_parts: bool) -> list[float]:
        program = Program(in_parts)
        knapsack = program.row(upper=0.0)
        for gain, weight in ((4, 3), (3, 2), (3, 3)):
            program.column(gain, {knapsack: weight}, is_integer=True)
        found = []
        for upper in (0.0, 4.0, 5.0, 3.0, 8.0):
            program.limit(knapsack, upper)
            solved = program.maximise()
            assert solved is not None
            found.append(round(solved.bound, 3))
        return found

    assert bounds(in_parts=False) == [0.0, 4.0, 7.0, 4.0, 10.0]
    assert bounds(in_parts=True) == [0.0, 5.667, 7.0, 4.333, 10.0]


def test_of_many_devices_a_few_may_be_run_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(20.0, small_site(tmp_path).capacity.at(0.5))

    def judged() -> Summary:
        found = rehearse(small_site(tmp_path), Play("cut", "a cut", (order,), 60.0), Troubles(), seed=1)
        return summarise(found, solve=True)

    whole = judged()
    monkeypatch.setattr(optimum, "MANY", 1)
    in_parts = judged()
    assert whole.best is not None
    assert in_parts.best is not None
    assert whole.best * (1 - 1e-4) <= in_parts.best <= 1.02 * whole.best
    assert whole.least is not None
    assert in_parts.least is not None
    assert 0 < in_parts.least <= whole.least + 3


def test_ways_are_what_the_plant_really_does(tmp_path: Path) -> None:
    emulated = small_site(tmp_path)
    ways = find_ways(emulated)
    for device, found in ways.items():
        highest, lowest = found[0], found[-1]
        assert highest.draw_w == pytest.approx(emulated.plant.true_power_w(device))
        assert lowest.draw_w == emulated.models[device].operating_points().lowest.draw_w
        assert lowest.earns_per_h == 0.0
        assert [way.draw_w for way in found] == sorted((way.draw_w for way in found), reverse=True)
    luxos, whatsminer = (next(found for name, found in ways.items() if name.startswith(kind)) for kind in ("lu", "wh"))
    assert len({way.range for way in luxos}) == len(luxos)
    assert {way.range for way in whatsminer} == {0, 1}


def test_the_best_rises_with_the_limit_and_a_small_feeder_binds(tmp_path: Path) -> None:
    emulated = small_site(tmp_path)
    foreseen = Optimum(emulated)
    site, row = emulated.tree.root, FeederId("row-1")
    at = emulated.capacity.at
    earned = [foreseen.per_h(((row, 60_000.0), (site, at(share)))) for share in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert earned == sorted(earned)
    assert earned[0] == pytest.approx(0.0, abs=1e-6)
    everything = sum(found[0].earns_per_h for found in find_ways(small_site(tmp_path)).values())
    assert earned[-1] == pytest.approx(everything, rel=1e-3)
    assert foreseen.per_h(((row, 10_000.0), (site, at(1.0)))) < 0.7 * everything


def test_no_rehearsal_earns_more_than_the_best(tmp_path: Path) -> None:
    emulated = small_site(tmp_path)
    order = Order(20.0, emulated.capacity.at(0.5))
    found = summarise(rehearse(emulated, Play("cut", "a cut", (order,), 200.0), Troubles(), seed=1), solve=True)
    assert found.value_share is not None
    assert 0.7 < found.value_share <= 1.001
    assert found.least is not None
    assert 1 <= found.least <= found.score.actuations
    assert WORTH_KEPT == 0.99
