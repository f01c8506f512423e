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
    GridMessage,
    HeartbeatReceived,
    Issuer,
    MessageRejected,
    RejectCode,
)
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.limits import Ceiling, Limit
from curtaild.core.status import SiteStatus
from curtaild.grid import fields
from curtaild.grid.dialect import NAMESPACE_MARK, Publication, Received, Subscription
from curtaild.grid.fields import Rejection, malformed
from curtaild.grid.own_word import OwnWord
from curtaild_drivers.contract import FeederId, Seconds

log = logging.getLogger("curtaild.grid.maestroos")

MESSAGES_KEPT = 64
MAX_PAYLOAD_BYTES = 1024
"""Twenty times the one message there is."""


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
        self._word = OwnWord(Issuer(f"maestroos{NAMESPACE_MARK}{name}"), switch.feeder, clock)
        self._words: dict[int, _Word] = {}
        self._listening_since = clock.monotonic()

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
            return [MessageRejected(refusal.code, reason, issuer=self._word.issuer, retained=retained)]
        self._words[received.broker] = word
        messages: list[GridMessage] = [] if received.retained else [HeartbeatReceived()]
        if self._follow() or (self._word.must_repeat and not received.retained):
            messages += filter(None, [self._word.message(received.retained)])
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
        is_on, before = target == 100, self._words.get(received.broker)
        spoken_at = self._clock.monotonic() - max(0.0, age_s)
        if before is None:
            return _Word(is_on, stamped_at, spoken_at)
        if stamped_at == before.stamped_at:  # said again it grows no younger; both within one second count as OFF
            return _Word(is_on and before.is_on, stamped_at, before.spoken_at)
        if is_on and stamped_at < before.stamped_at:
            raise Rejection(RejectCode.STALE_SEQ, "timestamp lies before that of the last message")
        return _Word(is_on, stamped_at, spoken_at)  # an OFF counts late too: its stamp may be right, the last one's not

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        """What time alone has changed is no sign of life."""
        stated = self._word.message(retained=True) if self._follow() else None
        return [] if stated is None else [stated]

    def _follow(self) -> bool:
        """Bring what is stated up to date; whether it is another word now."""
        now = self._clock.monotonic()
        spoken = [word for word in self._words.values() if now < word.spoken_at + self._switch.silence_s]
        if not spoken and now < self._listening_since + self._switch.silence_s:
            return False  # just started: nobody has been silent for long enough
        is_on = bool(spoken) and all(word.is_on for word in spoken)
        heard_at = max((word.spoken_at for word in self._words.values()), default=self._listening_since)
        is_new = self._word.state(self._switch.on_ceiling if is_on else Limit(0.0), heard_at)
        if is_new and not spoken:
            log.error("no MaestroOS message on %s for %g s, which is OFF", self._topic, self._switch.silence_s)
        return is_new

    # ---- what the site says: nothing, but it must know how its words were taken -----------------

    def owns(self, issuer: Issuer | None) -> bool:
        return issuer == self._word.issuer

    def ack(self, ack: Ack) -> Sequence[Publication]:
        self._word.heed(ack)
        return []

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        self._word.follow(status)
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
