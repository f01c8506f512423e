"""The ledger: what a record is, how an event of the core becomes one that a regulator can read, and the hash chain
that shows whether any record was changed, removed, inserted or moved. Only reads files; `curtaild.store` writes them.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from curtaild.clock import Clock, UnixSeconds
from curtaild.core.events import ActuationChanged, Event
from curtaild.core.limits import Limit, Unlimited
from curtaild_drivers.contract import OperatingPoint

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

LONGEST_TEXT = 2_000
"""Characters of any one text kept in a record: a device that answers with a megabyte shall not fill the disk."""

_MOMENTS = frozenset({"issued_at", "valid_from", "valid_until", "since"})
_LAST_MOMENT_S = 253_402_300_799.0  # 9999-12-31T23:59:59Z, the last that RFC 3339 can write


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened: when (wall time, kept to the millisecond), what kind, and its particulars."""

    at_unix: UnixSeconds
    kind: str
    body: Mapping[str, Json]


def record_of(event: Event, clock: Clock) -> Record:
    """The record of a core event. Its moments become RFC 3339 times by the clocks' present offset; a ceiling becomes
    `limit_w`, null where unlimited; a number that is not finite becomes null, as everything unknown does."""
    offset_s = clock.wall() - clock.monotonic()
    body = _actuation(event) if isinstance(event, ActuationChanged) else _object(event, offset_s)
    return Record(event.at + offset_s, event.kind, body)


def _actuation(event: ActuationChanged) -> dict[str, Json]:
    """Field by field: a shed of ten thousand tells of twenty thousand steps."""
    return {
        "id": _text(event.id),
        "device": _text(event.device),
        "stage": event.stage.value,
        "before": _point(event.before),
        "target": _point(event.target),
        "is_raise": event.is_raise,
        "reserved_w": _number(event.reserved_w),
        "power_w": _number(event.power_w),
        "allocation_id": _text(event.allocation_id) if event.allocation_id is not None else None,
        "rule": _text(event.rule),
        "detail": _text(event.detail),
    }


@lru_cache(maxsize=1_024)  # devices of one model share their points
def _point(point: OperatingPoint | None) -> dict[str, Json] | None:
    return _object(point, 0.0) if point is not None else None


_names: dict[type, tuple[str, ...]] = {}


def _object(value: Any, offset_s: float) -> dict[str, Json]:
    names = _names.get(type(value))
    if names is None:
        names = _names[type(value)] = tuple(field.name for field in fields(value) if field.name != "at")
    found: dict[str, Json] = {}
    for name in names:
        item = getattr(value, name)
        if item is None or item is True or item is False:
            found[name] = item
        elif name in _MOMENTS:
            found[name] = rfc3339(item + offset_s)
        elif name == "ceiling":  # an allocation's own: as in the grid's message
            found["limit_w"] = _limit_w(item)
        else:
            found[name] = _plain(item, offset_s)
    return found


def _plain(item: Any, offset_s: float) -> Json:
    if isinstance(item, str):
        return _text(item)
    if isinstance(item, float):
        return _number(item)
    if isinstance(item, Enum):
        value: str = item.value
        return value
    if isinstance(item, int):
        return item
    if isinstance(item, (Limit, Unlimited)):
        return {"limit_w": _limit_w(item)}  # an object, so that unlimited and unknown (null) stay two things
    if is_dataclass(item):
        return _object(item, offset_s)
    raise TypeError(f"a record cannot hold a {type(item).__name__}")


