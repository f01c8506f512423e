"""What the ledger says of one device lately: the commands it was given, by which rule, and what it did with them.

Reads the file that the store writes, over a connection of its own; never from the event loop.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curtaild.core.events import DeviceChanged
from curtaild.ledger import LedgerUnreadable, connect_read_only, rfc3339
from curtaild_drivers.contract import DeviceId

LOOK_BACK = 200_000
"""Records looked through at most: a few sheds of ten thousand devices, a tenth of a second of reading."""
MOST_FOUND = 200


@dataclass(frozen=True, slots=True)
class Deed:
    """One record of a device. `what` is `shed`, `restore` or a condition; `stage` how far that had come (`began` and
    `over` for a condition); `rule` and `allocation_id` why it was commanded; `detail` what the device did."""

    at: str
    what: str
    stage: str
    target: str | None
    target_w: float | None
    rule: str | None
    allocation_id: str | None
    detail: str


def deeds_of(path: Path, device: DeviceId) -> list[Deed]:
    """The newest records of `device` in the ledger at `path`, the newest first. Raises `LedgerUnreadable`."""
    needle = f'"device":{json.dumps(device)}'
    query = (
        "SELECT at_unix_ms, kind, body FROM ledger WHERE seq > (SELECT max(seq) FROM ledger) - ? "
        f"AND kind IN ('actuation', '{DeviceChanged.kind}') AND instr(body, ?) > 0 ORDER BY seq DESC LIMIT ?"
    )
    try:
        with closing(connect_read_only(path)) as connection:
            rows = connection.execute(query, (LOOK_BACK, needle, MOST_FOUND)).fetchall()
    except sqlite3.Error as error:
        raise LedgerUnreadable(f"{path} cannot be read as a ledger: {error}") from error
    return list(_deeds(rows))


def _deeds(rows: list[tuple[int, str, str]]) -> Iterator[Deed]:
    for at_unix_ms, kind, text in rows:
        body: dict[str, Any] = json.loads(text)
        at = rfc3339(at_unix_ms / 1000) or ""
        if kind == DeviceChanged.kind:
            stage = "began" if body["begins"] else "over"
            yield Deed(at, body["condition"], stage, None, None, None, None, body["detail"])
        else:
            target = body["target"]
            what = "restore" if body["is_raise"] else "shed"
            yield Deed(
                at,
                what,
                body["stage"],
                target["key"],
                target["draw_w"],
                body["rule"],
                body["allocation_id"],
                body["detail"],
            )
