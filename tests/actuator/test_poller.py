"""Whom the poller reads and when: together with its neighbours, within its bounds, and nobody at another's cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from curtaild import poller
from curtaild.fleet import FleetDevice
from curtaild.inbox import Inbox
from curtaild.poller import GUARD_S, SLOW_AFTER_S, TURN_S, Poller
from curtaild.telemetry.telemetry import PollOutcome
from curtaild_config import DeviceSpec
from curtaild_drivers.contract import Device, DeviceId, Identity, Reading, RunState
from loop_clock import comes_true, put_forward

POLL_S = 100_000.0  # whoever was read is not due again in a test, unless it says so


class LoopClock:
    """The running loop's, which a test may put forward."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self.monotonic()


class Miner:
    """Answers when it is let, and counts what it is asked."""

    def __init__(self, on_read: Callable[[], None] = lambda: None) -> None:
        self.asked = self.answered = self.cut_short = self.at_once = 0
        self.may_answer = asyncio.Event()
        self.on_read = on_read

    async def identify(self) -> Identity:
        return Identity("Antminer", "S21", "antminer")

    async def read(self) -> Reading:
        self.asked += 1
        self.at_once += 1
        assert self.at_once == 1
        try:
            self.on_read()
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cut_short += 1
            raise
        finally:
            self.at_once -= 1
        self.answered += 1
        return Reading(asyncio.get_running_loop().time(), RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class Spec:
    driver: str = "asic"
    poll_s: float = POLL_S


@dataclass(slots=True)
class Site:
    """Miners, known and described, under a poller at work; `has_shed` while a shed waits."""

    miners: dict[DeviceId, Miner]
    poller: Poller
    outcomes: Counter[PollOutcome]
    has_shed: bool = False
    running: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return sum(miner.asked for miner in self.miners.values())

    @property
    def answered(self) -> int:
        return sum(miner.answered for miner in self.miners.values())

    async def start(self) -> None:
        self.running.append(asyncio.create_task(self.poller.run()))
        await asyncio.sleep(0)  # it has begun

    async def stop(self) -> None:
        task = self.running.pop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def site_of(
    count: int, concurrency: int = 256, *, has_shed: bool = False, on_read: Callable[[], None] = lambda: None
) -> AsyncIterator[Site]:
    miners = {DeviceId(f"miner-{number}"): Miner(on_read) for number in range(count)}
    fleet = {
        name: FleetDevice(cast(DeviceSpec, Spec()), cast(Device, miner), Identity("Antminer", "S21", "antminer"))
        for name, miner in miners.items()
    }
    outcomes: Counter[PollOutcome] = Counter()
    polls = Poller(
        fleet,
        [],
        Inbox(),
        LoopClock(),
        concurrency,
        is_watched=lambda _: False,
        stands_back=lambda: site.has_shed,
        observe=lambda _driver, outcome, _s: outcomes.update([outcome]),
        on_identity=lambda _name, _identity: None,
    )
    for subject in polls._subjects.values():
        subject.is_described = True
    site = Site(miners, polls, outcomes, has_shed)
    await site.start()
    try:
        yield site
    finally:
        if site.running:
            await site.stop()


async def test_those_that_are_due_soon_after_each_other_begin_in_one_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poller, "FIRST_ROUND_S", 10 * TURN_S)
    turns: list[int] = []

    def note() -> None:
        if not turns or turns[-1] < 0:
            turns.append(0)
            asyncio.get_running_loop().call_soon(turns.append, -1)
        turns[-1] += 1

    async with site_of(300, concurrency=300, on_read=note) as site:
        await comes_true(lambda: site.asked == 300)
    together = [count for count in turns if count > 0]
    assert sum(together) == 300
    assert len(together) <= 12, "one a turn, and the first and the last"


async def test_no_more_are_read_at_once_than_allowed() -> None:
    async with site_of(5, concurrency=2) as site:
        put_forward(10.0)
        await comes_true(lambda: site.asked == 2)
        first, second, *_ = (miner for miner in site.miners.values() if miner.asked)
        first.may_answer.set()
        await comes_true(lambda: site.asked == 3)
        assert (site.answered, second.at_once) == (1, 1)


async def test_none_begins_while_a_shed_waits() -> None:
    async with site_of(3, has_shed=True) as site:
        put_forward(10.0)
        await comes_true(lambda: site.poller._turn_at > 0)
        put_forward(10.0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert site.asked == 0
        site.has_shed = False
        await comes_true(lambda: site.asked == 3)


async def test_who_is_slow_keeps_no_place_and_who_never_ends_is_cut_short_and_asked_again() -> None:
    async with site_of(2, concurrency=1) as site:
        put_forward(10.0)
        await comes_true(lambda: site.asked == 1)
        (hung,) = (miner for miner in site.miners.values() if miner.asked)
        (waiting,) = (miner for miner in site.miners.values() if miner is not hung)
        waiting.may_answer.set()
        put_forward(SLOW_AFTER_S)
        await comes_true(lambda: waiting.answered == 1)
        assert (hung.at_once, hung.cut_short) == (1, 0)
        put_forward(GUARD_S)
        await comes_true(lambda: hung.cut_short == 1)
        assert site.outcomes == {PollOutcome.OK: 1, PollOutcome.TIMEOUT: 1}
        hung.may_answer.set()
        put_forward(2 * POLL_S)
        await comes_true(lambda: hung.answered == 1)


async def test_a_driver_that_cancels_itself_is_asked_again_and_hurts_nobody() -> None:
    def cancel_myself() -> None:
        raise asyncio.CancelledError

    async with site_of(2) as site:
        faulty, well = site.miners.values()
        faulty.on_read = cancel_myself
        well.may_answer.set()
        put_forward(10.0)
        await comes_true(lambda: site.outcomes[PollOutcome.TIMEOUT] == 1 and well.answered == 1)
        put_forward(2 * POLL_S)
        await comes_true(lambda: site.outcomes[PollOutcome.TIMEOUT] == 2 and well.answered == 2)


async def test_who_was_told_something_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "LONGEST_TURN_S", POLL_S)  # nothing else would wake it
    async with site_of(1) as site:
        ((name, miner),) = site.miners.items()
        miner.may_answer.set()
        put_forward(10.0)
        await comes_true(lambda: miner.answered == 1)
        await comes_true(lambda: site.poller._turn_at > LoopClock().monotonic() + 1.0)
        site.poller.hasten(name)
        await comes_true(lambda: miner.answered == 2)


async def test_what_is_under_way_ends_with_the_poller_and_is_read_after_another_start() -> None:
    async with site_of(3) as site:
        put_forward(10.0)
        await comes_true(lambda: site.asked == 3)
        await site.stop()
        assert [miner.cut_short for miner in site.miners.values()] == [1, 1, 1]
        assert not site.outcomes
        await site.start()
        put_forward(10.0)
        await comes_true(lambda: site.asked == 6)


async def test_a_poller_that_is_started_again_reads_nobody_twice_at_once() -> None:
    async with site_of(3) as site:
        await site.stop()
        await site.start()
        put_forward(10.0)
        await comes_true(lambda: site.asked >= 3)
        assert [miner.asked for miner in site.miners.values()] == [1, 1, 1]
