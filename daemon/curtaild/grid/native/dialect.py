"""The native dialect as the link knows dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curtaild.core.allocation import GridMessage, Issuer
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.status import SiteStatus
from curtaild.grid.dialect import NAMESPACE_MARK, Publication, Received, Subscription
from curtaild.grid.native.decode import decode
from curtaild.grid.native.encode import encode_ack, encode_breach, encode_last_will, encode_status, encode_stopped
from curtaild.grid.native.pace import Pace
from curtaild.grid.native.topics import Context

ALLOCATIONS_KEPT = 256
SCHEDULES_KEPT = 4


class NativeDialect:
    """`beats`: whether the grid's side sends heartbeats, as the site file says. The log calls the connection `name`."""

    def __init__(self, context: Context, beats: bool, name: str = "native") -> None:
        self.beats = beats
        self.echo_topic: str | None = context.topics.status
        self._context = context
        self._topics = context.topics
        gate = context.gate
        per_min_of = None if gate is None else lambda issuer: gate.rights[issuer].messages_per_min
        self._pace = Pace(name, context.clock, per_min_of)

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        topics, longest = self._topics, self._context.bound(self._topics.allocation)
        schedule = self._context.bound(topics.schedule)
        return {
            topics.allocation: Subscription(1, ALLOCATIONS_KEPT, longest, is_state=True),
            topics.schedule: Subscription(1, SCHEDULES_KEPT, schedule, is_state=True),
            topics.heartbeat: Subscription(0, 1, longest),
            topics.status: Subscription(1, 4, schedule),
        }

    @property
    def last_will(self) -> Publication | None:
        return self._status(encode_last_will())

    def goodbye(self) -> Sequence[Publication]:
        return [self._status(encode_stopped(self._context.clock))]

    def decode(self, received: Received) -> Sequence[GridMessage]:
        message = decode(received.topic, received.payload, received.retained, self._context)
        return [] if message is None else self._pace.pass_on(received.topic, message)

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        return self._pace.due()

    def owns(self, issuer: Issuer | None) -> bool:
        return issuer is None or NAMESPACE_MARK not in issuer

    def ack(self, ack: Ack) -> Sequence[Publication]:
        return [Publication(self._topics.ack, encode_ack(ack, self._context.clock))]

    def breach(self, breach: BreachChanged) -> Sequence[Publication]:
        return [Publication(self._topics.breach, encode_breach(breach, self._context.clock))]

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        return [self._status(encode_status(status, self._context.clock, limit_issuer))]

    def _status(self, payload: bytes) -> Publication:
        return Publication(self._topics.status, payload, qos=1, retain=True, is_state=True)
