"""Where everything that arrives waits for the next cycle, and what wakes the cycle before its second is over.

A grid message wakes it at once. What devices answer wakes it a moment later, so that a thousand answers are one cycle.
"""

from __future__ import annotations

import asyncio

from curtaild.core.allocation import GridMessage
from curtaild.core.cycle import Answer, Described, Inputs, PollFailure
from curtaild_drivers.contract import DeviceId, FeederId, MeterReading, Reading, Seconds

SOON_S = 0.1
MOST_GRID_MESSAGES = 4096  # between two cycles; the link itself keeps the newest of a flood
MOST_AT_ONCE = 1_000
"""Answers, and readings, that one cycle takes: to think over those of ten thousand devices at once would stall the
event loop for a quarter of a second. The next cycle, which follows at once, takes the others."""


class Inbox:
    """Filled by the edges, emptied by the cycle; both on the event loop."""

    def __init__(self) -> None:
        self._inputs = Inputs()
        self._awake = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None

    def grid(self, message: GridMessage) -> None:
        if len(self._inputs.grid) < MOST_GRID_MESSAGES:
            self._inputs.grid.append(message)
        self._awake.set()

    def described(self, found: Described) -> None:
        self._inputs.described.append(found)

    def answer(self, answer: Answer) -> None:
        self._inputs.answers.append(answer)
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_S, self._awake.set)

    def reading(self, device: DeviceId, reading: Reading) -> None:
        self._inputs.readings.append((device, reading))

    def poll_failure(self, failure: PollFailure) -> None:
        self._inputs.poll_failures.append(failure)

    def meter(self, feeder: FeederId, reading: MeterReading) -> None:
        self._inputs.meters.append((feeder, reading))

    def interlock(self, feeder: FeederId, is_running: bool, at: Seconds) -> None:
        self._inputs.interlocks.append((feeder, is_running, at))

    def wake(self) -> None:
        self._awake.set()

    def take(self) -> Inputs:
        """For one cycle: all that the grid said, and the oldest of what the devices did."""
        taken, self._inputs = self._inputs, Inputs()
        self._awake.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        left = self._inputs
        left.answers, taken.answers = taken.answers[MOST_AT_ONCE:], taken.answers[:MOST_AT_ONCE]
        left.readings, taken.readings = taken.readings[MOST_AT_ONCE:], taken.readings[:MOST_AT_ONCE]
        if left.answers or left.readings:
            self._awake.set()
        return taken

    async def arrival(self, within_s: float) -> None:
        """Until something calls for a cycle, `within_s` at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._awake.wait()
        except TimeoutError:
            return
