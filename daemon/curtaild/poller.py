"""Reads every device and meter in its own rhythm: bounded, spread in time, never in the way of a shed.

Those that are due within a fiftieth of a second begin in one turn of the event loop, so that their steps share its
turns from then on: a turn for each would cost as much as half of the reading itself.

A device is identified once, then described (what it offers), then read by its one hot command. One that does not
answer is asked less and less often, until another is heard that fell silent with it; one that moves, or whose setpoint
nobody knows, every second, but not through the minutes of a start. Who it is, is asked anew when another device or
firmware may stand at its address.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile

from curtaild.clock import Clock
from curtaild.core.events import Condition
from curtaild.core.inputs import Described, PollFailure
from curtaild.faults import FaultLog
from curtaild.fleet import FleetDevice, FleetMeter
from curtaild.inbox import Inbox
from curtaild.outage import Outages
from curtaild.telemetry.telemetry import PollOutcome
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DeviceId,
    DriverError,
    Identity,
    LearnsPoints,
    RunState,
    Seconds,
    Unreachable,
    Unsupported,
)

log = logging.getLogger(__name__)

WATCH_S = 1.0
"""The rhythm of a device in motion: a confirmation is worth watts."""
GUARD_S = 90.0
"""Ends what a faulty driver forgot to end; drivers keep shorter deadlines of their own."""
TURN_S = 0.02
"""Reads begin together that are due within so long: twenty at a time of 10,000 devices in ten seconds."""
LONGEST_TURN_S = 1.0
"""So often it is seen who has become slow, though nobody is due."""
LONGEST_PAUSE_S = 120.0
IN_RHYTHM = 2
"""So many failures running change nothing in when it is asked."""
FIRST_ROUND_S = 2.0
"""The first round of polls is spread over so long, so that the boot's grace suffices to know the site."""
TOO_SOON = 0.25
"""Of the rhythm: whoever was read so shortly before its place in it leaves that one out."""
IDENTIFY_AGAIN_AFTER = 3
"""Unreadable replies in a row: perhaps it runs another firmware now."""
ASK_ANEW_EVERY = 4
"""So many failures running, and it is asked who it is: another firmware may answer, on other ports."""
DOUBTED_WITHIN_S = 3600.0
"""Whom this run remembers from an earlier one is asked within so long whether it is still the same device."""
BACK_WITHIN_S = 600.0
"""Likewise whoever comes back after an outage, when machines are exchanged; a whole row may come back at once."""
MOST_AT_ONCE = 4096
SLOW_AFTER_S = 1.0
"""Who has not been read after so long leaves its place among the quick to another."""


@dataclass(slots=True)
class _Subject:
    """One device's place in the round."""

    device: FleetDevice
    phase: float
    is_described: bool = False
    is_identified: bool = False
    failures: int = 0
    bad_replies: int = 0
    round: int = 0
    doubted_at: Seconds | None = None


@dataclass(slots=True)
class _Visit:
    """One read under way. `until`: when it counts as slow, and then when it is cut short."""

    task: asyncio.Task[None]
    until: Seconds


