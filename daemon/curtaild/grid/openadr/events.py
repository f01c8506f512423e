"""Reads an OpenADR event: what it asks of the site's draw, when, and which reports it wants. No I/O."""

from __future__ import annotations

import hashlib
import marshal
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Any

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import RejectCode
from curtaild.grid import fields
from curtaild.grid.fields import Rejection, malformed
from curtaild.grid.openadr import objects
from curtaild.grid.openadr.objects import Program
from curtaild.grid.openadr.periods import Course, Period, Span, duration_s, lay_out, read_period
from curtaild_drivers.contract import Seconds, Watts

MAX_INTERVALS = 1_024
MAX_ASKS = 2_048
MAX_REPORTS = 16
WATTS = {"W": 1.0, "KW": 1e3, "MW": 1e6}
"""KW is the only unit of real power that OpenADR enumerates; the others are private strings that cannot be mistaken."""
LEVELS = 3
LOWEST_PRIORITY = 2**31
"""An event without a priority; 0 is the highest."""


class Kind(Enum):
    """The payload types that speak of what may be drawn. All other types are left to others."""

    IMPORT_CAPACITY_LIMIT = "IMPORT_CAPACITY_LIMIT"
    DISPATCH_SETPOINT = "DISPATCH_SETPOINT"
    SIMPLE = "SIMPLE"
    ALERT_GRID_EMERGENCY = "ALERT_GRID_EMERGENCY"


