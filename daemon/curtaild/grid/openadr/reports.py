"""Reports as events ask for them (`reportDescriptors`, User Guide 7.5): DEMAND, USAGE, READING and OPERATING_STATE of
the past, at the ends of the event's intervals or, where the VTN leaves that to us, now and then. No I/O."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from curtaild.core.status import FeederStatus, SiteStatus
from curtaild.grid import fields
from curtaild.grid.openadr.events import WATTS, ReportRequest
from curtaild.grid.openadr.measures import LONGEST_STEP_S, Sample, Tally, sample_of
from curtaild.grid.openadr.periods import Span
from curtaild.grid.openadr.plan import Held, Meaning
from curtaild_drivers.contract import FeederId, Seconds

log = logging.getLogger("curtaild.grid.openadr")

MOST_TASKS = 64
MOST_INTERVALS = 1_024
LEAST_PERIOD_S = 10.0
JOULES_PER_KWH = 3.6e6
AGGREGATED = "AGGREGATED_REPORT"

_UNITS = {"DEMAND": "KW", "READING": "KW", "USAGE": "KWH", "OPERATING_STATE": None}
_INSTANT = ("READING", "OPERATING_STATE")
"""Told of a moment: the first is sent at once."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a task's reports are due: the n-th at the end of interval `first` + n · `step`, of the `length` intervals up
    to it, `times` in all. `span` gives an interval by its number, wall time; there are `count` of them."""

    span: Callable[[int], Span]
    count: float
    first: int
    length: int
    step: int
    times: float

    def last_of(self, report: int) -> int:
        return self.first + report * self.step

    def exists(self, report: int) -> bool:
        return report < self.times and self.last_of(report) < self.count


@dataclass(slots=True)
class Task:
    """One report request at work, and what has been measured for it."""

    held: Held
    request: ReportRequest
    feeders: tuple[FeederId, ...]
    timing: Timing
    report: int
    tallies: dict[tuple[FeederId, int], Tally] = field(default_factory=dict)
    is_new: bool = True

    def moments(self, number: int) -> tuple[Seconds, Seconds]:
        """An interval on the monotonic clock."""
        span = self.timing.span(number)
        return span.begin + self.held.to_monotonic, span.end + self.held.to_monotonic

    @property
    def numbers(self) -> range:
        """The intervals of the report that is due next."""
        last = self.timing.last_of(self.report)
        return range(max(0, last - self.timing.length + 1), last + 1)


TaskKey: TypeAlias = tuple[str, int]
"""Event and the number of its report request."""


class Reporter:
    """All that the VTN has asked to be told. `client_name` is how we call ourselves in reports."""

    def __init__(self, client_name: str, meaning: Meaning, interval_s: Seconds) -> None:
        self._client_name = client_name
        self._meaning = meaning
        self._interval_s = interval_s
        self._tasks: dict[TaskKey, Task] = {}
        self._done: dict[TaskKey, Held] = {}
        self._samples: dict[FeederId, Sample] = {}

    def watch(self, book: Iterable[Held], now: Seconds) -> None:
        """Take up what events ask for; drop what no event asks for any more."""
        wanted = {
            (held.event.id, number): (held, request)
            for held in book
            for number, request in enumerate(held.event.reports)
        }
        self._tasks = {key: task for key, task in self._tasks.items() if key in wanted and wanted[key][0] is task.held}
        self._done = {key: held for key, held in self._done.items() if key in wanted and wanted[key][0] is held}
        for key, (held, request) in wanted.items():
            if key in self._tasks or key in self._done or len(self._tasks) >= MOST_TASKS:
                continue
            task = self._task(held, request, now)
            if task is not None:
                self._tasks[key] = task
            else:
                self._done[key] = held

    def _task(self, held: Held, request: ReportRequest, now: Seconds) -> Task | None:
        """`None` where we cannot tell that, or it is over."""
        if not _is_told(request):
            log.warning(
                "a report of %s is asked for with event %s, which we cannot give", request.payload, held.event.id
            )
            return None
        feeders = self._meaning.feeders_of(request.targets or held.event.targets)
        timing = _timing(held, request, now, self._interval_s)
        if not feeders or timing.length > MOST_INTERVALS:
            return None
        report = _first_due(timing, now - held.to_monotonic)
        return Task(held, request, tuple(sorted(feeders)), timing, report) if timing.exists(report) else None

    def follow(self, status: SiteStatus, is_limited: Callable[[FeederId], bool]) -> None:
        """What the site draws now holds until the next status."""
        wanted = {feeder for task in self._tasks.values() for feeder in task.feeders}
        for feeder in status.feeders:
            if feeder.id in wanted:
                self._observe(feeder, status.at, is_limited(feeder.id))
        for gone in self._samples.keys() - wanted:
            del self._samples[gone]

    def _observe(self, feeder: FeederStatus, at: Seconds, is_limited: bool) -> None:
        before, sample = self._samples.get(feeder.id), sample_of(feeder, at, is_limited)
        self._samples[feeder.id] = sample
        since = max(before.at, at - LONGEST_STEP_S) if before is not None else at
        for task in self._tasks.values():
            if feeder.id not in task.feeders:
                continue
            for number in task.numbers:
                begin, end = task.moments(number)
                if begin <= at and end > since:
                    tally = task.tallies.setdefault((feeder.id, number), Tally())
                    tally.add(before or sample, max(begin, since), min(end, at))
                    tally.last = sample if at < end or tally.last is None else tally.last

    def due(self, now: Seconds) -> Iterator[Mapping[str, object]]:
        """The reports that are due, each once; whoever takes only some of them gets the others later."""
        for key, task in list(self._tasks.items()):
            if task.is_new and task.request.payload in _INSTANT and self._samples.keys() >= set(task.feeders):
                task.is_new = False
                yield self._at_once(task, now)
            while task.timing.exists(task.report) and now >= task.moments(task.timing.last_of(task.report))[1]:
                report = self._report(task)
                task.report += 1
                least = task.numbers.start
                task.tallies = {at: tally for at, tally in task.tallies.items() if at[1] >= least}
                yield report
            if not task.timing.exists(task.report):
                self._done[key] = self._tasks.pop(key).held

    # ---- writing ------------------------------------------------------------------------------

    def _report(self, task: Task) -> Mapping[str, object]:
        numbers = [number for number in task.numbers if number < task.timing.count]
        return self._written(task, [(number, *task.moments(number), task.tallies) for number in numbers])

    def _at_once(self, task: Task, now: Seconds) -> Mapping[str, object]:
        """How things stand, before the first interval has ended."""
        number = task.numbers.start
        tallies = {(feeder, number): Tally(last=self._samples[feeder]) for feeder in task.feeders}
        return self._written(task, [(number, now, now, tallies)])

    def _written(
        self, task: Task, intervals: Sequence[tuple[int, Seconds, Seconds, Mapping[tuple[FeederId, int], Tally]]]
    ) -> Mapping[str, object]:
        request, event = task.request, task.held.event
        groups = {AGGREGATED: task.feeders} if request.is_aggregate else {self._name(f): (f,) for f in task.feeders}
        descriptor = {"objectType": "REPORT_PAYLOAD_DESCRIPTOR", "payloadType": request.payload}
        if _UNITS[request.payload] is not None:
            descriptor |= {"units": request.units or str(_UNITS[request.payload])}
            descriptor |= {"readingType": request.reading or ("MEAN" if request.payload == "DEMAND" else "DIRECT_READ")}
        return {
            "reportName": f"{request.payload} {task.report + 1}",
            "eventID": event.id,
            "clientName": self._client_name,
            "payloadDescriptors": [descriptor],
            "resources": [
                {
                    "resourceName": name,
                    "intervals": [
                        self._interval(task, number, begin, end, [tallies.get((f, number), Tally()) for f in feeders])
                        for number, begin, end, tallies in intervals
                    ],
                }
                for name, feeders in groups.items()
            ],
        }

    def _interval(
        self, task: Task, number: int, begin: Seconds, end: Seconds, tallies: Sequence[Tally]
    ) -> dict[str, object]:
        length_s = end - begin
        qualities = {tally.quality(length_s) for tally in tallies}
        quality = next(word for word in ("MISSING", "ESTIMATED", "OK") if word in qualities)
        period: dict[str, object] = {"start": fields.timestamp(begin - task.held.to_monotonic)}
        if length_s < math.inf:
            period["duration"] = f"PT{round(length_s)}S"
        ids = task.held.event.interval_ids
        return {
            "id": ids[number % len(ids)] if ids and not task.request.is_open else number,
            "intervalPeriod": period,
            "payloads": [
                {"type": task.request.payload, "values": _values(task.request, tallies)},
                {"type": "DATA_QUALITY", "values": [quality]},
            ],
        }

    def _name(self, feeder: FeederId) -> str:
        return self._client_name if feeder == self._meaning.root else str(feeder)


def _is_told(request: ReportRequest) -> bool:
    if request.payload not in _UNITS or not request.is_historical or request.reading == "FORECAST":
        return False
    match request.payload:
        case "DEMAND" | "READING":
            return request.units is None or request.units.upper() in WATTS
        case "USAGE":
            return request.units is None or request.units.upper() == "KWH"
    return True


def _values(request: ReportRequest, tallies: Sequence[Tally]) -> list[object]:
    scale = WATTS.get((request.units or "KW").upper(), 1.0)
    samples = [tally.last for tally in tallies if tally.last is not None]
    match request.payload:
        case "USAGE":
            return [round(sum(tally.energy_j for tally in tallies) / JOULES_PER_KWH, 6)]
        case "DEMAND":
            is_peak = request.reading == "PEAK"
            return [round(sum(tally.peak_w if is_peak else tally.mean_w for tally in tallies) / scale, 6)]
        case "READING":
            return [round(sum(sample.power_w for sample in samples) / scale, 6)]
    return [*sorted({sample.state for sample in samples})]


def _timing(held: Held, request: ReportRequest, now: Seconds, interval_s: Seconds) -> Timing:
    event, course = held.event, held.event.course
    times = math.inf if request.repeat < 0 or request.frequency == 0 else float(request.repeat)
    period_s = event.period_s or 0.0
    if request.is_open or (not course.spans and not LEAST_PERIOD_S <= period_s < math.inf):
        begin = now - held.to_monotonic
        return Timing(_every(begin, max(LEAST_PERIOD_S, interval_s)), math.inf, 0, 1, 1, times)
    span: Callable[[int], Span] = course.span
    count = course.count
    if not course.spans:  # implied by the event's own period (User Guide 8.7)
        lasts_s = course.end - course.begin
        span, count = _every(course.begin, period_s), math.inf
        if 0 < lasts_s < math.inf:
            count = math.ceil(lasts_s / period_s)
    known = int(count) if count < math.inf else None
    length = max(1, request.intervals if request.intervals > 0 else known or 1)
    first = request.start_interval if request.start_interval >= 0 else (known or length) - 1
    step = request.frequency if request.frequency > 0 else length
    return Timing(span, count, first, length, step, times)


def _every(begin: float, period_s: Seconds) -> Callable[[int], Span]:
    return lambda number: Span(number, begin + number * period_s, begin + (number + 1) * period_s)


def _first_due(timing: Timing, now: float) -> int:
    """The first report whose last interval has not ended: what is over before we knew of it, nobody has measured."""
    low, high = 0, 1
    while timing.exists(high) and timing.span(timing.last_of(high)).end <= now:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if timing.exists(middle) and timing.span(timing.last_of(middle)).end <= now:
            low = middle + 1
        else:
            high = middle
    return low
