"""The grid link against a real broker: what it hears, what it says, and with which flags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import aiomqtt
import pytest

from curtaild.core.allocation import (
    AllocationReceived,
    HeartbeatReceived,
    MessageRejected,
    RejectCode,
    ScheduleReceived,
)
from curtaild.core.events import AckStage, BreachChanged, BreachId, BreachStage
from curtaild.core.limits import UNLIMITED
from curtaild.grid.connection import GridLink
from curtaild.grid.opening import open_grid
from curtaild.grid.operator import Window
from curtaild_config import Site
from grid.rig import (
    CLOCK,
    PATIENCE_S,
    ROOT,
    a_status,
    an_ack,
    at,
    heard,
    is_state,
    limit_of,
    onlooker,
    operator,
    running,
    topics,
)
from mosquitto import Mosquitto

pytestmark = pytest.mark.broker

MAX_ANSWERS = 1_000


async def test_an_allocation_reaches_the_site(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        sent = await grid.allocate(1_500_000, valid_for_s=600, reach_by_s=60, emergency=True)
        received = await run.next(AllocationReceived)
    assert received.allocation.id == sent
    assert limit_of(received) == 1_500_000
    assert received.allocation.feeder == ROOT
    assert received.allocation.valid_until == pytest.approx(CLOCK.monotonic() + 600, abs=5)
    assert not received.retained


async def test_a_release_and_a_schedule_and_a_heartbeat_reach_the_site(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        await grid.release()
        assert (await run.next(AllocationReceived)).allocation.ceiling == UNLIMITED
        start = CLOCK.wall() + 3_600
        ids = await grid.schedule([Window(1e6, start, start + 900), Window(None, start + 900, None, feeder="row-7")])
        scheduled = await run.next(ScheduleReceived)
        assert [allocation.id for allocation in scheduled.allocations] == ids
        assert scheduled.allocations[1].feeder == "row-7"
        await grid.heartbeat()
        assert await run.next(HeartbeatReceived) == HeartbeatReceived()
        assert run.link.links[0].received_total == 3


async def test_sequence_numbers_rise_even_within_a_millisecond(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        for limit_w in range(50):
            await grid.allocate(limit_w)
        numbers = [(await run.next(AllocationReceived)).allocation.seq for _ in range(50)]
    assert numbers == sorted(set(numbers))


async def test_the_allocation_kept_by_the_broker_is_delivered_at_start(broker: Mosquitto, site: str) -> None:
    async with operator(broker, site) as grid:
        await grid.allocate(700_000)
    async with running(at(broker), site) as run:
        received = await run.next(AllocationReceived)
    assert (limit_of(received), received.retained) == (700_000, True)


async def test_a_poisonous_retained_message_is_refused_and_the_link_lives(broker: Mosquitto, site: str) -> None:
    async with onlooker(broker) as someone:
        await someone.publish(topics(site).allocation, b'{"id":"poison","limit_w":' + b"[" * 5_000, qos=1, retain=True)
        await someone.publish(topics(site).schedule, b"\xff\xfe", qos=1, retain=True)
        await someone.publish(topics(site).heartbeat, b"{}", qos=0, retain=True)
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        for _ in range(2):
            rejected = await run.next(MessageRejected)
            assert (rejected.code, rejected.retained) == (RejectCode.MALFORMED, True)
        await grid.allocate(5)
        assert limit_of(await run.next(AllocationReceived)) == 5
        state = run.link.links[0]
    assert state.rejected_total == {RejectCode.MALFORMED: 2}
    assert state.reconnects_total == 0


async def test_an_oversized_message_is_refused_unread(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, onlooker(broker) as someone:
        await someone.publish(topics(site).allocation, b"x" * 3_000_000, qos=1)
        rejected = await run.next(MessageRejected)
    assert rejected.code is RejectCode.TOO_LARGE


async def test_quality_of_service_and_retained_flags_are_as_the_dialect_says(broker: Mosquitto, site: str) -> None:
    """A live subscriber never sees the retained flag, so a second one comes late and looks at what was kept."""
    names = topics(site)
    everything = f"curtaild/v1/{site}/#"
    breach = BreachChanged(
        CLOCK.monotonic(), BreachId("b-1"), ROOT, BreachStage.ACTIVE, 1e6, 5e3, 5e3, CLOCK.monotonic()
    )
    async with (
        onlooker(broker, everything) as someone,
        running(at(broker), site) as run,
        operator(broker, site) as grid,
    ):
        run.link.status(a_status())
        run.link.ack(an_ack(1))
        run.link.breach(breach)
        await grid.allocate(1e6)
        await grid.schedule([])
        await grid.heartbeat()
        live: dict[str, int] = {}
        async with asyncio.timeout(PATIENCE_S):
            while len(live) < 6:
                message = await anext(someone.messages)
                live[message.topic.value] = message.qos
        assert live == {
            names.allocation: 1,
            names.schedule: 1,
            names.heartbeat: 0,
            names.ack: 1,
            names.breach: 1,
            names.status: 1,
        }
        kept: set[str] = set()
        async with onlooker(broker, everything) as late:
            await late.publish(f"curtaild/v1/{site}/that-is-all", b"{}")
            async with asyncio.timeout(PATIENCE_S):
                while (message := await anext(late.messages)).retain:
                    kept.add(message.topic.value)
    assert kept == {names.allocation, names.schedule, names.status}


async def test_acks_arrive_in_order(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        for number in range(500):
            run.link.ack(an_ack(number))
        acks = grid.acks()
        async with asyncio.timeout(PATIENCE_S):
            assert [(await anext(acks))["seq"] for _ in range(500)] == list(range(500))


async def test_the_status_coalesces_to_the_newest(broker: Mosquitto, site: str) -> None:
    async with operator(broker, site) as grid, running(at(broker), site) as run:
        for limit_w in range(100):
            run.link.status(a_status(limit_w=float(limit_w)))
        seen: list[float] = []
        async with asyncio.timeout(PATIENCE_S):
            while not seen or seen[-1] != 99:
                seen.append((await grid.status())["limit_w"])
    assert len(seen) < 100


async def test_what_was_said_before_the_broker_was_there_is_said_once_it_is(
    own_broker: Callable[..., Mosquitto], site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild.grid.outbox.MAX_WAITING", MAX_ANSWERS)
    broker = own_broker()
    broker.stop()
    async with running(at(broker), site, wait=False) as run:
        run.link.status(a_status())
        for number in range(MAX_ANSWERS + 5):
            run.link.ack(an_ack(number))
        assert run.link.links[0].dropped_total == 5
        await run.until(lambda state: state.last_error is not None)
        broker.start()
        async with operator(broker, site) as grid:
            acks = grid.acks()
            async with asyncio.timeout(PATIENCE_S):
                last = await anext(acks)
                while last["seq"] < MAX_ANSWERS + 4:
                    following = await anext(acks)
                    assert following["seq"] == last["seq"] + 1
                    last = following
                assert (await grid.status())["state"] == "limited"


async def test_a_clean_stop_says_stopped_after_the_last_answers(
    broker: Mosquitto, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild.grid.broker_link.GOODBYE_TIMEOUT_S", PATIENCE_S)
    names = topics(site)
    async with onlooker(broker, names.ack, names.status) as someone:
        async with running(at(broker), site) as run:
            run.link.status(a_status())
            await heard(someone, lambda body: body.get("state") == "limited")
            run.link.ack(an_ack(1, AckStage.ENDED))
        await heard(someone, lambda body: body.get("stage") == "ended")  # perhaps twice: it was on its way
        await heard(someone, lambda body: body.get("reason") == "stopped")
        assert not run.link.links[0].connected
        async with onlooker(broker, names.status) as late:
            kept = await heard(late)
            assert kept.retain
            assert json.loads(kept.payload)["reason"] == "stopped"


async def test_two_brokers_both_deliver_and_both_are_told(own_broker: Callable[..., Mosquitto], site: str) -> None:
    first, second = own_broker(), own_broker()
    async with (
        running(at(first, second), site) as run,
        operator(first, site) as north,
        operator(second, site, issuer="ke") as south,
    ):
        await north.allocate(1)
        assert (await run.next(AllocationReceived)).allocation.issuer == "npcc"
        await south.allocate(2)
        assert (await run.next(AllocationReceived)).allocation.issuer == "ke"
        run.link.ack(an_ack(3))
        run.link.status(a_status())
        async with asyncio.timeout(PATIENCE_S):
            for side in (north, south):
                assert (await anext(side.acks()))["seq"] == 3
                assert (await side.status())["state"] == "limited"
        first.stop()
        await run.until(lambda state: not state.connected, broker=0)
        await south.allocate(4)
        assert limit_of(await run.next(AllocationReceived)) == 4
        assert [state.connected for state in run.link.links] == [False, True]


async def test_our_status_is_heard_coming_back(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run:
        assert run.link.links[0].echo_ok is None
        run.link.status(a_status())
        await run.until(lambda state: state.echo_ok is True)


async def test_an_offline_that_comes_late_is_corrected(broker: Mosquitto, site: str) -> None:
    """A broker gives up a broken connection only after 1.5 keepalives; by then we may long be connected anew."""
    async with running(at(broker), site) as run, onlooker(broker, topics(site).status) as someone:
        run.link.status(a_status())
        await heard(someone, is_state("limited"))
        ghost = {"at": None, "state": "offline", "reason": "connection lost"}
        await someone.publish(
            topics(site).status, json.dumps(ghost, separators=(",", ":")).encode(), qos=1, retain=True
        )
        await heard(someone, is_state("offline"))
        await heard(someone, is_state("limited"))


async def test_heartbeats_go_on_while_the_block_runs(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, operator(broker, site) as grid, grid.heartbeats(interval_s=0.02):
        for _ in range(3):
            await run.next(HeartbeatReceived)


def test_the_site_files_settings_are_what_the_link_needs() -> None:
    site = Site.model_validate(
        {
            "site": {"name": "thar-1"},
            "grid": {"brokers": ["mqtt://127.0.0.1:1883", "mqtts://[::1]"], "failsafe_limit_w": 0},
            "feeder": [{"id": ROOT, "rating_w": 1e6}],
        }
    )

    async def build() -> GridLink:
        return open_grid(site, ROOT, CLOCK, lambda message: None, "site.toml", {})

    states = asyncio.run(build()).links
    assert [state.url for state in states] == ["mqtt://127.0.0.1:1883", "mqtts://[::1]:8883"]


async def test_a_second_client_with_our_id_does_not_silence_us(broker: Mosquitto, site: str) -> None:
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        async with aiomqtt.Client("127.0.0.1", broker.port, identifier=f"curtaild-{site}"):
            state = await run.until(lambda state: state.last_error is not None or state.reconnects_total > 0)
        assert state.last_error is None or "took our id" in state.last_error
        await run.connected()
        await grid.allocate(8)
        assert limit_of(await run.next(AllocationReceived)) == 8