_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Ask:
    """One payload's values over one interval. `watts` for the first two kinds, a `level` for SIMPLE, neither for an
    alert. `interval` is the interval's own id."""

    kind: Kind
    interval: int
    begin: UnixSeconds
    end: UnixSeconds
    watts: Watts | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """A `reportDescriptor`, its timing in intervals counted from 0; -1 has the specification's meaning at each."""

    payload: str
    reading: str | None
    units: str | None
    targets: tuple[str, ...]
    is_aggregate: bool
    start_interval: int
    intervals: int
    is_historical: bool
    frequency: int
    repeat: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class Event:
    """An event as read. `interval_ids` and `payloads` go by interval; `period_s` is the event's own duration per
    interval, by which intervals may be implied; `alert` what an alert says to people."""

    id: str
    program: str
    issued_at: UnixSeconds
    priority: int
    targets: tuple[str, ...]
    course: Course
    interval_ids: tuple[int, ...]
    payloads: tuple[tuple[tuple[Kind, tuple[float | None, ...]], ...], ...]
    period_s: Seconds | None
    reports: tuple[ReportRequest, ...]
    alert: str | None

    @property
    def speaks_of_draw(self) -> bool:
        return any(self.payloads)

    def asks(self, since: UnixSeconds, until: UnixSeconds) -> Iterator[Ask]:
        """What it asks for in [`since`, `until`), by when it begins: in whatever order intervals stand, and overlap."""
        length = max(1, len(self.interval_ids))
        for _, spans in groupby(self.course.between(since, until), key=lambda span: span.number // length):
            yield from sorted((ask for span in spans for ask in self._asks_of(span)), key=lambda ask: ask.begin)

    def _asks_of(self, span: Span) -> Iterator[Ask]:
        index = span.number % len(self.interval_ids)
        for kind, values in self.payloads[index]:
            yield from self._divided(kind, self.interval_ids[index], values, span)

    def all_asks(self) -> Iterator[Ask]:
        """Each value once, whenever it holds."""
        for number, payloads in enumerate(self.payloads):
            for kind, values in payloads:
                for value in values:
                    yield from self._divided(kind, self.interval_ids[number], (value,), Span(number, 0.0, 0.0))

    @staticmethod
    def _divided(kind: Kind, interval: int, values: Sequence[float | None], span: Span) -> Iterator[Ask]:
        """Several values share the interval evenly (User Guide 7.3); where it has no end, the strictest holds."""
        step_s = (span.end - span.begin) / len(values)
        if step_s == math.inf:
            values = [_strictest(kind, values)]
        for number, value in enumerate(values):
            begin = span.begin + number * step_s if number else span.begin
            end = span.begin + (number + 1) * step_s if number + 1 < len(values) else span.end
            if kind is Kind.SIMPLE:
                yield Ask(kind, interval, begin, end, level=int(value or 0))
            else:
                yield Ask(kind, interval, begin, end, watts=value)


def _strictest(kind: Kind, values: Sequence[float | None]) -> float | None:
    stated = [value for value in values if value is not None]
    return (max if kind is Kind.SIMPLE else min)(stated, default=None)


def fingerprint(body: Any) -> bytes:
    """Tells one version of an object from another; by `marshal`, as JSON takes ten times as long."""
    return hashlib.sha256(marshal.dumps(body, 2)).digest()


def event_times(body: Mapping[str, object]) -> UnixSeconds:
    """When this version was written, by the VTN's clock. Raises `Rejection`."""
    created = fields.moment(body, "createdDateTime")
    changed = fields.moment(body, "modificationDateTime") if body.get("modificationDateTime") is not None else created
    return max(created, changed)


def read_event(value: object, programs: Mapping[str, Program], heard_at: UnixSeconds, site: str) -> Event:
    """An event as the VTN gives it. `heard_at` is the wall time of its arrival: "now" is when the VTN wrote it, and no
    later than that. `site` seeds what `randomizeStart` spreads. Raises `Rejection`: half an event is no event."""
    body = objects.an_object(value, "an event")
    identity, program = objects.object_id(body, "id"), objects.object_id(body, "programID")
    issued_at = event_times(body)
    default = read_period(body)
    entries = [objects.an_object(each, "an interval") for each in objects.a_list(body, "intervals", MAX_INTERVALS)]
    periods: list[Period | None] = [read_period(entry) for entry in entries]
    known = programs.get(program)
    units = {**(known.units if known is not None else {}), **objects.units_by_type(body)}
    payloads = [_payloads(entry, number, units) for number, entry in enumerate(entries)]
    if sum(len(values) for interval in payloads for _, values in interval) > MAX_ASKS:
        raise Rejection(RejectCode.TOO_LARGE, f"more than {MAX_ASKS} values in one event")
    lasts_s = duration_s(body, "duration")
    return Event(
        id=identity,
        program=program,
        issued_at=issued_at,
        priority=_priority(body),
        targets=objects.targets(body),
        course=lay_out(default, periods, lasts_s, min(issued_at, heard_at), f"{site}/{identity}"),
        interval_ids=tuple(objects.integer_or(entry, "id", number) for number, entry in enumerate(entries)),
        payloads=tuple(payloads),
        period_s=default.duration_s if default is not None else None,
        reports=tuple(_report_requests(body)),
        alert=_alert(entries),
    )


def _alert(intervals: Sequence[Mapping[str, object]]) -> str | None:
    """The words of the first emergency alert, cut short; they are for people."""
    for interval in intervals:
        for payload in objects.a_list(interval, "payloads"):
            if isinstance(payload, dict) and payload.get("type") == Kind.ALERT_GRID_EMERGENCY.value:
                values = objects.a_list(payload, "values")
                return fields.shown(values[0]) if values else "no words"
    return None


def _priority(body: Mapping[str, object]) -> int:
    priority = objects.integer_or(body, "priority", LOWEST_PRIORITY)
    if priority < 0:
        raise malformed(f"priority must be 0 or more, got {priority}")
    return priority


def _payloads(
    interval: Mapping[str, object], number: int, units: Mapping[str, str | None]
) -> tuple[tuple[Kind, tuple[float | None, ...]], ...]:
    found = []
    for entry in objects.a_list(interval, "payloads"):
        payload = objects.an_object(entry, "a payload")
        kind = _KINDS.get(fields.text(payload, "type"))
        if kind is None:
            continue
        try:
            found.append((kind, _values(payload, kind, units.get(kind.value))))
        except Rejection as refusal:
            raise Rejection(refusal.code, f"intervals[{number}], {kind.value}: {refusal.reason}") from None
    return tuple(found)


def _values(payload: Mapping[str, object], kind: Kind, units: str | None) -> tuple[float | None, ...]:
    if kind is Kind.ALERT_GRID_EMERGENCY:
        return (None,)  # the values are words to people; the type alone says it
    values = objects.a_list(payload, "values")
    if not values:
        raise malformed("values is empty")
    if kind is Kind.SIMPLE:
        return tuple(_level(value) for value in values)
    scale = WATTS.get(units.upper()) if units is not None else WATTS["KW"]
    if scale is None:
        raise malformed(f"units {fields.shown(units)} are no watts: {', '.join(WATTS)} are known")
    return tuple(_watts(value, scale) for value in values)


def _watts(value: object, scale: float) -> Watts:
    try:
        amount = fields.amount_or_none({"values": value}, "values")
    except Rejection as refusal:
        raise Rejection(RejectCode.NOT_A_LIMIT, refusal.reason) from None
    if amount is None or amount * scale == math.inf:
        raise Rejection(RejectCode.NOT_A_LIMIT, f"values must be numbers, got {fields.shown(value)}")
    return amount * scale


def _level(value: object) -> float:
    level = fields.readable_sequence({"values": value}, "values")
    if level is None or level > LEVELS:
        raise Rejection(RejectCode.NOT_A_LIMIT, f"a level is 0, 1, 2 or 3, got {fields.shown(value)}")
    return float(level)


def _report_requests(body: Mapping[str, object]) -> Iterator[ReportRequest]:
    """A request that cannot be read is passed over: no wrong word about reports costs the grid its limit."""
    try:
        entries = objects.a_list(body, "reportDescriptors")[:MAX_REPORTS]
    except Rejection:
        return
    for entry in entries:
        try:
            yield _report_request(objects.an_object(entry, "a report descriptor"))
        except Rejection:
            continue


def _report_request(body: Mapping[str, object]) -> ReportRequest:
    frequency = objects.integer_or(body, "frequency", -1)
    return ReportRequest(
        payload=fields.text(body, "payloadType"),
        reading=fields.text_or_none(body, "readingType"),
        units=fields.text_or_none(body, "units"),
        targets=objects.targets(body),
        is_aggregate=body.get("aggregate") is True,
        start_interval=objects.integer_or(body, "startInterval", -1),
        intervals=objects.integer_or(body, "numIntervals", -1),
        is_historical=body.get("historical") is not False,
        frequency=frequency,
        repeat=objects.integer_or(body, "repeat", 1),
        is_open=body.get("reportIntervals") == "OPEN_INTERVALS" or frequency == 0,
    )
