"""The running loop's clock, which a test may put forward. So a deadline is long where an answer comes, on however slow
a machine, and where none comes it passes at once: not before what it cuts short has begun, and at no cost of time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LONG_S = 3_600.0
"""Longer than any deadline."""
LOOK_EVERY_S = 0.001


def put_forward(seconds: float = LONG_S) -> None:
    """Let so much of the loop's time pass at once. Each loop lives for one test. A uvloop keeps its own time: there a
    deadline takes as long as it takes."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):
        truly = loop.time
        vars(loop)["time"] = lambda: truly() + seconds


async def comes_true(is_so: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait for what a thread, a process or a far end does, where no event tells of it."""
    async with asyncio.timeout(within_s):
        while True:
            if is_so():
                return
            await asyncio.sleep(LOOK_EVERY_S)  # and leaves the processor to those who are waited for


async def cut_short(work: Coroutine[Any, Any, T], once: Callable[[], bool]) -> T:
    """What comes of `work` when its deadline passes as soon as `once` is true: when it waits in vain."""
    doing = asyncio.create_task(work)
    await asyncio.sleep(0)  # its own first turn
    await comes_true(once)
    put_forward()
    return await doing
