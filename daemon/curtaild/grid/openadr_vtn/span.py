"""When an event is over: the start of its first interval and all durations (User Guide 7.3), in wall time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from curtaild.clock import UnixSeconds
from curtaild.grid.openadr_vtn.bodies import BEGINNING_OF_TIME
from curtaild_drivers.contract import Seconds

FOR_EVER_YEARS = 9999
"""`P9999Y` stands for infinity."""

_PARTS = re.compile(r"(-?)P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)([DW]))?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_DAY_S = 86_400.0


def duration_s(text: str | None) -> Seconds:
    """An ISO 8601 duration in seconds, a year as 365 days and a month as 30; infinite from `P9999Y` on; 0 if absent."""
    match = _PARTS.fullmatch(text or "PT0S")
    if match is None:
        raise ValueError(f"{text} is no ISO 8601 duration")
    sign, years, months, days, unit, hours, minutes, seconds = match.groups()
    if int(years or 0) >= FOR_EVER_YEARS:
        return math.inf
    whole_days = int(years or 0) * 365 + int(months or 0) * 30 + int(days or 0) * (7 if unit == "W" else 1)
    length = whole_days * _DAY_S + int(hours or 0) * 3600.0 + int(minutes or 0) * 60.0 + float(seconds or 0)
    return -length if sign else length


def ends_at(event: Mapping[str, Any]) -> UnixSeconds:
    """When the last of its intervals is over; infinite for one that never is. A start at the beginning of time is the
    moment it was last written, as its readers cannot have begun before; with no duration at all it is cancelled."""
    default: Mapping[str, Any] = event.get("intervalPeriod") or {}
    written = _moment(event["modificationDateTime"])
    begun = _start(default.get("start"), written)
    intervals: Sequence[Mapping[str, Any]] = event.get("intervals") or ()
    lengths = 0.0 if intervals else duration_s(default.get("duration"))
    at = last = begun
    for interval in intervals:
        period: Mapping[str, Any] = interval.get("intervalPeriod") or {}
        at = _start(period.get("start"), at)
        length = duration_s(period.get("duration") or default.get("duration"))
        at, lengths = at + length, lengths + length
        last = max(last, at)
    if not intervals:
        last = begun + lengths
    whole = duration_s(event.get("duration"))
    return begun + whole if whole else (last if lengths else -math.inf)


def _start(text: str | None, otherwise: UnixSeconds) -> UnixSeconds:
    return otherwise if text is None or text in BEGINNING_OF_TIME else _moment(text)


def _moment(text: str) -> UnixSeconds:
    moment = datetime.fromisoformat(text.upper())
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.timestamp()
