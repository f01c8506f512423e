"""MaestroOS: `{"target": 0 or 100, "timestamp": unix seconds}` on one topic, said again every 30 s, by two brokers as a
rule (docs/grid/maestroos.md). It listens only; nothing is answered.

One connection is one issuer: a broker that goes silent leaves the word to the others, brokers that differ are taken at
the stricter, and silence of all is OFF.
"""

from __future__ import annotations

import logging
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
from curtaild.core.events import Ack, AckStage, BreachChanged, LinkPhase
from curtaild.core.limits import Ceiling, Limit
from curtaild.core.status import SiteStatus
from curtaild.grid import fields
from curtaild.grid.dialect import NAMESPACE_MARK, Publication, Received, Subscription
from curtaild.grid.fields import Rejection, malformed
from curtaild_drivers.contract import FeederId, Seconds

log = logging.getLogger("curtaild.grid.maestroos")

MESSAGES_KEPT = 64
MAX_PAYLOAD_BYTES = 1024
"""Twenty times the one message there is."""
STEP_ON_STALE_SEQ = 1_000_000
"""How far our sequence numbers leap where the core knows higher ones: the site's clock was ahead once. A quarter of an
hour, doubled each time."""


@dataclass(frozen=True, slots=True)
class Switch:
    """What is switched: `feeder`, to `on_ceiling` or to nothing. `silence_s` without a word is OFF."""

    feeder: FeederId
    on_ceiling: Ceiling
    silence_s: Seconds
    max_clock_skew_s: Seconds


@dataclass(frozen=True, slots=True)
class _Word:
    """The newest that one broker brought: when it was spoken by its own stamp, and when that is on our clock."""

    is_on: bool
    stamped_at: UnixSeconds
    spoken_at: Seconds


class MaestroOSDialect:
    """One MaestroOS connection called `name`."""

    beats = True
    echo_topic: str | None = None
    last_will: Publication | None = None

    def __init__(self, name: str, topic: str, switch: Switch, clock: Clock) -> None:
        self._topic = topic
        self._switch = switch
        self._clock = clock
        self._issuer = Issuer(f"maestroos{NAMESPACE_MARK}{name}")
        self._words: dict[int, _Word] = {}
        self._listening_since = clock.monotonic()
        self._stated: Allocation | None = None
        self._last_seq = 0
        self._leap = STEP_ON_STALE_SEQ
        self._must_restate = False

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        return {self._topic: Subscription(1, MESSAGES_KEPT, MAX_PAYLOAD_BYTES, is_state=True)}

    # ---- what the grid says -------------------------------------------------------------------

    def decode(self, received: Received) -> Sequence[GridMessage]:
        if received.topic != self._topic or not received.payload:
            return []
        try:
            word = self._read(received)
        except Rejection as refusal:
            reason, retained = refusal.reason, received.retained
            return [MessageRejected(refusal.code, reason, issuer=self._issuer, retained=retained)]
        before = self._words.get(received.broker)
        if before is not None and word.stamped_at == before.stamped_at and before.is_on != word.is_on:
            word = before if word.is_on else word  # both within one second: the next one decides, until then OFF
        self._words[received.broker] = word
        messages: list[GridMessage] = [] if received.retained else [HeartbeatReceived()]
        if self._follow() or (self._must_restate and not received.retained):
            self._must_restate = False
            messages += self._allocations(received.retained)
        return messages

    def _read(self, received: Received) -> _Word:
        if len(received.payload) > MAX_PAYLOAD_BYTES:
            raise Rejection(RejectCode.TOO_LARGE, f"longer than {MAX_PAYLOAD_BYTES} bytes")
        body, has_literals = fields.parse_object(received.payload)
        if has_literals:
            raise malformed("NaN and Infinity are not JSON")
        target, stamped_at = _number(body, "target"), _number(body, "timestamp")
        if target not in (0, 100):
            raise Rejection(RejectCode.NOT_A_LIMIT, f"target must be 0 or 100, got {fields.shown(target)}")
        age_s = self._clock.wall() - stamped_at
        if age_s < -self._switch.max_clock_skew_s:
            raise Rejection(RejectCode.CLOCK_SKEW, f"timestamp is {-age_s:.0f} s ahead of the site's clock")
        if age_s >= self._switch.silence_s:
            raise Rejection(RejectCode.EXPIRED, f"timestamp is {age_s:.0f} s old")
        before = self._words.get(received.broker)
        if before is not None and stamped_at < before.stamped_at:
            raise Rejection(RejectCode.STALE_SEQ, "timestamp lies before that of the last message")
        spoken_at = self._clock.monotonic() - max(0.0, age_s)
        if before is not None and stamped_at == before.stamped_at:
            spoken_at = before.spoken_at  # said again, it grows no younger
        return _Word(target == 100, stamped_at, spoken_at)

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        """What time alone has changed is no sign of life."""
        return self._allocations(retained=True) if self._follow() else []

    def _follow(self) -> bool:
        """Bring the allocation up to date; whether it is another one now."""
        now = self._clock.monotonic()
        spoken = [word for word in self._words.values() if now < word.spoken_at + self._switch.silence_s]
        if not spoken and now < self._listening_since + self._switch.silence_s:
            return False  # just started: nobody has been silent for long enough
        is_on = bool(spoken) and all(word.is_on for word in spoken)
        ceiling = self._switch.on_ceiling if is_on else Limit(0.0)
        if self._stated is not None and self._stated.ceiling == ceiling:
            return False
        if not spoken:
            log.error("no MaestroOS message on %s for %g s, which is OFF", self._topic, self._switch.silence_s)
        heard_at = max((word.spoken_at for word in self._words.values()), default=self._listening_since)
        self._last_seq = max(self._last_seq + 1, int(self._clock.wall() * 1000))
        self._stated = Allocation(
            id=AllocationId(f"{self._issuer}/{self._last_seq}"),
            seq=self._last_seq,
            issuer=self._issuer,
            feeder=self._switch.feeder,
            ceiling=ceiling,
            issued_at=heard_at,
            valid_from=now,
            valid_until=None,
        )
        return True

    def _allocations(self, retained: bool) -> list[GridMessage]:
        return [] if self._stated is None else [AllocationReceived(self._stated, retained)]

    # ---- what the site says: nothing, but it must know how its words were taken -----------------

    def owns(self, issuer: Issuer | None) -> bool:
        return issuer == self._issuer

    def ack(self, ack: Ack) -> Sequence[Publication]:
        if ack.stage is AckStage.REJECTED and ack.code is RejectCode.STALE_SEQ and ack.allocation_id is not None:
            self._last_seq += self._leap
            self._leap *= 2
            self._stated = None
        return []

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        """In the fail-safe the core waits for a fresh allocation: a sign of life alone does not leave it."""
        self._must_restate = status.phase in (LinkPhase.STARTING, LinkPhase.FAILSAFE)
        return []

    def breach(self, breach: BreachChanged) -> Sequence[Publication]:
        return []

    def goodbye(self) -> Sequence[Publication]:
        return []


def _number(body: Mapping[str, object], key: str) -> float:
    amount = fields.amount_or_none(body, key)
    if amount is None:
        raise malformed(f"{key} must be a number")
    return amount