def _text(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _number(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _limit_w(ceiling: Limit | Unlimited) -> float | None:
    return ceiling.watts if isinstance(ceiling, Limit) else None


def rfc3339(unix: UnixSeconds) -> str | None:
    """A wall time as RFC 3339 text in UTC, to the millisecond; null if not finite; held within 1970 to 9999."""
    if not math.isfinite(unix):
        return None
    moment = datetime.fromtimestamp(round(min(max(unix, 0.0), _LAST_MOMENT_S), 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# The chain ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: a record's number, and the hash that vouches for it and for everything before it."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger as it lies in the file. `hash` covers the fields before it and the previous hash."""

    seq: int
    at_unix_ms: int
    kind: str
    body: str
    hash: bytes

    @property
    def link(self) -> Link:
        return Link(self.seq, self.hash)


GENESIS = Link(0, hashlib.sha256(b"curtaild ledger").digest())
"""What the first record of every ledger follows."""


def canonical(body: Mapping[str, Json]) -> str:
    """The one way to write a body: sorted keys, no spaces, ASCII (so that no text, however broken, fails to encode).

    Raises `TypeError` or `ValueError` for what JSON cannot say, NaN and infinity among it.
    """
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chain_hash(previous: bytes, seq: int, at_unix_ms: int, kind: str, body: str) -> bytes:
    """SHA-256 over the previous hash, number, time, kind and body. The kind's length goes before it, so that no two
    different records run together into the same bytes."""
    name = kind.encode()
    head = previous + struct.pack(">QqH", seq, at_unix_ms, len(name)) + name
    return hashlib.sha256(head + body.encode()).digest()


def follow(link: Link, record: Record) -> Entry:
    """The entry that puts `record` right after `link`. Raises `TypeError`, `ValueError` or `struct.error` for a
    record that cannot be written."""
    seq, at_unix_ms, body = link.seq + 1, round(record.at_unix * 1000), canonical(record.body)
    return Entry(seq, at_unix_ms, record.kind, body, chain_hash(link.hash, seq, at_unix_ms, record.kind, body))


# Verification ------------------------------------------------------------------------------------------------------


class Tampering(Enum):
    """What a break in the chain looks like from the records around it."""

    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"


@dataclass(frozen=True, slots=True)
class Break:
    """The first record that does not follow from those before it."""

    seq: int
    tampering: Tampering
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a walk along the chain found: how many records hold, between which links, and where it breaks, if it does.

    `anchor` is the link before the oldest record kept: `GENESIS`, or the last one pruned. `head` is the last link
    that holds: noted down elsewhere, it is the `witness` of a later verification.
    """

    records: int
    anchor: Link
    head: Link
    broken: Break | None

    @property
    def ok(self) -> bool:
        return self.broken is None


class LedgerUnreadable(Exception):
    """The file is missing, is no ledger, or SQLite cannot read it. The text names the file and what is wrong."""


def verify(path: Path, witness: Link | None = None) -> VerifyResult:
    """Walk the whole chain of the ledger at `path`, which a daemon may be writing meanwhile.

    Whoever can write the file can also rewrite the chain from some record on; only a link noted down elsewhere tells:
    pass it as `witness`. Raises `LedgerUnreadable`.
    """
    try:
        with closing(connect_read_only(path)) as connection:
            connection.execute("BEGIN")  # one snapshot, so that anchor, records and head belong together
            return verify_from(connection, marked(connection, "anchor"), witness)
    except sqlite3.Error as error:
        raise LedgerUnreadable(f"{path} cannot be read as a ledger: {error}") from error


def verify_from(connection: sqlite3.Connection, start: Link, witness: Link | None = None) -> VerifyResult:
    """Walk the chain from after `start` to its marked head. Raises `sqlite3.Error` or `LedgerUnreadable`."""
    last, count = start, 0
    rows = _entries(connection, start)
    for entry in rows:
        if not _follows(last, entry):
            return VerifyResult(count, start, last, _diagnosis(last, entry, next(rows, None)))
        last, count = entry.link, count + 1
        if witness is not None and witness.seq == last.seq and witness.hash != last.hash:
            told = "it is not the record that the witness vouches for: it or some before it were rewritten"
            return VerifyResult(count, start, last, Break(last.seq, Tampering.CHANGED, told))
    head = marked(connection, "head")
    if witness is not None and witness.seq > head.seq:
        head = witness
    return VerifyResult(count, start, last, _end_break(last, head))


def _entries(connection: sqlite3.Connection, start: Link) -> Iterator[Entry]:
    """The entries after `start`; when that is the anchor, also any that lie before it and should not be there."""
    lowest = start.seq + 1 if start != marked(connection, "anchor") else -(2**63)
    query = "SELECT seq, at_unix_ms, kind, body, hash FROM ledger WHERE seq >= ? ORDER BY seq"
    return (Entry(*row) for row in connection.execute(query, (lowest,)))


def _follows(link: Link, entry: Entry, seq: int | None = None) -> bool:
    """Whether the entry is the one written after `link` (as number `seq`, if it may have been renumbered)."""
    written = entry.seq if seq is None else seq
    if written != link.seq + 1:
        return False
    try:
        return chain_hash(link.hash, written, entry.at_unix_ms, entry.kind, entry.body) == entry.hash
    except (TypeError, ValueError, AttributeError, struct.error):
        return False  # a column holds something that the store never writes


def _diagnosis(last: Link, entry: Entry, after: Entry | None) -> Break:
    expected = last.seq + 1
    if entry.seq > expected:
        missing = f"{entry.seq - expected} missing before record {entry.seq}"
        return Break(expected, Tampering.REMOVED, missing)
    if entry.seq < expected:
        return Break(entry.seq, Tampering.INSERTED, f"it lies before the oldest record kept, {expected}")
    if after is not None and _follows(last, after, expected):
        swapped = _follows(Link(expected, after.hash), entry, expected + 1)
        if swapped:
            return Break(expected, Tampering.REORDERED, f"it and record {after.seq} changed places")
        return Break(expected, Tampering.INSERTED, f"record {after.seq} once followed record {last.seq}")
    return Break(expected, Tampering.CHANGED, f"it does not follow from record {last.seq}")


def _end_break(last: Link, head: Link) -> Break | None:
    if last.seq < head.seq:
        return Break(last.seq + 1, Tampering.REMOVED, f"the ledger once reached record {head.seq}")
    if last.seq > head.seq:
        return Break(head.seq + 1, Tampering.INSERTED, f"the ledger reaches no further than record {head.seq}")
    if last.hash != head.hash:
        return Break(last.seq, Tampering.CHANGED, "it is not the record that the head was marked with")
    return None


def marked(connection: sqlite3.Connection, name: str) -> Link:
    """The link marked `anchor` or `head`. Raises `LedgerUnreadable` where the mark is gone or no link."""
    row = connection.execute("SELECT seq, hash FROM chain WHERE name = ?", (name,)).fetchone()
    if row is None or not isinstance(row[0], int) or not isinstance(row[1], bytes):
        raise LedgerUnreadable(f"the ledger's {name} is missing or unreadable")
    return Link(*row)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, also to a copy in a folder that nobody may write. Raises `sqlite3.Error`."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        # In WAL mode SQLite wants its side files; where it can make none and no log is waiting, the file is whole.
        if path.with_name(path.name + "-wal").exists():
            raise
        return sqlite3.connect(uri + "&immutable=1", uri=True, isolation_level=None)
    return connection
