"""Who goes down first, who comes back first, and what holds both back."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from core.rig import (
    EXACT,
    MODES,
    ROW_A,
    ROW_B,
    SITE,
    SLIDER,
    SWITCH,
    PaperSite,
    ladder,
    point_of,
    settled,
    spec_of,
    tree_of,
    two_rows,
)
from curtaild.core import dispatch, hull, market
from curtaild.core.device import Device, DrawRatio
from curtaild.core.dispatch import give_back, may_rise
from curtaild.core.events import Condition, DeficitChanged
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.hull import point_at
from curtaild.core.policy import Policy
from curtaild.core.room import AHEAD_S, MILLIWATT, Room
from curtaild.core.shed import shed
from curtaild_drivers.contract import OFF, FeederId, OperatingPoint, OperatingPoints, Seconds, Watts

NOW = 10_000.0
AT_ONCE = Policy(restart_jitter_s=0.0)


def on(name: str, **spec: Any) -> Device:
    """A 1,000 W miner at work."""
    return settled(spec_of(name, SWITCH, **spec), "on")


def off(name: str, **spec: Any) -> Device:
    return settled(spec_of(name, SWITCH, **spec), "off")


def sheds(
    devices: list[Device], over_w: Watts | dict[FeederId, Watts], tree: FeederTree | None = None
) -> tuple[dict[str, tuple[str, Watts]], dict[FeederId, Watts]]:
    """Each device's target as (key, W), in the order of choice, and what every feeder is still over by."""
    tree = tree or tree_of()
    by_feeder = {feeder: [device for device in devices if device.spec.feeder == feeder] for feeder in tree.specs}
    asked = over_w if isinstance(over_w, dict) else {tree.root: over_w}
    room = Room(over_w={feeder: asked.get(feeder, 0.0) for feeder in tree.specs})
    moves, left_w = shed(by_feeder, tree, room, NOW)
    assert not any(move.is_raise for move in moves)
    return {move.device: (move.target.key, move.target.draw_w) for move in moves}, left_w


def raises(
    devices: list[Device],
    free_w: Watts | dict[FeederId, Watts],
    tree: FeederTree | None = None,
    most_starts: int = 99,
    policy: Policy = EXACT,
    limited_at: Seconds = -math.inf,
) -> dict[str, tuple[str, Watts]]:
    tree = tree or tree_of()
    given_w = free_w if isinstance(free_w, dict) else dict.fromkeys(tree.specs, free_w)
    moves = give_back(devices, tree, Room(free_w=given_w), policy, most_starts, NOW, limited_at=limited_at)
    assert all(move.is_raise for move in moves)
    return {move.device: (move.target.key, move.target.draw_w) for move in moves}


# ---- the hull -------------------------------------------------------------------------------------


def test_points_that_a_mixture_of_two_others_beats_are_not_offered() -> None:
    """A Whatsminer's 'low' can earn less per watt than its 'normal': it is then no place to stay at."""
    points = ladder(("off", 30.0, 0.0), ("eco", 1_000.0, 60.0), ("poor", 1_500.0, 65.0), ("normal", 3_000.0, 110.0))
    assert [point.key for point in hull.hull(points)] == ["off", "eco", "normal"]
    assert hull.below(points, 3_000.0) == points.points[1]
    assert hull.above(points, 30.0) == points.points[1]
    assert hull.above(points, 3_000.0) is None
    assert hull.below(points, 30.0) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 200)), min_size=1, max_size=12))
def test_the_hull_lies_on_or_above_every_point_and_bends_one_way(steps: list[tuple[int, int]]) -> None:
    draws = [sum(step for step, _ in steps[: index + 1]) for index in range(len(steps))]
    points = OperatingPoints(tuple(OperatingPoint(str(w), w, rate) for w, (_, rate) in zip(draws, steps, strict=True)))
    kept = hull.hull(points)
    assert (kept[0], kept[-1]) == (points.lowest, points.highest)
    slopes = [(b.rate - a.rate) / (b.draw_w - a.draw_w) for a, b in pairwise(kept)]
    assert slopes == sorted(slopes, reverse=True)
    for point in points.points:
        for a, b in pairwise(kept):
            if a.draw_w <= point.draw_w <= b.draw_w:
                on_edge = a.rate + (b.rate - a.rate) * (point.draw_w - a.draw_w) / (b.draw_w - a.draw_w)
                assert point.rate <= on_edge + 1e-9


@pytest.mark.parametrize(
    ("watts", "key", "draw_w"),
    [(0.0, "off", 30.0), (999.0, "off", 30.0), (1_000.0, "limit", 1_000.0), (1_009.0, "limit", 1_000.0),
     (1_010.0, "limit", 1_010.0), (2_999.0, "limit", 2_990.0), (3_000.0, "limit", 3_000.0), (9e9, "limit", 3_000.0)],
)  # fmt: skip
def test_a_device_holds_the_highest_point_under_the_watts_it_may_have(watts: Watts, key: str, draw_w: Watts) -> None:
    point = point_at(SLIDER, watts)
    assert (point.key, point.draw_w) == (key, draw_w)


