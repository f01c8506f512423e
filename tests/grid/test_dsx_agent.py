"""DSX Flex on paper, what the agent tells: snapshots on every transition and now and then, alerts from active to
resolved. Everything published is held against the published schema and its own signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild.core.allocation import AllocationId, AllocationReceived, HeartbeatReceived, Issuer, RejectCode
from curtaild.core.events import Ack, AckStage, BreachChanged, BreachId, BreachStage, LinkPhase
from curtaild.core.limits import UNLIMITED
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild.grid.dialect import Publication
from curtaild.grid.dsx import TargetBook
from curtaild.grid.dsx.envelope import Trace
from curtaild.grid.dsx.isv import LoadTarget
from curtaild_drivers.contract import DeviceId, FeederId, RunState
from grid.dsx import AGENT, ISV, NOON, ROOT, ROW, UPTIME, Agent, at_noon, event, told
from grid.rig import a_feeder, a_status

ACME = Issuer(f"//grid/v1/isv/{ISV}")
CORRELATION = "11111111-2222-4333-8444-555555555555"
TRACE = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")


def feeder(limit_w: float, drawn_w: float, planned_w: float | None = None, **changes: Any) -> FeederStatus:
    words = {
        "limit_w": limit_w,
        "metered_w": drawn_w,
        "planned_w": drawn_w if planned_w is None else planned_w,
        "curtailed_w": 0.0,
        "rating_w": 1e6,
        **changes,
    }
    return a_feeder()._replace(**words)


def status(agent: Agent, *feeders: FeederStatus, devices: tuple[DeviceStatus, ...] = ()) -> SiteStatus:
    return replace(a_status(), at=agent.clock.monotonic(), feeders=feeders, devices=devices)


def ack(stage: AckStage, agent: Agent, allocation: Any, **words: Any) -> list[Publication]:
    limit_w = getattr(allocation.ceiling, "watts", None)
    answer = Ack(
        agent.clock.monotonic(),
        stage,
        allocation.id,
        allocation.issuer,
        allocation.seq,
        allocation.feeder,
        limit_w,
        **words,
    )
    return list(agent.dialect.ack(answer))


def shown(agent: Agent, *feeders: FeederStatus) -> list[tuple[dict[str, Any], Mapping[str, Any]]]:
    return [told(publication) for publication in agent.dialect.status(status(agent, *feeders), None)]


def triggers(agent: Agent, *feeders: FeederStatus) -> list[str]:
    """What set off a snapshot, for the root's feed."""
    return [data["feeds"]["main-a"]["event"] for _, data in shown(agent, *feeders)]


# ---- the power state --------------------------------------------------------------------------


def test_a_curtailment_from_the_order_to_the_release_as_an_isv_sees_it() -> None:
    agent = Agent()
    assert triggers(agent, feeder(1e6, 9e5)) == ["periodic"]
    (allocation,) = agent.asked(LoadTarget(5e5, ("main-a",), None, NOON + 600), correlation_id=CORRELATION, trace=TRACE)
    ((envelope, data),) = map(told, ack(AckStage.ACCEPTED, agent, allocation))
    feed = data["feeds"]["main-a"]
    assert (feed["event"], envelope["correlationid"], envelope["tracestate"]) == ("target_set", CORRELATION, "vendor=1")
    assert envelope["traceparent"].split("-")[1] == TRACE.parent.split("-")[1]
    assert envelope["traceparent"] != TRACE.parent, "a span of our own in their trace"
    assert feed["targets"] == [
        {
            "active": False,
            "load_constraint": {"value": 5e5, "unit": "watt"},
            "interval": {"end_time": at_noon(600)},
            "strategy": {"best_effort": False},
            "correlation_id": CORRELATION,
        }
    ]
    ack(AckStage.APPLYING, agent, allocation, floor_w=60_000.0)
    ((envelope, data),) = shown(agent, feeder(5e5, 9e5, 4.9e5, curtailed_w=4e5))
    feed = data["feeds"]["main-a"]
    assert (feed["event"], feed["in_flight"], feed["targets"][0]["active"]) == ("start_ramp_down", True, True)
    assert (feed["compliant"], feed["calculated_load"]["value"]) == (True, 4.9e5)
    assert (envelope["correlationid"], feed["power_event_start_time"]) == (CORRELATION, at_noon())
    assert feed["metadata"] == {
        "power_minimum": {"value": 60_000.0, "unit": "watt"},
        "power_maximum": {"value": 1e6, "unit": "watt"},
        "default_constraint": {"value": 250_000.0, "unit": "watt"},
    }
    agent.clock.moved_s = 10
    assert triggers(agent, feeder(5e5, 4.9e5, curtailed_w=4e5)) == ["end_ramp_down"]
    assert triggers(agent, feeder(5e5, 4.9e5, curtailed_w=4e5)) == []
    agent.clock.moved_s = 41
    assert triggers(agent, feeder(5e5, 4.9e5, curtailed_w=4e5)) == ["periodic"]
    agent.asked(LoadTarget(None, ("main-a",)))
    ack(AckStage.ENDED, agent, allocation)
    ((_, data),) = shown(agent, feeder(1e6, 4.9e5, 5e5, curtailed_w=4e5))
    feed = data["feeds"]["main-a"]
    assert (feed["event"], feed["in_flight"], feed["targets"]) == ("start_ramp_up", True, [])
    assert "power_event_start_time" not in feed
    assert triggers(agent, feeder(1e6, 9e5)) == ["end_ramp_up"]


