"""Clocks that are set, that begin at 1970, that differ: what is valid stays so for as long as it was stated, what
cannot be judged is refused and asked for again, and a difference is told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from curtaild.clock import Clock, SystemClock
from curtaild.control import ControlLoop
from curtaild.core.allocation import AllocationReceived, GridMessage, HeartbeatReceived, MessageRejected, RejectCode
from curtaild.core.events import LinkPhase
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.limits import Limit
from curtaild.core.link import FAILSAFE, Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.site import Site
from curtaild.grid.connection import GridLink, broker_accesses
from curtaild.grid.fields import timestamp
from curtaild.grid.native import Context, NativeDialect, Topics, decode
from curtaild.inbox import Inbox
from curtaild.memory import LinkKeeper, link_memory
from curtaild.store import Store
from curtaild.telemetry import Telemetry
from grid.rig import ROOT, at, at_work, limit_of, operator, topics
from mosquitto import Mosquitto

NOON, UPTIME = 1_795_176_000.0, 5_000.0
DAY = 86_400.0
FAILSAFE_W, STATED_W = 2_000.0, 1_000.0
TOPICS = Topics("curtaild/v1", "thar-1")
POLICY = LinkPolicy(ROOT, frozenset({ROOT}), FAILSAFE_W, failsafe_hold_s=0.0)
SETTINGS = [pytest.param(DAY, id="a day ahead"), pytest.param(-DAY, id="a day back"), pytest.param(-NOON, id="1970")]


class TwoClocks:
    """Noon, 5,000 s after boot. `goes` moves both, `is_set` the wall alone."""

    def __init__(self, wall: float = NOON, monotonic: float = UPTIME) -> None:
        self._wall, self._monotonic = wall, monotonic

    def goes(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def is_set(self, by_s: float) -> None:
        self._wall += by_s

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall


class Desk:
    """The native dialect and the link, by these clocks."""

    def __init__(self, clock: TwoClocks, kept: Mapping[str, str | None] | None = None) -> None:
        self.clock = clock
        memory = link_memory({key: text for key, text in (kept or {}).items() if text is not None}, clock)
        self.link = Link(POLICY, clock.monotonic(), memory)
        self._context = Context(TOPICS, ROOT, clock, 300.0, 16_384)

    def hears(self, topic: str, **body: Any) -> GridMessage:
        message = decode(topic, json.dumps(body).encode(), False, self._context)
        assert message is not None
        self.link.receive(message, self.clock.monotonic())
        return message

    def beats(self) -> None:
        self.hears(TOPICS.heartbeat, at=timestamp(NOON), seq=1)

    def states(self, begins: float = 0.0, ends: float = 3_600.0, seq: int = 1) -> GridMessage:
        """A limit between two moments, in seconds after noon."""
        times = {"issued_at": timestamp(NOON), "valid_from": timestamp(NOON + begins)}
        words = {"id": f"order-{seq}", "seq": seq, "issuer": "npcc", "limit_w": STATED_W}
        return self.hears(TOPICS.allocation, **words, **times, valid_until=timestamp(NOON + ends))

    def goes(self, seconds: float) -> None:
        """So much time passes, with a heartbeat at its end."""
        self.clock.goes(seconds)
        self.beats()
        self.link.advance(self.clock.monotonic())

    @property
    def stands(self) -> tuple[LinkPhase, float]:
        self.link.advance(self.clock.monotonic())
        ceiling = self.link.ceilings(self.clock.monotonic())[ROOT][0]
        assert isinstance(ceiling, Limit)
        return self.link.phase, ceiling.watts


HELD, OVER = (LinkPhase.LIMITED, STATED_W), (LinkPhase.FAILSAFE, FAILSAFE_W)


@pytest.mark.parametrize("by_s", SETTINGS)
def test_a_clock_that_is_set_neither_ends_nor_prolongs_a_limit(by_s: float) -> None:
    desk = Desk(TwoClocks())
    desk.beats()
    desk.states(ends=3_600.0)
    assert desk.stands == HELD
    desk.clock.is_set(by_s)
    assert desk.stands == HELD
    desk.goes(3_599.0)
    assert desk.stands == HELD
    desk.goes(1.0)
    assert desk.stands == OVER


@pytest.mark.parametrize("by_s", SETTINGS)
def test_a_window_opens_when_it_was_stated_to_though_the_clock_is_set(by_s: float) -> None:
    desk = Desk(TwoClocks())
    desk.beats()
    desk.states(begins=600.0, ends=1_200.0)
    desk.clock.is_set(by_s)
    desk.goes(599.0)
    assert desk.stands[1] == FAILSAFE_W
    desk.goes(1.0)
    assert desk.stands[1] == STATED_W
    desk.goes(600.0)
    assert desk.stands == OVER


def test_a_start_at_1970_forgets_no_limit_and_prolongs_none() -> None:
    """A host without a battery begins in 1970. What was in force half an hour before its end is so for half an hour."""
    before = Desk(TwoClocks())
    before.beats()
    before.states(ends=3_600.0)
    before.clock.goes(1_800.0)
    kept = LinkKeeper({}).documents(before.link.memory, before.clock)

    desk = Desk(TwoClocks(wall=40.0, monotonic=40.0), kept)
    assert desk.stands == (LinkPhase.STARTING, STATED_W)
    assert desk.link.ceilings(desk.clock.monotonic())[ROOT][1] != FAILSAFE
    refused = desk.states(seq=2)
    assert isinstance(refused, MessageRejected)
    assert refused.code is RejectCode.CLOCK_SKEW
    desk.clock.goes(1_799.0)
    desk.clock.is_set(NOON)  # NTP
    assert desk.stands[1] == STATED_W
    desk.clock.goes(1.0)
    assert desk.stands[1] == FAILSAFE_W


def test_a_start_by_a_clock_set_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    before = Desk(TwoClocks())
    before.states()
    kept = LinkKeeper({}).documents(before.link.memory, before.clock)
    Desk(TwoClocks(wall=NOON + 60.0), kept)
    assert not caplog.text
    Desk(TwoClocks(wall=NOON - DAY), kept)
    assert "86400 s behind what it showed before" in caplog.text


@pytest.mark.parametrize("by_s", [DAY, -DAY])
async def test_what_is_kept_for_the_next_start_follows_a_clock_that_is_set(tmp_path: Path, by_s: float) -> None:
    clock = TwoClocks()
    link = Desk(clock).link
    tree = FeederTree([FeederSpec(ROOT, None, 1e7, 0.0, None)])
    site = Site(tree, [], link, Policy(), clock.monotonic(), "run")
    store, inbox = Store.open(tmp_path / "store.db"), Inbox()
    control = ControlLoop(site, inbox, store, Telemetry("test"), clock)
    desk = Desk(clock)
    inbox.grid(desk.states(ends=3_600.0))
    await control.cycle(clock.monotonic(), is_tick=True)
    clock.is_set(by_s)
    clock.goes(1.0)
    await control.cycle(clock.monotonic(), is_tick=True)
    await store.commit([])
    again = Desk(clock, store.documents())  # the next start, by the clock as it is now
    await store.close()
    clock.goes(3_598.0)
    assert again.stands[1] == STATED_W
    clock.goes(1.0)
    assert again.stands[1] == FAILSAFE_W


# ---- at a broker ------------------------------------------------------------------------------


class Skewed:
    """The machine's clocks, the wall `off_s` away."""

    def __init__(self, off_s: float) -> None:
        self.off_s = off_s
        self._clock: Clock = SystemClock()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wall(self) -> float:
        return self._clock.wall() + self.off_s


