"""The store's file: making, locking, checking and opening it, and the transactions on it. Everything here waits for
the disk, so only start-up and the store's writer thread may call it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from curtaild.ledger import GENESIS, Entry, LedgerUnreadable, Link, connect_read_only, marked, verify_from

Documents: TypeAlias = Mapping[str, str | None]
"""Documents by key; `None` deletes one."""

_APPLICATION_ID = 0x43_54_4C_44  # "CTLD", so that no other program's SQLite file is taken for a store
_MIGRATIONS = (
    """
    CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY, at_unix_ms INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL
    );
    CREATE TABLE state (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE chain (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL) WITHOUT ROWID;
    """,
)
"""The statements that lead from each schema version to the next; `user_version` counts those done."""

_TAIL_RECORDS = 1_000  # checked on opening: what a crash or a failing disk harms first; `verify` walks them all


class StoreError(Exception):
    """The store cannot be used. The text names the file, what is wrong, and what a person can do."""


class StoreBusy(StoreError):
    """Another daemon has the store open."""


class StoreDamaged(StoreError):
    """The file is no store, or its end does not verify. It was left as it is."""


class ReplacedInUse(Exception):
    """The file is not the one that was being written: somebody moved it, put back another, or changed it."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What one piece of pruning did. `anchor` is the link that now comes before the oldest record."""

    records: int
    anchor: Link
    is_last: bool


class StoreFile:
    """The one open, locked, writable store file. All calls but `open` raise `sqlite3.Error`, and say so."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection) -> None:
        self.path = path
        self.head = marked(connection, "head")
        self._lock = lock
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> StoreFile:
        """Lock, check and open the file, making it if nothing is there. Raises `StoreError`."""
        lock = _lock(path)
        try:
            return cls(path, lock, _open_checked(path))
        except BaseException:
            os.close(lock)
            raise

    def write(self, entries: Sequence[Entry], documents: Documents) -> None:
        """Append entries and put documents in one transaction. When it returns, they are on the disk."""
        rows = ((e.seq, e.at_unix_ms, e.kind, e.body, e.hash) for e in entries)
        with self._transaction():
            self._connection.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", rows)
            if entries:
                self._mark("head", entries[-1].link)
            kept = ((key, body) for key, body in documents.items() if body is not None)
            self._connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", kept)
            gone = ((key,) for key, body in documents.items() if body is None)
            self._connection.executemany("DELETE FROM state WHERE key = ?", gone)
        if entries:
            self.head = entries[-1].link

    def reopen(self, attempted: Link) -> bool:
        """Connect anew, as SQLite asks for after an I/O error; true if the failed write of entries up to `attempted`
        had reached the file after all. Raises `ReplacedInUse` too."""
        with suppress(sqlite3.Error):
            self._connection.close()
        self._connection = _connect(self.path)
        found = marked(self._connection, "head")
        if found == self.head:
            return False
        if found != attempted:
            raise ReplacedInUse("the file was replaced or changed while in use: put it back, or restart the daemon")
        self._connection.execute("PRAGMA wal_checkpoint(FULL)")  # syncs what the failed commit may not have
        self.head = found
        return True

    def remove_oldest(self, before_unix_ms: int, most: int) -> Removal:
        """Remove up to `most` of the oldest records, stopping at the first that is not older than the given time."""
        with self._transaction():
            anchor = marked(self._connection, "anchor")
            oldest = self._connection.execute(
                "SELECT seq, hash, at_unix_ms FROM ledger ORDER BY seq LIMIT ?", (most,)
            ).fetchall()
            older = []
            for seq, hash_, at_unix_ms in oldest:
                if at_unix_ms >= before_unix_ms:
                    break
                older.append(Link(seq, hash_))
            if older:
                anchor = older[-1]
                self._connection.execute("DELETE FROM ledger WHERE seq <= ?", (anchor.seq,))
                self._mark("anchor", anchor)
        return Removal(len(older), anchor, is_last=len(older) < most)

    def documents(self, prefix: str) -> dict[str, str]:
        """The documents whose keys start with `prefix`; safe from any thread."""
        query = "SELECT key, body FROM state WHERE substr(key, 1, ?) = ?"
        with closing(_connect(self.path)) as connection:
            return dict(connection.execute(query, (len(prefix), prefix)))

    def close(self) -> None:
        """Close the file and free its lock; never raises."""
        with suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)

    def _mark(self, name: str, link: Link) -> None:
        self._connection.execute("UPDATE chain SET seq = ?, hash = ? WHERE name = ?", (link.seq, link.hash, name))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise


def _lock(path: Path) -> int:
    """Hold the lock file beside the store; the kernel frees it when the process dies. It is a file of its own because
    SQLite's locks on the store itself are lost when any other descriptor of that file is closed."""
    beside = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{beside} cannot be written: {error.strerror}; the folder must exist and be ours") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreBusy(f"{path} is in use by another curtaild (process {holder}); stop that one first") from error
    except OSError:
        pass  # the lock is held; on a full disk only the process number is missing from it
    return descriptor


def _open_checked(path: Path) -> sqlite3.Connection:
    try:
        if not path.exists():
            _make(path)
        version = _version(path)
        connection = _connect(path)
        try:
            _migrate(connection, version)
            _check_tail(connection)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.OperationalError, OSError) as error:
        raise StoreError(f"{path} cannot be opened: {error}; check the disk's space and the file's rights") from error
    except (sqlite3.DatabaseError, LedgerUnreadable) as error:
        raise StoreDamaged(
            f"{path} is damaged: {error}. Nothing was changed. Keep it as evidence: move it and the files "
            f"{path.name}-* beside it away, then start with a backup or, without one, with a new store; "
            f"the site then starts at its fail-safe limit"
        ) from error
    return connection


