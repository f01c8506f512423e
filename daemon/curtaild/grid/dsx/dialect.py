"""The DSX Flex agent: takes signed load targets, tells the power state on every transition and now and then, alerts."""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curtaild.clock import Clock, UnixSeconds
from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
    MessageRejected,
    RejectCode,
)
from curtaild.core.events import Ack, AckStage, BreachChanged, BreachStage
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.status import SiteStatus
from curtaild.grid import fields
from curtaild.grid.dialect import NAMESPACE_MARK, Publication, Received, Subscription
from curtaild.grid.dsx.breach import breach_data, breach_id
from curtaild.grid.dsx.envelope import Event, EventType, Trace, new_id, new_trace, read_event, write_event
from curtaild.grid.dsx.power import Ramp, Trigger, feed_state
from curtaild.grid.dsx.targets import Request, Target, TargetBook, read_requests, windows
from curtaild.grid.fields import Rejection
from curtaild.grid.keys import PublicKeys, Signer, Verified, verify
from curtaild.grid.own_word import OwnWord
from curtaild_drivers.contract import FeederId, Seconds, Watts

log = logging.getLogger("curtaild.grid.dsx")

MESSAGES_KEPT = 64
MOST_SEEN = 4096
"""Events remembered, so that one sent again is known as such."""
MOST_ALLOCATIONS = 512
"""One message may not make more than these: targets times feeds."""
SEQ_PER_MS = 1000
BEAT_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Feeds:
    """What the site file says of a connection: feeds by tag, who may speak, and how often a snapshot is sent. Where
    `is_released` a feed without a target is unlimited as long as the broker is there; else the fail-safe limit holds.
    """

    agent: str
    by_tag: Mapping[str, FeederId]
    isvs: Mapping[str, PublicKeys]
    infra: Mapping[str, PublicKeys]
    snapshot_interval_s: Seconds
    is_released: bool
    root: FeederId
    failsafe_w: Watts
    max_clock_skew_s: Seconds
    max_payload_bytes: int
    signature_max_age_s: Seconds | None
    infrastructure_actions: tuple[str, ...]