def test_a_feed_that_cannot_comply_says_so_and_that_it_is_done() -> None:
    agent = Agent()
    triggers(agent, feeder(1e6, 9e5))
    (allocation,) = agent.asked(LoadTarget(1e5, ("main-a",), is_best_effort=True))
    ack(AckStage.APPLYING, agent, allocation)
    assert triggers(agent, feeder(1e5, 9e5, 3e5)) == ["start_ramp_down"]
    ((_, data),) = shown(agent, feeder(1e5, 3e5, 3e5, deficit_w=2e5))
    feed = data["feeds"]["main-a"]
    assert (feed["event"], feed["compliant"], feed["in_flight"]) == ("end_ramp_down", False, False)
    assert feed["targets"][0]["strategy"] == {"best_effort": True}


def test_a_ramp_up_that_goes_no_further_is_over() -> None:
    agent = Agent()
    triggers(agent, feeder(5e5, 5e5, curtailed_w=4e5))
    assert triggers(agent, feeder(1e6, 5e5, curtailed_w=4e5)) == ["start_ramp_up"]
    agent.clock.moved_s = 119
    assert triggers(agent, feeder(1e6, 6e5, curtailed_w=3e5)) == ["periodic"]
    agent.clock.moved_s = 119 + 121
    assert triggers(agent, feeder(1e6, 6e5, curtailed_w=3e5)) == ["end_ramp_up"]


def test_a_snapshot_holds_every_feed_and_nothing_else() -> None:
    agent = Agent()
    other = feeder(1e5, 1e4)._replace(id=FeederId("office"), parent=ROOT)
    ((_, data),) = shown(agent, feeder(1e6, 9e5), feeder(5e5, 1e5)._replace(id=ROW, parent=ROOT), other)
    assert list(data["feeds"]) == ["main-a", "main-b"]
    assert data["feeds"]["main-b"]["metadata"]["default_constraint"]["value"] == 1e6, "its rating: nobody limits it"


def test_where_it_goes_and_what_becomes_of_it_while_the_broker_is_away() -> None:
    agent = Agent()
    (first,) = agent.dialect.status(status(agent, feeder(1e6, 9e5)), None)
    (second,) = agent.dialect.status(status(agent, feeder(5e5, 9e5)), None)
    assert first.topic == second.topic == f"grid/v1/dsx-flex-agent/{AGENT}/powerstate/status"
    assert [(each.qos, each.retain) for each in (first, second)] == [(1, False)] * 2
    assert (first.is_state, second.is_state) == (True, False), "a transition is never passed over"


def test_after_a_restart_the_core_tells_what_still_holds() -> None:
    before, after = Agent(), Agent()
    (allocation,) = before.asked(LoadTarget(5e5, ("main-a",)))
    ack(AckStage.APPLYING, after, allocation)
    ((_, data),) = shown(after, feeder(5e5, 4e5))
    (target,) = data["feeds"]["main-a"]["targets"]
    assert (target["active"], target["interval"]) == (True, {})
    assert target["correlation_id"] == allocation.id.partition("/")[0]


def test_a_reload_forgets_no_target() -> None:
    book = TargetBook()
    Agent(book).asked(LoadTarget(5e5, ("main-a",), NOON + 60, NOON + 120), correlation_id=CORRELATION)
    ((_, data),) = shown(Agent(book), feeder(1e6, 4e5))
    assert [target["correlation_id"] for target in data["feeds"]["main-a"]["targets"]] == [CORRELATION]