@pytest.mark.broker
async def test_what_was_refused_by_a_wrong_clock_is_taken_once_it_is_right(
    broker: Mosquitto, site: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild.grid.broker_link.WATCH_EVERY_S", 0.05)
    clock = Skewed(-SystemClock().wall())
    context = Context(topics(site), ROOT, clock, 300.0, 16_384)
    delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
    link = GridLink(clock, delivered.put_nowait, heartbeat_timeout_s=120.0)
    link.connect("native", NativeDialect(context, beats=True), broker_accesses(at(broker), f"curtaild-{site}", None))
    async with operator(broker, site) as grid, at_work(link, delivered) as run:
        await run.connected()
        await grid.allocate(7.0)
        assert (await run.next(MessageRejected)).code is RejectCode.CLOCK_SKEW
        await grid.heartbeat()
        assert (await run.next(HeartbeatReceived)).ahead_s == pytest.approx(SystemClock().wall(), rel=0.01)
        clock.off_s = 0.0
        taken = await run.next(AllocationReceived)
        assert (limit_of(taken), taken.retained) == (7.0, True)
        await grid.heartbeat()
        await run.next(HeartbeatReceived)
        assert abs(link.clocks_ahead_s["native"]) < 5.0
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("our clock was set by +" in line for line in told)
    assert any("s ahead of ours" in line for line in told)
    assert any("agree again" in line for line in told)
