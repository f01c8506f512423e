"""What the grid is told: each allocation's stages in order, and a breach from its beginning to its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from core.rig import EXACT, ROW_A, SITE, SWITCH, PaperSite, ladder, spec_of, two_rows
from curtaild.core.allocation import Allocation, AllocationId, Issuer
from curtaild.core.compliance import Compliance, Standing
from curtaild.core.events import Ack, AckStage, BreachChanged, BreachStage, Event
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.policy import Policy
from curtaild_drivers.contract import FeederId, Seconds, Watts

ACCEPTED, APPLYING, REACHED = AckStage.ACCEPTED, AckStage.APPLYING, AckStage.REACHED
SHORTFALL, ENDED, REJECTED = AckStage.SHORTFALL, AckStage.ENDED, AckStage.REJECTED
ACTIVE, ESCALATED, RESOLVED = BreachStage.ACTIVE, BreachStage.ESCALATED, BreachStage.RESOLVED
FLOOR_W = 400.0


def stands(
    drawn_w: Watts, *, limit_w: Watts = 1_000.0, deficit_w: Watts = 0.0, metered_w: Watts | None = None
) -> Standing:
    lasting_w = metered_w if metered_w is not None else drawn_w
    return Standing(limit_w, drawn_w, lasting_w, metered_w, applied_w=900.0, floor_w=FLOOR_W, deficit_w=deficit_w)


def states(limit_w: Watts | None, name: str = "a1", **more: Any) -> Allocation:
    said: dict[str, Any] = {"valid_from": 0.0, "valid_until": None, "issued_at": 0.0, **more}
    ceiling = Limit(limit_w) if limit_w is not None else UNLIMITED
    return Allocation(AllocationId(name), 1, Issuer("grid"), SITE, ceiling, **said)


class Trace:
    """A feeder's standing second by second, and what is told of it."""

    def __init__(self, policy: Policy = EXACT, reach_by_s: Seconds | None = None) -> None:
        self.compliance = Compliance("run")
        self.policy = policy
        self.reach_by_s = {SITE: reach_by_s} if reach_by_s is not None else {}
        self.now = 0.0
        self.told: list[Event] = []

    def follows(
        self, allocation: Allocation | None, standing: Standing, seconds: int = 1, held: Collection[AllocationId] = ()
    ) -> Trace:
        for _ in range(seconds):
            self.now += 1.0
            in_force = [allocation] if allocation is not None else []
            self.told += self.compliance.follow(in_force, held, {SITE: standing}.get, {SITE}, self.now)
        return self

    def draws(self, drawn_w: Watts, seconds: int = 1, limit_w: Watts = 1_000.0) -> Trace:
        for _ in range(seconds):
            self.now += 1.0
            standing = {SITE: stands(drawn_w, limit_w=limit_w)}
            self.told += self.compliance.watch(standing.get, standing, standing, self.policy, self.reach_by_s, self.now)
        return self

    def stages(self) -> list[AckStage]:
        return [event.stage for event in self.told if isinstance(event, Ack)]

    def breaches(self) -> list[tuple[Seconds, BreachStage]]:
        return [(event.at, event.stage) for event in self.told if isinstance(event, BreachChanged)]

    @property
    def last_ack(self) -> Ack:
        return next(event for event in reversed(self.told) if isinstance(event, Ack))


# ---- an allocation's stages -----------------------------------------------------------------------


def test_applying_then_reached_then_ended() -> None:
    limit = states(1_000.0)
    trace = Trace().follows(limit, stands(1_500.0), 20).follows(limit, stands(990.0), 20).follows(None, stands(990.0))
    assert trace.stages() == [APPLYING, REACHED, ENDED]


def test_a_limit_that_is_kept_already_is_reached_at_once() -> None:
    assert Trace().follows(states(1_000.0), stands(1_000.0)).stages() == [APPLYING, REACHED]


def test_a_release_is_reached_at_once() -> None:
    assert Trace().follows(states(None), stands(9_999.0)).stages() == [APPLYING, REACHED]


def test_a_shortfall_names_the_floor_and_what_is_missing() -> None:
    limit = states(100.0)
    trace = Trace().follows(limit, stands(900.0), 5).follows(limit, stands(420.0, deficit_w=320.0), 5)
    assert trace.stages() == [APPLYING, SHORTFALL]
    assert (trace.last_ack.floor_w, trace.last_ack.limit_w) == (FLOOR_W, 100.0)
    assert trace.last_ack.reason == "320 W cannot be shed; the floor is 400 W"


def test_too_late_is_a_shortfall_and_reached_after_all_is_told_too() -> None:
    limit = states(1_000.0, reach_by_s=30.0)
    trace = Trace().follows(limit, stands(1_500.0), 31)
    assert trace.stages() == [APPLYING]
    trace.follows(limit, stands(1_500.0), 1)
    assert trace.stages() == [APPLYING, SHORTFALL]
    assert trace.last_ack.reason == "not within 30 s"
    trace.follows(limit, stands(1_500.0), 100).follows(limit, stands(990.0), 10)
    assert trace.stages() == [APPLYING, SHORTFALL, REACHED]


