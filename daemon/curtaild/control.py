"""The control loop: every second, and at once when something calls for it or a limit changes by itself, one `step` and
what follows from it; between those, what devices say is absorbed as it comes.

What the grid said goes to the store while the core thinks, and sheds leave for the actuator before the rest of a cycle
is written down. Acks follow once they are durable, so that `accepted` is never said of what a crash could forget.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from curtaild import memory
from curtaild.actuator import Actuator
from curtaild.clerk import Clerk
from curtaild.clock import Clock
from curtaild.core.cycle import Command, Decision, absorb, hear, make_more, step
from curtaild.core.device import Device
from curtaild.core.events import (
    Ack,
    AckStage,
    ActuationChanged,
    ActuationStage,
    AllocationTaken,
    BreachChanged,
    DeficitChanged,
    Event,
    LimitChanged,
    LinkChanged,
)
from curtaild.core.site import Site
from curtaild.core.snapshot import read_off, status_of
from curtaild.core.status import SiteStatus
from curtaild.inbox import Inbox
from curtaild.poller import Poller
from curtaild.starter import Starter
from curtaild.store import Store
from curtaild.telemetry import Telemetry
from curtaild_drivers.contract import DeviceId, Identity, Seconds

log = logging.getLogger(__name__)

CYCLE_S = 1.0
LEARNED_EVERY_S = 300.0
CLOCK_STEP_S = 1.0
"""A wall clock that moves so far against the monotonic one between two looks was set."""
LEARNED_SHARE = 0.01
"""Of the devices in each second, when it is time to keep what was learned: all at once would stall the event loop."""
FIRST_SHEDS = 32
"""So many are made and handed over before all others: of ten thousand the last takes 50 ms to make."""
SHEDS_AT_ONCE = 500
"""So many are made and handed over before the first of them begin: some milliseconds."""
_NEWS = (LinkChanged, LimitChanged, BreachChanged, DeficitChanged, Ack)


class Grid(Protocol):
    """The voice towards the grid; never blocks."""

    def ack(self, ack: Ack) -> None: ...

    def breach(self, breach: BreachChanged) -> None: ...

    def status(self, status: SiteStatus) -> None: ...


class ControlLoop:
    """Owns the site's state. `on_cycle` is called after each completed cycle: the watchdog's proof of life."""

    def __init__(
        self,
        site: Site,
        inbox: Inbox,
        store: Store,
        telemetry: Telemetry,
        clock: Clock,
        on_cycle: Callable[[], None] | None = None,
        keeper: memory.LinkKeeper | None = None,
    ) -> None:
        self.site = site
        self._keeper = keeper or memory.LinkKeeper({})
        self.status: SiteStatus = status_of(site, clock.monotonic())
        self._inbox = inbox
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._on_cycle = on_cycle
        self._clerk = Clerk(
            store,
            telemetry,
            clock,
            follow=self._follow_actuation,
            tell=self._tell_grid,
            is_shedding=self._is_shedding,
            lost=self._keeper.forget,
        )
        self._grid: Grid | None = None
        self._actuator: Actuator | None = None
        self._poller: Poller | None = None
        self._starter: Starter | None = None
        self._status_interval_s: Seconds = 10.0
        self._told_at: Seconds = -1e9
        self._learned_at = clock.monotonic()
        self._wall_ahead_s = clock.wall() - clock.monotonic()
        self._unkept: list[Device] = []
        self._intents: set[DeviceId] = {
            device.spec.id for device in site.devices.values() if device.actuation is not None
        }
        self._has_news = False
        self._is_failing = False
        self._next_change_at: Seconds | None = None

    def connect(
        self, grid: Grid, actuator: Actuator, poller: Poller, starter: Starter, status_interval_s: Seconds
    ) -> None:
        """The edges to act through; again after a reload."""
        self._grid, self._actuator, self._poller, self._starter = grid, actuator, poller, starter
        self._status_interval_s = status_interval_s

    def is_watched(self, device: DeviceId) -> bool:
        """Whether it is to be read every second."""
        known = self.site.devices.get(device)
        return known is not None and known.is_watched

    def remember_identity(self, device: DeviceId, identity: Identity) -> None:
        self._store.commit([], {memory.IDENTITY + device: memory.identity_document(identity)})

    async def run(self) -> None:
        """Until cancelled."""
        tick_at = self._clock.monotonic()
        while True:
            due_at = tick_at if self._next_change_at is None else min(tick_at, self._next_change_at)
            await self._inbox.arrival(max(0.0, due_at - self._clock.monotonic()))
            now = self._clock.monotonic()
            is_tick = now >= tick_at
            if is_tick:
                tick_at = max(tick_at + CYCLE_S, now)
            if now >= due_at or self._inbox.calls:
                await self.cycle(now, is_tick)
            else:
                self._absorb(now)
            await asyncio.sleep(0)

    async def cycle(self, now: Seconds, is_tick: bool) -> None:
        """One turn. A fault in it is told once; no cycle is then completed, and the watchdog takes over."""
        try:
            inputs = self._inbox.take()
            self._note(hear(self.site, inputs.grid, now))
            inputs.grid = []
            decision = step(self.site, inputs, now, FIRST_SHEDS)
            self._next_change_at = decision.next_change_at
            await self._act(decision, now)
            if is_tick:
                await asyncio.sleep(0)  # to show it takes as long again
                self._show(now)
        except Exception:
            if not self._is_failing:
                log.exception("the control cycle failed; limits are kept as they were, the next cycle tries again")
            self._is_failing = True
            self._next_change_at = None
            self._keeper.forget()
            return
        if self._is_failing:
            log.warning("the control cycle works again")
            self._is_failing = False
        self._telemetry.observe_cycle(self._clock.monotonic() - now)
        if self._on_cycle is not None:
            self._on_cycle()

    def _absorb(self, now: Seconds) -> None:
        """What devices said since, before it is much. A fault in it shows in the next cycle's watchdog as well."""
        try:
            self._note(absorb(self.site, self._inbox.take_news(), now))
            read_off(self.site, now)
        except Exception:
            if not self._is_failing:
                log.exception("what devices said could not be taken; limits are kept as they were")
            self._is_failing = True

    # ---- what follows from a decision ---------------------------------------------------------

    async def _act(self, decision: Decision, now: Seconds) -> None:
        """Sheds first and at once: the largest are on their way before the others are made, and all before anything is
        noted. Raises wait for their intents to be durable."""
        events = decision.events
        try:
            await self._hand_over([command for command in decision.commands if not command.is_raise])
            while self.site.left_over:
                sheds, issued = make_more(self.site, now, SHEDS_AT_ONCE)
                events += issued
                await self._hand_over(sheds)
        finally:
            self._note(events)
        if decision.starts and self._starter is not None:
            self._starter.start(decision.starts)
        raises = [command for command in decision.commands if command.is_raise]
        if raises:
            documents = {memory.INTENT + command.device: memory.intent_document(command.target) for command in raises}
            self._intents.update(command.device for command in raises)
            durable = self._store.commit([], documents)
            for command in raises:
                self._send(command, durable)

    async def _hand_over(self, sheds: list[Command]) -> None:
        for command in sheds:
            self._send(command, None)
        if sheds:
            await asyncio.sleep(0)  # the writes begin

    def _send(self, command: Command, durable: asyncio.Future[None] | None) -> None:
        if self._actuator is not None:
            self._actuator.submit(command, durable)

    def _is_shedding(self) -> bool:
        return self._actuator is not None and self._actuator.is_shedding

    def _note(self, events: list[Event]) -> None:
        """Ledger, acks, log, metrics: the clerk's. With an allocation goes the link's memory."""
        if not events:
            return
        documents: dict[str, str | None] = {}
        if any(isinstance(event, AllocationTaken | LinkChanged) or _ends(event) for event in events):
            documents |= self._keeper.documents(self.site.link.memory, self._clock)
        self._has_news |= any(isinstance(event, _NEWS) for event in events)
        self._clerk.note(events, documents)

    def _follow_actuation(self, event: ActuationChanged, documents: dict[str, str | None]) -> None:
        device = self.site.devices.get(event.device)  # a reload may have dropped it meanwhile
        is_settled = device is None or device.actuation is None
        if is_settled and event.device in self._intents:
            self._intents.discard(event.device)
            documents[memory.INTENT + event.device] = None
        is_told = event.stage is not ActuationStage.ISSUED  # what is read before that proves nothing of it
        if is_told and not is_settled and self._poller is not None:
            self._poller.hasten(event.device)

    def _tell_grid(self, answer: Ack | BreachChanged) -> None:
        if self._grid is None:
            return
        if isinstance(answer, Ack):
            self._grid.ack(answer)
        else:
            self._grid.breach(answer)

    def _was_set(self) -> bool:
        """Whether the wall clock was set. Limits run on the other one; but what is kept for the next start is in wall
        time, and must be so by the clock that the next start will read."""
        stepped_s = self._clock.wall() - self._clock.monotonic() - self._wall_ahead_s
        self._wall_ahead_s += stepped_s
        if abs(stepped_s) <= CLOCK_STEP_S:
            return False
        log.warning("this host's clock was set by %+.1f s; no limit is moved by it", stepped_s)
        return True

    def _show(self, now: Seconds) -> None:
        """Once a second: the status for metrics and people; for the grid when it is due or there is news."""
        self.status = status_of(self.site, now)
        self._telemetry.update(self.status)
        self._telemetry.observe_ledger(self._store.health)
        if self._grid is not None and (self._has_news or now - self._told_at >= self._status_interval_s):
            self._told_at = now
            self._has_news = False
            self._grid.status(self.status)
        must_keep = self._was_set()
        if now - self._learned_at >= LEARNED_EVERY_S:
            self._learned_at = now
            self._unkept = list(self.site.devices.values())
            must_keep = True
        if must_keep:
            self._store.commit([], self._keeper.documents(self.site.link.memory, self._clock))
        if self._unkept:
            many = math.ceil(len(self.site.devices) * LEARNED_SHARE)
            self._store.commit([], _learned(self._unkept[-many:]))
            del self._unkept[-many:]

    def finish(self) -> asyncio.Future[None]:
        """Make durable what was told, what was learned of each device, and the link's memory: the edges close."""
        self._clerk.finish()
        self._unkept = []
        documents = _learned(self.site.devices.values())
        documents |= self._keeper.documents(self.site.link.memory, self._clock)
        return self._store.commit([], documents)


def _learned(devices: Iterable[Device]) -> dict[str, str | None]:
    return {memory.LEARNED + device.spec.id: memory.learned_document(device) for device in devices if device.learned}


def _ends(event: Event) -> bool:
    return isinstance(event, Ack) and event.stage is AckStage.ENDED