def test_several_isvs_each_have_their_newest_and_the_strictest_makes_compliance() -> None:
    agent = Agent()
    loose, strict = agent.asked(LoadTarget(8e5, ("main-a",)), LoadTarget(6e5, ("main-a",)))
    for each in (loose, strict):
        ack(AckStage.APPLYING, agent, each)
    ((_, data),) = shown(agent, feeder(6e5, 7e5))
    feed = data["feeds"]["main-a"]
    assert [target["active"] for target in feed["targets"]] == [False, True]
    assert not feed["compliant"]


WATTS = st.floats(0, 1e12) | st.sampled_from([float("nan"), float("inf"), -1.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WATTS, WATTS, WATTS, WATTS), max_size=6))
def test_whatever_the_site_looks_like_fits_the_schema(course: list[tuple[float, float, float, float]]) -> None:
    agent = Agent(snapshot_interval_s=0.0)
    (allocation,) = agent.asked(LoadTarget(5e5, ("main-a",)))
    for stage in (AckStage.ACCEPTED, AckStage.APPLYING):
        for publication in ack(stage, agent, allocation):
            told(publication)
    for limit_w, drawn_w, planned_w, curtailed_w in course:
        assert shown(agent, feeder(limit_w, drawn_w, planned_w, curtailed_w=curtailed_w))


# ---- breaches ---------------------------------------------------------------------------------


def breach(stage: BreachStage, over_w: float, at: float = UPTIME, limit_w: float = 5e5) -> BreachChanged:
    return BreachChanged(at, BreachId("b-1"), ROOT, stage, limit_w, over_w, over_w, UPTIME - 7)


def device(name: str, power_w: float | None, setpoint_w: float | None, where: FeederId = ROW) -> DeviceStatus:
    return DeviceStatus(
        DeviceId(name),
        where,
        RunState.RUNNING,
        power_w,
        0.0,
        4e3,
        None,
        None,
        "x",
        setpoint_w,
        "x",
        None,
        False,
        1.0,
        (),
    )


@pytest.fixture
def limited() -> Agent:
    """An agent whose root feed is limited to 500 kW by the ISV."""
    agent = Agent()
    (allocation,) = agent.asked(LoadTarget(5e5, ("main-a",)), correlation_id=CORRELATION, trace=TRACE)
    ack(AckStage.APPLYING, agent, allocation)
    return agent


def alert(agent: Agent, change: BreachChanged) -> Mapping[str, Any]:
    (publication,) = agent.dialect.breach(change)
    assert (publication.topic, publication.qos) == (f"grid/v1/dsx-flex-agent/{AGENT}/powerbreach", 2)
    envelope, data = told(publication)
    assert (envelope["correlationid"], data["target"]["correlation_id"]) == (CORRELATION, CORRELATION)
    assert envelope["traceparent"].split("-")[1] == TRACE.parent.split("-")[1]
    return data


def test_a_breach_from_active_over_escalated_to_resolved(limited: Agent) -> None:
    row = feeder(5e5, 5e5)._replace(id=ROW, parent=ROOT)
    devices = (
        device("row-1/fair", 3_000.0, 3_000.0),
        device("row-1/deaf", 4_000.0, 1_000.0),
        device("row-1/off", 0.0, 0.0),
        device("row-1/unknown", None, 3_000.0),
        device("hall/other", 9_000.0, 1_000.0, FeederId("elsewhere")),
    )
    limited.dialect.status(status(limited, feeder(5e5, 5.04e5), row, devices=devices), None)
    active = alert(limited, breach(BreachStage.ACTIVE, 4_000.0))
    assert (active["status"], active["severity"], active["feed_tag"]) == ("active", "warning", "main-a")
    assert active["measured_load"]["value"] == 504_000.0
    assert active["breach"]["detected_at"] == at_noon(-7)
    assert active["infrastructure_actions"] == ["SHUTDOWN_NODES"]
    capped, suspended = active["shed_hints"]
    assert (capped["resource_id"], capped["action"], capped["target_power"]["value"]) == (
        "row-1/deaf",
        "power_cap",
        1e3,
    )
    assert (suspended["resource_id"], suspended["action"], suspended["priority"]) == ("row-1/fair", "suspend", 2)

    escalated = alert(limited, breach(BreachStage.ESCALATED, 100_001.0))
    assert (escalated["status"], escalated["severity"]) == ("escalated", "critical")
    assert escalated["infrastructure_actions"] == ["SHUTDOWN_NODES", "SHUTDOWN_RACKS"]

    resolved = alert(limited, breach(BreachStage.RESOLVED, 0.0, UPTIME + 60))
    assert (resolved["status"], resolved["severity"], resolved["infrastructure_actions"]) == ("resolved", "warning", [])
    assert resolved["breach"]["resolved_at"] == at_noon(60)
    assert "shed_hints" not in resolved
    assert len({each["breach"]["breach_id"] for each in (active, escalated, resolved)}) == 1