def test_what_happens_after_it_was_reached_is_a_breach_and_not_a_stage() -> None:
    limit = states(1_000.0)
    trace = Trace().follows(limit, stands(990.0), 5).follows(limit, stands(1_900.0, deficit_w=900.0), 5)
    assert trace.stages() == [APPLYING, REACHED]


def test_each_stage_carries_what_is_applied_and_metered() -> None:
    trace = Trace().follows(states(1_000.0), stands(990.0, metered_w=990.0))
    ack = trace.last_ack
    assert (ack.allocation_id, ack.issuer, ack.seq, ack.feeder) == ("a1", "grid", 1, SITE)
    assert (ack.limit_w, ack.applied_w, ack.metered_w, ack.floor_w) == (1_000.0, 900.0, 990.0, FLOOR_W)


def test_one_allocation_follows_another() -> None:
    trace = Trace().follows(states(1_000.0, "a1"), stands(900.0)).follows(states(500.0, "a2"), stands(900.0))
    told = [(event.stage, event.allocation_id) for event in trace.told if isinstance(event, Ack)]
    assert told == [(APPLYING, "a1"), (REACHED, "a1"), (ENDED, "a1"), (APPLYING, "a2")]


def test_an_allocation_that_a_newer_one_covers_for_a_while_has_not_ended() -> None:
    lasting, passing = states(1_000.0, "lasting"), states(2_000.0, "passing")
    trace = Trace().follows(lasting, stands(900.0), held=[lasting.id])
    trace.follows(passing, stands(1_800.0), 60, held=[lasting.id, passing.id])
    trace.follows(lasting, stands(900.0), 60, held=[lasting.id])
    told = [(event.stage, event.allocation_id) for event in trace.told if isinstance(event, Ack)]
    assert told == [(APPLYING, "lasting"), (REACHED, "lasting"), (APPLYING, "passing"), (REACHED, "passing"),
                    (ENDED, "passing")]  # fmt: skip


# ---- a breach -------------------------------------------------------------------------------------


def test_a_breach_is_told_when_it_begins_gets_worse_and_ends_under_one_id() -> None:
    trace = Trace(replace(EXACT, response_s=60.0))
    trace.draws(1_100.0, 65)
    assert trace.breaches() == []
    trace.draws(1_100.0, 1)
    assert trace.breaches() == [(66.0, ACTIVE)]  # the grace until 61, five seconds to be sure
    trace.draws(1_150.0, 60)
    assert trace.breaches()[1:] == [(121.0, ESCALATED)]
    trace.draws(990.0, 5)
    assert trace.breaches()[2:] == []
    trace.draws(990.0, 1)
    assert trace.breaches()[2:] == [(132.0, RESOLVED)]
    told = [event for event in trace.told if isinstance(event, BreachChanged)]
    assert {event.id for event in told} == {"run-1"}
    assert {event.since for event in told} == {61.0}
    assert [event.over_w for event in told] == [100.0, 150.0, 0.0]
    assert [event.worst_over_w for event in told] == [100.0, 150.0, 150.0]
    assert trace.compliance.active_breaches() == {}


def test_the_next_breach_has_another_id() -> None:
    trace = Trace(replace(EXACT, response_s=0.0))
    for _ in range(2):
        trace.draws(1_100.0, 10).draws(900.0, 10)
    told = [(event.id, event.stage) for event in trace.told if isinstance(event, BreachChanged)]
    assert told == [("run-1", ACTIVE), ("run-1", RESOLVED), ("run-2", ACTIVE), ("run-2", RESOLVED)]


def test_a_grave_breach_is_escalated_before_its_minute_is_over() -> None:
    trace = Trace(replace(EXACT, response_s=0.0)).draws(1_050.0, 10).draws(1_250.0, 1)
    assert [stage for _, stage in trace.breaches()] == [ACTIVE, ESCALATED]


def test_an_escalated_breach_is_looked_at_again_only_when_its_feeder_stands_otherwise() -> None:
    trace = Trace().draws(900.0).draws(1_900.0, 90)
    assert [stage for _, stage in trace.breaches()][-1] is ESCALATED
    asked: list[FeederId] = []

    def under(feeder: FeederId) -> Standing:
        asked.append(feeder)
        return stands(800.0)

    def passes(changed: Collection[FeederId], seconds: int) -> list[Event]:
        told: list[Event] = []
        for _ in range(seconds):
            trace.now += 1.0
            told += trace.compliance.watch(under, changed, (), trace.policy, {}, trace.now)
        return told

    assert passes((), 60) == []
    assert asked == []
    assert passes({SITE}, 1) == []
    (end,) = passes((), 10)  # from here time goes on for it
    assert isinstance(end, BreachChanged)
    assert end.stage is RESOLVED


