"""What waits to be written: commits in order, within bounds. When the disk fails for too long the oldest records go,
allocations last, and are counted; the documents' newest values never go. Not thread-safe: the store holds a lock.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from curtaild.clock import UnixSeconds
from curtaild.core.events import AllocationTaken
from curtaild.ledger import Json, Record, rfc3339
from curtaild.store_file import Documents


@dataclass(frozen=True, slots=True)
class Commit:
    """What one call asked to make durable in one transaction; `then` is called once it is."""

    records: Sequence[Record]
    documents: Documents
    done: asyncio.Future[None] | None = None
    then: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        """What it counts against the bound: records, documents, and one for itself."""
        return len(self.records) + len(self.documents) + 1

    @property
    def holds_allocation(self) -> bool:
        return any(record.kind == AllocationTaken.kind for record in self.records)


@dataclass(slots=True)
class Gap:
    """Records that were dropped, to be owned up to in the ledger."""

    reason: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    first_unix: UnixSeconds = math.inf
    last_unix: UnixSeconds = -math.inf

    def add(self, record: Record) -> None:
        self.kinds[record.kind] += 1
        self.first_unix = min(self.first_unix, record.at_unix)
        self.last_unix = max(self.last_unix, record.at_unix)

    def record(self, now_unix: UnixSeconds) -> Record:
        body: dict[str, Json] = {
            "dropped": self.kinds.total(),
            "kinds": {**self.kinds},
            "first_at": rfc3339(self.first_unix),
            "last_at": rfc3339(self.last_unix),
            "reason": self.reason,
        }
        return Record(now_unix, "gap", body)


class CommitQueue:
    """Commits waiting for the disk. `limit` bounds the sum of their sizes, `records` is how many records wait."""

    def __init__(self, limit: int) -> None:
        self.records = 0
        self.dropped_total = 0
        self._limit = limit
        self._waiting: deque[Commit] = deque()
        self._size = 0
        self._gap = Gap()
        self._orphans: dict[str, str | None] = {}  # documents of commits that were dropped

    def __bool__(self) -> bool:
        return bool(self._waiting or self._gap.kinds or self._orphans)

    def put(self, commit: Commit, trouble: str) -> list[Commit]:
        """Queue a commit; returns those that were dropped for it, mostly none. `trouble` says why it has to wait."""
        self._waiting.append(commit)
        self._size += commit.size
        self.records += len(commit.records)
        if self._size <= self._limit:
            return []
        self._gap.reason = self._gap.reason or trouble
        return self._drop(spare_allocations=True) + self._drop(spare_allocations=False)

    def take(self, most: float, now_unix: UnixSeconds) -> list[Commit]:
        """The oldest commits, together about `most` in size, after a record of what was dropped before them."""
        batch: list[Commit] = []
        if self._gap.kinds or self._orphans:
            records = [self._gap.record(now_unix)] if self._gap.kinds else []
            batch.append(Commit(records, self._orphans))
            self._gap, self._orphans = Gap(), {}
        taken = 0
        while self._waiting and taken < most:
            batch.append(self._waiting.popleft())
            taken += batch[-1].size
            self.records -= len(batch[-1].records)
        self._size -= taken
        return batch

    def _drop(self, spare_allocations: bool) -> list[Commit]:
        """Drop the oldest until a tenth of the bound is free again, so that the next drop is a while off.

        A spared commit gives up its documents too: written after those of younger commits, they would undo them.
        """
        dropped: list[Commit] = []
        spared: list[Commit] = []
        while self._waiting and self._size > self._limit * 9 // 10:
            commit = self._waiting.popleft()
            self._size -= commit.size
            self._orphans.update(commit.documents)
            if spare_allocations and commit.holds_allocation:
                spared.append(replace(commit, documents={}))
                self._size += spared[-1].size
                continue
            self.records -= len(commit.records)
            self.dropped_total += len(commit.records)
            for record in commit.records:
                self._gap.add(record)
            dropped.append(commit)
        self._waiting.extendleft(reversed(spared))
        return dropped
