"""The durable store: the ledger and the documents that must survive a crash, in one SQLite file.

One thread writes, in groups, so that the event loop never waits for the disk. Nothing that goes wrong with the disk
is raised into the loop: commits wait in memory, within bounds, until it works again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curtaild.clock import Clock, SystemClock, UnixSeconds
from curtaild.courtesy import stand_aside
from curtaild.ledger import Entry, Json, LedgerUnreadable, Link, Record, follow
from curtaild.store_file import (
    Documents,
    ReplacedInUse,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFile,
)
from curtaild.store_queue import Commit, CommitQueue
from curtaild_drivers.contract import Seconds

__all__ = ["Store", "StoreBusy", "StoreClosed", "StoreDamaged", "StoreError", "StoreHealth", "StoreOverflow"]

log = logging.getLogger(__name__)

_BATCH_SIZE = 5_000  # of one transaction: some 50 ms of writing
_ASIDE_EVERY = 50  # records: a millisecond of computing
_PRUNE_RECORDS = 5_000  # removed at a time, so that commits wait no longer for pruning than for each other
_FIRST_PAUSE_S = 0.1
_DISK_TROUBLE = (sqlite3.Error, LedgerUnreadable, ReplacedInUse)
_UNWRITABLE = (AttributeError, TypeError, ValueError, OverflowError, RecursionError, struct.error)


class StoreOverflow(StoreError):
    """The disk failed for so long that this commit's records were dropped. Its documents are still kept."""


