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
        taken, self._inputs = self._inputs, Inputs()
        self._awake.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        return taken

    async def arrival(self, within_s: float) -> None:
        """Until something calls for a cycle, `within_s` at most."""
        try:
            async with asyncio.timeout(within_s):
                await self._awake.wait()
        except TimeoutError:
            return
