"""What earns little makes room for what earns more: only at rest, only if it pays, and falls before raises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.rig import EXACT, SITE, SLIDER, PaperSite, ladder, point_of, spec_of
from curtaild.core.policy import Policy
from curtaild_drivers.contract import DeviceId, OperatingPoints, Seconds

POOR = ladder(("off", 0.0, 0.0), ("on", 1_000.0, 80.0))
GOOD = ladder(("off", 0.0, 0.0), ("on", 1_000.0, 100.0))


def site_of(
    *running: tuple[str, OperatingPoints, str], limit_w: float = 1_010.0, policy: Policy = EXACT, **spec: Any
) -> PaperSite:
    """Devices that stand where they are said to, under a limit that leaves room for one of them."""
    specs = [spec_of(name, points, **{"min_off_s": 0.0, "settle_up_s": 5.0, **spec}) for name, points, _ in running]
    at = {DeviceId(name): point_of(points, key) for name, points, key in running}
    site = PaperSite(specs=specs, policy=policy, points=at)
    site.tick(site.states(limit_w))
    return site


def test_the_better_device_takes_the_room_of_the_poorer_one() -> None:
    site = site_of(("good", GOOD, "off"), ("poor", POOR, "on"))
    for _ in range(20):
        site.tick()
        assert site.true_w(SITE) <= 1_010.0
    assert [(device, key) for _, device, key in site.told()] == [("poor", "off"), ("good", "on")]
    assert [command.is_raise for _, command in site.commands] == [False, True]


def test_nothing_is_exchanged_before_the_site_has_rested() -> None:
    site = site_of(("good", GOOD, "off"), ("poor", POOR, "on"), policy=replace(EXACT, exchange_after_s=30.0))
    site.run(28)
    assert site.told() == []
    site.run(10)
    assert [device for _, device, _ in site.told()] == ["poor", "good"]


def test_equal_devices_are_left_as_they_are() -> None:
    site = site_of(("a", GOOD, "off"), ("b", GOOD, "on"))
    site.run(60)
    assert site.told() == []


def test_a_gain_within_the_dead_band_moves_nothing() -> None:
    better = ladder(("off", 0.0, 0.0), ("on", 1_000.0, 80.3))
    site = site_of(("good", better, "off"), ("poor", POOR, "on"), policy=replace(EXACT, dead_band_fraction=0.005))
    site.run(60)
    assert site.told() == []


def test_what_is_not_earned_again_in_half_an_hour_is_not_exchanged() -> None:
    """20 of 80 gained: half an hour of that is what two hours of the poor one's work cost."""
    slow, too_slow = (
        site_of(("good", GOOD, "off"), ("poor", POOR, "on"), settle_up_s=400.0),
        site_of(("good", GOOD, "off"), ("poor", POOR, "on"), settle_up_s=450.0),
    )
    slow.run(30)
    too_slow.run(30)
    assert [device for _, device, _ in slow.told()] == ["poor", "good"]
    assert too_slow.told() == []


def test_nothing_is_exchanged_into_a_limit_that_is_known_to_come() -> None:
    site = site_of(("good", GOOD, "off"), ("poor", POOR, "on"), settle_down_s=5.0)
    site.tick(site.states(500.0, starts_in_s=11.0))
    site.run(10)
    assert [(device, key) for _, device, key in site.told()] == [("poor", "off")]
    assert site.told()[0][0] >= 6.0  # its own settle time ahead of the limit


def test_a_device_that_may_not_stop_yet_is_not_asked_to() -> None:
    site = site_of(("good", GOOD, "off"), ("poor", POOR, "on"), min_on_s=40.0)
    site.device("poor").on_since = site.now
    site.run(35)
    assert site.told() == []
    site.run(20)
    assert [device for _, device, _ in site.told()] == ["poor", "good"]


def test_a_higher_priority_takes_the_room_of_a_lower_one_though_it_earns_less() -> None:
    specs = [spec_of("kept", POOR, priority=80, min_off_s=0.0), spec_of("other", GOOD, min_off_s=0.0)]
    at = {DeviceId("kept"): POOR.lowest, DeviceId("other"): GOOD.highest}
    site = PaperSite(specs=specs, points=at)
    site.tick(site.states(1_010.0))
    site.run(20)
    assert [(device, key) for _, device, key in site.told()] == [("other", "off"), ("kept", "on")]


def test_a_limit_that_falls_meanwhile_ends_it() -> None:
    site = site_of(("good", GOOD, "off"), ("poor", POOR, "on"))
    while not site.told():
        site.tick()
    site.tick(site.states(500.0))
    site.run(20)
    assert [(device, key) for _, device, key in site.told()] == [("poor", "off")]


def test_where_the_better_one_cannot_rise_after_all_the_poorer_one_gets_its_room_back() -> None:
    site = site_of(("good", GOOD, "off"), ("poor", POOR, "on"))
    while not site.told():
        site.tick()
    site.site.devices[DeviceId("good")].restore_after = site.now + 3_600.0
    begun_at: Seconds = site.now
    while len(site.told()) < 2:
        site.tick()
        assert site.now - begun_at < 400.0
    assert [(device, key) for _, device, key in site.told()] == [("poor", "off"), ("poor", "on")]


def test_a_part_of_a_continuous_device_is_enough() -> None:
    """Only as many watts move as the better device needs."""
    site = site_of(("good", GOOD, "off"), ("slider", SLIDER, "limit"), limit_w=3_020.0)
    site.run(30)
    assert site.watts("good") == 1_000.0
    assert 1_900.0 <= site.watts("slider") <= 2_010.0
    assert site.true_w(SITE) <= 3_020.0


@pytest.mark.parametrize(("limit_w", "good_w"), [(3_020.0, 0.0), (3_150.0, 1_000.0)])
def test_an_exchange_leaves_a_device_what_its_flex_spares(limit_w: float, good_w: float) -> None:
    """Its floor is 2,100 W."""
    specs = [spec_of("good", GOOD, min_off_s=0.0), spec_of("slider", SLIDER, flex=0.25)]
    site = PaperSite(specs=specs, points={DeviceId("good"): GOOD.lowest, DeviceId("slider"): SLIDER.highest})
    site.tick(site.states(limit_w))
    site.run(30)
    assert site.watts("good") == good_w
    assert site.watts("slider") >= 2_100.0