class StoreClosed(StoreError):
    """The store was closed before this could be made durable."""


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the store is doing. `since_unix` is when `ok` last changed (or the store was opened), `queue_length` the
    records not yet durable, `committed_total` and `dropped_total` records since opening, `last_commit_s` how long the
    last transaction took, `head` the newest durable link of the ledger."""

    ok: bool
    since_unix: UnixSeconds
    last_error: str | None
    queue_length: int
    committed_total: int
    dropped_total: int
    last_commit_s: Seconds | None
    head: Link


@dataclass(slots=True)
class _Pruning:
    before_unix_ms: int
    done: asyncio.Future[int]
    removed: int = 0
    last_seq: int = 0


class Store:
    """The open store, made by `open`. `commit`, `prune` and `close` belong to the event loop."""

    def __init__(self, file: StoreFile, clock: Clock, queue_limit: int, retry_most_s: Seconds) -> None:
        self._file = file
        self._clock = clock
        self._retry_most_s = retry_most_s

        self._changed = threading.Condition()  # guards all that follows
        self._queue = CommitQueue(queue_limit)
        self._in_hand: Sequence[Commit] = ()
        self._pruning: _Pruning | None = None
        self._is_open = True
        self._give_up_at: Seconds | None = None
        self._trouble: str | None = None
        self._last_error: str | None = None
        self._since_unix = clock.wall()
        self._committed_total = 0
        self._last_commit_s: Seconds | None = None
        self._head = file.head

        # A daemon thread: a disk that hangs in a sync must not keep the process from ending.
        self._writer = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._writer.start()

    @classmethod
    def open(
        cls, path: Path, *, clock: Clock | None = None, queue_limit: int = 100_000, retry_most_s: Seconds = 10.0
    ) -> Store:
        """Open the store at `path`, making it if nothing is there. `queue_limit` bounds what waits in memory while the
        disk fails (records, documents and commits together); `retry_most_s` is the longest pause between attempts.

        Raises `StoreBusy`, `StoreDamaged`, or `StoreError` for anything else that stands in the way.
        """
        return cls(StoreFile.open(path), clock or SystemClock(), queue_limit, retry_most_s)

    def documents(self, prefix: str = "") -> dict[str, str]:
        """The durable documents whose keys start with `prefix`. It waits for the disk: for start-up. Raises
        `StoreError`."""
        try:
            return self._file.documents(prefix)
        except sqlite3.Error as error:
            raise StoreError(f"the documents in {self._file.path} cannot be read: {error}") from error

    @property
    def health(self) -> StoreHealth:
        with self._changed:
            return StoreHealth(
                ok=self._trouble is None,
                since_unix=self._since_unix,
                last_error=self._last_error,
                queue_length=self._queue.records + _records(self._in_hand),
                committed_total=self._committed_total,
                dropped_total=self._queue.dropped_total,
                last_commit_s=self._last_commit_s,
                head=self._head,
            )

    def commit(
        self, records: Sequence[Record], documents: Documents | None = None, then: Callable[[], None] | None = None
    ) -> asyncio.Future[None]:
        """Queue records and documents (`None` deletes one) for one transaction, after all queued before.

        Never waits, never raises. The future is done once they are on the disk; it fails with `StoreOverflow` or
        `StoreClosed` if they will not be, and with `ValueError` if JSON cannot say them. An empty commit is done when
        all before it are. Nobody has to await it. `then` is called on the event loop once they are on the disk, a turn
        of the loop earlier than whoever awaits the future.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commit = Commit(tuple(records), dict(documents or {}), done, then)
        with self._changed:
            if not self._is_open:
                _settle([done], StoreClosed(f"{self._file.path} is closed"))
                return done
            dropped = self._queue.put(commit, self._trouble or "the disk was too slow")
            self._changed.notify()
        if dropped:
            _finish(dropped, StoreOverflow(f"{self._file.path} could not be written for too long"))
        return done

    def prune(self, before_unix: UnixSeconds) -> asyncio.Future[int]:
        """Remove the ledger's oldest records, up to the first that is not older than `before_unix`; done with their
        number. The last removed hash is kept, so that the rest still verifies, and a record tells of it.

        It goes piece by piece between commits. The future fails with `StoreError`; what is removed by then stays so.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with self._changed:
            if not self._is_open:
                _settle([done], StoreClosed(f"{self._file.path} is closed"))
            elif self._pruning is not None:
                _settle([done], StoreError(f"{self._file.path} is being pruned already"))
            else:
                self._pruning = _Pruning(round(before_unix * 1000), done)
                self._changed.notify()
        return done

    async def close(self, deadline_s: Seconds = 5.0) -> None:
        """Make durable what is queued, within `deadline_s`, then close the file. Futures left over fail."""
        with self._changed:
            self._is_open = False
            if self._give_up_at is None:
                self._give_up_at = time.monotonic() + deadline_s
            self._changed.notify()
        await asyncio.to_thread(self._writer.join, deadline_s + 1.0)
        if self._writer.is_alive():
            log.error("the disk under %s does not answer; leaving with records unwritten", self._file.path)

    # All below runs in the writer's thread.

    def _run(self) -> None:
        reason = f"{self._file.path} was closed before this was written"
        try:
            while self._step():
                pass
        except Exception as error:
            log.exception("the writer of %s stopped; nothing is made durable any more", self._file.path)
            reason = f"the writer of {self._file.path} stopped: {error}"
            self._enter_trouble(reason)
        with self._changed:
            self._is_open = False
            left = [*self._in_hand, *self._queue.take(math.inf, self._clock.wall())]
            self._in_hand = ()
            pruning = self._pruning
        _finish(left, StoreClosed(reason))
        if pruning is not None:
            _call_in_loop(pruning.done, StoreClosed(reason))
        if lost := _records(left):
            log.error("%d records are lost: %s could not be written in time", lost, self._file.path)
        self._file.close()

    def _step(self) -> bool:
        """Wait for something to do and do it; false once all is done or given up."""
        with self._changed:
            while not (self._queue or self._pruning or self._give_up_at is not None):
                self._changed.wait()
            batch = self._queue.take(_BATCH_SIZE, self._clock.wall())
            self._in_hand = batch
            pruning = self._pruning
        if batch and not self._write(batch):
            return False
        if self._give_up_at is not None:
            return bool(batch) and time.monotonic() < self._give_up_at
        if pruning is not None:
            self._prune_piece(pruning)
        return True

    def _write(self, batch: Sequence[Commit]) -> bool:
        """Make the batch durable, however long the disk takes to come back; false if closing ran out of time."""
        entries, documents, writable = self._compose(batch)
        attempted = entries[-1].link if entries else self._file.head
        pause_s, failures = _FIRST_PAUSE_S, 0
        while True:
            started = time.monotonic()
            try:
                # What failed may have reached the file all the same: look before writing it again.
                if not (failures and self._file.reopen(attempted)) and (entries or documents):
                    self._file.write(entries, documents)
                break
            except _DISK_TROUBLE as error:
                if self._enter_trouble(str(error)):
                    log.error("cannot write %s: %s; keeping records in memory, trying again", self._file.path, error)
            failures += 1
            if not self._rest(pause_s):
                return False
            pause_s = min(pause_s * 2, self._retry_most_s)
        with self._changed:
            self._head = self._file.head
            self._last_commit_s = time.monotonic() - started
            self._committed_total += len(entries)
            self._in_hand = ()
        if failures:
            self._leave_trouble()
        _finish(writable, None)
        return True

    def _compose(self, batch: Iterable[Commit]) -> tuple[list[Entry], dict[str, str | None], list[Commit]]:
        """The entries and documents the batch comes to, and its commits; one that cannot be written fails alone."""
        entries: list[Entry] = []
        documents: dict[str, str | None] = {}
        writable: list[Commit] = []
        head = self._file.head
        for commit in batch:
            fresh: list[Entry] = []
            try:
                for record in commit.records:
                    fresh.append(follow(fresh[-1].link if fresh else head, record))
                    if len(fresh) % _ASIDE_EVERY == 0:
                        stand_aside()
                for key, body in commit.documents.items():
                    (key if body is None else key + body).encode()
            except _UNWRITABLE as error:
                log.error("a commit cannot be written to %s: %s", self._file.path, error)
                _finish([commit], ValueError(f"cannot be written: {error}"))
                continue
            if fresh:
                head = fresh[-1].link
            stand_aside()
            entries += fresh
            documents.update(commit.documents)
            writable.append(commit)
        return entries, documents, writable

    def _prune_piece(self, pruning: _Pruning) -> None:
        outcome: int | StoreError
        dropped: list[Commit] = []
        try:
            piece = self._file.remove_oldest(pruning.before_unix_ms, _PRUNE_RECORDS)
            pruning.removed += piece.records
            pruning.last_seq = piece.anchor.seq
            if not piece.is_last:
                return
            outcome = pruning.removed
        except _DISK_TROUBLE as error:
            outcome = StoreError(f"{self._file.path} could not be pruned: {error}")
        with self._changed:
            self._pruning = None
            if pruning.removed:
                body: dict[str, Json] = {"records": pruning.removed, "last_seq": pruning.last_seq}
                note = Commit([Record(self._clock.wall(), "pruned", body)], {})
                dropped = self._queue.put(note, "the disk was too slow")
        _finish(dropped, StoreOverflow(f"{self._file.path} could not be written for too long"))
        _call_in_loop(pruning.done, outcome)

    def _enter_trouble(self, error: str) -> bool:
        """Note what is wrong; true if all was well before."""
        with self._changed:
            is_new = self._trouble is None
            self._trouble = self._last_error = error
            if is_new:
                self._since_unix = self._clock.wall()
        return is_new

    def _leave_trouble(self) -> None:
        with self._changed:
            self._trouble = None
            began_unix, self._since_unix = self._since_unix, self._clock.wall()
            lasted_s, dropped = self._since_unix - began_unix, self._queue.dropped_total
        log.warning(
            "%s is written again after %.1f s; records dropped since start: %d", self._file.path, lasted_s, dropped
        )

    def _rest(self, pause_s: Seconds) -> bool:
        """Wait between attempts, less long once closing; false when closing has run out of time."""
        wake_at = time.monotonic() + pause_s
        with self._changed:
            while (now := time.monotonic()) < wake_at:
                if self._give_up_at is not None:
                    wake_at = min(wake_at, now + _FIRST_PAUSE_S)
                self._changed.wait(wake_at - now)
            return self._give_up_at is None or now < self._give_up_at


def _records(commits: Iterable[Commit]) -> int:
    return sum(len(commit.records) for commit in commits)


def _settle(futures: Iterable[asyncio.Future[Any]], outcome: object) -> None:
    """In the futures' loop: give each its result or exception, unless its owner has given up on it."""
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
            future.exception()  # looked at: whoever does not await a commit shall not be told of it by the interpreter
        else:
            future.set_result(outcome)


def _call_in_loop(future: asyncio.Future[Any], outcome: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        future.get_loop().call_soon_threadsafe(_settle, [future], outcome)


def _finish(commits: Iterable[Commit], outcome: Exception | None) -> None:
    """Settle the commits from any thread, with one call per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Commit]] = {}
    for commit in commits:
        if commit.done is not None:
            by_loop.setdefault(commit.done.get_loop(), []).append(commit)
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle_commits, settled, outcome)


def _settle_commits(commits: Iterable[Commit], outcome: Exception | None) -> None:
    for commit in commits:
        if commit.done is not None:
            _settle([commit.done], outcome)
        if commit.then is not None and outcome is None:
            try:
                commit.then()
            except Exception:
                log.exception("what was to follow a commit failed; the commit itself is on the disk")
