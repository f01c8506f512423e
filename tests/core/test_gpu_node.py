"""A GPU node under a limit: a stage below its limits that only a hook reaches, and limits that bound its draw without
setting it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.rig import EXACT, PLENTY_W, SITE, PaperSite, described, point_of, reading_of, spec_of, tree_of
from curtaild.core.allocation import Urgency
from curtaild.core.events import DeficitChanged, DeviceChanged
from curtaild.core.feeders import FeederSpec
from curtaild_drivers.contract import DeviceId, OperatingPoint, OperatingPoints, Reading, Watts

SUSPENDED = OperatingPoint("suspend", 2_500.0, 0.0)
LEAST = OperatingPoint("limit", 3_640.0, 0.41)
MOST = OperatingPoint("limit", 8_240.0, 1.0, divisible=True)
NODE = OperatingPoints((SUSPENDED, LEAST, MOST))
NO_METER = replace(EXACT, reading_error_fraction=0.05, margin_fraction=0.002, dead_band_fraction=0.005)


def node(**more: object) -> PaperSite:
    return PaperSite(specs=[spec_of("node", NODE, settle_down_s=5.0, min_off_s=60.0)], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stale_after_s", "meters"), [(None, "no meter"), (5.0, "a meter that is silent")])
def test_where_no_meter_sees_it_what_is_freed_frees_its_error_too(stale_after_s: float | None, meters: str) -> None:
    """4,000 W bear its least limit and five per cent: no hook is called for the error of the watts that are gone."""
    tree = tree_of(FeederSpec(SITE, None, PLENTY_W, meter_stale_after_s=stale_after_s))
    site = node(tree=tree, policy=NO_METER, failsafe_w=4_000.0, dead_meters={SITE})
    site.run(10)
    assert {key for _, _, key in site.told()} == {"limit"}
    assert 3_640.0 <= site.watts("node") <= 4_000.0 / 1.05


def test_what_is_shaved_off_it_carries_its_error_along() -> None:
    site = node(policy=NO_METER, failsafe_w=PLENTY_W)
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(6_300.0))
    site.run(3)
    assert site.watts("node") == pytest.approx(6_300.0 * 0.998 / 1.05 / 1.005, abs=2.0)


def test_a_suspended_node_keeps_its_min_off() -> None:
    site = node(policy=EXACT, failsafe_w=PLENTY_W)
    site.tick(site.states(None))
    site.run(3)
    site.tick(site.states(3_000.0))
    site.run(3)
    assert site.points == {"node": SUSPENDED}
    began_at = site.now
    site.tick(site.states(None))
    site.run(80)
    (raised_at, _) = next((at, command) for at, command in site.commands if command.is_raise)
    assert 55.0 <= raised_at - began_at <= 62.0


class Work(PaperSite):
    """Its GPUs draw what their work asks for where the limit lets them, and at their least limit five per cent more
    than that, as some do."""

    demand_w: Watts = 8_240.0

    def reading_at(self, point: OperatingPoint) -> Reading:
        if point.rate == 0.0:
            return reading_of(point, self.now)
        draws_w = 1.05 * point.draw_w if point.draw_w <= LEAST.draw_w else min(point.draw_w, self.demand_w)
        return reading_of(point, self.now, draws_w)


def test_what_drew_too_much_at_its_least_limit_is_not_woken_to_draw_it_again() -> None:
    """3,831 W bear its least limit with five per cent of error, not with as much again: the hook is called once, not
    every few seconds for ever."""
    specs = [spec_of("node", NODE, settle_down_s=5.0, min_off_s=0.0)]
    site = Work(specs=specs, policy=NO_METER, failsafe_w=3_831.0)
    site.run(120)
    assert [key for _, _, key in site.told()] == ["limit", "suspend"]


# ---- a limit bounds the draw and does not set it --------------------------------------------------


def inference(demand_w: Watts = 6_000.0) -> Work:
    """At rest under its highest limit, which its work does not need."""
    site = Work(specs=[spec_of("node", NODE, settle_down_s=5.0)], policy=EXACT, failsafe_w=PLENTY_W)
    site.demand_w = demand_w
    site.tick(site.states(None))
    site.run(5)
    return site


def troubles(site: PaperSite) -> list[str]:
    return [event.detail for event in site.events if isinstance(event, DeviceChanged) and event.begins]


def test_what_is_left_of_a_high_limit_is_used_of_a_lower_one() -> None:
    site = inference()
    device = site.device("node")
    limits_w = (8_240.0, 7_000.0, 5_000.0)
    expected_w = {limit_w: round(device.upper_w(point_of(NODE, "limit", limit_w)), -2) for limit_w in limits_w}
    assert expected_w == {8_240.0: 6_000.0, 7_000.0: 6_000.0, 5_000.0: 5_000.0}


def test_one_command_brings_it_as_far_as_the_limit_asks_and_nobody_calls_that_drifted() -> None:
    site = inference()
    site.tick(site.states(5_000.0))
    site.run(60)
    told_w = [command.target.draw_w for _, command in site.commands]
    assert told_w == [5_000.0, 4_975.0], "and a little further for the spread of what it then draws"
    assert troubles(site) == []
    assert site.device("node").upper_w(site.points[DeviceId("node")]) == pytest.approx(5_000.0, abs=1.0)


def test_work_that_begins_under_a_high_limit_has_not_left_it() -> None:
    site = inference()
    site.demand_w = 8_200.0
    site.run(1)
    assert site.device("node").reserved_w == 8_200.0
    site.run(10)
    assert troubles(site) == []


# ---- the deficit ----------------------------------------------------------------------------------


def deficits(site: PaperSite) -> list[tuple[Watts, Watts]]:
    return [
        (round(event.deficit_w), round(event.spared_w)) for event in site.events if isinstance(event, DeficitChanged)
    ]


def test_nothing_is_spared_in_an_emergency() -> None:
    site = PaperSite(specs=[spec_of("node", NODE, flex=0.1)], policy=EXACT, failsafe_w=PLENTY_W)
    site.tick(site.states(None))
    site.run(3)
    site.tick(site.states(0.0, urgency=Urgency.EMERGENCY))
    site.run(3)
    assert deficits(site) == [(2_500, 0)]


def test_at_boot_a_deficit_is_told_once_the_devices_are_known() -> None:
    specs = [spec_of(f"n{place}", None, rated_w=8_240.0, flex=0.1) for place in range(10)]
    site = PaperSite(specs=specs, policy=replace(EXACT, boot_grace_s=20.0), failsafe_w=0.0)
    site.points = {spec.id: MOST for spec in specs}
    for spec in specs:
        site.tick(found=[described(replace(spec, points=NODE))])
    site.run(15)
    ((deficit_w, spared_w),) = deficits(site)
    assert 25_000 <= deficit_w <= 25_130
    assert spared_w == 0
