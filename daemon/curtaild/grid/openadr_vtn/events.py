"""The events that an operator makes, as request bodies: the User Guide's own forms (7.3, 8.1, 8.2, 8.10.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curtaild.clock import UnixSeconds
from curtaild.grid.fields import timestamp
from curtaild_drivers.contract import Seconds, Watts

LEVELS = range(4)
"""SIMPLE: 0 normal, 1 moderate, 2 high, 3 emergency shed, as the site maps them."""

NOW, FOR_EVER, NEVER = "0001-01-01", "P9999Y", "PT0S"

REPORTS = (
    {"payloadType": "DEMAND", "readingType": "DIRECT_READ", "units": "KW"},
    {"payloadType": "OPERATING_STATE"},
)
"""What is asked of the VEN with each event: whenever it deems fit, again and again, in intervals of its own (7.5)."""


@dataclass(frozen=True, slots=True)
class When:
    """When an event holds. `begins` `None`: now; `lasts_s` `None`: until cancelled; its VENs shift the start by up to
    `randomize_s` either way."""

    begins: UnixSeconds | None = None
    lasts_s: Seconds | None = None
    randomize_s: Seconds = 0.0

    def period(self, now: UnixSeconds) -> dict[str, str]:
        """As an `intervalPeriod`. Only what has no end is said to start at the beginning of time: with one, everybody
        must count from the same moment."""
        if self.begins is None and self.lasts_s is None:
            period = {"start": NOW, "duration": FOR_EVER}
        else:
            start = timestamp(now if self.begins is None else self.begins)
            period = {"start": start, "duration": FOR_EVER if self.lasts_s is None else _seconds(self.lasts_s)}
        return {**period, "randomizeStart": _seconds(self.randomize_s)} if self.randomize_s else period


def capacity_limit(limit_w: Watts) -> dict[str, Any]:
    """No more than this may be imported."""
    return _of("IMPORT_CAPACITY_LIMIT", limit_w / 1000.0, "KW")


def dispatch_setpoint(power_w: Watts) -> dict[str, Any]:
    """This much shall be consumed; a site that only sheds takes it as a ceiling."""
    return _of("DISPATCH_SETPOINT", power_w / 1000.0, "KW")


def simple_level(level: int) -> dict[str, Any]:
    """`level`: one of `LEVELS`."""
    return _of("SIMPLE", level)


def grid_emergency(text: str) -> dict[str, Any]:
    """`text` is for people."""
    return _of("ALERT_GRID_EMERGENCY", text)


def event_of(
    program_id: str,
    what: dict[str, Any],
    when: When,
    now: UnixSeconds,
    *,
    name: str | None = None,
    priority: int | None = None,
    targets: Sequence[str] = (),
    asks_reports: bool = True,
) -> dict[str, Any]:
    """An `eventRequest`."""
    body: dict[str, Any] = {"programID": program_id, "intervalPeriod": when.period(now), **what}
    if name is not None:
        body["eventName"] = name
    if priority is not None:
        body["priority"] = priority
    if targets:
        body["targets"] = list(targets)
    if asks_reports:
        timing = {"reportIntervals": "OPEN_INTERVALS", "frequency": 0, "repeat": -1}
        body["reportDescriptors"] = [{**each, **timing} for each in REPORTS]
    return body


def cancelled(event: dict[str, Any]) -> dict[str, Any]:
    """The event's body with no duration and at the beginning of time, which cancels it without deleting it (7.9)."""
    period = {"start": NOW, "duration": NEVER}
    intervals = [{**each, "intervalPeriod": period} for each in event.get("intervals") or ()]
    return {**event, "intervalPeriod": period, "intervals": intervals}


def _of(payload_type: str, value: float | str, units: str | None = None) -> dict[str, Any]:
    descriptor = {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": payload_type}
    return {
        "payloadDescriptors": [{**descriptor, "units": units} if units is not None else descriptor],
        "intervals": [{"id": 0, "payloads": [{"type": payload_type, "values": [value]}]}],
    }


def _seconds(length_s: Seconds) -> str:
    """As an ISO 8601 duration, to the millisecond and never with an exponent."""
    return f"PT{length_s:.3f}".rstrip("0").rstrip(".") + "S"