def test_no_breach_in_the_grace_of_a_lower_limit() -> None:
    """900 W were fine under 1,000; after the limit falls to 500 the site has its time."""
    trace = Trace(replace(EXACT, response_s=60.0)).draws(900.0, 200)
    trace.draws(900.0, 60, limit_w=500.0)
    assert trace.breaches() == []
    trace.draws(900.0, 10, limit_w=500.0)
    assert len(trace.breaches()) == 1


def test_the_allocation_says_how_long_the_grace_is() -> None:
    trace = Trace(replace(EXACT, response_s=60.0), reach_by_s=300.0).draws(900.0, 10)
    trace.draws(900.0, 300, limit_w=500.0)
    assert trace.breaches() == []
    trace.draws(900.0, 10, limit_w=500.0)
    assert len(trace.breaches()) == 1


@pytest.mark.parametrize("samples", [[1_400.0], [1_400.0, 990.0, 1_400.0], [1_001.0] * 50, [1_400.0] + [1_001.0] * 50])
def test_one_noisy_sample_or_a_draw_within_the_margin_is_no_breach(samples: list[Watts]) -> None:
    trace = Trace(replace(EXACT, response_s=0.0, margin_fraction=0.002)).draws(990.0, 5)
    for drawn_w in samples:
        trace.draws(drawn_w)
    trace.draws(990.0, 20)
    assert trace.breaches() == []


def test_one_sample_under_the_limit_ends_no_breach() -> None:
    trace = Trace(replace(EXACT, response_s=0.0)).draws(1_100.0, 20).draws(990.0, 1).draws(1_100.0, 20)
    assert [stage for _, stage in trace.breaches()] == [ACTIVE]


def test_a_breach_does_not_end_in_the_grace_of_a_yet_lower_limit() -> None:
    trace = Trace(replace(EXACT, response_s=60.0)).draws(1_100.0, 70).draws(990.0, 2)
    trace.draws(990.0, 30, limit_w=500.0)
    assert [stage for _, stage in trace.breaches()] == [ACTIVE, ESCALATED]


# ---- the same, as the site lives it ---------------------------------------------------------------


def acks(site: PaperSite, name: str) -> list[tuple[Seconds, AckStage]]:
    return [
        (event.at - site.start, event.stage)
        for event in site.events
        if isinstance(event, Ack) and event.allocation_id == name
    ]


def paper(**more: Any) -> PaperSite:
    site = PaperSite(specs=[spec_of(f"m{index}", SWITCH, min_off_s=0.0) for index in range(4)], **more)
    site.tick(site.states(None))
    site.run(5)
    return site


def test_the_grid_hears_every_stage_in_order() -> None:
    site = paper()
    site.tick(site.states(2_100.0, lasts_s=60.0))
    site.run(70)
    stages = acks(site, "a2")
    assert [stage for _, stage in stages] == [ACCEPTED, APPLYING, REACHED, ENDED]
    assert [at for at, _ in stages] == [7.0, 7.0, 8.0, 67.0]
    first = next(event for event in site.events if isinstance(event, Ack) and event.allocation_id == "a2")
    assert first.applied_w is not None
    assert first.floor_w == pytest.approx(0.0)


def test_a_limit_under_the_floor_is_accepted_followed_down_and_answered_with_the_floor() -> None:
    held = ladder(("low", 400.0, 40.0), ("on", 1_000.0, 100.0))
    site = PaperSite(specs=[spec_of("m0", held), spec_of("m1", held)])
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(300.0))
    site.run(30)
    assert site.true_w() == 800.0
    assert [stage for _, stage in acks(site, "a2")] == [ACCEPTED, APPLYING, SHORTFALL]
    told = [event for event in site.events if isinstance(event, Ack) and event.stage is SHORTFALL]
    assert told[0].floor_w == pytest.approx(800.0, rel=0.01)


def test_an_allocation_for_a_row_is_followed_at_that_row() -> None:
    site = PaperSite(two_rows(), [spec_of("a1", SWITCH, ROW_A), spec_of("b1", SWITCH, FeederId("row-b"))])
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(0.0, feeder=ROW_A))
    site.run(10)
    assert [stage for _, stage in acks(site, "a2")] == [ACCEPTED, APPLYING, REACHED]
    assert (site.watts("a1"), site.watts("b1")) == (0.0, 1_000.0)


def test_a_site_that_does_not_obey_is_in_breach_until_it_does() -> None:
    """All four acknowledge and do nothing; ten minutes later a person switches them off."""
    site = paper(policy=replace(EXACT, response_s=30.0))
    site.deaf = {f"m{index}" for index in range(4)}
    site.tick(site.states(1_000.0))
    limited_at = site.now
    site.run(600)
    stages = [(event.at - limited_at, event.stage) for event in site.events if isinstance(event, BreachChanged)]
    assert [stage for _, stage in stages] == [ESCALATED]  # three times the limit: grave from the first moment
    assert stages[0][0] == 35.0
    for name in site.points:
        site.points[name] = SWITCH.lowest
    site.run(10)
    told = [event for event in site.events if isinstance(event, BreachChanged)]
    assert [event.stage for event in told] == [ESCALATED, RESOLVED]
    assert len({event.id for event in told}) == 1
