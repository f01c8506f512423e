"""Runs the whole demo: sets the stage, plays, lets a screen show it, judges, and says so by the exit code."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Protocol

from rich.console import Console

from curtaild.demo import report
from curtaild.demo.children import DemoFailed
from curtaild.demo.pace import pace
from curtaild.demo.play import Play, Progress
from curtaild.demo.score import Verdict, score
from curtaild.demo.stage import Stage, open_stage, raise_if_ended, start_daemon
from curtaild_drivers.broker.mqtt import ConnectionFailed
from curtaild_drivers.contract import Seconds

LAST_SAMPLES_S = 0.3


class Screen(Protocol):
    """Shows the stage while the play runs. `is_live`: for people at a terminal."""

    is_live: bool

    async def show(self, stage: Stage, progress: Progress) -> None:
        """Until cancelled."""


async def run_demo(console: Console, screen: Screen, *, seconds: Seconds, devices: int, keep: bool) -> int:
    """The exit code: 0 all limits kept, 1 one step ended over its limit or the demo failed, 130 interrupted."""
    task = asyncio.ensure_future(_perform(console, screen, seconds, devices, keep))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        console.print("interrupted; farm, broker and daemon have ended")
        return 130
    except (DemoFailed, ConnectionFailed, OSError) as error:
        console.print(f"the demo failed: {error}", markup=False)
        return 1


async def _perform(console: Console, screen: Screen, seconds: Seconds, devices: int, keep: bool) -> int:
    chosen = pace(seconds)
    progress = Progress(seconds)
    async with open_stage(devices, chosen, keep=keep) as (stage, parts), Play(stage, chosen, progress) as operator:
        console.print(report.opening(stage), highlight=False)
        showing = asyncio.create_task(screen.show(stage, progress))
        try:
            await start_daemon(stage, parts)
            playing = asyncio.create_task(operator.run())
            try:
                await asyncio.wait((playing, showing, *parts.watching), return_when=asyncio.FIRST_COMPLETED)
                raise_if_ended(parts)
                if not playing.done():
                    await showing  # its fault
                await playing
                await asyncio.sleep(LAST_SAMPLES_S)
            finally:
                await _end(playing)
        finally:
            await _end(showing)
        scores = [score(mark, stage.samples) for mark in progress.marks]
        remarks = list(report.remarks(scores, stage))
    is_plain = not screen.is_live
    console.print()
    console.print(report.table(scores, is_plain=is_plain))
    for line in remarks:
        console.print(line, highlight=False, markup=False, style="bright_black")
    if is_plain:
        for each in scores:
            console.print(report.result_line(each), highlight=False, markup=False, soft_wrap=True)
    if keep:
        console.print(f"kept in {stage.folder}: the site file, the farm, the ledger, the logs", highlight=False)
    console.print(report.verdict(scores), highlight=False, soft_wrap=True)
    return 1 if any(each.verdict is Verdict.OVER for each in scores) else 0


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