class Poller:
    """`is_watched` says whether a device is to be read every second, `stands_back` whether a shed waits; `observe`
    counts."""

    def __init__(
        self,
        fleet: Mapping[DeviceId, FleetDevice],
        meters: Sequence[FleetMeter],
        inbox: Inbox,
        clock: Clock,
        concurrency: int,
        *,
        is_watched: Callable[[DeviceId], bool],
        stands_back: Callable[[], bool],
        observe: Callable[[str, PollOutcome, Seconds], None],
        on_identity: Callable[[DeviceId, Identity], None],
    ) -> None:
        self._inbox = inbox
        self._clock = clock
        self._meters = meters
        self._concurrency = concurrency
        self._is_watched = is_watched
        self._stands_back = stands_back
        self._observe = observe
        self._on_identity = on_identity
        self._subjects = {
            name: _Subject(device, zlib.crc32(name.encode()) / 2**32, is_identified=device.identity is not None)
            for name, device in fleet.items()
        }
        self._faults = FaultLog()
        self._outages = Outages()
        self._start: Seconds = 0.0
        self._due: list[tuple[Seconds, int, DeviceId]] = []
        self._turn_at: Seconds = 0.0
        self._quick: dict[DeviceId, _Visit] = {}
        self._slow: dict[DeviceId, _Visit] = {}
        self._is_ending = False
        self._changed = asyncio.Event()

    # ---- the round ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        start = self._start = self._clock.monotonic()
        for name, subject in self._subjects.items():
            heapq.heappush(self._due, (start + subject.phase * FIRST_ROUND_S, subject.round, name))
            subject.doubted_at = start + subject.phase * DOUBTED_WITHIN_S if subject.is_identified else None
        meters = [asyncio.create_task(self._read_meter(meter)) for meter in self._meters]
        self._is_ending = False
        try:
            while True:
                self._part_with_slow()
                self._start_due()
                self._changed.clear()
                timer = loop.call_later(max(0.0, self._turn_at - self._clock.monotonic()), self._changed.set)
                try:
                    await self._changed.wait()
                finally:
                    timer.cancel()
        finally:
            self._is_ending = True
            tasks = [*meters, *(visit.task for visit in (*self._quick.values(), *self._slow.values()))]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start_due(self) -> None:
        """Start every read that is due and allowed, and choose when to look again."""
        now = self._clock.monotonic()
        slow_at = asyncio.get_running_loop().time() + SLOW_AFTER_S
        self._turn_at = now + TURN_S
        while self._due and self._due[0][0] <= now:
            is_full = len(self._quick) >= self._concurrency or len(self._quick) + len(self._slow) >= MOST_AT_ONCE
            if is_full or self._stands_back():
                return
            _, round_, name = heapq.heappop(self._due)
            if round_ == self._subjects[name].round and not self._is_being_read(name):
                self._quick[name] = _Visit(asyncio.create_task(self._visit(name)), slow_at)
        next_at = self._due[0][0] if self._due else math.inf
        self._turn_at = max(self._turn_at, min(next_at, now + LONGEST_TURN_S))

    def _part_with_slow(self) -> None:
        """The slow leave their place among the quick; what a driver forgot to end is ended."""
        now = asyncio.get_running_loop().time()
        for name in _whose_time_is_up(self._quick, now):
            self._slow[name] = _Visit(self._quick.pop(name).task, now + GUARD_S)
        for name in _whose_time_is_up(self._slow, now):
            visit = self._slow[name] = _Visit(self._slow.pop(name).task, now + GUARD_S)
            visit.task.cancel()

    def _is_being_read(self, name: DeviceId) -> bool:
        return name in self._quick or name in self._slow

    def hasten(self, device: DeviceId) -> None:
        """Read it as soon as possible: something was just told to it."""
        subject = self._subjects.get(device)
        if subject is not None and not self._is_being_read(device):
            self._schedule(device, subject, self._clock.monotonic())

    def _schedule(self, name: DeviceId, subject: _Subject, moment: Seconds) -> None:
        subject.round += 1
        heapq.heappush(self._due, (moment, subject.round, name))
        if moment < self._turn_at - TURN_S:
            self._changed.set()

    # ---- one device ---------------------------------------------------------------------------

    async def _visit(self, name: DeviceId) -> None:
        subject = self._subjects[name]
        asked_at = self._clock.monotonic()
        try:
            outcome = await self._ask(name, subject)
        finally:
            if self._quick.pop(name, None) is None:
                del self._slow[name]
        now = self._clock.monotonic()
        self._observe(subject.device.spec.driver, outcome, now - asked_at)
        if outcome is PollOutcome.OK:
            subject.failures = 0
            for other in self._outages.answered(name):
                self._schedule(other, self._subjects[other], now + self._subjects[other].phase * FIRST_ROUND_S)
        else:
            subject.failures += 1
            self._outages.failed(name, asked_at, is_put_off=subject.failures > IN_RHYTHM)
        self._schedule(name, subject, max(now, self._due_after(asked_at, name, subject)))

    def _due_after(self, asked_at: Seconds, name: DeviceId, subject: _Subject) -> Seconds:
        poll_s = subject.device.spec.poll_s
        if subject.failures > IN_RHYTHM:
            return asked_at + max(poll_s, min(LONGEST_PAUSE_S, poll_s * 2.0 ** min(subject.failures - IN_RHYTHM, 8)))
        if poll_s > WATCH_S and self._is_watched(name):
            return asked_at + WATCH_S
        return next_place(self._start + subject.phase * poll_s, poll_s, asked_at)

    async def _ask(self, name: DeviceId, subject: _Subject) -> PollOutcome:
        """Identify if nobody knows it, describe if nobody knows what it offers, read."""
        driver = subject.device.driver
        try:
            if not subject.is_identified:
                await self._identify(name, subject)
            elif subject.failures % ASK_ANEW_EVERY == ASK_ANEW_EVERY - 1:
                with suppress(DriverError):
                    await self._identify(name, subject)
            if not subject.is_described or (isinstance(driver, LearnsPoints) and driver.has_learned):
                await self._describe(name, subject)
            reading = await driver.read()
            self._inbox.reading(name, reading)
            self._faults.note(name, reading.fault, self._clock.monotonic())
            await self._doubt(name, subject, reading.state is RunState.STARTING)
        except AuthFailed as error:
            return self._failed(name, Condition.AUTH_FAILED, PollOutcome.AUTH_FAILED, error)
        except BadReply as error:
            subject.bad_replies += 1
            if subject.bad_replies >= IDENTIFY_AGAIN_AFTER:
                subject.is_identified = subject.is_described = False
                subject.bad_replies = 0
            return self._failed(name, Condition.BAD_REPLY, PollOutcome.BAD_REPLY, error)
        except TimeoutError as error:
            return self._failed(name, Condition.UNREACHABLE, PollOutcome.TIMEOUT, error)
        except asyncio.CancelledError:
            if self._is_ending:
                raise
            return self._failed(name, Condition.UNREACHABLE, PollOutcome.TIMEOUT, TimeoutError())
        except DriverError as error:
            is_timeout = not isinstance(error, Unreachable)
            outcome = PollOutcome.TIMEOUT if is_timeout else PollOutcome.UNREACHABLE
            return self._failed(name, Condition.UNREACHABLE, outcome, error)
        except Exception as error:
            log.exception("driver %s failed on a read of %s", subject.device.spec.driver, name)
            return self._failed(name, Condition.BAD_REPLY, PollOutcome.BAD_REPLY, error)
        subject.bad_replies = 0
        return PollOutcome.OK

    async def _identify(self, name: DeviceId, subject: _Subject) -> None:
        identity = await subject.device.driver.identify()
        subject.is_identified, subject.doubted_at = True, None
        if identity != subject.device.identity:
            subject.is_described = False
            subject.device.identity = identity
            self._on_identity(name, identity)

    async def _doubt(self, name: DeviceId, subject: _Subject, is_starting: bool) -> None:
        """Whether it is still who it was, where that is due: after its reading, and never while it is in motion."""
        now = self._clock.monotonic()
        if subject.failures >= IDENTIFY_AGAIN_AFTER:
            subject.doubted_at = now + subject.phase * BACK_WITHIN_S
        if subject.doubted_at is None or now < subject.doubted_at or is_starting or self._is_watched(name):
            return
        try:
            await self._identify(name, subject)
        except DriverError:  # the reading stands without it
            subject.doubted_at = now + BACK_WITHIN_S

    async def _describe(self, name: DeviceId, subject: _Subject) -> None:
        driver, identity = subject.device.driver, subject.device.identity
        subject.is_described = True
        try:
            points = await driver.operating_points()
        except Unsupported as error:
            log.warning("%s is read but not throttled: %s", name, error)
            return
        except BaseException:
            subject.is_described = False
            raise
        rated_w = subject.device.spec.rated_w
        if rated_w is None and identity is not None:
            rated_w = identity.rated_w
        can = driver.capabilities
        self._inbox.described(
            Described(
                name, points, rated_w, can.settle_down_s, can.settle_up_s, can.falls_back_w, restarts=can.restarts
            )
        )
        subject.is_described = True

    def _failed(self, name: DeviceId, condition: Condition, outcome: PollOutcome, error: Exception) -> PollOutcome:
        detail = str(error) or "no answer in time"
        self._inbox.poll_failure(PollFailure(name, condition, detail))
        return outcome

    # ---- meters -------------------------------------------------------------------------------

    async def _read_meter(self, meter: FleetMeter) -> None:
        """A meter is read for itself: a hung one delays nobody. What it does not say goes stale by itself."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            with suppress(DriverError, TimeoutError):
                async with asyncio.timeout(GUARD_S):
                    self._inbox.meter(meter.feeder, await meter.driver.read())
            await asyncio.sleep(max(0.0, began + meter.poll_s - loop.time()))


def _whose_time_is_up(visits: dict[DeviceId, _Visit], now: Seconds) -> list[DeviceId]:
    """The first in the order in which they were put there, which is that of their time."""
    return [name for name, _ in takewhile(lambda one: one[1].until <= now, visits.items())]


def next_place(place: Seconds, poll_s: Seconds, asked_at: Seconds) -> Seconds:
    """When a device that was asked at `asked_at` is asked again: each has a place of its own in the rhythm, so that
    those that were all read at once, at the start or in a shed, spread over the whole of it again."""
    place += poll_s * math.ceil((asked_at - place) / poll_s)
    return place if place - asked_at > TOO_SOON * poll_s else place + poll_s
