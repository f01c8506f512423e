"""The chain against somebody with write access to the file."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild.ledger import (
    GENESIS,
    Break,
    Entry,
    LedgerUnreadable,
    Link,
    Record,
    Tampering,
    chain_hash,
    follow,
    marked,
    verify,
)
from curtaild.store_file import StoreFile

ROWS = 12


def written(path: Path, count: int = ROWS) -> list[Entry]:
    """A ledger with `count` records at `path`."""
    file = StoreFile.open(path)
    entries: list[Entry] = []
    for number in range(count):
        link = entries[-1].link if entries else GENESIS
        entries.append(follow(link, Record(1_000.0 + number, "test", {"number": number})))
    file.write(entries, {})
    file.close()
    return entries


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # hundreds of files, none worth waiting for the disk
        yield connection
        connection.commit()


def tamper(path: Path, *statements: str) -> Break | None:
    with opened(path) as connection:
        for statement in statements:
            connection.execute(statement)
    return verify(path).broken


def test_an_honest_ledger_verifies(tmp_path: Path) -> None:
    entries = written(tmp_path / "store.db")
    result = verify(tmp_path / "store.db")
    assert (result.ok, result.records, result.anchor, result.head) == (True, ROWS, GENESIS, entries[-1].link)


def test_an_empty_ledger_verifies(tmp_path: Path) -> None:
    written(tmp_path / "store.db", 0)
    assert verify(tmp_path / "store.db").ok


@pytest.mark.parametrize(
    ("statements", "seq", "tampering"),
    [
        (["UPDATE ledger SET body = '{}' WHERE seq = 5"], 5, Tampering.CHANGED),
        (["UPDATE ledger SET kind = 'tost' WHERE seq = 5"], 5, Tampering.CHANGED),
        (["UPDATE ledger SET at_unix_ms = at_unix_ms + 1 WHERE seq = 5"], 5, Tampering.CHANGED),
        (["UPDATE ledger SET hash = zeroblob(32) WHERE seq = 5"], 5, Tampering.CHANGED),
        (["UPDATE ledger SET body = 5 WHERE seq = 5"], 5, Tampering.CHANGED),
        (["UPDATE ledger SET at_unix_ms = 'noon' WHERE seq = 5"], 5, Tampering.CHANGED),
        (["DELETE FROM ledger WHERE seq = 5"], 5, Tampering.REMOVED),
        (["DELETE FROM ledger WHERE seq BETWEEN 3 AND 7"], 3, Tampering.REMOVED),
        (["DELETE FROM ledger WHERE seq = 1"], 1, Tampering.REMOVED),
        (["DELETE FROM ledger WHERE seq = 12"], 12, Tampering.REMOVED),
        (["DELETE FROM ledger"], 1, Tampering.REMOVED),
        (
            ["INSERT INTO ledger SELECT -4, at_unix_ms, kind, body, hash FROM ledger WHERE seq = 2"],
            -4,
            Tampering.INSERTED,
        ),
        (
            ["INSERT INTO ledger SELECT 13, at_unix_ms, kind, body, hash FROM ledger WHERE seq = 2"],
            13,
            Tampering.CHANGED,
        ),
        (
            [  # make room after record 4, then put a record there
                "UPDATE ledger SET seq = -seq - 1 WHERE seq > 4",
                "UPDATE ledger SET seq = -seq WHERE seq < 0",
                "INSERT INTO ledger VALUES (5, 0, 'test', '{}', zeroblob(32))",
            ],
            5,
            Tampering.INSERTED,
        ),
        (
            [
                "UPDATE ledger SET seq = -6 WHERE seq = 5",
                "UPDATE ledger SET seq = 5 WHERE seq = 6",
                "UPDATE ledger SET seq = 6 WHERE seq = -6",
            ],
            5,
            Tampering.REORDERED,
        ),
        (["UPDATE chain SET hash = zeroblob(32) WHERE name = 'anchor'"], 1, Tampering.CHANGED),
        (["UPDATE chain SET hash = zeroblob(32) WHERE name = 'head'"], 12, Tampering.CHANGED),
    ],
)
def test_the_first_broken_record_is_named(
    tmp_path: Path, statements: list[str], seq: int, tampering: Tampering
) -> None:
    written(tmp_path / "store.db")
    broken = tamper(tmp_path / "store.db", *statements)
    assert broken is not None
    assert (broken.seq, broken.tampering) == (seq, tampering)


def test_a_record_appended_by_somebody_else_is_found(tmp_path: Path) -> None:
    entries = written(tmp_path / "store.db")
    forged = follow(entries[-1].link, Record(2_000.0, "test", {}))
    with opened(tmp_path / "store.db") as connection:
        row = (forged.seq, forged.at_unix_ms, forged.kind, forged.body, forged.hash)
        connection.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)
    broken = verify(tmp_path / "store.db").broken
    assert broken is not None
    assert (broken.seq, broken.tampering) == (13, Tampering.INSERTED)


def rewrite(path: Path, seq: int) -> None:
    """Change one record and forge the whole chain behind it, marks included: what no chain alone can show."""
    with opened(path) as connection:
        connection.execute("UPDATE ledger SET body = '{\"number\":99}' WHERE seq = ?", (seq,))
        link = marked(connection, "anchor")
        for number, at, kind, body in connection.execute("SELECT seq, at_unix_ms, kind, body FROM ledger").fetchall():
            link = Link(number, chain_hash(link.hash, number, at, kind, body))
            connection.execute("UPDATE ledger SET hash = ? WHERE seq = ?", (link.hash, number))
        connection.execute("UPDATE chain SET hash = ? WHERE name = 'head'", (link.hash,))


def test_a_forged_chain_is_found_by_a_link_noted_elsewhere(tmp_path: Path) -> None:
    entries = written(tmp_path / "store.db")
    rewrite(tmp_path / "store.db", 4)
    assert verify(tmp_path / "store.db").ok
    broken = verify(tmp_path / "store.db", witness=entries[8].link).broken
    assert broken is not None
    assert (broken.seq, broken.tampering) == (9, Tampering.CHANGED)
    assert verify(tmp_path / "store.db", witness=entries[2].link).ok  # it vouches for what lies before the forgery


def test_an_older_copy_is_found_by_a_link_noted_elsewhere(tmp_path: Path) -> None:
    entries = written(tmp_path / "store.db")
    later = follow(entries[-1].link, Record(2_000.0, "test", {}))
    broken = verify(tmp_path / "store.db", witness=later.link).broken
    assert broken is not None
    assert (broken.seq, broken.tampering) == (13, Tampering.REMOVED)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of six records, to be copied for each example."""
    path = tmp_path_factory.mktemp("template") / "store.db"
    written(path, 6)
    return path


