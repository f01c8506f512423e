"""What follows from a decision is written down without standing in anybody's way: ten thousand records wait for the
sheds, the allocation behind them does not, and the event loop goes on between the slices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from curtaild import clerk
from curtaild import control as control_module
from curtaild.clerk import SLICE, Clerk
from curtaild.clock import SystemClock
from curtaild.control import LEARNED_EVERY_S, LEARNED_SHARE, ControlLoop
from curtaild.core.allocation import AllocationReceived
from curtaild.core.cycle import Decision
from curtaild.core.device import DeviceSpec, DrawRatio
from curtaild.core.events import (
    Ack,
    AckStage,
    ActuationChanged,
    ActuationId,
    ActuationStage,
    BreachChanged,
    DeficitChanged,
    Event,
)
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.inputs import Inputs
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.site import Site
from curtaild.inbox import Inbox
from curtaild.ledger import connect_read_only, verify
from curtaild.memory import HELD, LEARNED, LINK
from curtaild.store import Store
from curtaild.telemetry import Telemetry
from curtaild_drivers.contract import OFF, DeviceId, FeederId, OperatingPoint
from telemetry.sites import allocation

SITE = FeederId("site")
STOP = OperatingPoint(OFF, 30.0, 0.0)
MANY = 5 * SLICE + 1


def issued(number: int) -> ActuationChanged:
    device = DeviceId(f"miner-{number}")
    told = ActuationId(f"a-{number}")
    return ActuationChanged(
        1.0, told, device, ActuationStage.ISSUED, None, STOP, False, 3_000.0, 2_900.0, None, "site over by 9 W"
    )


def ack(stage: AckStage) -> Ack:
    return Ack(1.0, stage, None, None, 7, SITE)


class Desk:
    """A clerk with a real store, and all that he tells others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store.open(path)
        self.is_shedding = False
        self.followed: list[str] = []
        self._all_followed = asyncio.Event()
        self._how_many = 0
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.clerk = Clerk(
            self.store,
            Telemetry("test"),
            SystemClock(),
            follow=self._follow,
            tell=self._tell,
            is_shedding=lambda: self.is_shedding,
            lost=self.lost.set,
        )

    def _follow(self, event: ActuationChanged, documents: dict[str, str | None]) -> None:
        self.followed.append(event.device)
        documents[f"intent/{event.device}"] = "{}"
        if len(self.followed) == self._how_many:
            self._all_followed.set()

    async def until_followed(self, how_many: int) -> None:
        self._how_many = how_many
        async with asyncio.timeout(30):
            await self._all_followed.wait()

    def _tell(self, answer: Ack | BreachChanged) -> None:
        assert isinstance(answer, Ack)
        self.told.put_nowait(answer.stage.value)

    async def kinds(self) -> list[str]:
        """Of all records on the disk; an actuation by its device."""
        await self.store.commit([])
        with closing(connect_read_only(self.path)) as connection:
            rows = connection.execute("SELECT kind, body FROM ledger ORDER BY seq").fetchall()
        return [json.loads(body).get("device", kind) for kind, body in rows]


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(clerk, "HOLD_S", 600.0)  # while a test's shed goes on nothing is written of it
    desk = Desk(tmp_path / "store.db")
    yield desk
    await desk.store.close()


SHED: list[Event] = [ack(AckStage.ACCEPTED), *map(issued, range(MANY)), DeficitChanged(1.0, SITE, 5.0)]
DEVICES = [f"miner-{number}" for number in range(MANY)]


async def test_documents_that_will_not_be_on_the_disk_are_told_of(desk: Desk) -> None:
    desk.clerk.note([ack(AckStage.ACCEPTED)], {"link": "as it stands"})
    assert await desk.told.get() == "accepted"
    assert not desk.lost.is_set()
    desk.clerk.note([ack(AckStage.ENDED)], {"link": "half a letter: \ud800"})
    async with asyncio.timeout(30):
        await desk.lost.wait()
    assert desk.told.empty()


async def test_the_grid_hears_of_a_shed_before_its_thousand_records_are_written(desk: Desk) -> None:
    desk.is_shedding = True
    desk.clerk.note(SHED, {"link": "as it stands"})
    assert await desk.told.get() == "accepted"
    assert await desk.kinds() == ["ack", "deficit"]
    assert desk.store.documents() == {"link": "as it stands"}
    assert not desk.followed

    desk.is_shedding = False
    await desk.until_followed(MANY)
    assert await desk.kinds() == ["ack", "deficit", *DEVICES]
    assert len(desk.store.documents("intent/")) == MANY
    assert verify(desk.path).ok