@pytest.mark.parametrize(("over_w", "severity"), [(1.0, "warning"), (100_000.0, "warning"), (100_001.0, "critical")])
def test_more_than_a_fifth_over_the_target_is_critical(limited: Agent, over_w: float, severity: str) -> None:
    assert alert(limited, breach(BreachStage.ACTIVE, over_w))["severity"] == severity


def test_a_target_lifted_meanwhile_still_hears_the_end(limited: Agent) -> None:
    alert(limited, breach(BreachStage.ACTIVE, 4_000.0))
    limited.dialect.ack(Ack(UPTIME, AckStage.ENDED, AllocationId("x"), ACME, 1, ROOT))
    assert alert(limited, breach(BreachStage.RESOLVED, 0.0))["status"] == "resolved"
    assert limited.dialect.breach(breach(BreachStage.RESOLVED, 0.0)) == []


def test_what_is_no_load_targets_concern_is_not_alerted(limited: Agent) -> None:
    assert Agent().dialect.breach(breach(BreachStage.ACTIVE, 1.0)) == [], "nobody set a target"
    assert limited.dialect.breach(breach(BreachStage.ACTIVE, 5e4, limit_w=2e5)) == [], "over somebody else's limit"
    foreign = replace(breach(BreachStage.ACTIVE, 1.0), feeder=FeederId("office"))
    assert limited.dialect.breach(foreign) == [], "not a feed of this connection"


# ---- what holds without a target --------------------------------------------------------------


def test_released_feeds_are_unlimited_as_long_as_the_broker_is_there() -> None:
    agent = Agent(is_released=True)
    assert agent.dialect.beats
    assert agent.dialect.tick(is_connected=False) == []
    beat, stated = agent.dialect.tick(is_connected=True)
    assert beat == HeartbeatReceived()
    assert isinstance(stated, AllocationReceived)
    assert (stated.allocation.ceiling, stated.allocation.feeder) == (UNLIMITED, ROOT)
    assert agent.dialect.owns(stated.allocation.issuer)
    assert agent.dialect.tick(is_connected=True) == [], "every ten seconds"
    agent.clock.moved_s = 10
    assert agent.dialect.tick(is_connected=True) == [HeartbeatReceived()]
    agent.dialect.status(replace(status(agent, feeder(1e6, 1.0)), phase=LinkPhase.FAILSAFE), None)
    agent.clock.moved_s = 20
    assert agent.dialect.tick(is_connected=True) == [HeartbeatReceived(), stated], (
        "out of the fail-safe it is said again"
    )
    agent.clock.moved_s = 60
    ((_, data),) = shown(agent, feeder(1e6, 1.0))
    assert data["feeds"]["main-a"]["metadata"]["default_constraint"]["value"] == 1e6


def test_a_clock_that_was_ahead_once_does_not_silence_us() -> None:
    agent = Agent(is_released=True)
    _, stated = agent.dialect.tick(is_connected=True)
    assert isinstance(stated, AllocationReceived)
    first = stated.allocation
    agent.dialect.ack(
        Ack(UPTIME, AckStage.REJECTED, first.id, first.issuer, first.seq, code=RejectCode.STALE_SEQ, reason="stale")
    )
    agent.clock.moved_s = 10
    _, again = agent.dialect.tick(is_connected=True)
    assert isinstance(again, AllocationReceived)
    assert again.allocation.seq >= first.seq + 1_000_000


def test_where_feeds_are_not_released_there_is_no_sign_of_life() -> None:
    agent = Agent()
    assert not agent.dialect.beats
    assert agent.dialect.tick(is_connected=True) == []
    assert agent.hear(event(LoadTarget(1.0, ("main-a",))))
