"""What the tests of the grid link share: settings, a status to publish, a link that runs while a block does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiomqtt

from curtaild.clock import SystemClock
from curtaild.core.allocation import AllocationId, AllocationReceived, GridMessage, Issuer
from curtaild.core.events import Ack, AckStage, LinkPhase
from curtaild.core.limits import Limit
from curtaild.core.status import FeederStatus, SiteStatus
from curtaild.grid.broker_link import BrokerState
from curtaild.grid.connection import GridLink, broker_accesses
from curtaild.grid.native import Context, NativeDialect, Topics
from curtaild.grid.operator import Operator, operator_access
from curtaild_drivers.broker.mqtt import Access
from curtaild_drivers.contract import FeederId
from loop_clock import comes_true
from mosquitto import Mosquitto

ROOT = FeederId("main")
CLOCK = SystemClock()
PATIENCE_S = 60.0
"""How long a test waits for what must come; only a failing one waits that long."""

Sort = TypeVar("Sort")


@dataclass(frozen=True)
class Place:
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True)
class Settings:
    """What a native connection reads of `[grid]`, free of the site file's lower bounds."""

    brokers: tuple[Place, ...]
    prefix: str = "curtaild/v1"
    username: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: float = 10.0
    max_clock_skew_s: float = 300.0
    max_payload_bytes: int = 16_384


@dataclass
class Running:
    """A link at work and what it has delivered."""

    link: GridLink
    task: asyncio.Task[None]
    delivered: asyncio.Queue[GridMessage] = field(default_factory=asyncio.Queue)

    async def next(self, sort: type[Sort]) -> Sort:
        """The next message delivered of this sort; others are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.delivered.get()
                if isinstance(message, sort):
                    return message

    async def until(self, holds: Callable[[BrokerState], bool], broker: int = 0) -> BrokerState:
        """Wait until the link to a broker stands so."""
        await comes_true(lambda: holds(self.link.links[broker]))
        return self.link.links[broker]

    async def connected(self) -> None:
        for index, _ in enumerate(self.link.links):
            await self.until(lambda state: state.connected, index)


def native_link(
    settings: Settings, site: str, password: str | None, deliver: Callable[[GridMessage], None]
) -> GridLink:
    """A link with one native connection."""
    context = Context(Topics(settings.prefix, site), ROOT, CLOCK, settings.max_clock_skew_s, settings.max_payload_bytes)
    link = GridLink(CLOCK, deliver, heartbeat_timeout_s=PATIENCE_S)
    link.connect("native", NativeDialect(context, beats=True), broker_accesses(settings, f"curtaild-{site}", password))
    return link


@asynccontextmanager
async def running(
    settings: Settings, site: str, password: str | None = None, wait: bool = True
) -> AsyncIterator[Running]:
    """A link that runs while the block does, and is then stopped cleanly."""
    delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
    async with at_work(native_link(settings, site, password, delivered.put_nowait), delivered) as run:
        if wait:
            await run.connected()
        yield run


@asynccontextmanager
async def at_work(link: GridLink, delivered: asyncio.Queue[GridMessage]) -> AsyncIterator[Running]:
    """`link` runs while the block does."""
    task = asyncio.create_task(link.run())
    try:
        yield Running(link, task, delivered)
    finally:
        task.cancel()
        _, late = await asyncio.wait((task,), timeout=PATIENCE_S)
        assert not late, "the link does not stop"
        if not task.cancelled():
            task.result()


async def error_of(settings: Settings, site: str) -> str:
    """What a link that cannot be made says."""
    async with running(settings, site, wait=False) as run:
        return (await run.until(lambda state: state.last_error is not None)).last_error or ""


def at(*brokers: Mosquitto, **changes: Any) -> Settings:
    return Settings(brokers=tuple(Place("127.0.0.1", broker.port) for broker in brokers), **changes)


def topics(site: str) -> Topics:
    return Topics("curtaild/v1", site)


def operator(
    broker: Mosquitto, site: str, username: str | None = None, password: str | None = None, issuer: str = "npcc"
) -> Operator:
    return Operator(as_operator(broker, username, password), topics(site), issuer)


def as_operator(broker: Mosquitto, username: str | None = None, password: str | None = None) -> Access:
    return operator_access("127.0.0.1", broker.port, username=username, password=password)


@asynccontextmanager
async def onlooker(
    broker: Mosquitto, *listen_to: str, username: str | None = None, password: str | None = None
) -> AsyncIterator[aiomqtt.Client]:
    """A plain MQTT client, to see and send exactly what is on the wire."""
    async with aiomqtt.Client("127.0.0.1", broker.port, username=username, password=password) as client:
        for topic in listen_to:
            await client.subscribe(topic, qos=2)
        yield client


async def heard(client: aiomqtt.Client, fits: Callable[[dict[str, Any]], bool] = lambda body: True) -> aiomqtt.Message:
    """The next message whose JSON body fits."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await anext(client.messages)
            if fits(json.loads(message.payload)):
                return message


def is_state(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda body: body["state"] == state


def limit_of(received: AllocationReceived) -> float:
    ceiling = received.allocation.ceiling
    assert isinstance(ceiling, Limit)
    return ceiling.watts


def an_ack(number: int, stage: AckStage = AckStage.ACCEPTED) -> Ack:
    return Ack(CLOCK.monotonic(), stage, AllocationId(f"order-{number}"), Issuer("npcc"), number, ROOT, 1e6)


def a_feeder(limit_w: float = 1_000_000.0) -> FeederStatus:
    return FeederStatus(
        id=ROOT,
        parent=None,
        rating_w=2_000_000.0,
        limit_w=limit_w,
        ceiling=Limit(limit_w),
        limit_source="order-1",
        metered_w=990_000.04,
        meter_is_fresh=True,
        meter_age_s=1.0,
        measured_w=900_000.0,
        reserved_w=910_000.0,
        planned_w=905_000.0,
        auxiliary_w=80_000.0,
        headroom_w=10_000.0,
        deficit_w=0.0,
        curtailed_w=500_000.0,
        devices=300,
    )


def a_status(limit_w: float = 1_000_000.0, phase: LinkPhase = LinkPhase.LIMITED) -> SiteStatus:
    return SiteStatus(
        at=CLOCK.monotonic(),
        phase=phase,
        phase_reason="the grid's allocation holds",
        root=ROOT,
        heartbeat_age_s=2.5,
        allocation_id="order-1",
        flexible_up_w=500_000.0,
        flexible_down_w=890_000.0,
        actuations_in_flight=0,
        next_limit_change_at=None,
        feeders=(a_feeder(limit_w),),
        devices=(),
    )