# ---- shed: who goes first -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (on("x", price_per_rate_h=0.1), on("y", price_per_rate_h=0.2), "earns less money"),
        (on("x", price_per_rate_h=0.1, priority=99), on("y", price_per_rate_h=0.2, priority=1), "money first"),
        (on("x", price_per_rate_h=9.0, priority=99), on("y", priority=0), "what has no price goes after all that have"),
        (on("x", priority=10), on("y", priority=20), "lower priority"),
        (settled(spec_of("x", ladder(("off", 0, 0), ("on", 1_000, 80))), "on"), on("y"), "more joules per terahash"),
        (settled(spec_of("x", ladder(("off", 0, 0), ("on", 1_000, 200)), priority=1), "on"), on("y"),
         "priority before joules per terahash"),
    ],
)  # fmt: skip
def test_the_least_earning_watt_goes_first(first: Device, second: Device, why: str) -> None:
    for devices in ([first, second], [second, first]):
        moves, left_w = sheds(devices, 900.0)
        assert moves == {"x": ("off", 0.0)}, why
        assert left_w[SITE] == -100.0


def test_every_miners_poorest_step_goes_before_any_miners_best() -> None:
    """Normal → low costs less hashrate per watt than low → off."""
    devices = [settled(spec_of(name), "normal") for name in "abc"]
    assert sheds(devices, 4_000.0)[0] == dict.fromkeys("abc", ("low", 1_500.0))
    assert sheds(devices, 5_000.0)[0] == {"a": ("off", 30.0), "b": ("low", 1_500.0), "c": ("low", 1_500.0)}


def test_a_miner_that_restarts_at_every_change_stays_until_what_restarts_lose_is_earned_elsewhere() -> None:
    """Its step to low earns 26.7 a kW and two restarts at 60 of rate lose as much again; stopped, it loses one."""
    modes = settled(spec_of("modes", MODES, restarts=True, settle_up_s=300.0), "normal")
    plain = settled(spec_of("plain", MODES), "normal")
    assert market.step_down(plain, plain.setpoint) == ((0, 50.0, 40.0 / 1_500.0), point_of(MODES, "low"))
    step = market.step_down(modes, modes.setpoint)
    assert step is not None
    (_, _, per_watt), target = step
    assert target.is_off
    assert per_watt == pytest.approx((100.0 + 100.0 * 150.0 / 900.0) / 2_970.0)
    slider = settled(spec_of("slider", SLIDER), "limit", 3_000.0)
    assert sheds([modes, slider], 1_000.0)[0] == {"slider": ("limit", 2_000.0)}
    assert sheds([plain, slider], 1_000.0)[0] == {"plain": ("low", 1_500.0)}
    low = settled(spec_of("low", MODES, restarts=True, settle_up_s=300.0), "low")
    low_at = point_of(MODES, "low")
    up, up_plain = market.step_up(low, low_at, EXACT), market.step_up(plain, low_at, EXACT)
    assert up is not None
    assert up_plain is not None
    assert up[0] < up_plain[0]


def test_while_the_limit_moves_a_miner_that_restarts_at_every_change_waits_for_its_whole_step() -> None:
    """Started at less it would restart once more for the rest, a few seconds later."""
    modes = ladder((OFF, 30.0, 0.0), ("low", 1_500.0, 55.0), ("normal", 3_000.0, 100.0))
    sleeping = settled(spec_of("restarts", modes, restarts=True, settle_up_s=300.0), "off")
    plain = settled(spec_of("plain", MODES), "off")
    assert raises([sleeping], 2_000.0) == {"restarts": ("low", 1_500.0)}
    assert raises([sleeping], 2_000.0, limited_at=NOW - 60.0) == {"restarts": ("low", 1_500.0)}
    assert raises([sleeping], 2_000.0, limited_at=NOW - 59.0) == {}
    assert raises([sleeping], 3_000.0, limited_at=NOW - 59.0) == {"restarts": ("normal", 3_000.0)}
    assert raises([sleeping, plain], 2_000.0, limited_at=NOW) == {"plain": ("low", 1_500.0)}


FINE = ladder((OFF, 0.0, 0.0), ("a", 1_000.0, 60.0), ("b", 2_000.0, 110.0), ("c", 3_000.0, 155.0))
"""Its steps earn 60, 50 and 45 per kW: the upper two nearly alike."""


