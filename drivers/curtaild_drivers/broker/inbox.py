"""What has arrived and is not read yet: bounded, the newest kept, one topic unable to crowd out another.

aiomqtt's own queue drops the newest message when full, which is the one that counts. MQTT gives allocations the meaning
of state: an older one on the same topic is superseded, so the oldest goes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiomqtt


@dataclass(frozen=True, slots=True)
class Shelf:
    """How much of one topic is kept: the newest `messages`, each cut just past `max_payload_bytes`, so that an
    oversized one is still seen to be oversized but not held."""

    messages: int
    max_payload_bytes: int


class Inbox(asyncio.Queue[aiomqtt.Message]):
    """Serves the topics in turn, each in order of arrival; what comes on any other topic is ignored.

    `at_once` is offered each message that no other waits before, and says whether it took it: aiomqtt's own way to a
    reader takes three turns of the event loop. Its reader then calls `was_read` for each message that it has taken.
    """

    def __init__(self, shelves: Mapping[str, Shelf], at_once: Callable[[aiomqtt.Message], bool] | None = None) -> None:
        self.arrived_total = 0
        self.dropped_total = 0
        self._shelves = shelves
        self._at_once = at_once
        self._unread = 0
        self._waiting: dict[str, deque[aiomqtt.Message]] = {topic: deque() for topic in shelves}
        self._turns: deque[str] = deque()
        super().__init__()

    def qsize(self) -> int:
        return sum(len(messages) for messages in self._waiting.values())

    def empty(self) -> bool:
        return not self._turns

    def put_nowait(self, item: aiomqtt.Message) -> None:
        shelf = self._shelves.get(item.topic.value)
        if shelf is None:
            return
        self.arrived_total += 1
        item.payload = item.payload[: shelf.max_payload_bytes + 1]
        if self._at_once is not None and self._unread == 0:
            with suppress(Exception):  # its reader meets the same fault, where it is told
                if self._at_once(item):
                    return
        self._unread += 1
        super().put_nowait(item)

    def was_read(self) -> None:
        self._unread -= 1

    # `_init`, `_put` and `_get` are what asyncio.Queue offers its subclasses to override

    def _init(self, maxsize: int) -> None:
        pass

    def _put(self, item: aiomqtt.Message) -> None:
        topic = item.topic.value
        waiting = self._waiting[topic]
        if not waiting:
            self._turns.append(topic)
        elif len(waiting) == self._shelves[topic].messages:
            waiting.popleft()
            self.dropped_total += 1
            self._unread -= 1
        waiting.append(item)

    def _get(self) -> aiomqtt.Message:
        topic = self._turns.popleft()
        waiting = self._waiting[topic]
        message = waiting.popleft()
        if waiting:
            self._turns.append(topic)
        return message


class WorkBudget:
    """At most `share` of the event loop's time, over any stretch longer than `burst_s` / `share`."""

    def __init__(self, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = burst_s
        self._owed_s = 0.0
        self._settled_at = 0.0

    def pause_after(self, work_s: float, now: float) -> float:
        """Account for `work_s` of work ended at `now`; how long to pause before the next, in s."""
        self._owed_s = self._owed_at(now) + work_s
        self._settled_at = now
        return max(0.0, self._owed_s - self._burst_s) / self._share

    def is_spent(self, now: float) -> bool:
        """Whether a pause is due at `now`."""
        return self._owed_at(now) > self._burst_s

    def _owed_at(self, now: float) -> float:
        return max(0.0, self._owed_s - (now - self._settled_at) * self._share)
