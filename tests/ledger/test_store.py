"""The store from the event loop's side: order, one transaction per commit, one owner, honest errors."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from curtaild.ledger import Record, connect_read_only, verify
from curtaild.store import Store, StoreBusy, StoreClosed, StoreDamaged, StoreError


def numbered(number: int, kind: str = "test", at_unix: float = 1_000.0) -> Record:
    return Record(at_unix, kind, {"number": number})


def ledger(path: Path) -> list[tuple[int, str, dict[str, object]]]:
    """Number, kind and body of every record in the file."""
    with closing(connect_read_only(path)) as connection:
        rows = connection.execute("SELECT seq, kind, body FROM ledger ORDER BY seq").fetchall()
    return [(seq, kind, json.loads(body)) for seq, kind, body in rows]


async def filled(path: Path, records: int) -> None:
    store = Store.open(path)
    await store.commit([numbered(number) for number in range(records)])
    await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    store = Store.open(path)
    yield store
    await store.close()


async def test_records_and_documents_come_back_in_order(path: Path) -> None:
    store = Store.open(path)
    for number in range(50):
        store.commit([numbered(number)], {"link": str(number), f"device/{number % 3}": f'{{"n":{number}}}'})
    await store.commit([], {"device/1": None})
    assert store.documents() == {"device/0": '{"n":48}', "device/2": '{"n":47}', "link": "49"}
    await store.close()

    assert [body["number"] for _, _, body in ledger(path)] == list(range(50))
    store = Store.open(path)
    assert store.documents("device/") == {"device/0": '{"n":48}', "device/2": '{"n":47}'}
    assert store.documents("device_") == {}
    await store.commit([numbered(50)])
    await store.close()
    assert verify(path).records == 51


async def test_a_done_commit_is_on_the_disk_with_all_before_it(store: Store, path: Path) -> None:
    for number in range(100):
        store.commit([numbered(number)])
    await store.commit([])
    assert len(ledger(path)) == 100


async def test_commits_queue_without_waiting_and_are_written_in_groups(store: Store) -> None:
    futures = [store.commit([numbered(number)]) for number in range(2_000)]
    assert not futures[-1].done()
    await asyncio.gather(*futures)
    health = store.health
    assert (health.ok, health.committed_total, health.queue_length, health.dropped_total) == (True, 2_000, 0, 0)
    assert health.head.seq == 2_000
    assert health.last_commit_s is not None


async def test_what_follows_a_commit_finds_it_on_the_disk_and_harms_no_other(store: Store, path: Path) -> None:
    followed: list[bool] = []

    def fails() -> None:
        raise RuntimeError("a fault of ours")

    first = store.commit([numbered(1)], then=fails)
    second = store.commit([numbered(2)], then=lambda: followed.append(len(ledger(path)) == 2))
    await asyncio.gather(first, second)
    assert followed == [True]


async def test_health_names_the_head_that_verifies(store: Store, path: Path) -> None:
    await store.commit([numbered(1), numbered(2)])
    assert verify(path, witness=store.health.head).head == store.health.head


async def test_what_json_cannot_say_fails_alone(store: Store, path: Path) -> None:
    before = store.commit([numbered(1)])
    bad = store.commit([numbered(2), Record(1.0, "test", {"power_w": float("nan")})], {"half": "written"})
    broken_text = store.commit([], {"key": "\ud800"})
    after = store.commit([numbered(3)])
    await asyncio.gather(before, after)
    for future in (bad, broken_text):
        with pytest.raises(ValueError, match="cannot be written"):
            await future
    assert [body["number"] for _, _, body in ledger(path)] == [1, 3]
    assert store.documents() == {}
    assert verify(path).ok


async def test_a_commit_given_up_by_its_caller_is_written_all_the_same(store: Store, path: Path) -> None:
    store.commit([numbered(1)]).cancel()
    await store.commit([numbered(2)])
    assert len(ledger(path)) == 2


async def test_after_closing_commits_fail_and_nothing_is_raised(path: Path) -> None:
    store = Store.open(path)
    last = store.commit([numbered(1)])
    await store.close()
    await last
    for late in (store.commit([numbered(2)]), store.prune(0.0)):
        with pytest.raises(StoreClosed):
            await late
    await store.close()
    assert len(ledger(path)) == 1


async def test_a_second_daemon_is_told_who_holds_the_store(store: Store, path: Path) -> None:
    with pytest.raises(StoreBusy, match=rf"store\.db is in use by another curtaild \(process {os.getpid()}\)"):
        Store.open(path)
    await store.close()
    await Store.open(path).close()


async def test_others_may_read_while_the_daemon_writes(store: Store, path: Path) -> None:
    await store.commit([numbered(1)])
    with closing(connect_read_only(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM ledger").fetchone() == (1,)
        await store.commit([numbered(2)])
        assert reader.execute("SELECT count(*) FROM ledger").fetchone() == (1,)  # its snapshot
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM ledger")
    assert verify(path).records == 2


async def test_a_writer_that_holds_the_file_only_delays(store: Store, path: Path) -> None:
    """An operator's sqlite3 shell in the middle of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        future = store.commit([numbered(1)])
        done, _ = await asyncio.wait({future}, timeout=0.05)
        assert not done
        other.execute("ROLLBACK")
    await future


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8176])
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"store\.db is damaged: .*move it and the files store\.db-\*"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_refused(path: Path) -> None:
    asyncio.run(filled(path, 500))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreDamaged):
        Store.open(path)


