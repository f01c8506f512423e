"""What a routine limit may take of a device's performance; an emergency, a rating or the fail-safe takes more."""

from __future__ import annotations

from typing import Any

import pytest

from core.rig import MODES, PLENTY_W, SITE, SLIDER, SWITCH, PaperSite, ladder, spec_of, tree_of
from curtaild.core.allocation import Issuer, Urgency
from curtaild.core.events import Ack, ActuationChanged, ActuationStage, DeficitChanged
from curtaild.core.feeders import FeederSpec
from curtaild.core.hull import flex_floor
from curtaild_drivers.contract import OperatingPoints, Watts

# Of what is learned of a settled device half a per cent is kept for its spread: 2,470 W are counted with 2,482.

RATES = ladder(("off", 30.0, 0.0), ("low", 1_500.0, 70.0), ("normal", 3_000.0, 100.0))


@pytest.mark.parametrize(
    ("points", "flex", "draw_w"),
    [
        (SLIDER, 0.0, 3_000.0),
        (SLIDER, 0.25, 2_100.0),  # 75 of 100: 30/55 of the way from 1,000 W, on the next step of ten up
        (SLIDER, 0.55, 1_000.0),
        (SLIDER, 0.9, 1_000.0),  # below its range it has nothing but off
        (SLIDER, 1.0, 30.0),
        (RATES, 0.25, 3_000.0),
        (RATES, 0.3, 1_500.0),
        (RATES, 0.5, 1_500.0),
    ],
)
def test_the_floor_keeps_what_flex_leaves(points: OperatingPoints, flex: float, draw_w: Watts) -> None:
    floor = flex_floor(points, flex)
    assert floor.draw_w == draw_w
    assert floor.rate >= (1 - flex) * points.highest.rate - 1e-6


def site_of_ai_and_a_miner(**ai: Any) -> PaperSite:
    return PaperSite(specs=[spec_of("ai", SLIDER, flex=0.25, **ai), spec_of("miner", MODES, priority=90)])


def test_a_routine_allocation_takes_flex_and_no_more() -> None:
    site = site_of_ai_and_a_miner()
    site.tick(site.states(None))
    site.run(3)
    site.tick(site.states(5_500.0))
    site.run(5)
    assert (site.watts("ai"), site.watts("miner")) == (2_470.0, 3_000.0)  # of lower priority, within its flex
    site.tick(site.states(1_000.0))
    site.run(5)
    assert (site.watts("ai"), site.watts("miner")) == (2_100.0, 30.0)
    deficit = [event for event in site.events if isinstance(event, DeficitChanged)][-1]
    assert (deficit.deficit_w, deficit.spared_w) == (1_140.5, 1_140.5)
    shortfall = [event for event in site.events if isinstance(event, Ack)][-1]
    assert (shortfall.floor_w, shortfall.reason) == (2_140.5, "1140 W cannot be shed; the floor is 2140 W")


def test_an_emergency_takes_what_it_must_and_says_so() -> None:
    site = site_of_ai_and_a_miner()
    site.tick(site.states(None))
    site.run(3)
    site.tick(site.states(1_000.0, urgency=Urgency.EMERGENCY))
    site.run(5)
    assert (site.watts("ai"), site.watts("miner")) == (30.0, 30.0)
    issued = [
        (event.device, event.target.draw_w, event.rule)
        for event in site.events
        if isinstance(event, ActuationChanged) and event.stage is ActuationStage.ISSUED
    ]
    assert issued == [
        ("ai", 30.0, "site over by 1140 W, past the flex of what it feeds"),
        ("miner", 30.0, "site over by 5030 W"),
    ]
    assert not [event for event in site.events if isinstance(event, DeficitChanged)]


def test_a_routine_limit_below_an_emergency_goes_past_flex_for_the_emergency_alone() -> None:
    site = site_of_ai_and_a_miner()
    site.tick(site.states(None))
    site.run(3)
    site.tick(site.states(1_500.0, urgency=Urgency.EMERGENCY, issuer=Issuer("tso")), site.states(500.0))
    site.run(5)
    assert (site.watts("ai"), site.watts("miner")) == (1_460.0, 30.0)
    deficit = [event for event in site.events if isinstance(event, DeficitChanged)][-1]
    assert (round(deficit.deficit_w), round(deficit.spared_w)) == (997, 997)


def test_silence_takes_all_that_the_fail_safe_asks_for() -> None:
    site = site_of_ai_and_a_miner()
    site.tick(site.states(None))
    site.run(3)
    site.heartbeats = False
    site.run(140)
    assert (site.watts("ai"), site.watts("miner")) == (30.0, 30.0)


def test_a_rating_takes_all_that_it_must() -> None:
    site = PaperSite(tree=tree_of(FeederSpec(SITE, None, 1_500.0)), specs=[spec_of("ai", SLIDER, flex=0.0)])
    site.tick(site.states(None))
    site.run(3)
    assert site.watts("ai") == 1_500.0


def test_an_emergency_keeps_the_order_of_the_site_and_gives_back_in_the_opposite_one() -> None:
    specs = [
        spec_of("last", RATES, flex=0.0, priority=1, emergency_order=80, min_off_s=0.0),
        spec_of("first", RATES, flex=0.0, priority=99, emergency_order=20, min_off_s=0.0),
        spec_of("miner", RATES, priority=99, min_off_s=0.0),
    ]
    site = PaperSite(specs=specs)
    site.tick(site.states(None))
    site.run(3)
    for limit_w, ai in ((6_100.0, (3_000.0, 3_000.0)), (4_000.0, (3_000.0, 30.0)), (100.0, (30.0, 30.0))):
        site.tick(site.states(limit_w, urgency=Urgency.EMERGENCY))
        site.run(5)
        assert (site.watts("last"), site.watts("first")) == ai
    assert site.watts("miner") == 30.0
    site.tick(site.states(3_100.0, urgency=Urgency.EMERGENCY))
    site.run(5)
    assert (site.watts("last"), site.watts("first"), site.watts("miner")) == (3_000.0, 30.0, 30.0)


def test_a_coming_emergency_is_met_when_it_begins() -> None:
    site = PaperSite(specs=[spec_of("ai", SLIDER, flex=0.0, settle_down_s=20.0)])
    site.tick(site.states(None))
    site.run(3)
    opens_at = site.now + 61.0
    site.tick(site.states(1_010.0, starts_in_s=60.0, urgency=Urgency.EMERGENCY))
    site.run(50)
    (at, command) = site.commands[-1]
    assert (at, command.target.draw_w) == (opens_at - 22.0, 1_000.0)


def test_what_a_meter_goes_on_showing_above_an_emergency_s_limit_is_shed_past_flex_too() -> None:
    """One says that it stopped and draws on; the sums say that the limit is kept, the meter that it is not."""
    tree = tree_of(FeederSpec(SITE, None, PLENTY_W, meter_stale_after_s=10.0))
    specs = [spec_of(f"m{index}", SWITCH, settle_down_s=60.0, min_off_s=0.0, flex=0.0) for index in range(5)]
    site = PaperSite(tree=tree, specs=specs, failsafe_w=PLENTY_W, deaf={"m0"})
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(4_100.0, urgency=Urgency.EMERGENCY))
    site.run(28)
    assert site.device("m0").headed_for() == SWITCH.lowest
    assert site.true_w() == 4_000.0
