"""A thread whose calls may hang: nobody waits twice, nothing piles up, and a late call is no harm."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from curtaild_drivers.gpu.lane import Busy, Hung, Lane
from loop_clock import comes_true, cut_short, put_forward


def in_time() -> float:
    """A deadline that a busy machine keeps."""
    return asyncio.get_running_loop().time() + 60.0


async def test_calls_run_one_after_another_in_one_thread() -> None:
    lane = Lane("GPU 0")
    threads = await asyncio.gather(*(lane.call(threading.get_ident, in_time()) for _ in range(5)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    lane.close()


async def test_what_a_call_raises_its_caller_gets() -> None:
    lane = Lane("GPU 0")
    with pytest.raises(ZeroDivisionError):
        await lane.call(lambda: 1 // 0, in_time())
    assert await lane.call(lambda: 1, in_time()) == 1
    lane.close()


async def test_one_that_was_never_begun_is_never_run() -> None:
    lane, gate, begun, run = Lane("GPU 0"), threading.Event(), threading.Event(), []

    def hang() -> None:
        begun.set()
        gate.wait()

    with pytest.raises(Hung, match="has not come back for"):
        await cut_short(lane.call(hang, in_time()), begun.is_set)
    with pytest.raises(Busy):
        await lane.call(lambda: run.append("refused at once"), in_time())
    lane.post(lambda: run.append("posted"))
    gate.set()
    await comes_true(lambda: not lane.is_hung)
    assert await lane.call(lambda: list(run), in_time()) == []
    lane.close()


async def test_waiting_behind_a_call_that_nobody_waits_for_shows_the_hang_too() -> None:
    lane, gate, begun, run = Lane("GPU 0"), threading.Event(), threading.Event(), []

    def hang() -> None:
        begun.set()
        gate.wait()

    lane.post(hang)
    begun.wait()
    with pytest.raises(Busy):
        await cut_short(lane.call(lambda: run.append("too late"), in_time()), lambda: True)
    assert lane.is_hung
    gate.set()
    await comes_true(lambda: not lane.is_hung)
    assert await lane.call(lambda: list(run), in_time()) == []
    lane.close()


async def test_what_came_back_in_time_counts_though_the_loop_was_held_up_meanwhile() -> None:
    lane, done = Lane("GPU 0"), threading.Event()
    call = asyncio.create_task(lane.call(done.set, in_time()))
    await asyncio.sleep(0)  # the call's own first turn
    done.wait()
    while not lane.is_idle:
        os.sched_yield()  # and never lets the loop turn
    put_forward()
    await call
    lane.close()


async def test_a_cancelled_caller_leaves_a_hung_call_to_itself() -> None:
    lane, gate, begun = Lane("GPU 0"), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait()

    caller = asyncio.create_task(lane.call(hang, in_time()))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert lane.is_hung
    with pytest.raises(Busy):
        await lane.call(lambda: None, in_time())
    gate.set()
    lane.close()