@pytest.mark.parametrize(
    ("over_w", "goes_to"),
    [
        (900.0, {"x": ("b", 2_000.0)}),  # no further than it must
        (1_500.0, {"x": ("a", 1_000.0)}),  # one command where two would do
        (2_500.0, {"x": ("a", 1_000.0), "y": ("b", 2_000.0)}),  # but it is stopped only when its turn comes
    ],
)
def test_steps_that_earn_nearly_alike_are_taken_in_one(over_w: Watts, goes_to: dict[str, tuple[str, Watts]]) -> None:
    assert sheds([settled(spec_of(name, FINE), "c") for name in "xy"], over_w)[0] == goes_to


@pytest.mark.parametrize(
    ("free_w", "goes_to"),
    [
        (900.0, {}),
        (1_500.0, {"x": ("b", 2_000.0)}),
        (2_000.0, {"x": ("c", 3_000.0)}),
        (3_000.0, {"x": ("c", 3_000.0), "y": ("b", 2_000.0)}),
    ],
)
def test_steps_that_earn_nearly_alike_are_given_back_in_one(
    free_w: Watts, goes_to: dict[str, tuple[str, Watts]]
) -> None:
    assert raises([settled(spec_of(name, FINE), "a") for name in "xy"], free_w) == goes_to


def test_no_step_is_taken_along_that_earns_less_than_its_energy() -> None:
    policy = replace(EXACT, energy_price_per_wh=0.047)
    devices = [settled(spec_of("x", FINE, price_per_rate_h=1.0), "a")]
    assert raises(devices, 9_000.0, policy=policy) == {"x": ("b", 2_000.0)}


@pytest.mark.parametrize(
    ("over_w", "goes_to"),
    [(0.002, ("limit", 2_990.0)),
        (1.0, ("limit", 2_990.0)), (500.0, ("limit", 2_500.0)), (504.0, ("limit", 2_490.0)),
     (1_990.0, ("limit", 1_010.0)), (2_000.0, ("limit", 1_000.0)), (2_001.0, ("off", 30.0))],
)  # fmt: skip
def test_a_divisible_miner_is_shaved_only_as_far_as_needed(over_w: Watts, goes_to: tuple[str, Watts]) -> None:
    moves, left_w = sheds([settled(spec_of("a", SLIDER), "limit")], over_w)
    assert moves == {"a": goes_to}
    assert left_w[SITE] <= 0


def test_a_shave_counts_what_the_miner_really_draws() -> None:
    """It takes 10 % less than its limit says, so that each watt of limit frees 0.9 W."""
    device = settled(spec_of("a", SLIDER), "limit")
    for _ in range(40):
        device.learned.setdefault("limit", DrawRatio()).observe(0.9)
    device.planned_w = device.upper_w(point_of(SLIDER, "limit"))
    moves, left_w = sheds([device], 900.0)
    assert 1_990.0 <= moves["a"][1] <= 2_010.0
    assert left_w[SITE] <= 0


def test_a_row_sheds_for_itself_and_the_site_counts_it() -> None:
    """Row a is 900 over and the site 1,900: row a's miner serves both, one of row b's does the rest."""
    tree = two_rows()
    devices = [on("a1", feeder=ROW_A, priority=90), on("a2", feeder=ROW_A, priority=80),
               on("b1", feeder=ROW_B, priority=10), on("b2", feeder=ROW_B, priority=20)]  # fmt: skip
    moves, left_w = sheds(devices, {SITE: 1_900.0, ROW_A: 900.0}, tree)
    assert list(moves) == ["a2", "b1"]
    assert left_w == {SITE: -100.0, ROW_A: -100.0, ROW_B: -1_000.0}


def test_a_row_that_is_over_does_not_touch_another_row() -> None:
    tree = two_rows()
    moves, left_w = sheds([on("a1", feeder=ROW_A), on("b1", feeder=ROW_B, priority=1)], {ROW_A: 5_000.0}, tree)
    assert moves == {"a1": ("off", 0.0)}
    assert left_w[ROW_A] == 4_000.0


def test_a_miner_just_started_is_asked_after_its_equals_but_never_spared() -> None:
    young, old = on("young", min_on_s=600.0), on("old", min_on_s=600.0)
    young.on_since = NOW - 10.0
    assert list(sheds([young, old], 900.0)[0]) == ["old"]
    assert list(sheds([young, old], 1_900.0)[0]) == ["old", "young"]
    assert sheds([young], 900.0)[0] == {"young": ("off", 0.0)}


def test_who_has_slept_least_sleeps_next() -> None:
    devices = [on(name) for name in "abc"]
    devices[0].slept_s, devices[1].slept_s, devices[2].slept_s = 300.0, 100.0, 200.0
    assert list(sheds(devices, 1_900.0)[0]) == ["b", "c"]


def test_when_all_is_not_enough_all_is_shed_and_the_rest_is_the_deficit() -> None:
    devices = [settled(spec_of("a"), "normal"), settled(spec_of("b", SLIDER), "limit"), on("c")]
    moves, left_w = sheds(devices, 50_000.0)
    assert {device: key for device, (key, _) in moves.items()} == {"a": "off", "b": "off", "c": "off"}
    assert left_w[SITE] == 50_000.0 - 2_970.0 - 2_970.0 - 1_000.0


