"""Closing the edges: each device is taken leave of, and none keeps the others or the daemon."""

from __future__ import annotations

import asyncio

from curtaild.app import CLOSED_AT_ONCE, _close_all
from loop_clock import cut_short


async def test_one_that_hangs_or_fails_keeps_no_other_from_being_closed() -> None:
    closed: list[int] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise OSError("gone")

    async def close() -> None:
        closed.append(1)

    well = CLOSED_AT_ONCE + 10
    await cut_short(_close_all([hang, fail, *[close] * well]), once=lambda: len(closed) == well)
