"""Sends commands to devices: one write in flight per device, shed before restore, the largest watts first.

A hung device delays no other: a write that takes longer than a tenth of a second no longer counts against the number
allowed at once. A raise is held until its intent is durable; a shed waits for nothing, not even for what others have
answered to be thought over: acknowledgements, which confirm nothing, are told when the last shed has left, or after a
second.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Mapping

from curtaild.clock import Clock
from curtaild.core.cycle import Command
from curtaild.core.events import ActuationStage
from curtaild.core.inputs import Answer
from curtaild.fleet import FleetDevice
from curtaild_drivers.contract import (
    AuthFailed,
    DeviceId,
    DriverError,
    Refused,
    Seconds,
    TellsWords,
    Unreachable,
    Unsupported,
)

log = logging.getLogger(__name__)

SLOW_AFTER_S = 0.1
"""Most devices answer sooner. At a second, the one device in ten that hung held most of the places, and the last of ten
thousand was told twice as late."""
KEEP_ACKNOWLEDGED_S = 1.0
MOST_AT_ONCE = 4096  # sockets: hung devices must not use up the process's descriptors
GUARD_S = 60.0  # drivers keep their own, shorter deadlines; this one ends what a faulty driver forgot
NOTHING_CHANGED = (Unreachable, AuthFailed, Refused, Unsupported)


class Actuator:
    """`answer` is told how each command ended. All calls belong to the event loop; none waits."""

    def __init__(
        self,
        fleet: Mapping[DeviceId, FleetDevice],
        answer: Callable[[Answer], None],
        clock: Clock,
        concurrency: int,
    ) -> None:
        self._fleet = fleet
        self._answer = answer
        self._clock = clock
        self._concurrency = concurrency
        self._waiting: dict[DeviceId, Command] = {}
        self._held: dict[DeviceId, Command] = {}
        self._ready: list[tuple[bool, float, int, Command]] = []
        self._order = itertools.count()
        self._writing: dict[DeviceId, asyncio.Task[None]] = {}
        self._quick = 0
        self._is_open = True
        self._acknowledged: list[Answer] = []
        self._telling: asyncio.TimerHandle | None = None

    @property
    def is_shedding(self) -> bool:
        """Whether a shed waits for its turn: polls then stand back."""
        return bool(self._ready) and not self._ready[0][0]

    def submit(self, command: Command, durable: asyncio.Future[None] | None = None) -> None:
        """Take a command. It replaces one for the same device that was not sent yet. `durable` holds back a raise
        until its intent is on the disk; if that never happens it is never sent."""
        replaced = self._waiting.get(command.device)
        if replaced is not None:
            self._cancel(replaced)
        self._waiting[command.device] = command
        self._held.pop(command.device, None)
        if durable is None or durable.done():
            self._make_ready(command, durable)
        else:
            self._held[command.device] = command
            durable.add_done_callback(lambda done: self._make_ready(command, done))

    def _make_ready(self, command: Command, durable: asyncio.Future[None] | None) -> None:
        if self._waiting.get(command.device) is not command:
            return  # replaced meanwhile
        self._held.pop(command.device, None)
        if durable is not None and (durable.cancelled() or durable.exception() is not None):
            del self._waiting[command.device]
            self._cancel(command)
            return
        heapq.heappush(self._ready, (command.is_raise, -command.shed_w, next(self._order), command))
        self._pump()

    def _pump(self) -> None:
        """Start as many writes as are allowed at once; a device with one in flight keeps its next until then."""
        while self._is_open and self._ready and self._quick < self._concurrency and len(self._writing) < MOST_AT_ONCE:
            command = heapq.heappop(self._ready)[3]
            if self._waiting.get(command.device) is not command or command.device in self._writing:
                continue  # replaced, or taken up again when the write before it has ended
            del self._waiting[command.device]
            self._quick += 1
            self._writing[command.device] = asyncio.create_task(self._write(command))

    async def _write(self, command: Command) -> None:
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_AFTER_S, self._leave_quick)
        try:
            stage, detail = await self._apply(command)
        finally:
            if not slow.cancelled() and slow.when() > loop.time():
                slow.cancel()
                self._quick -= 1
            del self._writing[command.device]
        self._tell(Answer(command.device, command.actuation, stage, self._clock.monotonic(), detail))
        following = self._waiting.get(command.device)
        if following is not None and self._held.get(command.device) is not following:
            heapq.heappush(self._ready, (following.is_raise, -following.shed_w, next(self._order), following))
        self._pump()

    def _tell(self, answer: Answer) -> None:
        """An acknowledgement can wait while sheds do; what calls for another decision cannot."""
        if answer.stage is not ActuationStage.ANSWERED:
            self._answer(answer)
            return
        self._acknowledged.append(answer)
        if not self.is_shedding or not self._is_open:
            self._tell_acknowledged()
        elif self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(KEEP_ACKNOWLEDGED_S, self._tell_acknowledged)

    def _tell_acknowledged(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        told, self._acknowledged = self._acknowledged, []
        for answer in told:
            self._answer(answer)

    def _leave_quick(self) -> None:
        self._quick -= 1
        self._pump()

    async def _apply(self, command: Command) -> tuple[ActuationStage, str]:
        """One attempt. Whatever is not surely without effect has an unknown outcome."""
        device = self._fleet.get(command.device)
        if device is None:
            return ActuationStage.REFUSED, "no longer in the site file"
        try:
            async with asyncio.timeout(GUARD_S):
                outcome = await device.driver.apply(command.target)
        except NOTHING_CHANGED as error:
            return ActuationStage.REFUSED, f"{_words(error)}: {error}"
        except (DriverError, TimeoutError) as error:
            return ActuationStage.OUTCOME_UNKNOWN, f"{error}"
        except Exception as error:
            log.exception("driver %s failed on a command to %s", device.spec.driver, command.device)
            return ActuationStage.OUTCOME_UNKNOWN, f"driver fault: {error!r}"
        words = device.driver.last_words if isinstance(device.driver, TellsWords) else ""
        return ActuationStage.ANSWERED, f"{outcome.value}; {words}" if words else outcome.value

    def _cancel(self, command: Command) -> None:
        now = self._clock.monotonic()
        self._answer(Answer(command.device, command.actuation, ActuationStage.CANCELLED, now, "not sent"))

    async def close(self, deadline_s: Seconds) -> None:
        """Send nothing more; let what is on the wire end, within `deadline_s`."""
        self._is_open = False
        for command in self._waiting.values():
            self._cancel(command)
        self._waiting.clear()
        self._ready.clear()
        if self._writing:
            _, late = await asyncio.wait(list(self._writing.values()), timeout=deadline_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._tell_acknowledged()


def _words(error: DriverError) -> str:
    """The error's class in words: `AuthFailed` reads "auth failed"."""
    name = type(error).__name__
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
