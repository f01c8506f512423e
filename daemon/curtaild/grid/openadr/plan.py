"""From events to ceilings over time, per feeder: priorities, what overlaps, what is unbounded. No I/O, no clock: times
are monotonic, with each event's own bridge from the wall clock."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from curtaild.core.allocation import Urgency
from curtaild.core.limits import UNLIMITED, Ceiling, Limit, strictest
from curtaild.grid.openadr.events import Ask, Event, Kind
from curtaild_drivers.contract import FeederId, Seconds, Watts

HORIZON_S = 24 * 3_600.0
"""How far ahead an event that repeats itself is spelled out."""
RENEWED_EVERY_S = 60.0
MOST_ASKS = 1_024
"""Told apart at a feeder, the nearest first."""
MOST_SEGMENTS = 256
"""Changes stated ahead, all feeders together; the core holds 1,024 allocations."""
LEAST_SEGMENTS = 8
NO_EVENT = "no-event"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What OpenADR's words mean at this site. `levels_w` (of SIMPLE 1 to 3) and `emergency_w` per feeder that events
    may be about, in W. `targets` empty: every target that the VTN shows us is `feeder`. `base` holds at the root where
    no event limits it."""

    root: FeederId
    feeder: FeederId
    targets: Mapping[str, FeederId]
    levels_w: Mapping[FeederId, tuple[Watts, Watts, Watts]]
    emergency_w: Mapping[FeederId, Watts]
    base: Ceiling

    @property
    def feeders(self) -> Sequence[FeederId]:
        """All that events may be about, and the root."""
        return list(dict.fromkeys((self.root, self.feeder, *self.targets.values())))

    def feeders_of(self, targets: Sequence[str]) -> frozenset[FeederId]:
        """Empty where all the targets are somebody else's."""
        if not targets or not self.targets:
            return frozenset((self.feeder,))
        return frozenset(self.targets[target] for target in targets if target in self.targets)

    def ceiling(self, ask: Ask, feeder: FeederId) -> Ceiling:
        if ask.kind is Kind.SIMPLE:
            return Limit(self.levels_w[feeder][ask.level - 1]) if ask.level else UNLIMITED
        watts = self.emergency_w[feeder] if ask.kind is Kind.ALERT_GRID_EMERGENCY else ask.watts
        return Limit(watts) if watts is not None else UNLIMITED


@dataclass(frozen=True, slots=True)
class Held:
    """An event, and what has to be added to its wall times to have monotonic ones: taken once, when it arrived, so that
    a later jump of the wall clock moves nothing."""

    event: Event
    to_monotonic: Seconds


@dataclass(frozen=True, slots=True)
class Segment:
    """From `begin` (monotonic) until the next segment. `cause` names what decides: event and interval."""

    begin: Seconds
    ceiling: Ceiling
    urgency: Urgency = Urgency.NORMAL
    cause: str = NO_EVENT


