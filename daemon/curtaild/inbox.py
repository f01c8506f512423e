"""Where everything that arrives waits for the control loop, and what wakes it before its second is over.

A grid message calls for a cycle at once; a command that failed calls for one a moment later, so that a thousand are one
cycle. All else that devices say is absorbed in small parts as it comes: to think over what ten thousand of them have
said all at once would stall the event loop for a quarter of a second.
"""

from __future__ import annotations

import asyncio

from curtaild.core.allocation import GridMessage
from curtaild.core.events import ActuationStage
from curtaild.core.inputs import Answer, Described, DeviceNews, Inputs, PollFailure
from curtaild_drivers.contract import DeviceId, FeederId, MeterReading, Reading, Seconds

SOON_S = 0.1
MOST_GRID_MESSAGES = 4096  # between two cycles; the link itself keeps the newest of a flood
PART = 50
"""So much of each kind is taken at once: a millisecond or two."""


class Inbox:
    """Filled by the edges, emptied by the control loop; both on the event loop.

    `calls`: something has come for which the control loop must decide now, not only listen.
    """

    def __init__(self) -> None:
        self.calls = False
        self._inputs = Inputs()
        self._awake = asyncio.Event()
        self._call: asyncio.TimerHandle | None = None
        self._nudge: asyncio.TimerHandle | None = None

    def grid(self, message: GridMessage) -> None:
        if len(self._inputs.grid) < MOST_GRID_MESSAGES:
            self._inputs.grid.append(message)
        self.wake()

    def described(self, found: Described) -> None:
        self._inputs.described.append(found)
        self._has_news(len(self._inputs.described))

    def answer(self, answer: Answer) -> None:
        self._inputs.answers.append(answer)
        self._has_news(len(self._inputs.answers))
        if answer.stage is not ActuationStage.ANSWERED and self._call is None:
            self._call = asyncio.get_running_loop().call_later(SOON_S, self.wake)

    def reading(self, device: DeviceId, reading: Reading) -> None:
        self._inputs.readings.append((device, reading))
        self._has_news(len(self._inputs.readings))

    def poll_failure(self, failure: PollFailure) -> None:
        self._inputs.poll_failures.append(failure)
        self._has_news(len(self._inputs.poll_failures))

    def meter(self, feeder: FeederId, reading: MeterReading) -> None:
        self._inputs.meters.append((feeder, reading))

    def interlock(self, feeder: FeederId, is_running: bool, at: Seconds) -> None:
        self._inputs.interlocks.append((feeder, is_running, at))

    def wake(self) -> None:
        """Call for a cycle."""
        self.calls = True
        self._awake.set()

    def take(self) -> Inputs:
        """For one cycle: all that the grid and the feeders said, and the oldest of what devices did."""
        taken, self._inputs = self._inputs, Inputs()
        self.calls = False
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._divide(taken, taken)
        return taken

    def take_news(self) -> DeviceNews:
        """Between two cycles: the oldest of what devices said."""
        taken, said = DeviceNews(), self._inputs
        taken.described, taken.answers = said.described, said.answers
        taken.readings, taken.poll_failures = said.readings, said.poll_failures
        self._divide(said, taken)
        return taken

    def _divide(self, said: DeviceNews, taken: DeviceNews) -> None:
        """Leave `taken` a part of each kind of what was `said`, and keep what is beyond that."""
        kept = self._inputs
        kept.described, taken.described = said.described[PART:], said.described[:PART]
        kept.answers, taken.answers = said.answers[PART:], said.answers[:PART]
        kept.readings, taken.readings = said.readings[PART:], said.readings[:PART]
        kept.poll_failures, taken.poll_failures = said.poll_failures[PART:], said.poll_failures[:PART]
        if self._nudge is not None:
            self._nudge.cancel()
            self._nudge = None
        if kept.described or kept.answers or kept.readings or kept.poll_failures:
            self._awake.set()
        elif not self.calls:
            self._awake.clear()

    def _has_news(self, waiting: int) -> None:
        """To be absorbed when it is enough for a part, or has waited for a moment."""
        if waiting >= PART:
            self._awake.set()
        elif self._nudge is None:
            self._nudge = asyncio.get_running_loop().call_later(SOON_S, self._awake.set)

    async def arrival(self, within_s: float) -> None:
        """Until something is to be decided or enough to be absorbed, `within_s` at most."""
        timer = asyncio.get_running_loop().call_later(within_s, self._awake.set)
        try:
            await self._awake.wait()
        finally:
            timer.cancel()
