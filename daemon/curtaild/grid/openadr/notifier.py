"""The VTN's MQTT notifications: connections to the brokers that the VTN names, as it wants us to log in, on the topics
it tells. They make the site faster, never blind: what they bring is read again from the VTN."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage, Issuer
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.status import SiteStatus
from curtaild.grid.broker_link import BrokerLink, BrokerState
from curtaild.grid.dialect import Publication, Received, Subscription
from curtaild.grid.openadr.dialect import MAX_NOTIFICATION_BYTES, OpenAdrDialect
from curtaild.grid.openadr.objects import MqttBinding
from curtaild_drivers.broker.mqtt import Access

MESSAGES_KEPT = 64
OWN_CLIENT_ID = "{clientID}"
"""As a user name this means our OAuth2 client id (OpenADR 3.1.0, MQTT authentication)."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where to listen, to what, and as whom. `token` is the broker's password where it wants one."""

    binding: MqttBinding
    topics: tuple[str, ...]
    client_id: str | None
    token: str | None = field(repr=False)


class _Notices:
    """The notifications as a broker link knows dialects: it listens, and hints that there is something to read."""

    beats = False
    echo_topic: str | None = None
    last_will: Publication | None = None

    def __init__(self, topics: Sequence[str], dialect: OpenAdrDialect, hint: Callable[[], None]) -> None:
        self.subscriptions: Mapping[str, Subscription] = {
            topic: Subscription(1, MESSAGES_KEPT, MAX_NOTIFICATION_BYTES) for topic in topics
        }
        self._dialect = dialect
        self._hint = hint

    def decode(self, received: Received) -> Sequence[GridMessage]:
        messages = self._dialect.decode(received)
        self._hint()
        return messages

    def tick(self, is_connected: bool) -> Sequence[GridMessage]:
        return []

    def owns(self, issuer: Issuer | None) -> bool:
        return False

    def ack(self, ack: Ack) -> Sequence[Publication]:
        return []

    def breach(self, breach: BreachChanged) -> Sequence[Publication]:
        return []

    def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
        return []

    def goodbye(self) -> Sequence[Publication]:
        return []


class Notifier:
    """Listens where it was told to last. `hint` is called where there may be something to read at the VTN: a
    notification, or a connection just made, before which one may have been missed."""

    def __init__(
        self,
        name: str,
        mqtt_client_id: str,
        ca_file: Path | None,
        dialect: OpenAdrDialect,
        clock: Clock,
        deliver: Callable[[GridMessage], None],
        hint: Callable[[], None],
    ) -> None:
        self._name = name
        self._mqtt_client_id = mqtt_client_id
        self._ca_file = ca_file
        self._dialect = dialect
        self._clock = clock
        self._deliver = deliver
        self._hint = hint
        self._wanted: Listening | None = None
        self._denied: frozenset[str] = frozenset()
        self._has_changed = asyncio.Event()
        self._links: list[BrokerLink] = []
        self._was_up: list[bool] = []

    @property
    def states(self) -> Sequence[BrokerState]:
        return [link.state for link in self._links]

    def listen(self, wanted: Listening | None) -> None:
        """From now on there, `None`: nowhere. A token that only has been renewed breaks no connection that holds."""
        before = self._wanted
        if before is not None and wanted is not None and wanted.binding == before.binding:
            is_same = wanted.topics == before.topics and wanted.client_id == before.client_id
            if is_same and (wanted.token == before.token or all(state.connected for state in self.states)):
                return
        elif wanted == before:
            return
        else:
            self._denied = frozenset()
        self._wanted = wanted
        self._has_changed.set()

    def look(self) -> None:
        """About once a second: what has come up, and what the broker will not let us read."""
        states = self.states
        for was_up, state in zip(self._was_up, states, strict=False):
            if state.connected and not was_up:
                self._hint()
        self._was_up = [state.connected for state in states]
        if self._wanted is not None:
            refused = {topic for topic in self._topics for state in states if topic in (state.last_error or "")}
            if refused and len(refused) < len(self._topics):
                self._denied |= refused
                self._has_changed.set()

    @property
    def _topics(self) -> tuple[str, ...]:
        wanted = self._wanted.topics if self._wanted is not None else ()
        return tuple(topic for topic in wanted if topic not in self._denied)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._has_changed.clear()
            wanted = self._wanted
            with _certificates(wanted) as files:
                self._links = [
                    BrokerLink(
                        access,
                        _Notices(self._topics, self._dialect, self._hint),
                        self._name,
                        number,
                        self._clock,
                        self._deliver,
                    )
                    for number, access in enumerate(self._accesses(wanted, files))
                ]
                self._was_up = [False] * len(self._links)
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(link.run()) for link in self._links]
                    await self._has_changed.wait()
                    for task in running:
                        task.cancel()

    def _accesses(self, wanted: Listening | None, files: Sequence[Path]) -> Iterator[Access]:
        if wanted is None or not self._topics:
            return
        username = wanted.binding.username
        authority, certificate, key = files or (self._ca_file, None, None)
        for number, (host, port) in enumerate(wanted.binding.places, start=1):
            yield Access(
                host=host,
                port=port,
                is_tls=True,
                client_id=self._mqtt_client_id if number == 1 else f"{self._mqtt_client_id}-{number}",
                username=wanted.client_id if username == OWN_CLIENT_ID else username,
                password=wanted.token if username is not None else None,
                ca_file=authority,
                cert_file=certificate,
                key_file=key,
            )


@contextmanager
def _certificates(wanted: Listening | None) -> Iterator[Sequence[Path]]:
    """The VTN's certificates as files, which TLS libraries want: in memory, so that the key lies on no disk."""
    certificates = wanted.binding.certificates if wanted is not None else None
    if certificates is None:
        yield ()
        return
    descriptors: list[int] = []
    try:
        for text in (certificates.authority, certificates.certificate, certificates.key):
            descriptors.append(os.memfd_create("openadr"))
            with os.fdopen(os.dup(descriptors[-1]), "w") as file:
                file.write(text)
        yield [Path(f"/proc/self/fd/{descriptor}") for descriptor in descriptors]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
