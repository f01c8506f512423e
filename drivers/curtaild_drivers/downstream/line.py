"""One connection to a broker, shared by all children that listen there; made when one of them is asked.

Nothing is kept while it is down: what a parent had to say then is said anew, or was never sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Protocol
from weakref import WeakSet

import aiomqtt

from curtaild_drivers.broker.inbox import Inbox, Shelf, WorkBudget
from curtaild_drivers.broker.mqtt import (
    Access,
    Client,
    ConnectionFailed,
    Obstacle,
    connection,
    heeding_cancellation,
    lost,
    publish,
    subscribe,
)
from curtaild_drivers.contract import AuthFailed, DriverError, OutcomeUnknown, Seconds, Unreachable

RETRY_S = 1.0
SETUP_RETRY_S = 15.0
"""Wrong credentials do not heal by themselves, and brokers ban those who insist."""
OPEN_DEADLINE_S = 12.0
WAITING_MESSAGES = 16
MOST_BYTES = 256 * 1024
READING_SHARE, READING_BURST_S = 0.2, 0.05


class Hearer(Protocol):
    """A child, as its line knows it. Neither call raises."""

    @property
    def hears(self) -> Collection[str]: ...
    def hear(self, topic: str, payload: bytes, is_live: bool) -> None: ...
    def line_is_down(self, trouble: DriverError) -> None: ...


class Line:
    """The connection to one broker as one user."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._hearers: WeakSet[Hearer] = WeakSet()
        self._opening = asyncio.Lock()
        self._session: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._heard: WeakSet[Hearer] = WeakSet()
        self._trouble: DriverError | None = None
        self._not_before: Seconds = 0.0

    def join(self, hearer: Hearer) -> None:
        """No I/O: it is heard from the next connection on."""
        self._hearers.add(hearer)

    async def leave(self, hearer: Hearer) -> bool:
        """The last one closes the connection; whether that was the last."""
        self._hearers.discard(hearer)
        if not self._hearers:
            await self._hang_up()
        return not self._hearers

    async def up(self, hearer: Hearer) -> None:
        """Connected, and `hearer` is heard. Raises `Unreachable`, or `AuthFailed` where a person must act."""
        if self._client is not None and hearer in self._heard:
            return
        async with self._opening:
            if self._client is not None and hearer in self._heard:
                return
            if self._trouble is not None and time.monotonic() < self._not_before:
                raise self._trouble
            await self._hang_up()
            is_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._session = asyncio.create_task(self._run(is_up))
            try:
                async with asyncio.timeout(OPEN_DEADLINE_S):
                    await asyncio.shield(is_up)
            except TimeoutError:
                await self._hang_up()
                raise Unreachable(f"{self._access.url} did not answer in {OPEN_DEADLINE_S:g} s") from None

    async def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Once the broker has taken it. Raises `OutcomeUnknown` where the line breaks meanwhile; then it is given up:
        what a client could not send may yet go out as long as that client lives."""
        client = self._client
        if client is None:
            raise Unreachable(f"no connection to {self._access.url}")
        try:
            await publish(client, topic, payload, qos=qos, retain=retain)
        except ConnectionFailed as failure:
            await self._hang_up()
            raise OutcomeUnknown(f"{self._access.url}: {failure.reason}") from None

    async def _run(self, is_up: asyncio.Future[None]) -> None:
        """One session, from connecting to losing it."""
        by_topic: dict[str, list[Hearer]] = {}
        heard = WeakSet(self._hearers)
        for hearer in heard:
            for topic in hearer.hears:
                by_topic.setdefault(topic, []).append(hearer)
        inbox = Inbox({topic: Shelf(WAITING_MESSAGES, MOST_BYTES) for topic in by_topic})
        trouble: DriverError = Unreachable(f"the connection to {self._access.url} was closed")
        try:
            async with connection(self._access, inbox) as client:
                await subscribe(client, [(topic, 1) for topic in sorted(by_topic)], self._access)
                self._client, self._heard, self._trouble = client, heard, None
                is_up.set_result(None)
                await self._read(client, by_topic)
        except ConnectionFailed as failure:
            trouble = _told(self._access, failure)
        except aiomqtt.MqttError as error:
            trouble = _told(self._access, lost(error))
        finally:
            self._client, self._trouble = None, trouble
            self._not_before = time.monotonic() + (SETUP_RETRY_S if isinstance(trouble, AuthFailed) else RETRY_S)
            if not is_up.done():
                is_up.set_exception(trouble)
                is_up.exception()  # marks it as seen, should nobody wait any more
            for hearer in tuple(heard):
                hearer.line_is_down(trouble)

    @staticmethod
    async def _read(client: Client, by_topic: Mapping[str, Sequence[Hearer]]) -> None:
        """A flood gets a share of the event loop, not all of it."""
        budget = WorkBudget(READING_SHARE, READING_BURST_S)
        async for message in client.messages:
            begun = perf_counter()
            topic, payload = message.topic.value, bytes(message.payload)
            for hearer in by_topic.get(topic, ()):
                if len(payload) <= MOST_BYTES:
                    hearer.hear(topic, payload, not message.retain)
            ended = perf_counter()
            pause_s = budget.pause_after(ended - begun, ended)
            if pause_s > 0:
                await asyncio.sleep(pause_s)

    async def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await heeding_cancellation(_ended(session))


async def _ended(session: asyncio.Task[None]) -> None:
    await asyncio.wait((session,))


def _told(access: Access, failure: ConnectionFailed) -> DriverError:
    kind = AuthFailed if failure.obstacle is Obstacle.SETUP else Unreachable
    return kind(f"{access.url}: {failure.reason}")


_lines: dict[Access, Line] = {}


def line_at(access: Access) -> Line:
    """The one line there is for this access. Children of a broker share it whatever their group is called."""
    named = replace(access, client_id="")
    if named not in _lines:
        _lines[named] = Line(access)
    return _lines[named]


def forget(lines: Iterable[Line]) -> None:
    """Of closed lines nothing is kept."""
    gone = set(map(id, lines))
    for access in [access for access, line in _lines.items() if id(line) in gone]:
        del _lines[access]
