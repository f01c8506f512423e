"""Sees whether the fans and pumps run that devices must wait for, and starts them when they are wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from curtaild.clock import Clock
from curtaild.fleet import FleetInterlock
from curtaild.inbox import Inbox
from curtaild_drivers.contract import DriverError, FeederId

log = logging.getLogger(__name__)

GUARD_S = 30.0
"""Ends what a faulty driver forgot to end."""


class Starter:
    """Each interlock in a task of its own: a hung one delays nobody."""

    def __init__(self, interlocks: Sequence[FleetInterlock], inbox: Inbox, clock: Clock) -> None:
        self._interlocks = interlocks
        self._inbox = inbox
        self._clock = clock
        self._wanted = {interlock.feeder: asyncio.Event() for interlock in interlocks}

    def start(self, feeders: Iterable[FeederId]) -> None:
        """Have these started as soon as possible; asked again until they are seen running."""
        for feeder in feeders:
            if feeder in self._wanted:
                self._wanted[feeder].set()

    async def run(self) -> None:
        """Until cancelled."""
        tasks = [asyncio.create_task(self._keep(interlock)) for interlock in self._interlocks]
        try:
            await asyncio.gather(asyncio.Event().wait(), *tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, interlock: FleetInterlock) -> None:
        wanted, is_told = self._wanted[interlock.feeder], False
        while True:
            try:
                async with asyncio.timeout(GUARD_S):
                    if wanted.is_set():
                        wanted.clear()
                        await interlock.driver.start()
                    asked_at = self._clock.monotonic()
                    self._inbox.interlock(interlock.feeder, await interlock.driver.is_running(), asked_at)
                is_told = False
            except (DriverError, TimeoutError) as error:
                if not is_told:
                    log.warning("fans of %s: %s; no stopped device there is started", interlock.feeder, error)
                is_told = True
            except Exception:
                if not is_told:
                    log.exception("the driver of the fans of %s failed", interlock.feeder)
                is_told = True
            pause_s = interlock.poll_s if not wanted.is_set() else min(interlock.poll_s, 1.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await wanted.wait()
