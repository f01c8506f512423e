"""Writes down what the cycles decided, in the ledger, the metrics and the log, and tells the grid once it is durable.

A shed of ten thousand devices is ten thousand records in one cycle. They wait until the sheds have left, three seconds
at most, and are then written in slices between which the event loop goes on. What else a cycle has to tell, an
allocation before all, waits for none of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from curtaild.clock import Clock
from curtaild.core.events import Ack, ActuationChanged, BreachChanged, Event
from curtaild.ledger import record_of
from curtaild.narrate import narrate
from curtaild.store import Store
from curtaild.telemetry import Telemetry
from curtaild_drivers.contract import Seconds

log = logging.getLogger(__name__)

SLICE = 100
"""Events written down between two turns of the event loop: a millisecond or two."""
HOLD_S = 3.0
"""What a crash may take of a shed is the record of it, for so long: each device is read again anyway."""
LOOK_AGAIN_S = 0.02


class Clerk:
    """`follow` hears of each actuation's step, and may add documents to what is committed with it; `tell` hears the
    answers to the grid once they are durable; `lost` is called when documents will not be; while `is_shedding`, what
    can wait does. All calls belong to the event loop; none waits."""

    def __init__(
        self,
        store: Store,
        telemetry: Telemetry,
        clock: Clock,
        *,
        follow: Callable[[ActuationChanged, dict[str, str | None]], None],
        tell: Callable[[Ack | BreachChanged], None],
        is_shedding: Callable[[], bool],
        lost: Callable[[], None],
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._follow = follow
        self._tell = tell
        self._is_shedding = is_shedding
        self._lost = lost
        self._later: deque[ActuationChanged] = deque()
        self._work: asyncio.Task[None] | None = None

    def note(self, events: Sequence[Event], documents: dict[str, str | None]) -> None:
        """Take what one cycle told, with documents to commit at once. The actuations of a large cycle, and of those
        that come before it is written down, stand in the ledger behind the rest of their cycle."""
        if not self._later and len(events) <= SLICE:
            self._write(events, documents)
            return
        at_once = [event for event in events if not isinstance(event, ActuationChanged)]
        if at_once or documents:
            self._write(at_once, documents)
        self._later.extend(event for event in events if isinstance(event, ActuationChanged))
        if self._work is None:
            self._work = asyncio.create_task(self._work_off(), name="clerk")

    def finish(self) -> None:
        """Write down all that waits: the daemon stops."""
        if self._work is not None:
            self._work.cancel()
            self._work = None
        if self._later:
            self._write(self._later, {})
            self._later.clear()

    async def _work_off(self) -> None:
        held_until = self._now() + HOLD_S
        while self._later:
            if self._is_shedding() and self._now() < held_until:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            part = [self._later.popleft() for _ in range(min(SLICE, len(self._later)))]
            try:
                self._write(part, {})
            except Exception:
                log.exception("%d steps of actuations could not be written down", len(part))
            await asyncio.sleep(0)
        self._work = None

    def _write(self, events: Sequence[Event], documents: dict[str, str | None]) -> None:
        for event in events:
            if isinstance(event, ActuationChanged):
                self._follow(event, documents)
        answers = [event for event in events if isinstance(event, Ack | BreachChanged)]
        durable = self._store.commit(
            [record_of(event, self._clock) for event in events],
            documents,
            then=partial(self._tell_all, answers) if answers else None,
        )
        if documents:
            durable.add_done_callback(self._look)
        self._telemetry.observe(events)
        narrate(events)

    def _look(self, durable: asyncio.Future[None]) -> None:
        if not durable.cancelled() and durable.exception() is not None:
            self._lost()

    def _tell_all(self, answers: list[Ack | BreachChanged]) -> None:
        for answer in answers:
            self._tell(answer)

    def _now(self) -> Seconds:
        return asyncio.get_running_loop().time()
