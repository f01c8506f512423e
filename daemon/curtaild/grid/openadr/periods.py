"""OpenADR's times: ISO 8601 durations with an infinity, starts that mean "now", and the intervals of an event on the
wall clock (User Guide 7.3 and 7.4). No I/O."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from curtaild.clock import UnixSeconds
from curtaild.grid import fields
from curtaild.grid.fields import malformed
from curtaild_drivers.contract import Seconds

_DURATION = re.compile(
    r"(-?)P(?=\d|T\d)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?"
)
_UNITS_S = (365 * 86_400.0, 30 * 86_400.0, 7 * 86_400.0, 86_400.0, 3_600.0, 60.0, 1.0)
MAX_DURATION_TEXT = 40
ENDLESS_S = 100 * _UNITS_S[0]
"""A century or more is for ever; the specification's own word for that is P9999Y."""
_NOW = ("0001-01-01", "0000-")
"""How a start begins that means "now", or "right after the one before"; the latter as VTNs before 3.1 write it."""
LEAST_CYCLE_S = 60.0
"""An event that repeats itself more often than that is a fault."""


@dataclass(frozen=True, slots=True)
class Period:
    """An `intervalPeriod`. `start` `None`: none is given, or "now"; `duration_s` `None`: none is given."""

    start: UnixSeconds | None
    duration_s: Seconds | None
    randomize_s: Seconds


NO_PERIOD = Period(None, None, 0.0)


@dataclass(frozen=True, slots=True)
class Span:
    """When one interval holds: [`begin`, `end`), wall time; `end` may be infinite. `number` counts from 0."""

    number: int
    begin: UnixSeconds
    end: UnixSeconds


@dataclass(frozen=True, slots=True)
class Course:
    """An event's spans, over and over from `begin` until `end`; `cycle_s` is infinite where nothing is repeated."""

    spans: tuple[Span, ...]
    begin: UnixSeconds
    end: UnixSeconds
    cycle_s: Seconds

    @property
    def count(self) -> float:
        """How many spans there are in all, repetitions included."""
        if self.cycle_s == math.inf:
            return len(self.spans)
        return math.ceil((self.end - self.begin) / self.cycle_s) * len(self.spans) if self.end < math.inf else math.inf

    def span(self, number: int) -> Span:
        """The span with this number, repetitions included."""
        cycle, index = divmod(number, len(self.spans))
        shift_s = cycle * self.cycle_s if cycle else 0.0
        span = self.spans[index]
        return Span(number, span.begin + shift_s, min(span.end + shift_s, self.end))

    def between(self, since: UnixSeconds, until: UnixSeconds) -> Iterator[Span]:
        """Spans that overlap [`since`, `until`), cycle by cycle; numbers run on. Of no more than `until` asks for."""
        cycle = 0
        if self.cycle_s < math.inf and since - self.begin > 0:
            cycle = max(0, math.floor((since - self.begin) / self.cycle_s) - 1)
        while True:
            for index in range(len(self.spans)):
                span = self.span(cycle * len(self.spans) + index)
                if span.begin < span.end and span.end > since and span.begin < until:
                    yield span
            cycle += 1
            if self.cycle_s == math.inf or self.begin + cycle * self.cycle_s >= min(until, self.end):
                return


def duration_s(body: Mapping[str, object], key: str) -> Seconds | None:
    """An ISO 8601 duration in s; `None` where there is none. Infinite from a century on. Raises `Rejection`."""
    value = body.get(key)
    if value is None:
        return None
    match = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_DURATION_TEXT else None
    if match is None:
        raise malformed(f"{key} must be a duration such as PT1H, got {fields.shown(value)}")
    total_s = sum(float(part) * unit_s for part, unit_s in zip(match.groups()[1:], _UNITS_S, strict=True) if part)
    total_s = math.inf if total_s >= ENDLESS_S else total_s
    return -total_s if match[1] else total_s


def read_period(body: Mapping[str, object]) -> Period | None:
    """The `intervalPeriod` of an event or interval; `None` where there is none. Raises `Rejection`."""
    period = body.get("intervalPeriod")
    if period is None:
        return None
    if not isinstance(period, dict):
        raise malformed(f"intervalPeriod must be an object, got {fields.shown(period)}")
    lasting_s = duration_s(period, "duration")
    if lasting_s is not None and lasting_s < 0:
        raise malformed("duration must not be negative")
    randomize_s = abs(duration_s(period, "randomizeStart") or 0.0)
    if randomize_s == math.inf:
        raise malformed("randomizeStart must have an end")
    return Period(_start(period), lasting_s, randomize_s)


def _start(period: Mapping[str, object]) -> UnixSeconds | None:
    start = period.get("start")
    if start is None or (isinstance(start, str) and start.startswith(_NOW)):
        return None
    return fields.moment(period, "start")


def shift_s(seed: str, extent_s: Seconds) -> Seconds:
    """Somewhere in ±`extent_s`, evenly spread over seeds and always the same for one: after a restart too."""
    if extent_s <= 0:
        return 0.0
    draw = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") / 2**64
    return (2 * draw - 1) * extent_s


def lay_out(
    default: Period | None, intervals: Sequence[Period | None], lasts_s: Seconds | None, now: UnixSeconds, seed: str
) -> Course:
    """An event's intervals on the wall clock. `default` is the event's own period, `lasts_s` its `duration`, `now` what
    a start of "now" means. Raises `Rejection`.

    An interval without a start of its own follows the one before. What `randomizeStart` shifts, shifts all that follows
    until an interval brings a `randomizeStart` of its own.
    """
    own = default if default is not None else NO_PERIOD
    first = own.start if own.start is not None else now
    offset_s = shift_s(seed, own.randomize_s)
    cursor = first + offset_s
    spans: list[Span] = []
    for number, period in enumerate(intervals):
        if period is None and default is None:
            raise malformed(f"intervals[{number}] has no intervalPeriod, and the event has none either")
        if period is not None and period.randomize_s > 0:
            before_s, offset_s = offset_s, shift_s(f"{seed}/{number}", period.randomize_s)
            cursor += offset_s - before_s
        if period is not None and period.start is not None:
            cursor = period.start + offset_s
        length_s = period.duration_s if period is not None and period.duration_s is not None else own.duration_s
        end = cursor + (length_s or 0.0)
        spans.append(Span(number, cursor, end))
        if end == math.inf and number + 1 < len(intervals) and _follows(intervals[number + 1]):
            raise malformed(f"intervals[{number}] has no end, so that nothing can follow it")
        cursor = end
    return _repeated(spans, first + shift_s(seed, own.randomize_s), lasts_s)


def _follows(period: Period | None) -> bool:
    return period is None or period.start is None


def _repeated(spans: Sequence[Span], first: UnixSeconds, lasts_s: Seconds | None) -> Course:
    """`event.duration` cuts the intervals short, or says them again until it is over."""
    begin = min((span.begin for span in spans), default=first)
    end = max((span.end for span in spans), default=first)
    if not lasts_s or lasts_s < 0:  # PT0S is the default: nothing is said
        return Course(tuple(spans), begin, end, math.inf)
    over = begin + lasts_s
    if end == begin and len(spans) == 1:  # one interval without a length of its own lasts as long as the event
        return Course((Span(0, begin, over),), begin, over, math.inf)
    if over <= end or not spans:
        return Course(tuple(spans), begin, over, math.inf)
    cycle_s = end - begin
    if cycle_s < LEAST_CYCLE_S:
        raise malformed(f"repeats itself every {cycle_s:g} s")
    return Course(tuple(spans), begin, over, cycle_s)
