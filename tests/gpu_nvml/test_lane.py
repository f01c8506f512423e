"""A thread whose calls may hang: nobody waits twice, nothing piles up, and a late call is no harm."""

from __future__ import annotations

import asyncio
import threading

import pytest

from curtaild_drivers.gpu.lane import Busy, Hung, Lane


def soon(seconds: float = 0.05) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_calls_run_one_after_another_in_one_thread() -> None:
    lane = Lane("GPU 0")
    threads = await asyncio.gather(*(lane.call(threading.get_ident, soon(10)) for _ in range(5)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    lane.close()


async def test_what_a_call_raises_its_caller_gets() -> None:
    lane = Lane("GPU 0")
    with pytest.raises(ZeroDivisionError):
        await lane.call(lambda: 1 // 0, soon(10))
    assert await lane.call(lambda: 1, soon(10)) == 1
    lane.close()


async def test_one_that_was_never_begun_is_never_run() -> None:
    lane, gate, run = Lane("GPU 0"), threading.Event(), []
    with pytest.raises(Hung, match="has not come back for"):
        await lane.call(gate.wait, soon())
    with pytest.raises(Busy):
        await lane.call(lambda: run.append("refused at once"), soon(10))
    lane.post(lambda: run.append("posted"))
    gate.set()
    async with asyncio.timeout(10):
        while lane.is_hung:
            await asyncio.to_thread(lambda: None)
    assert await lane.call(lambda: list(run), soon(10)) == []
    lane.close()


async def test_waiting_behind_a_call_that_nobody_waits_for_shows_the_hang_too() -> None:
    lane, gate, begun, run = Lane("GPU 0"), threading.Event(), threading.Event(), []

    def hang() -> None:
        begun.set()
        gate.wait()

    lane.post(hang)
    begun.wait()
    with pytest.raises(Busy):
        await lane.call(lambda: run.append("too late"), soon())
    assert lane.is_hung
    gate.set()
    async with asyncio.timeout(10):
        while lane.is_hung:
            await asyncio.to_thread(lambda: None)
    assert await lane.call(lambda: list(run), soon(10)) == []
    lane.close()


async def test_a_cancelled_caller_leaves_a_hung_call_to_itself() -> None:
    lane, gate, begun = Lane("GPU 0"), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait()

    caller = asyncio.create_task(lane.call(hang, soon(10)))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert lane.is_hung
    with pytest.raises(Busy):
        await lane.call(lambda: None, soon(10))
    gate.set()
    lane.close()