def test_a_misbehaving_miner_is_asked_last_and_not_counted_on() -> None:
    liar = on("liar", priority=1)
    liar.conditions.add(Condition.DIVERGED)
    honest = [on("a", priority=90), on("b", priority=95)]
    assert sheds([liar, *honest], 900.0)[0] == {"a": ("off", 0.0)}
    moves, left_w = sheds([liar, *honest], 2_500.0)
    assert list(moves) == ["a", "b", "liar"]
    assert left_w[SITE] == 500.0


def test_a_misbehaving_miner_already_told_to_stop_is_not_told_again() -> None:
    paper = PaperSite(specs=[spec_of("liar", SWITCH)], deaf={"liar"})
    paper.tick(paper.states(None))
    paper.run(2)
    paper.tick(paper.states(0.0))
    paper.device("liar").conditions.add(Condition.STALE)
    paper.run(20)
    assert [told[1:] for told in paper.told()] == [("liar", "off")]


def test_a_miner_in_disgrace_is_left_alone_until_its_back_off_is_over() -> None:
    refused = on("refused", priority=1)
    refused.fixed_until = NOW + 10.0
    assert list(sheds([refused, on("a")], 900.0)[0]) == ["a"]
    refused.fixed_until = NOW
    assert list(sheds([refused, on("a")], 900.0)[0]) == ["refused"]


def test_a_miner_of_which_nobody_knows_where_it_is_set_is_shed_by_its_draw() -> None:
    device = settled(spec_of("a"), "normal")
    device.setpoint = None
    assert sheds([device], 1_000.0)[0] == {"a": ("low", 1_500.0)}
    device.planned_w = device.draw_w = 1_400.0  # under 'low' already: only off is lower
    assert sheds([device], 100.0)[0] == {"a": ("off", 30.0)}


# ---- raise: who comes back ------------------------------------------------------------------------


def test_the_best_earning_watt_comes_back_first() -> None:
    devices = [off("poor", price_per_rate_h=0.1), off("rich", price_per_rate_h=0.3), off("fair", price_per_rate_h=0.2)]
    assert list(raises(devices, 2_500.0)) == ["rich", "fair"]
    devices = [off("last", priority=1), off("first", priority=99), off("next", priority=50)]
    assert list(raises(devices, 2_500.0)) == ["first", "next"]


def test_every_miners_best_step_comes_before_any_miners_poorest() -> None:
    devices = [settled(spec_of(name), "off") for name in "ab"]
    assert raises(devices, 3_100.0) == {"a": ("low", 1_500.0), "b": ("low", 1_500.0)}
    assert raises(devices, 4_600.0) == {"a": ("normal", 3_000.0), "b": ("low", 1_500.0)}


@pytest.mark.parametrize(
    ("free_w", "raised"),
    [
        ({SITE: 9_000.0, ROW_A: 1_500.0, ROW_B: 9_000.0}, {"a1", "b1", "b2"}),
        ({SITE: 2_500.0, ROW_A: 9_000.0, ROW_B: 500.0}, {"a1", "a2"}),
        ({SITE: 9_000.0, ROW_A: -1.0, ROW_B: 999.0}, set()),
        ({SITE: 0.0, ROW_A: 9_000.0, ROW_B: 9_000.0}, set()),
        ({SITE: 1_000.0, ROW_A: 1_000.0, ROW_B: 1_000.0}, {"a1"}),
    ],
)
def test_nothing_is_raised_above_any_feeder_on_its_path(free_w: dict[FeederId, Watts], raised: set[str]) -> None:
    devices = [off(name, feeder=ROW_A if name[0] == "a" else ROW_B) for name in ("a1", "a2", "b1", "b2")]
    assert set(raises(devices, free_w, two_rows())) == raised


def test_a_divisible_miner_takes_what_is_left() -> None:
    device = settled(spec_of("a", SLIDER), "limit", 1_000.0)
    assert raises([device], 704.0) == {"a": ("limit", 1_700.0)}
    assert raises([device], 100.0) == {}  # under a twentieth of its rating: not worth a command


def test_a_raise_is_counted_with_what_no_meter_has_seen_yet() -> None:
    wary = Policy(reading_error_fraction=0.05)
    assert raises([off("a")], 1_049.0, policy=wary) == {}
    assert raises([off("a")], 1_051.0, policy=wary) == {"a": ("on", 1_000.0)}


def test_no_more_start_at_once_than_the_site_allows() -> None:
    assert list(raises([off(name) for name in "abcd"], 9_000.0, most_starts=2)) == ["a", "b"]
    assert raises([off("a")], 9_000.0, most_starts=0) == {}


