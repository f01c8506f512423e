"""Who is asked again at once when a switch is back."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import cast

from curtaild.fleet import FleetDevice
from curtaild.inbox import Inbox
from curtaild.outage import TOGETHER_S, Outages
from curtaild.poller import FIRST_ROUND_S, Poller
from curtaild_config import DeviceSpec
from curtaild_drivers.contract import Device, DeviceId, Identity, Reading, RunState, Unreachable, Unsupported
from loop_clock import comes_true, put_forward

A, B, C = DeviceId("a"), DeviceId("b"), DeviceId("c")
POLL_S = 10.0
COUNT = 30


def test_whoever_fell_silent_with_the_one_that_answers_is_named_once_until_it_fails_again() -> None:
    outages = Outages()
    for device in (A, B, C):
        outages.failed(device, 100.0, is_put_off=False)
        outages.failed(device, 130.0, is_put_off=device != C)
    assert set(outages.answered(A)) == {B}, "c is asked in its rhythm anyway"
    assert outages.answered(A) == ()
    outages.failed(C, 140.0, is_put_off=True)
    assert outages.answered(B) == [C]
    outages.failed(A, 150.0, is_put_off=True)
    outages.failed(C, 150.0, is_put_off=True)
    assert outages.answered(A) == [C]


def test_one_that_comes_and_goes_calls_nobody_back_who_has_long_been_away() -> None:
    outages = Outages()
    outages.failed(A, 0.0, is_put_off=True)
    outages.failed(B, 2 * TOGETHER_S, is_put_off=True)
    assert outages.answered(B) == []
    outages.failed(B, 3 * TOGETHER_S, is_put_off=True)
    assert outages.answered(B) == []


@dataclass
class Row:
    """Miners behind one switch."""

    is_cut: bool = True
    asked: int = 0


@dataclass
class Miner:
    row: Row
    answered: int = 0

    async def read(self) -> Reading:
        self.row.asked += 1
        if self.row.is_cut:
            raise Unreachable("no route")
        self.answered += 1
        return Reading(asyncio.get_running_loop().time(), RunState.RUNNING)

    async def identify(self) -> Identity:
        return IDENTITY

    async def operating_points(self) -> None:
        raise Unsupported("only read")


@dataclass(frozen=True)
class Spec:
    driver: str = "asic"
    poll_s: float = POLL_S


class LoopClock:
    """The running loop's, which a test may put forward."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self.monotonic()


async def _passes(seconds: float) -> None:
    put_forward(seconds)
    await asyncio.sleep(0.005)


IDENTITY = Identity("Antminer", "S21", "antminer")


async def test_a_row_is_heard_again_as_soon_as_one_of_it_is() -> None:
    """They are asked forty seconds apart by then, each in its turn; two seconds after the first all are heard."""
    row = Row()
    miners = {DeviceId(f"miner-{number}"): Miner(row) for number in range(COUNT)}
    fleet = {
        name: FleetDevice(cast(DeviceSpec, Spec()), cast(Device, miner), IDENTITY) for name, miner in miners.items()
    }
    polls = Poller(
        fleet,
        [],
        Inbox(),
        LoopClock(),
        256,
        is_watched=lambda _: False,
        stands_back=lambda: False,
        observe=lambda *_: None,
        on_identity=lambda *_: None,
    )
    running = asyncio.create_task(polls.run())
    try:
        while row.asked < 4 * COUNT:
            await _passes(1.0)
        row.is_cut = False
        while not any(miner.answered for miner in miners.values()):
            await _passes(0.5)
        assert not all(miner.answered for miner in miners.values())
        await _passes(FIRST_ROUND_S)
        await comes_true(lambda: all(miner.answered for miner in miners.values()))
        assert Counter(miner.answered for miner in miners.values()) == {1: COUNT}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
