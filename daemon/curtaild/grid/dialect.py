"""What a dialect is to the rest of the link: topics to hear, bytes to grid messages, events to publications. A dialect
does no I/O; it may keep state, and has one instance per connection of the site file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from curtaild.core.allocation import GridMessage, Issuer
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.status import SiteStatus

NAMESPACE_MARK = "//"
"""Stands in the issuers that all dialects but the native one make up, and is refused in those that the native one
reads: so nobody supersedes, by naming himself alike, what was stated in another dialect."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """How one topic is listened to. `messages` newest are kept unread, each of `max_payload_bytes`; where `is_state`,
    the broker keeps a copy that is worth asking for again after a flood."""

    qos: int
    messages: int
    max_payload_bytes: int
    is_state: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """One message off the wire. `broker` counts the connection's brokers from 0; `retained`: a copy the broker kept."""

    topic: str
    payload: bytes
    retained: bool = False
    broker: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to the grid. Where `is_state`, only the newest on its topic is worth sending; one that is retained as
    well is said again on each connect."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    is_state: bool = False


class Dialect(Protocol):
    """One wire format at one connection. Nothing here raises on anything the wire can bring, and nothing waits."""

    @property
    def beats(self) -> bool:
        """Whether the grid's side promises signs of life in this dialect, so that their absence means something."""
        ...

    @property
    def subscriptions(self) -> Mapping[str, Subscription]: ...

    @property
    def echo_topic(self) -> str | None:
        """A topic of our own states that the broker lets us read too: it shows whether what we publish arrives."""
        ...

    @property
    def last_will(self) -> Publication | None:
        """What the broker says for us when the connection breaks."""
        ...

    def goodbye(self) -> Sequence[Publication]:
        """What is said before a connection is closed on purpose."""
        ...

    def decode(self, received: Received) -> Sequence[GridMessage]:
        """What the grid said, or why it is not taken; nothing where nothing was said."""
        ...

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        """About once a second: what follows from time alone, such as a silence. `is_connected`: to any broker."""
        ...

    def owns(self, issuer: Issuer | None) -> bool:
        """Whether answers to this issuer go to this connection; `None`: to nobody whose name could be read."""
        ...

    def ack(self, ack: Ack) -> Sequence[Publication]: ...

    def breach(self, breach: BreachChanged) -> Sequence[Publication]: ...

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        """The site as it stands. `limit_issuer` says whose allocation limits the whole site, if anybody's."""
        ...
