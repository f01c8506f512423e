"""A flood of messages: nothing grows, nothing starves, and the newest word of the grid is the one that is heard."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from curtaild.core.allocation import AllocationReceived, HeartbeatReceived
from curtaild.grid.native import GridAllocation, encode_allocation
from curtaild_drivers.broker.inbox import Inbox, Shelf, WorkBudget
from grid.rig import CLOCK, PATIENCE_S, at, limit_of, operator, running, topics
from mosquitto import Mosquitto

MEBIBYTE = 1024 * 1024


def message(topic: str, payload: bytes) -> aiomqtt.Message:
    return aiomqtt.Message(topic, payload, 1, False, 0, None)


def test_the_inbox_keeps_the_newest_in_order() -> None:
    inbox = Inbox({"a": Shelf(3, 100)})
    for number in range(10):
        inbox.put_nowait(message("a", b"%d" % number))
    assert [inbox.get_nowait().payload for _ in range(3)] == [b"7", b"8", b"9"]
    assert inbox.empty()
    assert (inbox.arrived_total, inbox.dropped_total) == (10, 7)


def test_the_inbox_serves_topics_in_turn() -> None:
    inbox = Inbox({"loud": Shelf(100, 100), "quiet": Shelf(1, 100)})
    for _ in range(100):
        inbox.put_nowait(message("loud", b"x"))
    inbox.put_nowait(message("quiet", b"hear me"))
    assert b"hear me" in [inbox.get_nowait().payload for _ in range(2)]


def test_the_inbox_holds_no_more_of_a_message_than_shows_that_it_is_too_long() -> None:
    inbox = Inbox({"a": Shelf(1, 100)})
    inbox.put_nowait(message("a", b"x" * 1_000_000))
    assert len(inbox.get_nowait().payload) == 101


async def test_the_inbox_ignores_foreign_topics_and_wakes_its_reader_for_ours() -> None:
    inbox = Inbox({"a": Shelf(1, 100)})
    reading = asyncio.create_task(inbox.get())
    inbox.put_nowait(message("b", b"foreign"))
    inbox.put_nowait(message("a", b"ours"))
    async with asyncio.timeout(PATIENCE_S):
        assert (await reading).payload == b"ours"


def test_a_message_that_waits_for_none_is_taken_at_once_and_none_overtakes_another() -> None:
    taken: list[bytes] = []
    is_willing = True

    def take(offered: aiomqtt.Message) -> bool:
        if is_willing:
            taken.append(offered.payload)
        return is_willing

    inbox = Inbox({"a": Shelf(2, 100)}, take)
    inbox.put_nowait(message("a", b"1"))
    assert taken == [b"1"]
    assert inbox.empty()
    is_willing = False
    for number in (2, 3, 4):
        inbox.put_nowait(message("a", b"%d" % number))
    is_willing = True
    assert inbox.get_nowait().payload == b"3", "the oldest of a full shelf gave way"
    assert inbox.get_nowait().payload == b"4"
    inbox.was_read()
    inbox.put_nowait(message("a", b"5"))
    assert taken == [b"1"], "the fourth is still in its reader's hand"
    inbox.was_read()
    assert inbox.get_nowait().payload == b"5"
    inbox.was_read()
    inbox.put_nowait(message("a", b"6"))
    assert taken == [b"1", b"6"]
    assert inbox.empty()
    assert inbox.arrived_total == 6


def test_a_message_that_could_not_be_taken_at_once_waits_for_its_reader() -> None:
    def take(_: aiomqtt.Message) -> bool:
        raise RuntimeError("a fault of ours")

    inbox = Inbox({"a": Shelf(1, 100)}, take)
    inbox.put_nowait(message("a", b"1"))
    assert inbox.get_nowait().payload == b"1"


def test_the_work_budget_lets_bursts_pass_and_keeps_its_share() -> None:
    budget = WorkBudget(share=0.2, burst_s=0.05)
    assert budget.pause_after(0.04, now=1_000.0) == 0.0
    assert not budget.is_spent(now=1_000.0)
    now, worked = 1_000.0, 0.04
    for _ in range(1_000):
        now, worked = now + 0.01, worked + 0.01
        now += budget.pause_after(0.01, now)
    assert worked / (now - 1_000.0) == pytest.approx(0.2, rel=0.05)
    budget.pause_after(0.01, now)
    assert budget.is_spent(now)
    assert not budget.is_spent(now + 1)
    assert budget.pause_after(0.04, now + 60) == 0.0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.broker
@pytest.mark.parametrize(
    "config",
    [
        pytest.param((), id="the-broker-drops"),
        pytest.param(("max_queued_messages 0", "max_inflight_messages 0"), id="all-of-it-arrives"),
    ],
)
async def test_a_flood(
    own_broker: Callable[..., Mosquitto], site: str, config: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 allocations as fast as the broker takes them, while the loop keeps time and heartbeats are heard."""
    monkeypatch.setattr("curtaild.grid.broker_link.WATCH_EVERY_S", 0.2)
    monkeypatch.setattr("curtaild.grid.broker_link.READING_SHARE", 0.05)  # so that no machine is fast enough
    broker = own_broker("allow_anonymous true", *config)
    wall = CLOCK.wall()
    orders = [
        encode_allocation(GridAllocation(f"order-{n}", n, "flood", wall, float(n), wall, None)) for n in range(1, 1_001)
    ]
    worked_s: list[float] = []

    async def keep_time() -> None:
        """What the loop works before it serves a timer: of the processor, whatever others take of it."""
        while True:
            begun_s = time.thread_time()
            await asyncio.sleep(0.01)
            worked_s.append(time.thread_time() - begun_s)

    async with running(at(broker), site) as run, operator(broker, site) as grid:
        before = resident_bytes()
        keeping_time = asyncio.create_task(keep_time())
        flooder = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("flooder.py")),
            str(broker.port),
            topics(site).allocation,
            "10000",
            stdin=asyncio.subprocess.PIPE,
        )
        flooding = asyncio.create_task(flooder.communicate(b"\n".join(orders)))
        heard = 0
        while not flooding.done():
            await grid.heartbeat()
            await run.next(HeartbeatReceived)
            heard += 1
        assert flooder.returncode == 0
        assert heard > 0
        newest = await run.next(AllocationReceived)
        while not (newest.retained and limit_of(newest) == 1_000):  # the state asked for again once the flood is over
            newest = await run.next(AllocationReceived)
        keeping_time.cancel()
        assert resident_bytes() - before < 64 * MEBIBYTE
        assert sorted(worked_s)[int(len(worked_s) * 0.95)] < 0.1
        state = run.link.links[0]
        assert state.reconnects_total == 0
        assert state.dropped_total > 0 or not config  # without, it is mostly the broker who drops, unseen
        await grid.allocate(77)
        assert limit_of(await run.next(AllocationReceived)) == 77