columns = st.sampled_from(["at_unix_ms", "kind", "body", "hash"])
values = st.one_of(st.none(), st.integers(-(2**62), 2**62), st.text(max_size=8), st.binary(max_size=40), st.floats())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_single_change_goes_unseen(template: Path, data: st.DataObject) -> None:
    """Whatever one cell becomes, whichever rows go or trade places: named, at or before the first row touched."""
    path = template.with_name("tampered.db")
    shutil.copy(template, path)
    with opened(path) as connection:
        seq = data.draw(st.integers(1, 6), label="seq")
        match data.draw(st.sampled_from(["cell", "remove", "swap"])):
            case "cell":
                column, value = data.draw(columns), data.draw(values)
                (before,) = connection.execute(f"SELECT {column} FROM ledger WHERE seq = ?", (seq,)).fetchone()
                try:
                    connection.execute(f"UPDATE ledger SET {column} = ? WHERE seq = ?", (value, seq))
                except (sqlite3.IntegrityError, UnicodeEncodeError):
                    return  # the file itself does not take it
                (after,) = connection.execute(f"SELECT {column} FROM ledger WHERE seq = ?", (seq,)).fetchone()
                if (type(before), before) == (type(after), after):
                    return
            case "remove":
                connection.execute("DELETE FROM ledger WHERE seq = ?", (seq,))
            case "swap":
                other = data.draw(st.integers(1, 6).filter(lambda drawn: drawn != seq), label="other")
                connection.execute("UPDATE ledger SET seq = 99 WHERE seq = ?", (seq,))
                connection.execute("UPDATE ledger SET seq = ? WHERE seq = ?", (seq, other))
                connection.execute("UPDATE ledger SET seq = ? WHERE seq = 99", (other,))
                seq = min(seq, other)
    broken = verify(path).broken
    assert broken is not None
    assert broken.seq == seq


@pytest.mark.parametrize("content", [b"", b"not SQLite, but long enough to be looked at" * 100])
def test_what_is_no_ledger_is_said_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.db").write_bytes(content)
    with pytest.raises(LedgerUnreadable, match=r"other\.db"):
        verify(tmp_path / "other.db")
    with pytest.raises(LedgerUnreadable, match=r"absent\.db"):
        verify(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()
