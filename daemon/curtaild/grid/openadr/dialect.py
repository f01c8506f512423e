"""OpenADR 3.1 as the link knows dialects: what was read from the VTN, or heard from its broker, becomes the site's
ceilings over time; each whole reading is a sign of life. No I/O.

What a notification brings may tighten at once; only a reading may loosen, for the broker is less to be trusted than the
VTN itself, and keeps old messages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from curtaild.clock import Clock, UnixSeconds
from curtaild.core.allocation import GridMessage, HeartbeatReceived, Issuer, MessageRejected, RejectCode
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.limits import Limit
from curtaild.core.status import SiteStatus
from curtaild.grid import fields
from curtaild.grid.dialect import NAMESPACE_MARK, Publication, Received, Subscription
from curtaild.grid.fields import Rejection, malformed
from curtaild.grid.openadr import objects
from curtaild.grid.openadr.events import Event, fingerprint, read_event
from curtaild.grid.openadr.objects import Program, read_program
from curtaild.grid.openadr.plan import NO_EVENT, Held, Meaning, Plan, plan, strictest_of
from curtaild.grid.openadr.reports import Reporter
from curtaild.grid.openadr.statement import Statement
from curtaild_drivers.contract import FeederId, Seconds

log = logging.getLogger("curtaild.grid.openadr")

MAX_NOTIFICATION_BYTES = 256 * 1024
MOST_INTERVALS_READ = 20_000
"""In one reading, all events together: to read more would hold up the loop."""
MOST_HEARD = 64
AGREES_S = 5.0
"""Two clocks this close agree, as a whole second and the time of an answer allow."""
SETTLES_AFTER_S = 2.0
"""A reading begun so long after a notification shows what it spoke of, if it is still so."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the site file says of a connection. `programs` by name; empty: all that the VTN shows."""

    meaning: Meaning
    programs: frozenset[str]
    max_clock_skew_s: Seconds
    ven_name: str
    report_interval_s: Seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All programs and events that the VTN showed in one reading, begun at `begun_at` (monotonic s). `date` is the
    VTN's clock at its end, `None` where the VTN tells none."""

    programs: Sequence[object]
    events: Sequence[object]
    begun_at: Seconds
    date: UnixSeconds | None


@dataclass(slots=True)
class Book:
    """What a reading showed, and the `plan` that follows. Events stay as they were first read, until the VTN changes
    them. `refusals` are news. `to_monotonic` is the bridge from wall time at that moment, `is_confirmed`: the VTN's
    clock agrees with it."""

    begun_at: Seconds = 0.0
    to_monotonic: Seconds = 0.0
    is_confirmed: bool = False
    programs: dict[str, Program] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    versions: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, bytes] = field(default_factory=dict)
    refusals: list[MessageRejected] = field(default_factory=list)
    plan: Plan | None = None

    def says_the_same(self, other: Book) -> bool:
        return self.held.keys() == other.held.keys() and all(self.held[each] is other.held[each] for each in self.held)


