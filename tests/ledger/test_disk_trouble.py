"""The disk fills up or fails, and comes back: the loop notices nothing, and the ledger owns up to what is missing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from curtaild.core.events import AllocationTaken
from curtaild.ledger import Record, connect_read_only, rfc3339, verify
from curtaild.store import Store, StoreClosed, StoreOverflow
from loop_clock import comes_true

IN_TIME_S = 60.0


class FullTmpfs:
    """A real file system that really runs out of space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(b"\0" * 4096):
                    pass
            except OSError:
                return

    def free(self) -> None:
        (self.folder / "ballast").unlink()


class FileSizeLimit:
    """No file of this process may grow: every write past that fails with EFBIG, an I/O error to SQLite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        wal = (self.folder / "store.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (wal, self._before[1]))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


Disk = FullTmpfs | FileSizeLimit


@pytest.fixture(params=["full file system", "I/O errors"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "I/O errors":
        limit = FileSizeLimit(tmp_path)
        yield limit
        limit.free()
        return
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield FullTmpfs(tmp_path)
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def closed(store: Store, deadline_s: float) -> None:
    """Given up by then, or soon after where the writer has to wait for its turn."""
    await store.close(deadline_s)
    await asyncio.to_thread(store._writer.join, IN_TIME_S)
    assert not store._writer.is_alive()


def numbered(number: int, kind: str = "test", text: str = "") -> Record:
    return Record(1_000.0 + number, kind, {"number": number, "text": text})


async def stuck_commit(store: Store, number: int) -> asyncio.Future[None]:
    """A commit that the writer has in hand and cannot write: too large for the space that SQLite's log gives back when
    the file is opened anew."""
    future = store.commit([numbered(number, text="x" * 200_000)])
    await comes_true(lambda: not store.health.ok)
    return future


def ledger(path: Path) -> list[tuple[str, dict[str, object]]]:
    with closing(connect_read_only(path)) as connection:
        rows = connection.execute("SELECT kind, body FROM ledger ORDER BY seq").fetchall()
    return [(kind, json.loads(body)) for kind, body in rows]


async def test_records_wait_for_the_disk_and_keep_their_order(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "curtaild.store")
    path = disk.folder / "store.db"
    store = Store.open(path, retry_most_s=0.1)
    await store.commit([numbered(0)], {"last": "0"})
    disk.fill()
    futures = [await stuck_commit(store, 1)]
    futures += [store.commit([numbered(n)], {"last": str(n)}) for n in range(2, 101)]
    assert store.health.last_error
    assert store.health.queue_length == 100
    assert not any(future.done() for future in futures)
    disk.free()
    await asyncio.gather(*futures)
    assert store.health.ok
    assert (store.health.queue_length, store.health.dropped_total) == (0, 0)
    await store.close()
    assert [body["number"] for _, body in ledger(path)] == list(range(101))
    assert verify(path).ok
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "keeping records in memory" in told[0]
    assert "is written again after" in told[1]


async def test_past_the_bound_the_oldest_go_and_the_ledger_says_so(disk: Disk) -> None:
    path = disk.folder / "store.db"
    store = Store.open(path, queue_limit=300, retry_most_s=0.1)
    await store.commit([numbered(0)])
    disk.fill()
    in_hand = await stuck_commit(store, 1)
    allocation = store.commit([numbered(2, AllocationTaken.kind)], {"link": "old", "last": "2"})
    lost = [store.commit([numbered(n)], {"link": "new", "last": str(n)}) for n in range(3, 20)]
    kept = [store.commit([numbered(n)]) for n in range(20, 160)]
    with pytest.raises(StoreOverflow):
        await lost[0]
    dropped = store.health.dropped_total
    assert 0 < dropped < 60
    assert store.health.queue_length == 159 - dropped
    disk.free()
    await asyncio.gather(in_hand, allocation, kept[-1])
    assert store.documents() == {"link": "new", "last": "19"}
    await store.close()

    told = ledger(path)
    numbers = [body.get("number") for _, body in told]
    assert numbers == [0, 1, None, 2, *range(3 + dropped, 160)]
    kind, body = told[2]
    assert kind == "gap"
    assert (body["dropped"], body["kinds"]) == (dropped, {"test": dropped})
    assert (body["first_at"], body["last_at"]) == (rfc3339(1_003.0), rfc3339(1_002.0 + dropped))
    assert body["reason"]
    assert verify(path).ok


async def test_even_allocations_alone_stay_within_the_bound(disk: Disk) -> None:
    path = disk.folder / "store.db"
    store = Store.open(path, queue_limit=100, retry_most_s=0.1)
    disk.fill()
    await stuck_commit(store, 0)
    futures = [store.commit([numbered(n, AllocationTaken.kind)]) for n in range(1, 1_001)]
    assert store.health.queue_length <= 51
    disk.free()
    await futures[-1]
    await store.close()
    assert ledger(path)[1][1]["kinds"] == {"allocation": store.health.dropped_total}
    assert verify(path).ok


async def test_closing_on_a_full_disk_ends_in_time(disk: Disk) -> None:
    path = disk.folder / "store.db"
    store = Store.open(path)
    await store.commit([numbered(0)])
    disk.fill()
    stuck = await stuck_commit(store, 1)
    behind = store.commit([numbered(2)])
    await closed(store, deadline_s=0.3)
    for future in (stuck, behind):
        with pytest.raises(StoreClosed):
            await future
    disk.free()
    await Store.open(path).close()
    assert len(ledger(path)) == 1


async def test_closing_writes_what_is_queued_if_the_disk_comes_back_in_time(disk: Disk) -> None:
    path = disk.folder / "store.db"
    store = Store.open(path)
    await store.commit([numbered(0)])
    disk.fill()
    stuck = await stuck_commit(store, 1)
    closing_store = asyncio.create_task(store.close(deadline_s=IN_TIME_S))
    await asyncio.sleep(0)
    disk.free()
    await asyncio.gather(closing_store, stuck)
    assert len(ledger(path)) == 2


async def test_a_file_replaced_while_in_use_is_not_written_to(tmp_path: Path) -> None:
    """A backup put back under a running daemon: its chain ends elsewhere, and appending to it would fork it."""
    path, disk = tmp_path / "store.db", FileSizeLimit(tmp_path)
    store = Store.open(path, retry_most_s=0.1)
    await store.commit([numbered(0)])
    disk.fill()
    try:
        stuck = await stuck_commit(store, 1)
        path.rename(tmp_path / "aside.db")
        path.with_name("store.db-wal").unlink()
        path.with_name("store.db-shm").unlink()
    finally:
        disk.free()
    other = Store.open(tmp_path / "other.db")
    await other.commit([numbered(7), numbered(8)])
    await other.close()
    (tmp_path / "other.db").rename(path)
    await comes_true(lambda: "replaced or changed" in str(store.health.last_error))
    await closed(store, deadline_s=0.1)
    assert stuck.done()
    assert [body["number"] for _, body in ledger(path)] == [7, 8]


class Liar(sqlite3.Connection):
    """Commits, then reports an I/O error: what a failed sync looks like when the data arrived after all."""

    lies_left = 0

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        cursor = super().execute(sql, parameters)
        if sql == "COMMIT" and Liar.lies_left:
            Liar.lies_left -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


async def test_a_commit_that_failed_but_arrived_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store.db", retry_most_s=0.05)
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kw: real(*args, factory=Liar, **kw))
    store._file.reopen(store._file.head)  # from here on by a connection that lies
    Liar.lies_left = 1
    await store.commit([numbered(1)], {"last": "1"})
    assert Liar.lies_left == 0
    assert store.health.ok
    await store.commit([numbered(2)])
    await store.close()
    assert [body["number"] for _, body in ledger(tmp_path / "store.db")] == [1, 2]
    assert verify(tmp_path / "store.db").ok


async def test_a_writer_that_dies_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of our own rather than the disk's: loud, and no future is left pending."""
    store = Store.open(tmp_path / "store.db")

    def fault(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(store._file, "write", fault)
    with pytest.raises(StoreClosed, match="nobody thought of this"):
        await store.commit([numbered(1)])
    with pytest.raises(StoreClosed):
        await store.commit([numbered(2)])
    assert not store.health.ok
    await store.close()
