"""The daemon runs on uvloop, whose transports are asyncio's by duck-typing only: the same conversations there."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from curtaild_drivers.asic.cgminer import ask_json, question
from curtaild_drivers.asic.wire import MOST_REPLY_BYTES, Unanswered
from curtaild_drivers.contract import BadReply, Outcome, RunState, Unreachable
from drivers.conftest import FIRMWARES, emulated_bench
from drivers.tiny_servers import CLOSE, HANG, HOST, Answer, rpc


@pytest.mark.parametrize("firmware", FIRMWARES)
def test_a_shed_and_back(firmware: str) -> None:
    async def walk() -> None:
        async with emulated_bench(firmware) as bench:
            points = await bench.device.operating_points()
            assert (await bench.device.read()).state is RunState.RUNNING
            assert await bench.device.apply(points.lowest) is Outcome.ACKNOWLEDGED
            until = time.monotonic() + bench.patience_s
            while (await bench.device.read()).state is not RunState.ASLEEP:
                assert time.monotonic() < until
            assert await bench.device.apply(points.highest) is Outcome.ACKNOWLEDGED

    uvloop.run(walk())


@pytest.mark.parametrize(
    ("answer", "error"),
    [(HANG, Unanswered), (CLOSE, Unanswered), (b"{" * (MOST_REPLY_BYTES + 10), BadReply), (b"<html>", BadReply)],
)
def test_what_befalls_a_question(answer: Answer, error: type[Exception]) -> None:
    async def ask() -> None:
        until = asyncio.get_running_loop().time() + (1.5 if answer == HANG else 120.0)
        async with rpc(lambda asked: answer) as server:
            with pytest.raises(error):
                await ask_json(HOST, server.port, question("summary"), until)

    uvloop.run(ask())


def test_nobody_there() -> None:
    async def ask() -> None:
        with pytest.raises(Unreachable) as caught:
            await ask_json(HOST, 1, question("summary"), asyncio.get_running_loop().time() + 120)
        assert not isinstance(caught.value, Unanswered)

    uvloop.run(ask())
