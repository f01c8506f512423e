"""How often one issuer may speak, and how many refusals are answered: a stolen key or a mad client wears out neither
devices nor the disk.

What comes too fast is not lost: of each issuer and topic the newest is kept, and taken as soon as its turn has come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from curtaild.clock import Clock
from curtaild.core.allocation import (
    AllocationReceived,
    GridMessage,
    Issuer,
    MessageRejected,
    RejectCode,
    ScheduleReceived,
)
from curtaild_drivers.contract import Seconds

log = logging.getLogger("curtaild.grid")

REFUSALS_PER_MIN = 120.0
REFUSALS_AT_ONCE = 240.0
"""Refusals answered and written down; past that they are only counted until there is less of them."""

Stated: TypeAlias = AllocationReceived | ScheduleReceived


class Bucket:
    """A token bucket: `at_once`, refilled at `per_min`."""

    def __init__(self, per_min: float, at_once: float, now: Seconds) -> None:
        self._per_s = per_min / 60.0
        self._at_once = at_once
        self._tokens = at_once
        self._filled_at = now

    def take(self, now: Seconds) -> bool:
        self._tokens = min(self._at_once, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Pace:
    """One connection's. `per_min_of` says how often an issuer may state something; `None`: as often as he likes, for
    where nothing is signed a name is anybody's."""

    def __init__(self, name: str, clock: Clock, per_min_of: Callable[[Issuer], float] | None) -> None:
        self._name = name
        self._clock = clock
        self._per_min_of = per_min_of
        self._buckets: dict[Issuer, Bucket] = {}
        self._waiting: dict[tuple[str, Issuer], Stated] = {}
        self._refusals = Bucket(REFUSALS_PER_MIN, REFUSALS_AT_ONCE, clock.monotonic())
        self._unanswered = 0

    def pass_on(self, topic: str, message: GridMessage) -> list[GridMessage]:
        """What of it goes on now."""
        if isinstance(message, MessageRejected):
            return self._refuse(message)
        if self._per_min_of is None or not isinstance(message, AllocationReceived | ScheduleReceived):
            return [message]
        place = topic, _issuer(message)
        overtaken = self._waiting.pop(place, None)
        refused = [] if overtaken is None else self._refuse(_too_fast(overtaken))
        if self._may_speak(place[1]):
            return [*refused, message]
        self._waiting[place] = message
        return refused

    def due(self) -> list[GridMessage]:
        """Those kept back whose turn has come."""
        ready = [place for place in self._waiting if self._may_speak(place[1])]
        return [self._waiting.pop(place) for place in ready]

    def _may_speak(self, issuer: Issuer) -> bool:
        now = self._clock.monotonic()
        if issuer not in self._buckets:
            per_min = self._per_min_of(issuer) if self._per_min_of is not None else 0.0
            self._buckets[issuer] = Bucket(per_min, max(1.0, per_min), now)
        return self._buckets[issuer].take(now)

    def _refuse(self, message: MessageRejected) -> list[GridMessage]:
        if self._refusals.take(self._clock.monotonic()):
            if self._unanswered:
                log.warning("grid connection %s: %d refusals went unanswered", self._name, self._unanswered)
            self._unanswered = 0
            return [message]
        if not self._unanswered:
            log.warning("grid connection %s: too much is refused to answer it all: %s", self._name, message.reason)
        self._unanswered += 1
        return []


def _issuer(message: Stated) -> Issuer:
    return message.issuer if isinstance(message, ScheduleReceived) else message.allocation.issuer


def _too_fast(message: Stated) -> MessageRejected:
    reason = "too many messages a minute: replaced by a newer one before its turn came"
    if isinstance(message, ScheduleReceived):
        return MessageRejected(RejectCode.TOO_LARGE, reason, None, message.seq, message.issuer, message.retained)
    stated = message.allocation
    return MessageRejected(RejectCode.TOO_LARGE, reason, stated.id, stated.seq, stated.issuer, message.retained)