class OpenAdrDialect:
    """One VEN, at the connection called `name`."""

    beats = True
    echo_topic: str | None = None
    last_will: Publication | None = None
    subscriptions: Mapping[str, Subscription] = {}

    def __init__(self, name: str, rules: Rules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._statement = Statement(Issuer(f"openadr{NAMESPACE_MARK}{name}"), clock)
        self._book = Book()
        self._alarmed: set[str] = set()
        self._heard: dict[str, tuple[Held, Seconds]] = {}
        self._plan: Plan | None = None
        self.reporter = Reporter(rules.ven_name, rules.meaning, rules.report_interval_s)

    @property
    def programs(self) -> Sequence[str]:
        """The ids of the programs that are followed."""
        return [*self._book.programs]

    # ---- what the VTN shows -------------------------------------------------------------------

    def digest(self, snapshot: Snapshot) -> Book:
        """All that the VTN shows, understood. Changes nothing, so that it may be done in a thread beside the loop.
        Raises `Rejection` where it cannot be taken as a whole: then it was no sign of life. A single event that cannot
        be taken is refused by itself, and keeps what it said before."""
        self._check_clock(snapshot.date)
        wall = self._clock.wall()
        is_confirmed = snapshot.date is not None and abs(snapshot.date - wall) <= AGREES_S
        book = Book(snapshot.begun_at, self._clock.monotonic() - wall, is_confirmed)
        self._read_programs(snapshot.programs, book)
        for identity, body in self._shown(snapshot.events, book.programs):
            self._read_event(identity, body, book)
        is_known = self._book.plan is not None and book.says_the_same(self._book)
        book.plan = self._book.plan if is_known else self._planned(book.held, self._clock.monotonic())
        return book

    def take(self, book: Book) -> list[GridMessage]:
        """What follows for the site from the newest book."""
        self._book = book
        for held in book.held.values():
            self._alarm(held.event)
        self._alarmed &= book.held.keys()
        self._forget_heard(book.begun_at)
        self.reporter.watch(book.held.values(), self._clock.monotonic())
        return [*book.refusals, *self._state(retained=False), HeartbeatReceived()]

    def _alarm(self, event: Event) -> None:
        """An emergency is for people, too: told once."""
        if event.alert is not None and event.id not in self._alarmed:
            self._alarmed.add(event.id)
            log.error("a grid emergency is declared by event %s: %s", event.id, event.alert)

    def _check_clock(self, date: UnixSeconds | None) -> None:
        """Times are the VTN's, and kept by our clock: they must agree, or no event can be met when it is meant."""
        if date is not None and abs(date - self._clock.wall()) > self._rules.max_clock_skew_s + 1.0:
            away_s = date - self._clock.wall()
            reason = f"the VTN's clock is {abs(away_s):.0f} s {'ahead of' if away_s > 0 else 'behind'} the site's"
            raise Rejection(RejectCode.CLOCK_SKEW, reason)

    def _read_programs(self, shown: Sequence[object], book: Book) -> None:
        for body in shown:
            try:
                program = read_program(body)
            except Rejection as refusal:
                book.refusals.append(self._refusal(refusal.code, f"a program: {refusal.reason}"))
                continue
            if not self._rules.programs or program.name in self._rules.programs:
                book.programs[program.id] = program
        missing = self._rules.programs - {program.name for program in book.programs.values()}
        if missing:
            names = ", ".join(sorted(missing))
            raise Rejection(RejectCode.UNAUTHORIZED, f"the VTN shows no program {names} (see programs)")

    def _shown(self, events: Sequence[object], programs: Mapping[str, Program]) -> Iterator[tuple[str, object]]:
        """The events of the programs that are followed, by id."""
        intervals = sum(_intervals(body) for body in events)
        if intervals > MOST_INTERVALS_READ:
            raise Rejection(RejectCode.TOO_LARGE, f"{intervals} intervals in all events, most is {MOST_INTERVALS_READ}")
        for body in events:
            event = objects.an_object(body, "an event")
            if self._rules.programs and event.get("programID") not in programs:
                continue
            yield objects.object_id(event, "id"), body

    def _read_event(self, identity: str, body: object, book: Book) -> None:
        """Into `book` as it stands now, or as it stood; with the reason, where that is news."""
        before, version = self._book.held.get(identity), fingerprint([body, _units(body, book.programs)])
        if before is not None:
            if book.is_confirmed and abs(before.to_monotonic - book.to_monotonic) > AGREES_S:
                before = Held(before.event, book.to_monotonic)  # the clock was off when it came, and was put right
            book.held[identity], book.versions[identity] = before, self._book.versions[identity]
            if book.versions[identity] == version:
                return
        try:
            event = self._read(body, book.programs)
            if before is not None and event.issued_at < before.event.issued_at:
                raise Rejection(RejectCode.STALE_SEQ, "older than the version before it")
        except Rejection as refusal:
            if refusal.code is RejectCode.CLOCK_SKEW:
                raise
            if refusal.code is RejectCode.UNKNOWN_FEEDER:  # no longer about us
                book.held.pop(identity, None)
                book.versions.pop(identity, None)
            book.refused[identity] = version
            if self._book.refused.get(identity) != version:
                book.refusals.append(self._refusal(refusal.code, f"event {identity}: {refusal.reason}"))
            return
        book.held[identity] = Held(event, book.to_monotonic)
        book.versions[identity] = version

    def _read(self, body: object, programs: Mapping[str, Program]) -> Event:
        wall = self._clock.wall()
        event = read_event(body, programs, wall, self._rules.ven_name)
        if event.issued_at - wall > self._rules.max_clock_skew_s:
            ahead_s = event.issued_at - wall
            reason = f"event {event.id} was written {ahead_s:.0f} s ahead of the site's clock"
            raise Rejection(RejectCode.CLOCK_SKEW, reason)
        if not self._rules.meaning.feeders_of(event.targets):
            named = fields.shown(", ".join(event.targets))
            raise Rejection(RejectCode.UNKNOWN_FEEDER, f"none of these targets is ours: {named}")
        return event

    # ---- what the VTN's broker says -----------------------------------------------------------

    def decode(self, received: Received) -> Sequence[GridMessage]:
        """A notification. Only of an event newly written or changed is anything taken here, and only what tightens."""
        try:
            return self._hear(received)
        except Rejection as refusal:
            return [self._refusal(refusal.code, f"a notification: {refusal.reason}", retained=True)]

    def _hear(self, received: Received) -> Sequence[GridMessage]:
        if len(received.payload) > MAX_NOTIFICATION_BYTES:
            raise Rejection(RejectCode.TOO_LARGE, f"longer than {MAX_NOTIFICATION_BYTES} bytes")
        body, has_literals = fields.parse_object(received.payload)
        if has_literals:
            raise malformed("NaN and Infinity are not JSON")
        operation, subject = fields.text(body, "operation"), objects.an_object(body.get("object"), "object")
        if fields.text(body, "objectType") != "EVENT" or received.retained or self._plan is None:
            return []
        identity = objects.object_id(subject, "id")
        if operation == "DELETE":
            self._heard.pop(identity, None)
            return []
        if operation not in ("CREATE", "UPDATE") or _is_foreign(subject, self._rules, self._book.programs):
            return []
        known = self._book.held.get(identity)
        event = self._read(subject, self._book.programs)
        if known is not None and event.issued_at <= known.event.issued_at:
            return []
        if identity not in self._heard and len(self._heard) >= MOST_HEARD:
            return []  # the reading that follows shows it
        now = self._clock.monotonic()
        self._heard[identity] = (Held(event, now - self._clock.wall()), now)
        return self._state(retained=True)

    def _forget_heard(self, begun_at: Seconds) -> None:
        """What a reading shows as well, or should show by now."""
        for identity, (heard, at) in list(self._heard.items()):
            shown = self._book.held.get(identity)
            is_shown = shown is not None and shown.event.issued_at >= heard.event.issued_at
            if is_shown or begun_at >= at + SETTLES_AFTER_S:
                del self._heard[identity]

    # ---- what follows for the site ------------------------------------------------------------

    def _planned(self, held: Mapping[str, Held], now: Seconds) -> Plan:
        return plan(held.values(), self._rules.meaning, now)

    def _state(self, retained: bool) -> list[GridMessage]:
        book, now = self._book, self._clock.monotonic()
        if book.plan is None or now >= book.plan.renew_at:
            book.plan = self._planned(book.held, now)
        self._plan = book.plan.since(now)
        if self._heard:
            heard = {identity: held for identity, (held, _) in self._heard.items()}
            self._plan = strictest_of(self._plan, self._planned({**book.held, **heard}, now))
        return [*self._statement.state(self._plan, retained)]

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        """What repeats itself is spelled out further as time goes by; that is no sign of life."""
        if self._plan is None or self._clock.monotonic() < self._plan.renew_at:
            return []
        return self._state(retained=True)

    def owns(self, issuer: Issuer | None) -> bool:
        return issuer == self._statement.issuer

    def ack(self, ack: Ack) -> Sequence[Publication]:
        self._statement.heed(ack)
        return []

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        self._statement.follow(status)
        self.reporter.follow(status, self._is_limited)
        return []

    def _is_limited(self, feeder: FeederId) -> bool:
        current = self._statement.current(feeder)
        return current is not None and current.cause != NO_EVENT and isinstance(current.ceiling, Limit)

    def breach(self, breach: BreachChanged) -> Sequence[Publication]:
        return []

    def goodbye(self) -> Sequence[Publication]:
        return []

    def _refusal(self, code: RejectCode, reason: str, retained: bool = False) -> MessageRejected:
        return MessageRejected(code, reason, issuer=self._statement.issuer, retained=retained)


def _intervals(body: object) -> int:
    intervals = body.get("intervals") if isinstance(body, dict) else None
    return len(intervals) if isinstance(intervals, list) else 0


def _units(body: object, programs: Mapping[str, Program]) -> object:
    """What of its program an event depends on."""
    identity = body.get("programID") if isinstance(body, dict) else None
    program = programs.get(identity) if isinstance(identity, str) else None
    return dict(program.units) if program is not None else None


def _is_foreign(event: Mapping[str, object], rules: Rules, programs: Mapping[str, Program]) -> bool:
    return bool(rules.programs) and event.get("programID") not in programs