@st.composite
def sites(draw: st.DrawFn) -> tuple[list[Device], dict[FeederId, Watts]]:
    devices = []
    for index in range(draw(st.integers(1, 8))):
        points = draw(st.sampled_from([MODES, SLIDER, SWITCH]))
        spec = spec_of(f"m{index}", points, draw(st.sampled_from([SITE, ROW_A, ROW_B])),
                       priority=draw(st.sampled_from([10, 50])))  # fmt: skip
        devices.append(settled(spec, draw(st.sampled_from([point.key for point in points.points]))))
    watts = st.floats(-2_000.0, 12_000.0)
    return devices, {SITE: draw(watts), ROW_A: draw(watts), ROW_B: draw(watts)}


@settings(deadline=None)
@given(sites())
def test_on_any_site_no_raise_overfills_a_feeder_and_no_worthwhile_one_is_left(
    site: tuple[list[Device], dict[FeederId, Watts]],
) -> None:
    devices, free_w = site
    tree = two_rows()
    candidates = [device for device in devices if may_rise(device, NOW, NOW, AT_ONCE)]
    moves = raises(candidates, dict(free_w), tree)
    left_w = dict(free_w)
    for device in devices:
        if device.spec.id in moves:
            for feeder in tree.paths[device.spec.feeder]:
                left_w[feeder] -= moves[device.spec.id][1] - device.reserved_w
    for feeder in tree.specs:
        touched = any(feeder in tree.paths[device.spec.feeder] for device in devices if device.spec.id in moves)
        assert left_w[feeder] >= -1e-6 or not touched
    for device in candidates:
        here = device.setpoint if device.spec.id not in moves else OperatingPoint(*moves[device.spec.id], 0.0)
        assert here is not None
        assert device.spec.points is not None
        step = hull.above(device.spec.points, here.draw_w)
        if step is not None and not step.divisible:
            room_w = min(left_w[feeder] for feeder in tree.paths[device.spec.feeder])
            assert step.draw_w - here.draw_w > room_w or free_w[SITE] <= 0


@settings(deadline=None)
@given(sites())
def test_on_any_site_what_is_over_is_shed_or_told(site: tuple[list[Device], dict[FeederId, Watts]]) -> None:
    devices, over_w = site
    tree = two_rows()
    moves, left_w = sheds(devices, over_w, tree)
    for feeder, asked_w in over_w.items():
        below = [device for device in devices if feeder in tree.paths[device.spec.feeder]]
        freed_w = sum(device.planned_w - moves[device.spec.id][1] for device in below if device.spec.id in moves)
        assert left_w[feeder] == pytest.approx(asked_w - freed_w)
        if left_w[feeder] > 2 * MILLIWATT:
            for device in below:
                assert device.spec.points is not None
                lowest = device.spec.points.lowest
                assert device.setpoint == lowest or moves[device.spec.id] == (lowest.key, lowest.draw_w)
    assert not moves or any(asked_w > 0 for asked_w in over_w.values())


# ---- money ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("energy_price_per_wh", "runs_at"),
    [
        (None, "normal"),  # no price: nobody can say that it loses
        (0.02, "normal"),  # the step from low to normal earns 40 rate / 1,500 W · 1.0 = 0.0267 per Wh
        (0.03, "low"),  # the step from off to low earns 60 rate / 1,470 W · 1.0 = 0.0408 per Wh
        (0.05, "off"),
        (-0.01, "normal"),  # paid to draw
    ],
)
def test_a_point_that_earns_less_than_its_energy_is_not_run(energy_price_per_wh: float | None, runs_at: str) -> None:
    policy = Policy(energy_price_per_wh=energy_price_per_wh, restart_jitter_s=0.0, reading_error_fraction=0.0)
    running = settled(spec_of("a", MODES, price_per_rate_h=1.0), "normal")
    lowered = {move.device: move.target.key for move in dispatch.unprofitable([running], policy, NOW)}
    assert lowered == ({} if runs_at == "normal" else {running.spec.id: runs_at})

    sleeping = settled(spec_of("a", MODES, price_per_rate_h=1.0), "off")
    tree = tree_of()
    raised = {
        move.device: move.target.key
        for move in give_back([sleeping], tree, Room(free_w={SITE: 10_000.0}), policy, 10, NOW)
    }
    assert raised == ({} if runs_at == "off" else {sleeping.spec.id: runs_at})


def test_a_miner_at_a_loss_keeps_its_min_on_and_one_without_a_price_is_never_at_a_loss() -> None:
    policy = Policy(energy_price_per_wh=1.0)
    young = settled(spec_of("a", MODES, price_per_rate_h=1.0, min_on_s=600.0), "normal")
    young.on_since = NOW - 10.0
    assert dispatch.unprofitable([young, on("b")], policy, NOW) == []
    young.on_since = NOW - 601.0
    assert [move.device for move in dispatch.unprofitable([young], policy, NOW)] == ["a"]