async def test_the_loop_goes_on_between_the_slices(desk: Desk) -> None:
    desk.clerk.note(SHED, {})
    seen = [0]
    while seen[-1] < MANY:
        await asyncio.sleep(0)
        seen.append(len(desk.followed))
    assert max(after - before for before, after in pairwise(seen)) == SLICE


async def test_what_comes_meanwhile_stands_behind_what_waits(desk: Desk) -> None:
    desk.is_shedding = True
    desk.clerk.note(SHED, {})
    desk.clerk.note([issued(MANY), ack(AckStage.REACHED)], {})
    assert [await desk.told.get(), await desk.told.get()] == ["accepted", "reached"]
    desk.is_shedding = False
    await desk.until_followed(MANY + 1)
    assert (await desk.kinds())[3:] == [*DEVICES, f"miner-{MANY}"]


async def test_a_shed_that_takes_long_is_written_down_all_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clerk, "HOLD_S", 0.05)
    desk.is_shedding = True
    desk.clerk.note(SHED, {})
    await desk.until_followed(MANY)


async def test_who_stops_writes_down_what_waits(desk: Desk) -> None:
    desk.is_shedding = True
    desk.clerk.note(SHED, {})
    desk.clerk.finish()
    assert await desk.kinds() == ["ack", "deficit", *DEVICES]
    await asyncio.sleep(0)
    assert desk.followed == DEVICES, "nothing is written twice"


async def test_what_is_in_one_slice_keeps_its_order(desk: Desk) -> None:
    desk.is_shedding = True
    desk.clerk.note([issued(1), ack(AckStage.APPLYING), issued(2)], {})
    assert await desk.kinds() == ["miner-1", "ack", "miner-2"]


class Stopwatch:
    """A clock that is moved."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_795_176_000.0 + self.now


async def test_an_allocation_is_on_its_way_to_the_disk_before_the_core_thinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So long thinks a core that it never comes to an end: the allocation is durable all the same, and next time in
    force."""

    def think(site: Site, inputs: Inputs, now: float) -> Decision:
        assert not inputs.grid, "heard already"
        assert store.health.queue_length or store.health.committed_total
        raise RecursionError

    clock = Stopwatch()
    tree = FeederTree([FeederSpec(SITE, None, 1e7, 0.0, None)])
    link = Link(LinkPolicy(SITE, frozenset({SITE}), 1e7, 120.0, 0.0, True), clock.now)
    site, inbox = Site(tree, [], link, Policy(), clock.now, "run"), Inbox()
    store = Store.open(tmp_path / "store.db")
    control = ControlLoop(site, inbox, store, Telemetry("test"), clock)
    inbox.grid(AllocationReceived(allocation("01J9Z")))
    monkeypatch.setattr(control_module, "step", think)
    await control.cycle(clock.now, is_tick=False)
    await store.commit([])
    assert HELD + "01J9Z" in store.documents()
    monkeypatch.undo()
    await control.cycle(clock.now, is_tick=False)
    assert site.limit_w(SITE) == 12_000.0
    await store.close()


async def test_what_was_learned_is_kept_a_hundredth_of_the_devices_a_second(tmp_path: Path) -> None:
    clock, count = Stopwatch(), 300
    tree = FeederTree([FeederSpec(SITE, None, 1e7, 0.0, None)])
    link = Link(LinkPolicy(SITE, frozenset({SITE}), 1e7, 120.0, 0.0, True), clock.now)
    specs = [DeviceSpec(DeviceId(f"miner-{number}"), SITE, 3_000.0) for number in range(count)]
    site = Site(tree, specs, link, Policy(), clock.now, "run")
    store = Store.open(tmp_path / "store.db")
    control = ControlLoop(site, Inbox(), store, Telemetry("test"), clock)
    for device in site.devices.values():
        device.learned = {"normal": DrawRatio(0.97, 0.0001, 8)}

    async def second(seconds: float = 1.0) -> int:
        clock.now += seconds
        await control.cycle(clock.now, is_tick=True)
        await store.commit([])
        return len(store.documents(LEARNED))

    assert await second() == 0
    store.commit([], {LINK: None})
    each = round(count * LEARNED_SHARE)
    assert await second(LEARNED_EVERY_S) == each
    assert store.documents(LINK)
    assert [await second() for _ in range(3)] == [2 * each, 3 * each, 4 * each]
    for _ in range(count // each):
        kept = await second()
    assert kept == count
    await store.close()
