"""The grid operator's side of the native dialect: for commissioning, the demo and tests. It states limits and listens.

One connection and no reconnecting: an operator at a terminal wants to know that the line is down.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiomqtt

from curtaild.clock import Clock, SystemClock, UnixSeconds
from curtaild.core.allocation import Urgency
from curtaild.grid.keys import Signer
from curtaild.grid.native import GridAllocation, Topics, encode_allocation, encode_heartbeat, encode_schedule, signed
from curtaild_drivers.broker.inbox import Inbox, Shelf
from curtaild_drivers.broker.mqtt import Access, Client, ConnectionFailed, connection, lost, publish, subscribe
from curtaild_drivers.contract import Seconds, Watts

MAX_UNREAD = 10_000
MAX_ANSWER_BYTES = 256 * 1024

Answer = dict[str, Any]
"""An ack, status or breach as it came: docs/grid/native.md lists the keys."""


@dataclass(frozen=True, slots=True)
class Window:
    """One coming allocation of a schedule, in wall time. `limit_w` `None` releases; `valid_until` `None` does not
    expire; `feeder` `None` is the site."""

    limit_w: Watts | None
    valid_from: UnixSeconds
    valid_until: UnixSeconds | None
    feeder: str | None = None
    reach_by_s: Seconds | None = None
    max_ramp_up_w_per_min: float | None = None
    is_emergency: bool = False


class Operator:
    """Use as `async with Operator(access, topics, issuer) as operator`; with a `signer`, all it says is signed.
    Everything raises `ConnectionFailed` once the line is down, and only then."""

    def __init__(
        self, access: Access, topics: Topics, issuer: str, clock: Clock | None = None, signer: Signer | None = None
    ) -> None:
        self._access = access
        self._topics = topics
        self._issuer = issuer
        self._clock = clock or SystemClock()
        self._signer = signer
        self._last_seq = 0
        self._acks: asyncio.Queue[Answer] = asyncio.Queue(MAX_UNREAD)
        self._breaches: asyncio.Queue[Answer] = asyncio.Queue(MAX_UNREAD)
        self._statuses: asyncio.Queue[Answer] = asyncio.Queue(1)
        self._stack = AsyncExitStack()
        self._client: Client
        self._reading: asyncio.Task[ConnectionFailed]

    async def __aenter__(self) -> Self:
        topics = self._topics
        unread = Shelf(MAX_UNREAD, MAX_ANSWER_BYTES)
        inbox = Inbox({topics.ack: unread, topics.breach: unread, topics.status: Shelf(1, MAX_ANSWER_BYTES)})
        async with AsyncExitStack() as stack:
            self._client = await stack.enter_async_context(connection(self._access, inbox))
            await subscribe(self._client, [(topics.ack, 1), (topics.breach, 1), (topics.status, 1)], self._access)
            self._reading = asyncio.create_task(self._read())
            stack.push_async_callback(self._stop_reading)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # ---- stating ------------------------------------------------------------------------------

    async def allocate(
        self,
        limit_w: Watts | None,
        *,
        feeder: str | None = None,
        valid_from: UnixSeconds | None = None,
        valid_for_s: Seconds | None = None,
        reach_by_s: Seconds | None = None,
        max_ramp_up_w_per_min: float | None = None,
        emergency: bool = False,
    ) -> str:
        """State an allocation (W; `None` releases), from now on unless `valid_from` says later, without end unless
        `valid_for_s` says how long. Returns its id."""
        begins = self._clock.wall() if valid_from is None else valid_from
        window = Window(
            limit_w=limit_w,
            valid_from=begins,
            valid_until=None if valid_for_s is None else begins + valid_for_s,
            feeder=feeder,
            reach_by_s=reach_by_s,
            max_ramp_up_w_per_min=max_ramp_up_w_per_min,
            is_emergency=emergency,
        )
        allocation = self._allocation(window)
        await self._say(self._topics.allocation, encode_allocation(allocation), qos=1, retain=True)
        return allocation.id

    async def release(self, *, feeder: str | None = None) -> str:
        """Lift the limit. Returns the releasing allocation's id."""
        return await self.allocate(None, feeder=feeder)

    async def schedule(self, windows: Sequence[Window]) -> list[str]:
        """State the whole list of coming allocations; it replaces the one before. Returns their ids."""
        seq = self._next_seq()
        allocations = [self._allocation(window) for window in windows]
        payload = encode_schedule(self._issuer, seq, self._clock.wall(), allocations)
        await self._say(self._topics.schedule, payload, qos=1, retain=True)
        return [allocation.id for allocation in allocations]

    async def heartbeat(self) -> None:
        beat = encode_heartbeat(self._clock.wall(), self._next_seq())
        await self._say(self._topics.heartbeat, beat, qos=0, retain=False)

    async def _say(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        said = payload if self._signer is None else signed(payload, topic, self._signer)
        await publish(self._client, topic, said, qos=qos, retain=retain)

    @asynccontextmanager
    async def heartbeats(self, interval_s: Seconds = 30.0) -> AsyncIterator[None]:
        """A heartbeat at once and every `interval_s`, for as long as the block runs and the line holds."""
        await self.heartbeat()

        async def beat() -> None:
            with suppress(ConnectionFailed):
                while True:
                    await asyncio.sleep(interval_s)
                    await self.heartbeat()

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait((beating,))

    # ---- listening ----------------------------------------------------------------------------

    async def acks(self) -> AsyncIterator[Answer]:
        """The site's acks since we connected, each given out once."""
        while True:
            yield await self._next(self._acks)

    async def breaches(self) -> AsyncIterator[Answer]:
        """The site's breach messages since we connected, each given out once."""
        while True:
            yield await self._next(self._breaches)

    async def status(self) -> Answer:
        """The newest status not given out yet; waits for one. The broker keeps the last, so the first comes at once."""
        return await self._next(self._statuses)

    async def _next(self, queue: asyncio.Queue[Answer]) -> Answer:
        getting = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait((getting, self._reading), return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise self._reading.result()
        finally:
            getting.cancel()

    async def _read(self) -> ConnectionFailed:
        """Sort what comes; returns why nothing more will."""
        queues = {
            self._topics.ack: self._acks,
            self._topics.breach: self._breaches,
            self._topics.status: self._statuses,
        }
        try:
            async for message in self._client.messages:
                queue = queues[message.topic.value]
                with suppress(ValueError, RecursionError):  # somebody else's words on the site's topics
                    answer = json.loads(message.payload)
                    if isinstance(answer, dict):
                        if queue.full():
                            queue.get_nowait()
                        queue.put_nowait(answer)
        except aiomqtt.MqttError as error:
            return lost(error)
        raise AssertionError("aiomqtt's messages end only by an error")

    async def _stop_reading(self) -> None:
        self._reading.cancel()
        await asyncio.wait((self._reading,))

    def _allocation(self, window: Window) -> GridAllocation:
        seq = self._next_seq()
        return GridAllocation(
            id=f"{seq}-{secrets.token_hex(4)}",
            seq=seq,
            issuer=self._issuer,
            issued_at=self._clock.wall(),
            limit_w=window.limit_w,
            valid_from=window.valid_from,
            valid_until=window.valid_until,
            feeder=window.feeder,
            reach_by_s=window.reach_by_s,
            max_ramp_up_w_per_min=window.max_ramp_up_w_per_min,
            urgency=Urgency.EMERGENCY if window.is_emergency else Urgency.NORMAL,
        )

    def _next_seq(self) -> int:
        """Milliseconds since 1970: rises over restarts of the operator's side without a file to keep."""
        self._last_seq = max(self._last_seq + 1, int(self._clock.wall() * 1000))
        return self._last_seq


def operator_access(
    host: str,
    port: int,
    *,
    is_tls: bool = False,
    username: str | None = None,
    password: str | None = None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
) -> Access:
    """How an operator reaches a broker: under an id of its own each time, so that two may listen at once."""
    client_id = f"curtaild-operator-{secrets.token_hex(4)}"
    return Access(host, port, is_tls, client_id, username, password, ca_file, cert_file, key_file)