# ---- a restore is earned --------------------------------------------------------------------------


def test_only_a_read_settled_and_obedient_miner_may_rise() -> None:
    def case(**change: Any) -> Device:
        device = off("a")
        for name, value in change.items():
            setattr(device, name, value)
        return device

    assert may_rise(case(), NOW, NOW, AT_ONCE)
    assert not may_rise(on("a"), NOW, NOW, AT_ONCE)  # nowhere to go
    for change in (
        {"setpoint": None},
        {"draw_w": None},
        {"fixed_until": NOW + 1},
        {"restore_after": NOW + 1},
        {"conditions": {Condition.STALE}},
        {"conditions": {Condition.UNREACHABLE}},
        {"conditions": {Condition.AUTH_FAILED}},
        {"conditions": {Condition.BAD_REPLY}},
    ):
        assert not may_rise(case(**change), NOW, NOW, AT_ONCE), change
    assert may_rise(case(conditions={Condition.REFUSED}), NOW, NOW, AT_ONCE)  # its back-off is over: it is tried again


def test_equal_miners_start_one_after_the_other_once_there_is_room_and_repeat_exactly() -> None:
    policy = Policy(restart_jitter_s=10.0)
    devices = [off(f"m{index}") for index in range(200)]

    def started(after_s: Seconds) -> list[bool]:
        return [may_rise(device, NOW + after_s, NOW, policy) for device in devices]

    by_second = [sum(started(float(second))) for second in range(11)]
    assert by_second[0] == 0
    assert by_second[10] == 200
    gains = [later - earlier for earlier, later in pairwise(by_second)]
    assert all(5 <= gain <= 40 for gain in gains), gains  # spread over the whole range
    assert started(5.0) == started(5.0)
    turn = next(second / 10 for second in range(101) if may_rise(devices[0], NOW + second / 10, NOW, policy))
    devices[0].sheds, devices[0].turn = 1, None
    assert turn != next(second / 10 for second in range(101) if may_rise(devices[0], NOW + second / 10, NOW, policy))


# ---- the same, as the site lives it ---------------------------------------------------------------


def paper_of(count: int = 4, limit_w: Watts | None = 1_000.0, **more: Any) -> PaperSite:
    """`count` 1,000 W miners, all at work, and then the grid's first word."""
    device = more.pop("device", {"min_off_s": 0.0})
    paper = PaperSite(specs=[spec_of(f"m{index}", SWITCH, **device) for index in range(count)], **more)
    paper.tick(paper.states(None))
    paper.run(5)
    assert paper.true_w() == count * 1_000.0
    paper.events.clear()
    paper.commands.clear()
    if limit_w is not None:
        paper.tick(paper.states(limit_w))
        paper.run(5)
    return paper


def test_shed_at_once_and_stay_there() -> None:
    paper = paper_of(4, 2_100.0)
    assert paper.told() == [(7.0, "m0", "off"), (7.0, "m1", "off")]
    paper.run(300)
    assert len(paper.told()) == 2
    assert paper.true_w() == 2_000.0


def test_a_limit_of_zero_stops_everything() -> None:
    paper = paper_of(4, 0.0)
    assert (paper.true_w(), len(paper.told())) == (0.0, 4)
    assert not [event for event in paper.events if isinstance(event, DeficitChanged)]


@pytest.mark.parametrize(
    ("dead_band", "limit_w", "at_work"), [(0.0, 2_115.0, 21), (0.05, 2_115.0, 20), (0.05, 2_130.0, 21)]
)
def test_within_the_dead_band_nothing_is_raised(dead_band: float, limit_w: Watts, at_work: int) -> None:
    """A hair of headroom moves nothing, even where it would carry one more small miner."""
    small = ladder(("off", 0.0, 0.0), ("on", 100.0, 10.0))
    policy = replace(EXACT, dead_band_fraction=dead_band)
    paper = PaperSite(specs=[spec_of(f"m{index}", small, min_off_s=0.0) for index in range(30)], policy=policy)
    paper.tick(paper.states(None))
    paper.tick(paper.states(2_000.0 * 1.01))
    paper.run(5)
    assert paper.true_w() == 2_000.0
    paper.tick(paper.states(limit_w))
    paper.run(20)
    assert paper.true_w() == at_work * 100.0


def test_no_cycle_raises_and_sheds_at_once() -> None:
    paper = PaperSite(
        two_rows(), [spec_of("a1", SWITCH, ROW_A, min_off_s=0.0), spec_of("b1", SWITCH, ROW_B, min_off_s=0.0)]
    )
    paper.tick(paper.states(None))
    paper.tick(paper.states(0.0, feeder=ROW_A))
    paper.run(5)
    both = (paper.states(None, feeder=ROW_A), paper.states(0.0, feeder=ROW_B))
    decision = paper.tick(*both)  # row b must go down while row a may come back
    assert [(command.device, command.is_raise) for command in decision.commands] == [("b1", False)]
    paper.run(5)
    assert (paper.watts("a1"), paper.watts("b1")) == (1_000.0, 0.0)