class DsxFlexDialect:
    """One agent. `book` outlives the dialect where a reload makes a new one."""

    echo_topic: str | None = None
    last_will: Publication | None = None

    def __init__(self, name: str, feeds: Feeds, signer: Signer, clock: Clock, book: TargetBook) -> None:
        self.beats = feeds.is_released
        self._feeds = feeds
        self._signer = signer
        self._clock = clock
        self._book = book
        self._source = f"//grid/v1/dsx-flex-agent/{feeds.agent}"
        self._audiences = frozenset((feeds.agent, self._source))
        self._targets_from = {f"grid/v1/isv/{isv}/loadtarget/set": isv for isv in feeds.isvs}
        self._outcomes_from = {f"grid/v1/infra/{agent}/powerbreach/enforcement": agent for agent in feeds.infra}
        self._tags = {feeder: tag for tag, feeder in feeds.by_tag.items()}
        self._base = OwnWord(Issuer(f"dsx-flex{NAMESPACE_MARK}{name}"), feeds.root, clock)
        self._seen: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._seen_digests: OrderedDict[bytes, str] = OrderedDict()
        self._last_time: dict[str, UnixSeconds] = {}
        self._last_seq: dict[str, int] = {}
        self._ramps = {tag: Ramp() for tag in feeds.by_tag}
        self._event_since: dict[str, UnixSeconds] = {}
        self._minimum_w: dict[str, Watts] = {}
        self._alerts: dict[str, Target] = {}
        self._status: SiteStatus | None = None
        self._told_at: Seconds = -math.inf
        self._beaten_at: Seconds = -math.inf

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        longest = self._feeds.max_payload_bytes
        return {
            **{topic: Subscription(1, MESSAGES_KEPT, longest, is_state=True) for topic in self._targets_from},
            **{topic: Subscription(2, MESSAGES_KEPT, longest) for topic in self._outcomes_from},
        }

    # ---- what the grid says -------------------------------------------------------------------

    def decode(self, received: Received) -> Sequence[GridMessage]:
        isv, infra = self._targets_from.get(received.topic), self._outcomes_from.get(received.topic)
        if not received.payload or (isv is None and infra is None):
            return []
        source = f"//grid/v1/isv/{isv}" if isv is not None else f"//grid/v1/infra/{infra}"
        expected = EventType.LOAD_TARGET_SET if isv is not None else EventType.BREACH_ENFORCEMENT
        keys = self._feeds.isvs[isv] if isv is not None else self._feeds.infra[str(infra)]
        try:
            verified = self._open(received.payload, expected, source, keys)
            if verified is None:
                return []
            event, body = verified
            if expected is EventType.BREACH_ENFORCEMENT:
                self._note_enforcement(str(infra), body)
                return []
            return self._allocations(event, read_requests(body), received.retained)
        except Rejection as refusal:
            return [MessageRejected(refusal.code, refusal.reason, issuer=Issuer(source), retained=received.retained)]

    def _open(
        self, payload: bytes, expected: EventType, source: str, keys: PublicKeys
    ) -> tuple[Event, Mapping[str, object]] | None:
        """The event and what is signed in it; `None` for one taken before, which says nothing new."""
        if len(payload) > self._feeds.max_payload_bytes:
            raise Rejection(RejectCode.TOO_LARGE, f"longer than {self._feeds.max_payload_bytes} bytes")
        body, _ = fields.parse_object(payload)
        event = read_event(body, expected, source)
        ahead_s = event.time - self._clock.wall()
        if ahead_s > self._feeds.max_clock_skew_s:
            raise Rejection(RejectCode.CLOCK_SKEW, f"time is {ahead_s:.0f} s ahead of the site's clock")
        known = self._seen.get((source, event.id))
        wall = self._clock.wall()
        verified = verify(event.token, keys, self._audiences, wall, self._feeds.signature_max_age_s)
        if known is not None and known == verified.digest:
            return None  # by another broker, or delivered twice: QoS 1
        self._refuse_replay(event, verified, known)
        return event, verified.body

    def _refuse_replay(self, event: Event, verified: Verified, known: bytes | None) -> None:
        if known is not None:
            raise Rejection(RejectCode.UNAUTHORIZED, f"event {event.id} said something else before")
        if verified.is_dated and verified.digest in self._seen_digests:
            first = self._seen_digests[verified.digest]
            raise Rejection(RejectCode.UNAUTHORIZED, f"what is signed came with event {first} before: a replay")
        self._seen[event.source, event.id] = verified.digest
        self._seen_digests[verified.digest] = event.id
        while len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        while len(self._seen_digests) > MOST_SEEN:
            self._seen_digests.popitem(last=False)

    def _allocations(self, event: Event, requests: Sequence[Request], retained: bool) -> list[GridMessage]:
        wall, issuer = self._clock.wall(), Issuer(event.source)
        messages: list[GridMessage] = []
        targets: list[Target] = []
        for number, request in enumerate(requests):
            tags = [tag for tag in self._feeds.by_tag if tag in request.tags] if request.tags else self._feeds.by_tag
            if not tags:
                reason = f"targets[{number}]: none of these feeds is ours: {fields.shown(', '.join(request.tags))}"
                messages.append(MessageRejected(RejectCode.UNKNOWN_FEEDER, reason, issuer=issuer, retained=retained))
            for tag in tags:
                start = request.start if request.start is not None else event.time
                coming = [target for target in (*self._book.at(tag), *targets) if target.start > wall]
                pieces = list(windows(request, start, issuer, [each for each in coming if each.tag == tag]))
                made = [self._piece(event, tag, request, piece, f"{number}.{k}") for k, piece in enumerate(pieces)]
                if request.limit_w is not None:
                    targets.append(_target(event, tag, request.limit_w, request, start, made))
                messages += [AllocationReceived(allocation, retained) for allocation in made]
                if len(messages) > MOST_ALLOCATIONS:
                    raise Rejection(RejectCode.TOO_LARGE, f"more than {MOST_ALLOCATIONS} allocations in one message")
        for target in targets:
            self._book.add(target)
        return messages

    def _piece(
        self, event: Event, tag: str, request: Request, window: tuple[UnixSeconds, UnixSeconds | None], part: str
    ) -> Allocation:
        to_monotonic = self._clock.monotonic() - self._clock.wall()
        begin, end = window
        return Allocation(
            id=AllocationId(f"{event.id}/{tag}/{part}"),
            seq=self._next_seq(event),
            issuer=Issuer(event.source),
            feeder=self._feeds.by_tag[tag],
            ceiling=UNLIMITED if request.limit_w is None else Limit(request.limit_w),
            issued_at=event.time + to_monotonic,
            valid_from=begin + to_monotonic,
            valid_until=None if end is None else end + to_monotonic,
        )

    def _next_seq(self, event: Event) -> int:
        """By the event's own time, so that an older one that comes late is known as such after a restart too; of one
        moment, by arrival."""
        seq = int(event.time * 1000) * SEQ_PER_MS
        if event.time >= self._last_time.get(event.source, event.time):
            seq = max(seq, self._last_seq.get(event.source, 0) + 1)
            self._last_time[event.source], self._last_seq[event.source] = event.time, seq
        return seq

    @staticmethod
    def _note_enforcement(infra: str, body: Mapping[str, object]) -> None:
        """What an infrastructure agent did on our alert is for people; the meter says what it brought."""
        words = [fields.shown(body.get(key)) for key in ("action", "code", "feed_tag", "breach_id")]
        log.warning("infrastructure agent %s: enforcement %s (%s) at feed %s for breach %s", infra, *words)

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        """Where feeds without a target are released, the broker is the only sign of life there is."""
        if not self._feeds.is_released or not is_connected:
            return []
        now = self._clock.monotonic()
        if now - self._beaten_at < BEAT_EVERY_S:
            return []
        self._beaten_at = now
        is_new = self._base.state(UNLIMITED, now)
        stated = self._base.message(retained=False) if is_new or self._base.must_repeat else None
        return [HeartbeatReceived()] if stated is None else [HeartbeatReceived(), stated]

    # ---- what the site says -------------------------------------------------------------------

    def owns(self, issuer: Issuer | None) -> bool:
        return issuer is not None and issuer.startswith(("//grid/v1/isv/", self._base.issuer))

    def ack(self, ack: Ack) -> Sequence[Publication]:
        self._base.heed(ack)
        tag = self._tags.get(ack.feeder) if ack.feeder is not None else None
        if tag is not None and ack.floor_w is not None:
            self._minimum_w[tag] = ack.floor_w
        target = self._book.follow(ack)
        if target is None:
            self._recall(ack, tag)
            return []
        if ack.stage is AckStage.ACCEPTED and self._status is not None:
            return [self._snapshot(self._status, {target.tag: Trigger.TARGET_SET}, target)]
        return []

    def _recall(self, ack: Ack, tag: str | None) -> None:
        """After a restart the book is empty: what still holds is told by the core's answers, without its interval."""
        is_begun = ack.stage in (AckStage.APPLYING, AckStage.REACHED, AckStage.SHORTFALL)
        if not is_begun or tag is None or ack.limit_w is None or ack.allocation_id is None or ack.issuer is None:
            return
        if ack.issuer == self._base.issuer:
            return
        event_id, wall = ack.allocation_id.partition("/")[0], self._clock.wall()
        piece = {ack.allocation_id}
        target = Target(tag, ack.issuer, ack.limit_w, wall, None, None, False, event_id, None, piece, set(piece))
        self._book.add(target)

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        self._base.follow(status)
        self._status = status
        triggers: dict[str, Trigger] = {}
        for feeder in status.feeders:
            tag = self._tags.get(feeder.id)
            trigger = self._ramps[tag].follow(feeder, status.at) if tag is not None else None
            if tag is not None and trigger is not None:
                triggers[tag] = trigger
        if triggers or status.at - self._told_at >= self._feeds.snapshot_interval_s:
            cause = next((self._book.active(tag) for tag in triggers), None)
            return [self._snapshot(status, triggers, cause)]
        return []

    def _snapshot(self, status: SiteStatus, triggers: Mapping[str, Trigger], cause: Target | None) -> Publication:
        self._told_at = status.at
        wall = self._clock.wall()
        feeds: dict[str, object] = {}
        for feeder in status.feeders:
            tag = self._tags.get(feeder.id)
            if tag is None:
                continue
            enforced = self._book.enforced(tag)
            if enforced:
                self._event_since.setdefault(tag, wall)
            else:
                self._event_since.pop(tag, None)
            is_failsafe_feed = feeder.id == self._feeds.root and not self._feeds.is_released
            feeds[tag] = feed_state(
                feeder,
                self._book.at(tag),
                enforced,
                triggers.get(tag, Trigger.PERIODIC),
                self._ramps[tag],
                self._minimum_w.get(tag, 0.0),
                min(self._feeds.failsafe_w, feeder.rating_w) if is_failsafe_feed else feeder.rating_w,
                self._event_since.get(tag),
            )
        data = {"snapshot_time": fields.timestamp(wall), "feeds": feeds}
        topic = f"grid/v1/dsx-flex-agent/{self._feeds.agent}/powerstate/status"
        payload = self._event(EventType.POWER_STATE, data, cause)
        return Publication(topic, payload, qos=1, is_state=not triggers)

    def breach(self, breach: BreachChanged) -> Sequence[Publication]:
        """Alerts are about load targets; what is over the fail-safe limit alone is no concern of an ISV's."""
        tag = self._tags.get(breach.feeder)
        target = self._alerts.get(breach.id) or (self._book.active(tag) if tag is not None else None)
        if tag is None or target is None:
            return []
        is_resolved = breach.stage is BreachStage.RESOLVED
        if is_resolved and breach.id not in self._alerts:
            return []
        if not is_resolved and breach.limit_w + breach.over_w <= target.limit_w:
            return []
        identity = breach_id(self._feeds.agent, breach)
        actions = self._feeds.infrastructure_actions
        data = breach_data(breach, tag, target, identity, actions, self._status, self._clock)
        if is_resolved:
            del self._alerts[breach.id]
        else:
            self._alerts[breach.id] = target
        topic = f"grid/v1/dsx-flex-agent/{self._feeds.agent}/powerbreach"
        return [Publication(topic, self._event(EventType.BREACH_ALERT, data, target), qos=2)]

    def _event(self, kind: EventType, data: Mapping[str, object], cause: Target | None) -> bytes:
        trace: Trace = cause.trace.next_span() if cause is not None and cause.trace is not None else new_trace()
        body = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
        return write_event(
            Event(
                id=new_id(),
                source=self._source,
                type=kind,
                time=self._clock.wall(),
                trace=trace,
                correlation_id=cause.correlation_id if cause is not None else None,
                token=self._signer.sign(body),
            )
        )

    def goodbye(self) -> Sequence[Publication]:
        return []


def _target(
    event: Event, tag: str, limit_w: Watts, request: Request, start: UnixSeconds, made: Sequence[Allocation]
) -> Target:
    return Target(
        tag=tag,
        issuer=Issuer(event.source),
        limit_w=limit_w,
        start=start,
        end=request.end,
        stated_start=request.start,
        is_best_effort=request.is_best_effort,
        correlation_id=event.correlation_id or event.id,
        trace=event.trace,
        pieces={allocation.id for allocation in made},
    )
