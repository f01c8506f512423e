"""What the tests of the OpenADR VEN share: one at noon, objects as a VTN shows them, what follows for the site."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from curtaild.core.allocation import AllocationId, GridMessage, HeartbeatReceived, MessageRejected, ScheduleReceived
from curtaild.core.limits import UNLIMITED, Ceiling, Limit
from curtaild.grid.dialect import Received
from curtaild.grid.fields import timestamp
from curtaild.grid.openadr import Meaning, OpenAdrDialect, Rules, Snapshot
from curtaild_drivers.contract import FeederId
from grid.dsx import NOON, ROOT, ROW, UPTIME, HandClock

BEAT = HeartbeatReceived()
HOUR = 3_600.0
PROGRAM: dict[str, Any] = {
    "id": "program-1",
    "createdDateTime": "2026-01-01T00:00:00Z",
    "modificationDateTime": "2026-01-01T00:00:00Z",
    "objectType": "PROGRAM",
    "programName": "Envelopes",
}
MEANING = Meaning(
    root=ROOT,
    feeder=ROOT,
    targets={},
    levels_w={ROOT: (750_000.0, 500_000.0, 250_000.0), ROW: (75_000.0, 50_000.0, 25_000.0)},
    emergency_w={ROOT: 100_000.0, ROW: 10_000.0},
    base=UNLIMITED,
)
RULES = Rules(MEANING, frozenset(), max_clock_skew_s=300.0, ven_name="thar-1", report_interval_s=300.0)


def at_noon(shift_s: float = 0.0) -> str:
    return timestamp(NOON + shift_s)


def period(start_s: float | str | None = 0.0, duration: str | None = "PT1H", **more: Any) -> dict[str, Any]:
    """An intervalPeriod that begins `start_s` after noon."""
    body: dict[str, Any] = dict(more)
    if start_s is not None:
        body["start"] = start_s if isinstance(start_s, str) else at_noon(start_s)
    if duration is not None:
        body["duration"] = duration
    return body


def interval(number: int, *payloads: tuple[str, Sequence[Any]], **more: Any) -> dict[str, Any]:
    return {"id": number, "payloads": [{"type": kind, "values": list(values)} for kind, values in payloads], **more}


def limits(*kilowatts: float, kind: str = "IMPORT_CAPACITY_LIMIT") -> list[dict[str, Any]]:
    """One interval each."""
    return [interval(number, (kind, [each])) for number, each in enumerate(kilowatts)]


def event(identity: str = "event-1", written_s: float = -60.0, **body: Any) -> dict[str, Any]:
    """An event of the program; without more words 500 kW from noon for an hour."""
    return {
        "id": identity,
        "createdDateTime": at_noon(written_s),
        "modificationDateTime": at_noon(written_s),
        "objectType": "EVENT",
        "programID": "program-1",
        "intervalPeriod": period(),
        "intervals": limits(500.0),
        **body,
    }


class Ven:
    """The dialect under test at one VTN. Its clock stands at noon until it is moved."""

    def __init__(self, rules: Rules = RULES, **meaning: Any) -> None:
        self.clock = HandClock()
        self.dialect = OpenAdrDialect("vtn", replace(rules, meaning=replace(rules.meaning, **meaning)), self.clock)

    def read(self, *events: Any, programs: Sequence[Any] = (PROGRAM,), date: float | None = None) -> list[GridMessage]:
        """What follows from one reading of the VTN."""
        return self.dialect.take(self.dialect.digest(Snapshot(programs, events, self.clock.monotonic(), date)))

    def hears(self, operation: str, body: Any, kind: str = "EVENT", retained: bool = False) -> list[GridMessage]:
        notification = {"objectType": kind, "operation": operation, "object": body}
        return list(self.dialect.decode(Received("t", json.dumps(notification).encode(), retained)))

    def course(self, *events: Any, feeder: FeederId = ROOT) -> list[tuple[float, float | None]]:
        """The ceilings that one reading states: seconds after now, and watts; `None`: no limit."""
        (schedule,) = [each for each in self.read(*events) if isinstance(each, ScheduleReceived)]
        return course(schedule, feeder)


def course(
    schedule: ScheduleReceived, feeder: FeederId = ROOT, since: float = UPTIME
) -> list[tuple[float, float | None]]:
    return [
        (round(each.valid_from - since, 3), watts(each.ceiling))
        for each in schedule.allocations
        if each.feeder == feeder
    ]


def watts(ceiling: Ceiling) -> float | None:
    return ceiling.watts if isinstance(ceiling, Limit) else None


def refused(messages: Sequence[GridMessage]) -> list[MessageRejected]:
    return [each for each in messages if isinstance(each, MessageRejected)]


def causes(schedule: ScheduleReceived) -> Mapping[AllocationId, str]:
    return {each.id: each.id.split("/")[3] for each in schedule.allocations}