def test_min_off_holds_a_stopped_miner_down() -> None:
    paper = paper_of(1, 0.0, device={"min_off_s": 60.0})
    shed_at = paper.told()[0][0]
    paper.tick(paper.states(None))
    paper.run(100)
    assert [at - shed_at for at, _, key in paper.told() if key == "on"] == [60.0]


@pytest.mark.parametrize("per_s", [0.25, 1.0, 3.0])
def test_starts_are_spread_over_time(per_s: float) -> None:
    policy = replace(EXACT, max_starts_per_s=per_s)
    paper = paper_of(12, 0.0, policy=policy)
    paper.tick(paper.states(None))
    paper.run(60)
    starts = [at for at, _, key in paper.told() if key == "on"]
    assert len(starts) == 12
    for begin in starts:
        for seconds in (1, 4, 8):
            assert sum(begin <= at < begin + seconds for at in starts) <= max(1.0, per_s) + per_s * (seconds - 1)
    assert starts[-1] - starts[0] <= 12 / per_s


def test_a_coming_lower_limit_within_the_restore_time_blocks_a_raise() -> None:
    """300 s up and 30 s down: what cannot be gone again by the window is not started."""
    paper = paper_of(4, 1_100.0, device={"min_off_s": 0.0, "settle_up_s": 300.0, "settle_down_s": 30.0})
    paper.tick(paper.states(4_100.0), paper.states(1_100.0, starts_in_s=300.0, lasts_s=600.0))
    paper.run(200)
    assert paper.true_w() == 1_000.0
    paper = paper_of(4, 1_100.0, device={"min_off_s": 0.0, "settle_up_s": 300.0, "settle_down_s": 30.0})
    paper.tick(paper.states(4_100.0), paper.states(1_100.0, starts_in_s=400.0, lasts_s=600.0))
    paper.run(5)
    assert paper.true_w() == 4_000.0


def test_a_shed_begins_its_settle_time_before_a_known_window() -> None:
    paper = paper_of(4, None, device={"min_off_s": 0.0, "settle_down_s": 30.0})
    paper.tick(paper.states(2_100.0, starts_in_s=200.0))
    opens_at = paper.now + 200.0
    while paper.now < opens_at:
        paper.run(1)
    told = [at + paper.start for at, _, key in paper.told() if key == "off"]
    begins_at = opens_at - 30.0 - AHEAD_S
    assert told == [begins_at, begins_at]


def test_after_a_window_that_is_known_to_end_the_miners_come_back_by_themselves() -> None:
    paper = paper_of(2, None)
    paper.tick(paper.states(0.0, lasts_s=100.0))
    paper.run(99)
    assert paper.true_w() == 0.0
    paper.run(3)
    assert paper.true_w() == 2_000.0


@pytest.mark.parametrize("whose", ["site", "allocation"])
def test_the_ramp_is_kept_whoever_asks_for_it(whose: str) -> None:
    """Sixty miners and 6,000 W per minute: 100 W each second, one 1,000 W miner every ten."""
    policy = replace(EXACT, ramp_up_w_per_min=6_000.0 if whose == "site" else None)
    paper = PaperSite(specs=[spec_of(f"m{index}", SWITCH, min_off_s=0.0) for index in range(60)], policy=policy)
    paper.tick(paper.states(0.0))
    paper.run(5)
    assert paper.true_w() == 0.0
    paper.tick(paper.states(60_500.0, max_ramp_up_w_per_min=6_000.0 if whose == "allocation" else None))
    released_at, seen = paper.now, []
    for _ in range(620):
        paper.run(1)
        seen.append((paper.now - released_at, paper.true_w()))
    assert all(watts <= 100.0 * (seconds + 1) for seconds, watts in seen)
    assert all(watts >= 99.0 * seconds - 1_500.0 for seconds, watts in seen)
    assert seen[-1][1] == 60_000.0


def test_the_ramp_is_kept_after_a_restart_too() -> None:
    """Sixty sleeping miners, and the first words that a new process hears are a heartbeat and the allocation."""
    paper = PaperSite(specs=[spec_of(f"m{index}", SWITCH, min_off_s=0.0) for index in range(60)])
    paper.points = dict.fromkeys(paper.points, point_of(SWITCH, "off"))
    paper.tick(paper.states(60_500.0, max_ramp_up_w_per_min=6_000.0))
    for seconds in range(1, 300):
        paper.run(1)
        assert paper.true_w() <= 100.0 * (seconds + 1)
    assert paper.true_w() >= 28_000.0


