"""The control loop: every second, and at once when something calls for it or a limit changes by itself, one `step` and
what follows from it.

Sheds leave for the actuator before anything else is done. Records and documents go to the store; acks follow once
their cycle is durable, so that `accepted` is never said of what a crash could forget.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from curtaild import memory
from curtaild.actuator import Actuator
from curtaild.clock import Clock
from curtaild.core.cycle import Command, Decision, step
from curtaild.core.events import (
    Ack,
    AckStage,
    ActuationChanged,
    AllocationTaken,
    BreachChanged,
    DeficitChanged,
    Event,
    LimitChanged,
    LinkChanged,
)
from curtaild.core.site import Site
from curtaild.core.snapshot import status_of
from curtaild.core.status import SiteStatus
from curtaild.inbox import Inbox
from curtaild.ledger import record_of
from curtaild.narrate import narrate
from curtaild.poller import Poller
from curtaild.store import Store
from curtaild.telemetry import Telemetry
from curtaild_drivers.contract import DeviceId, Identity, Seconds

log = logging.getLogger(__name__)

CYCLE_S = 1.0
LEARNED_EVERY_S = 300.0
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
    ) -> None:
        self.site = site
        self.status: SiteStatus = status_of(site, clock.monotonic())
        self._inbox = inbox
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._on_cycle = on_cycle
        self._grid: Grid | None = None
        self._actuator: Actuator | None = None
        self._poller: Poller | None = None
        self._status_interval_s: Seconds = 10.0
        self._told_at: Seconds = -1e9
        self._learned_at = clock.monotonic()
        self._intents: set[DeviceId] = {
            device.spec.id for device in site.devices.values() if device.actuation is not None
        }
        self._has_news = False
        self._is_failing = False
        self._next_change_at: Seconds | None = None

    def connect(self, grid: Grid, actuator: Actuator, poller: Poller, status_interval_s: Seconds) -> None:
        """The edges to act through; again after a reload."""
        self._grid, self._actuator, self._poller = grid, actuator, poller
        self._status_interval_s = status_interval_s

    def is_watched(self, device: DeviceId) -> bool:
        """In motion, or nobody knows where it is set."""
        known = self.site.devices.get(device)
        return known is not None and (known.actuation is not None or known.setpoint is None)

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
            await self.cycle(now, is_tick)
            await asyncio.sleep(0)

    async def cycle(self, now: Seconds, is_tick: bool) -> None:
        """One turn. A fault in it is told once; no cycle is then completed, and the watchdog takes over."""
        try:
            decision = step(self.site, self._inbox.take(), now)
            self._next_change_at = decision.next_change_at
            self._act(decision)
            try:
                if decision.commands:
                    await asyncio.sleep(0)  # the writes begin: a shed waits for no record and no log line
            finally:
                self._note(decision.events)
            if is_tick:
                self._show(now)
        except Exception:
            if not self._is_failing:
                log.exception("the control cycle failed; limits are kept as they were, the next cycle tries again")
            self._is_failing = True
            self._next_change_at = None
            return
        if self._is_failing:
            log.warning("the control cycle works again")
            self._is_failing = False
        self._telemetry.observe_cycle(self._clock.monotonic() - now)
        if self._on_cycle is not None:
            self._on_cycle()

    # ---- what follows from a decision ---------------------------------------------------------

    def _act(self, decision: Decision) -> None:
        """Sheds first and at once; raises wait for their intents to be durable."""
        raises = [command for command in decision.commands if command.is_raise]
        for command in decision.commands:
            if not command.is_raise:
                self._send(command, None)
        if raises:
            documents = {memory.INTENT + command.device: memory.intent_document(command.target) for command in raises}
            self._intents.update(command.device for command in raises)
            durable = self._store.commit([], documents)
            for command in raises:
                self._send(command, durable)

    def _send(self, command: Command, durable: asyncio.Future[None] | None) -> None:
        if self._actuator is not None:
            self._actuator.submit(command, durable)

    def _note(self, events: list[Event]) -> None:
        """Ledger, acks, log, metrics."""
        if not events:
            return
        documents: dict[str, str | None] = {}
        if any(isinstance(event, AllocationTaken | LinkChanged) or _ends(event) for event in events):
            documents[memory.LINK] = memory.link_document(self.site.link.memory, self._clock)
        for event in events:
            if isinstance(event, ActuationChanged):
                self._follow_actuation(event, documents)
        durable = self._store.commit([record_of(event, self._clock) for event in events], documents)
        self._has_news |= any(isinstance(event, _NEWS) for event in events)
        answers = [event for event in events if isinstance(event, Ack | BreachChanged)]
        if answers:
            durable.add_done_callback(partial(self._tell_grid, answers))
        self._telemetry.observe(events)
        narrate(events)

    def _follow_actuation(self, event: ActuationChanged, documents: dict[str, str | None]) -> None:
        device = self.site.devices.get(event.device)  # a reload may have dropped it meanwhile
        is_settled = device is None or device.actuation is None
        if is_settled and event.device in self._intents:
            self._intents.discard(event.device)
            documents[memory.INTENT + event.device] = None
        if not is_settled and self._poller is not None:
            self._poller.hasten(event.device)

    def _tell_grid(self, answers: list[Ack | BreachChanged], durable: asyncio.Future[None]) -> None:
        if self._grid is None or durable.cancelled() or durable.exception() is not None:
            return
        for answer in answers:
            if isinstance(answer, Ack):
                self._grid.ack(answer)
            else:
                self._grid.breach(answer)

    def _show(self, now: Seconds) -> None:
        """Once a second: the status for metrics and people; for the grid when it is due or there is news."""
        self.status = status_of(self.site, now)
        self._telemetry.update(self.status)
        self._telemetry.observe_ledger(self._store.health)
        if self._grid is not None and (self._has_news or now - self._told_at >= self._status_interval_s):
            self._told_at = now
            self._has_news = False
            self._grid.status(self.status)
        if now - self._learned_at >= LEARNED_EVERY_S:
            self._learned_at = now
            self.keep_learned()

    def keep_learned(self) -> asyncio.Future[None]:
        """Make durable what was learned of each device, and the link's memory."""
        documents: dict[str, str | None] = {
            memory.LEARNED + device.spec.id: memory.learned_document(device)
            for device in self.site.devices.values()
            if device.learned
        }
        documents[memory.LINK] = memory.link_document(self.site.link.memory, self._clock)
        return self._store.commit([], documents)


def _ends(event: Event) -> bool:
    return isinstance(event, Ack) and event.stage is AckStage.ENDED