@dataclass(frozen=True, slots=True)
class _Word:
    """One ask at one feeder, on the monotonic clock. Words of one `topic` conflict: the least `priority` wins."""

    begin: Seconds
    end: Seconds
    segment: Segment
    topic: tuple[str, Kind]
    priority: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Ceilings from now on, per feeder; the last segment of each has no end. Good until `renew_at`."""

    segments: Mapping[FeederId, tuple[Segment, ...]]
    renew_at: Seconds

    def since(self, now: Seconds) -> Plan:
        """What is left of it."""
        return replace(self, segments={feeder: remaining(each, now) for feeder, each in self.segments.items()})


def plan(book: Iterable[Held], meaning: Meaning, now: Seconds) -> Plan:
    """What all events together allow from `now` on."""
    held = list(book)
    feeders = meaning.feeders
    most = max(LEAST_SEGMENTS, MOST_SEGMENTS // len(feeders))
    segments: dict[FeederId, tuple[Segment, ...]] = {}
    renew_at = math.inf
    for feeder in feeders:
        base = Segment(now, meaning.base if feeder == meaning.root else UNLIMITED)
        streams = [_words(each, meaning, feeder, now) for each in held if _concerns(each.event, meaning, feeder)]
        words = list(islice(heapq.merge(*streams, key=lambda word: word.begin), MOST_ASKS + 1))
        horizon, rest = math.inf, None
        if any(each.event.course.cycle_s < math.inf for each in held):
            horizon = now + HORIZON_S
        if len(words) > MOST_ASKS:
            horizon, rest = words.pop().begin, _strictest_of_all(held, meaning, feeder, base)
        swept = _sweep(words, base, now)
        segments[feeder] = _cut(swept, most, horizon, rest)
        told_until = segments[feeder][-1].begin if len(segments[feeder]) == most else horizon
        renew_at = min(renew_at, max(now + RENEWED_EVERY_S, (now + told_until) / 2))
    return Plan(segments, renew_at)


def strictest_of(one: Plan, other: Plan) -> Plan:
    """At every moment the stricter of both; both begin at the same moment, at the same feeders."""
    segments = {feeder: tuple(_overlay(ours, other.segments[feeder])) for feeder, ours in one.segments.items()}
    return Plan(segments, min(one.renew_at, other.renew_at))


def remaining(segments: Sequence[Segment], now: Seconds) -> tuple[Segment, ...]:
    """What is left of a plan at `now`."""
    begun = sum(segment.begin <= now for segment in segments)
    current = max(0, begun - 1)
    return (replace(segments[current], begin=now), *segments[current + 1 :])


def _concerns(event: Event, meaning: Meaning, feeder: FeederId) -> bool:
    return event.speaks_of_draw and feeder in meaning.feeders_of(event.targets)


def _words(held: Held, meaning: Meaning, feeder: FeederId, now: Seconds) -> Iterator[_Word]:
    event, shift_s = held.event, held.to_monotonic
    since = now - shift_s
    until = since + HORIZON_S if event.course.cycle_s < math.inf else math.inf
    for ask in event.asks(since, until):
        begin, end = max(now, ask.begin + shift_s), ask.end + shift_s
        if end <= now:
            continue
        urgency = Urgency.EMERGENCY if ask.kind is Kind.ALERT_GRID_EMERGENCY else Urgency.NORMAL
        segment = Segment(begin, meaning.ceiling(ask, feeder), urgency, f"{event.id}.{ask.interval}")
        yield _Word(begin, end, segment, (event.program, ask.kind), event.priority)


def _sweep(words: Sequence[_Word], base: Segment, now: Seconds) -> list[Segment]:
    """Moment by moment: of one topic the highest priority; of equal priorities, and of topics, the strictest."""
    moments = sorted({now, *(word.begin for word in words), *(word.end for word in words if word.end < math.inf)})
    waiting = sorted(words, key=lambda word: word.begin, reverse=True)
    active: list[_Word] = []
    segments: list[Segment] = []
    for moment in moments:
        while waiting and waiting[-1].begin <= moment:
            active.append(waiting.pop())
        active = [word for word in active if word.end > moment]
        decided = _decide(active, base)
        last = segments[-1] if segments else None
        if last is None or (last.ceiling, last.urgency) != (decided.ceiling, decided.urgency):
            segments.append(Segment(moment, decided.ceiling, decided.urgency, decided.cause))
    return segments


def _decide(active: Sequence[_Word], base: Segment) -> Segment:
    topics: defaultdict[tuple[str, Kind], list[_Word]] = defaultdict(list)
    for word in active:
        topics[word.topic].append(word)
    decided = Segment(base.begin, UNLIMITED)
    for words in topics.values():
        highest = min(word.priority for word in words)
        for word in words:
            if word.priority == highest:
                decided = _stricter(decided, word.segment)
    return decided if isinstance(decided.ceiling, Limit) else base


def _stricter(one: Segment, other: Segment) -> Segment:
    """Of equal ceilings an emergency counts, and an event before none."""
    if one.ceiling == other.ceiling:
        return other if (other.urgency is Urgency.EMERGENCY or one.cause == NO_EVENT) else one
    return other if strictest(one.ceiling, other.ceiling) is other.ceiling else one


def _strictest_of_all(held: Iterable[Held], meaning: Meaning, feeder: FeederId, base: Segment) -> Segment:
    """Whenever, whatever its priority: for where there is too much to be told apart."""
    found = base
    for each in held:
        if _concerns(each.event, meaning, feeder):
            for ask in each.event.all_asks():
                found = _stricter(
                    found, Segment(base.begin, meaning.ceiling(ask, feeder), cause=f"{each.event.id}.all")
                )
    return found


def _cut(segments: list[Segment], most: int, horizon: Seconds, rest: Segment | None) -> tuple[Segment, ...]:
    """What is too far or too much becomes one last segment, as strict as the strictest of it; `rest` is what is not in
    `segments` at all, from `horizon` on."""
    if rest is not None:
        segments = [*(each for each in segments if each.begin < horizon), replace(rest, begin=horizon)]
        horizon = math.inf
    kept = [segment for segment in segments if segment.begin < horizon][:most] or segments[:1]
    if len(kept) < len(segments):
        tail = segments[len(kept) - 1]
        for segment in segments[len(kept) :]:
            tail = _stricter(tail, segment)
        kept[-1] = replace(tail, begin=kept[-1].begin)
    return tuple(kept)


def _overlay(ours: Sequence[Segment], theirs: Sequence[Segment]) -> Iterator[Segment]:
    last: Segment | None = None
    for moment in sorted({segment.begin for segment in (*ours, *theirs)}):
        here, there = (remaining(segments, moment)[0] for segments in (ours, theirs))
        decided = _stricter(here, there)
        if last is None or (last.ceiling, last.urgency) != (decided.ceiling, decided.urgency):
            last = Segment(moment, decided.ceiling, decided.urgency, decided.cause)
            yield last