def test_what_waited_for_its_min_off_does_not_come_back_in_one_leap() -> None:
    paper = paper_of(60, 0.0, device={"min_off_s": 600.0})
    paper.tick(paper.states(60_500.0, max_ramp_up_w_per_min=6_000.0))
    seen = []
    for _ in range(1_300):
        paper.run(1)
        seen.append(paper.true_w())
    assert max(seen[:590]) == 0.0
    in_a_minute = [later - now for now, later in zip(seen, seen[60:], strict=False)]
    assert max(in_a_minute) <= 2 * 6_000.0  # the minute saved up, and the minute itself
    assert seen[-1] == 60_000.0


def test_the_ramp_never_slows_a_shed() -> None:
    paper = paper_of(4, None)
    paper.tick(paper.states(1_100.0, max_ramp_up_w_per_min=1.0))
    paper.run(2)
    assert paper.true_w() == 1_000.0


def test_equal_miners_take_turns_in_sleeping() -> None:
    """Each night one of three must sleep: after three nights each has slept once."""
    paper = paper_of(3, None)
    slept = []
    for _ in range(6):
        before = len(paper.told())
        paper.tick(paper.states(2_100.0))
        paper.run(100)
        slept += [device for _, device, key in paper.told()[before:] if key == "off"]
        paper.tick(paper.states(None))
        paper.run(20)
        assert paper.true_w() == 3_000.0
    assert sorted(slept[:3]) == sorted(slept[3:]) == ["m0", "m1", "m2"]


def test_who_does_not_obey_is_replaced_by_another() -> None:
    """m0 acknowledges and does nothing: once that is sure, m1 does it in its place."""
    paper = paper_of(3, None, device={"min_off_s": 0.0, "settle_down_s": 10.0})
    paper.deaf.add("m0")
    paper.tick(paper.states(2_100.0))
    paper.run(60)
    assert [told[1:] for told in paper.told()][:2] == [("m0", "off"), ("m1", "off")]
    assert paper.true_w() == 2_000.0
    assert Condition.DIVERGED in paper.device("m0").conditions


def test_a_deficit_is_told_once_and_its_end_too() -> None:
    floor = ladder(("low", 400.0, 40.0), ("on", 1_000.0, 100.0))
    paper = PaperSite(specs=[spec_of("m0", floor), spec_of("m1", floor)])
    paper.tick(paper.states(None))
    paper.tick(paper.states(300.0))
    paper.run(50)
    assert paper.true_w() == 800.0
    deficits = [(event.feeder, event.deficit_w) for event in paper.events if isinstance(event, DeficitChanged)]
    assert [feeder for feeder, _ in deficits] == [SITE]
    assert deficits[0][1] == pytest.approx(500.0, abs=5.0)
    paper.tick(paper.states(None))
    paper.run(5)
    assert [event.deficit_w for event in paper.events if isinstance(event, DeficitChanged)][1:] == [0.0]


def test_a_new_shed_replaces_a_raise_under_way() -> None:
    paper = paper_of(2, 0.0)
    paper.tick(paper.states(None))
    raised = [command for _, command in paper.commands if command.is_raise]
    assert len(raised) == 2
    paper.deaf.update(("m0", "m1"))  # still on their way up
    paper.tick(paper.states(0.0))
    assert [told[1:] for told in paper.told()[-2:]] == [("m0", "off"), ("m1", "off")]
    under_way = [device.actuation for device in paper.site.devices.values()]
    assert all(one is not None and not one.is_raise and one.replaces_unsettled for one in under_way)
    assert all(device.reserved_w >= 1_000.0 for device in paper.site.devices.values())  # until they are seen down


def test_values_on_one_scale_order_a_mixed_site() -> None:
    """A GPU node and a miner, both with a price: the least money per Wh goes first, whatever the unit of rate."""
    miner = settled(spec_of("miner", ladder(("off", 30.0, 0.0), ("on", 3_000.0, 1e14)), price_per_rate_h=1e-15), "on")
    node = settled(
        spec_of("node", ladder(("low", 4_000.0, 0.7), ("full", 8_000.0, 1.0)), price_per_rate_h=16.0), "full"
    )
    for device, money_per_wh in ((miner, 0.1 / 2_970), (node, 16.0 * 0.3 / 4_000)):
        assert device.spec.points is not None
        earned = market.earning(device, device.spec.points.lowest, device.spec.points.highest)
        assert earned[1] == pytest.approx(money_per_wh)
    assert list(sheds([node, miner], 1_000.0)[0]) == ["miner"]


def test_a_feeders_rating_is_a_limit_too() -> None:
    tree = tree_of(FeederSpec(SITE, None, 2_500.0))
    paper = PaperSite(tree, [spec_of(f"m{index}", SWITCH) for index in range(4)])
    paper.tick(paper.states(None))
    paper.run(5)
    assert paper.true_w() == 2_000.0