def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    content = path.read_bytes()
    with pytest.raises(StoreDamaged, match="not a store of curtaild"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_log_without_its_file_is_refused(path: Path) -> None:
    path.with_name("store.db-wal").write_bytes(b"records that were not yet moved over")
    with pytest.raises(StoreDamaged, match=r"its log store\.db-wal is there"):
        Store.open(path)


async def test_a_tampered_end_is_refused_with_the_record(path: Path) -> None:
    await filled(path, 1_500)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE ledger SET body = '{}' WHERE seq = 1400")
        connection.commit()
    with pytest.raises(StoreDamaged, match="record 1400 of the ledger was changed"):
        Store.open(path)


async def test_opening_reads_only_the_end(path: Path) -> None:
    """A year's ledger must not delay a start: the whole chain is `verify`'s to walk."""
    await filled(path, 1_500)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE ledger SET body = '{}' WHERE seq = 400")
        connection.commit()
    await Store.open(path).close()
    assert not verify(path).ok


async def test_a_newer_store_is_refused(path: Path) -> None:
    await Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer curtaild"):
        Store.open(path)


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent/store\.db\.lock cannot be written: No such file"):
        Store.open(tmp_path / "absent" / "store.db")


def test_a_start_cut_short_is_no_damage(path: Path) -> None:
    path.with_name("store.db.new").write_bytes(b"half an empty store")
    Store.open(path)
    assert verify(path).ok


async def test_every_commit_is_synced(path: Path) -> None:
    store = Store.open(path)
    connection = store._file._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    await store.close()


async def test_pruning_keeps_the_rest_verifiable(path: Path) -> None:
    store = Store.open(path)
    await store.commit([numbered(number, at_unix=float(number)) for number in range(12_000)])
    head = store.health.head
    pruning = store.prune(before_unix=11_000.0)
    during = store.commit([numbered(-1, at_unix=20_000.0)])  # the site goes on meanwhile
    assert await pruning == 11_000
    await during
    await store.commit([])
    result = verify(path, witness=head)
    assert (result.ok, result.anchor.seq, result.records) == (True, 11_000, 1_002)
    _, kind, body = ledger(path)[-1]
    assert (kind, body) == ("pruned", {"records": 11_000, "last_seq": 11_000})
    await store.close()

    store = Store.open(path)
    await store.commit([numbered(1)])
    assert await store.prune(before_unix=11_000.0) == 0
    await store.close()
    assert verify(path).ok


async def test_pruning_stops_at_the_first_younger_record(store: Store, path: Path) -> None:
    """The wall clock may have jumped: an old time behind a young record does not break the chain in two."""
    await store.commit([numbered(n, at_unix=at) for n, at in enumerate([10.0, 20.0, 500.0, 30.0, 600.0])])
    assert await store.prune(before_unix=100.0) == 2
    assert [body.get("number") for _, _, body in ledger(path)][:3] == [2, 3, 4]
    assert verify(path).ok


async def test_pruning_everything_keeps_the_chain_going(path: Path) -> None:
    store = Store.open(path)
    await store.commit([numbered(1), numbered(2)])
    assert await store.prune(before_unix=1e12) == 2
    await store.commit([numbered(3)])
    await store.close()
    result = verify(path)
    assert (result.ok, result.anchor.seq, result.head.seq) == (True, 2, 4)
    await Store.open(path).close()
