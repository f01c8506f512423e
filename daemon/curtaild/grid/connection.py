"""The grid link: one site, 1..n brokers. What any of them brings is delivered; what the site says goes to all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.status import SiteStatus
from curtaild.grid.broker_link import BrokerLink, BrokerState
from curtaild.grid.mqtt import Access
from curtaild.grid.native import Context, Topics, encode_ack, encode_breach
from curtaild.grid.outbox import Answer
from curtaild_drivers.contract import FeederId, Seconds


class BrokerAddress(Protocol):
    """Where a broker listens, as `curtaild_config` reads it from a URL."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def tls(self) -> bool: ...


class LinkSettings(Protocol):
    """What the link reads of the site file's `[grid]`."""

    @property
    def brokers(self) -> Sequence[BrokerAddress]: ...
    @property
    def prefix(self) -> str: ...
    @property
    def username(self) -> str | None: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def client_id(self) -> str | None: ...
    @property
    def keepalive_s(self) -> Seconds: ...
    @property
    def max_clock_skew_s(self) -> Seconds: ...
    @property
    def max_payload_bytes(self) -> int: ...


class GridLink:
    """The site's side of the native dialect.

    `deliver` is called on the event loop for each message of the grid; it must return at once. `ack`, `breach` and
    `status` may be called at any time, connected or not: they queue, bounded, and never block. Raises `ValueError`
    where prefix or site are not usable in topics.
    """

    def __init__(
        self,
        settings: LinkSettings,
        site: str,
        root: FeederId,
        clock: Clock,
        deliver: Callable[[GridMessage], None],
        password: str | None,
    ) -> None:
        self._clock = clock
        self._topics = Topics(settings.prefix, site)
        context = Context(self._topics, root, clock, settings.max_clock_skew_s, settings.max_payload_bytes)
        accesses = broker_accesses(settings, settings.client_id or f"curtaild-{site}", password)
        self._brokers = [BrokerLink(access, context, deliver) for access in accesses]

    async def run(self) -> None:
        """Keep all brokers connected until cancelled; then tell each that the site goes offline on purpose."""
        async with asyncio.TaskGroup() as tasks:
            for broker in self._brokers:
                tasks.create_task(broker.run())

    def ack(self, ack: Ack) -> None:
        self._answer(Answer(self._topics.ack, encode_ack(ack, self._clock)))

    def breach(self, breach: BreachChanged) -> None:
        self._answer(Answer(self._topics.breach, encode_breach(breach, self._clock)))

    def status(self, status: SiteStatus) -> None:
        for broker in self._brokers:
            broker.status(status)

    @property
    def links(self) -> Sequence[BrokerState]:
        """How each broker's link stands now, in the order of the settings."""
        return [broker.state for broker in self._brokers]

    def _answer(self, answer: Answer) -> None:
        for broker in self._brokers:
            broker.answer(answer)


def broker_accesses(settings: LinkSettings, client_id: str, password: str | None) -> list[Access]:
    """One access per broker. From the second on the client id is numbered: two addresses may lead to one cluster, which
    would end the first connection when the second arrives under the same id."""
    return [
        Access(
            host=broker.host,
            port=broker.port,
            is_tls=broker.tls,
            client_id=client_id if number == 1 else f"{client_id}-{number}",
            username=settings.username,
            password=password,
            ca_file=settings.ca_file,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            keepalive_s=settings.keepalive_s,
        )
        for number, broker in enumerate(settings.brokers, start=1)
    ]
