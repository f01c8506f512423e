"""The grid link: any number of connections, each one dialect at 1..n brokers. What any of them brings is delivered;
answers go to the connection that the allocation came by, breaches and the status to all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from curtaild.clock import Clock
from curtaild.core.allocation import AllocationId, GridMessage, HeartbeatReceived, Issuer
from curtaild.core.events import Ack, AckStage, BreachChanged
from curtaild.core.status import SiteStatus
from curtaild.grid.broker_link import BrokerLink, BrokerState
from curtaild.grid.dialect import Dialect, Publication
from curtaild_drivers.broker.mqtt import Access
from curtaild_drivers.contract import Seconds

log = logging.getLogger("curtaild.grid")

TICK_S = 1.0
CLOCKS_AGREE_S = 10.0
"""Clocks further apart than this are told of. A heartbeat may take a while on its way."""
MOST_ISSUERS_KEPT = 4096
"""Allocations whose issuer is remembered, to say in the status whose limit holds."""


class BrokerAddress(Protocol):
    """Where a broker listens, as `curtaild_config` reads it from a URL."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def tls(self) -> bool: ...


class BrokerSettings(Protocol):
    """How a connection reaches its brokers, as the site file says."""

    @property
    def brokers(self) -> Sequence[BrokerAddress]: ...
    @property
    def username(self) -> str | None: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def keepalive_s(self) -> Seconds: ...


class Line(Protocol):
    """A connection as the link knows it: `Connection` at MQTT brokers, or one that reaches the grid in another way."""

    @property
    def name(self) -> str: ...

    @property
    def dialect(self) -> Dialect: ...

    @property
    def states(self) -> Sequence[BrokerState]: ...

    async def run(self) -> None: ...

    def publish(self, publications: Sequence[Publication]) -> None: ...


class Connection:
    """One dialect at its brokers. `deliver` is called on the event loop for each message of the grid."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        accesses: Sequence[Access],
        clock: Clock,
        deliver: Callable[[GridMessage], None],
    ) -> None:
        self.name = name
        self.dialect = dialect
        self._deliver = deliver
        self._brokers = [
            BrokerLink(access, dialect, name, number, clock, deliver) for number, access in enumerate(accesses)
        ]

    async def run(self) -> None:
        """Keep all brokers connected until cancelled; then tell each, where the dialect has a word for it."""
        async with asyncio.TaskGroup() as tasks:
            for broker in self._brokers:
                tasks.create_task(broker.run())
            tasks.create_task(self._keep_time())

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for message in self.dialect.tick(any(broker.state.connected for broker in self._brokers)):
                self._deliver(message)

    def publish(self, publications: Sequence[Publication]) -> None:
        for publication in publications:
            for broker in self._brokers:
                broker.publish(publication)

    @property
    def states(self) -> Sequence[BrokerState]:
        return [broker.state for broker in self._brokers]


class GridLink:
    """The site's side of all its grid connections.

    `deliver` is called on the event loop for each message of the grid; it must return at once. `ack`, `breach` and
    `status` may be called at any time, connected or not: they queue, bounded, and never block.
    """

    def __init__(self, clock: Clock, deliver: Callable[[GridMessage], None], heartbeat_timeout_s: Seconds) -> None:
        self._clock = clock
        self._deliver = deliver
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._connections: list[Line] = []
        self._beaten_at: dict[str, Seconds] = {}
        self._issuers: OrderedDict[AllocationId, Issuer] = OrderedDict()
        self.clocks_ahead_s: dict[str, Seconds] = {}

    def connect(self, name: str, dialect: Dialect, accesses: Sequence[Access]) -> None:
        """Add a connection at brokers; before `run`. `name` is its own among them."""
        self.join(Connection(name, dialect, accesses, self._clock, self.deliver_as(name)))

    def join(self, line: Line) -> None:
        """Add a connection that delivers by `deliver_as`; before `run`."""
        self._connections.append(line)

    def deliver_as(self, name: str) -> Callable[[GridMessage], None]:
        """What the connection of this name calls with each message of the grid."""
        return partial(self._receive, name)

    async def run(self) -> None:
        """Keep all connections until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for connection in self._connections:
                tasks.create_task(connection.run())

    # ---- what the grid says -------------------------------------------------------------------

    def _receive(self, name: str, message: GridMessage) -> None:
        """A sign of life passes on only while every connection that promises them gives them: one that went silent
        must not hide behind the others."""
        if isinstance(message, HeartbeatReceived):
            if message.ahead_s is not None:
                self._note_clock(name, message.ahead_s)
            self._beaten_at[name] = self._clock.monotonic()
            if not all(self._is_alive(connection) for connection in self._connections):
                return
        self._deliver(message)

    def _note_clock(self, name: str, ahead_s: Seconds) -> None:
        was_off = abs(self.clocks_ahead_s.get(name, 0.0)) > CLOCKS_AGREE_S
        is_off = abs(ahead_s) > CLOCKS_AGREE_S
        self.clocks_ahead_s[name] = ahead_s
        if is_off and not was_off:
            way = "ahead of" if ahead_s > 0 else "behind"
            log.warning("grid connection %s: the grid's clock is %.0f s %s ours", name, abs(ahead_s), way)
        elif was_off and not is_off:
            log.warning("grid connection %s: the grid's clock and ours agree again", name)

    def _is_alive(self, connection: Line) -> bool:
        if not connection.dialect.beats:
            return True
        beaten_at = self._beaten_at.get(connection.name)
        return beaten_at is not None and self._clock.monotonic() < beaten_at + self._heartbeat_timeout_s

    # ---- what the site says -------------------------------------------------------------------

    def ack(self, ack: Ack) -> None:
        self._remember_issuer(ack)
        for connection in self._connections:
            if connection.dialect.owns(ack.issuer):
                connection.publish(connection.dialect.ack(ack))

    def breach(self, breach: BreachChanged) -> None:
        for connection in self._connections:
            connection.publish(connection.dialect.breach(breach))

    def status(self, status: SiteStatus) -> None:
        issuer = self._issuers.get(AllocationId(status.site.limit_source))
        for connection in self._connections:
            connection.publish(connection.dialect.status(status, issuer))

    def _remember_issuer(self, ack: Ack) -> None:
        """Every allocation in force has been answered, after a restart too."""
        if ack.allocation_id is None or ack.issuer is None or ack.stage is AckStage.REJECTED:
            return
        self._issuers[ack.allocation_id] = ack.issuer
        self._issuers.move_to_end(ack.allocation_id)
        if len(self._issuers) > MOST_ISSUERS_KEPT:
            self._issuers.popitem(last=False)

    @property
    def links(self) -> Sequence[BrokerState]:
        """How each broker's link stands now, in the order of the site file."""
        return [state for connection in self._connections for state in connection.states]


def broker_accesses(settings: BrokerSettings, client_id: str, password: str | None) -> list[Access]:
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