def _make(path: Path) -> None:
    """Make an empty store beside `path` and move it there whole, so that a file at `path` that is no store is always
    damage, never a start cut short."""
    if path.with_name(path.name + "-wal").exists():
        raise LedgerUnreadable(f"the file is gone, yet its log {path.name}-wal is there")
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(_connect(draft, journal="DELETE")) as connection:
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        _migrate(connection, 0)
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, journal: str = "WAL") -> sqlite3.Connection:
    """WAL lets others read while the daemon writes, and costs one sync per transaction. With it only `FULL` syncs
    every commit: `NORMAL` would lose the last ones with the power, which is when an allocation must not be lost."""
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"  # never creates
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")  # a log grown in a storm shrinks back to 64 MiB
    except BaseException:
        connection.close()
        raise
    return connection


def _version(path: Path) -> int:
    """The store's schema version, read before anything is written: even choosing WAL would change a stranger's file."""
    with closing(connect_read_only(path)) as connection:
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise LedgerUnreadable("it is not a store of curtaild")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(_MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer curtaild (store version {version}, this one knows {len(_MIGRATIONS)}); "
            f"install that version again"
        )
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for done, statements in enumerate(_MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements.split(";"):
            connection.execute(statement)
        if done == 1:
            marks = [(name, GENESIS.seq, GENESIS.hash) for name in ("anchor", "head")]
            connection.executemany("INSERT INTO chain VALUES (?, ?, ?)", marks)
        connection.execute(f"PRAGMA user_version = {done}")
        connection.execute("COMMIT")


def _check_tail(connection: sqlite3.Connection) -> None:
    """Walk the newest records, and read every document. Raises `LedgerUnreadable` or `sqlite3.Error`."""
    start, head = marked(connection, "anchor"), marked(connection, "head")
    if head.seq - start.seq > _TAIL_RECORDS:
        row = connection.execute("SELECT seq, hash FROM ledger WHERE seq = ?", (head.seq - _TAIL_RECORDS,)).fetchone()
        if row is None:
            raise LedgerUnreadable(f"record {head.seq - _TAIL_RECORDS} of the ledger is missing")
        start = Link(*row)
    result = verify_from(connection, start)
    if result.broken is not None:
        found = result.broken
        raise LedgerUnreadable(f"record {found.seq} of the ledger was {found.tampering.value}: {found.detail}")
    connection.execute("SELECT count(body) FROM state").fetchone()
