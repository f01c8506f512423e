"""A site below, on paper: it says what docs/grid/native.md says that a site says, and draws what it is allowed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self

import aiomqtt
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from curtaild_drivers.broker.mqtt import heeding_cancellation

STATUS_EVERY_S = 0.05


class PaperChild:
    """Its demand, its floor and its fail-safe limit, in W; `full_w` is what it draws without a limit."""

    def __init__(self, name: str, *, full_w: float = 8_000.0, floor_w: float = 500.0, failsafe_w: float = 5_000.0):
        self.name = name
        self.full_w, self.floor_w, self.failsafe_w = full_w, floor_w, failsafe_w
        self.limit_w: float | None = failsafe_w
        self.source = "fail-safe"
        self.state = "starting"
        self.taken: list[dict[str, Any]] = []
        self.heartbeats = 0
        self.answers = True
        self.says: dict[str, Any] = {}
        """Beside and instead of what its status would say."""
        self.refusal: tuple[str, str] | None = None
        self.port = 0
        self.key: ECKey | None = None
        """Whose signature it asks for; without one it takes what is not signed."""
        self._client: aiomqtt.Client

    @property
    def power_w(self) -> float:
        limit_w = self.full_w if self.limit_w is None else self.limit_w
        return max(self.floor_w, min(self.full_w, limit_w))

    def status(self) -> dict[str, Any]:
        return {
            "at": "2026-11-20T11:31:00.000Z",
            "state": self.state,
            "reason": "on paper",
            "limit_w": 20_000.0 if self.limit_w is None else self.limit_w,
            "limit_source": self.source,
            "metered_w": None,
            "measured_w": self.power_w - 200.0,
            "reserved_w": self.power_w - 150.0,
            "planned_w": self.power_w - 200.0,
            "auxiliary_w": 200.0,
            "flexible_up_w": self.full_w - self.power_w,
            "flexible_down_w": self.power_w - self.floor_w,
            "actuations_in_flight": 0,
            "devices": 1,
            **self.says,
        }

    @asynccontextmanager
    async def at(self, port: int) -> AsyncIterator[Self]:
        """Connected; leaving without a word, so that the broker says it."""
        will = json.dumps({"at": None, "state": "offline", "reason": "connection lost"})
        topic, self.port = f"curtaild/v1/{self.name}", port
        client = aiomqtt.Client(
            "127.0.0.1",
            port,
            will=aiomqtt.Will(f"{topic}/status", will, qos=1, retain=True),
            clean_session=True,
            timeout=60.0,
        )
        async with AsyncExitStack() as stack:
            self._client = await stack.enter_async_context(client)
            await client.subscribe([(f"{topic}/allocation", 1), (f"{topic}/heartbeat", 0)])
            work = [asyncio.create_task(self._listen(topic)), asyncio.create_task(self._tell(topic))]
            try:
                yield self
            finally:
                for task in work:
                    task.cancel()
                await asyncio.wait(work)

    def die(self) -> None:
        """The connection breaks: nobody says goodbye."""
        connected = self._client._client.socket()
        assert isinstance(connected, socket.socket)
        connected.shutdown(socket.SHUT_RDWR)

    async def _listen(self, topic: str) -> None:
        with suppress(aiomqtt.MqttError):
            async for message in self._client.messages:
                with suppress(ValueError, TypeError, KeyError, RecursionError, JoseError):
                    said = self._opened(bytes(message.payload))
                    if message.topic.value.endswith("/heartbeat"):
                        self.heartbeats += 1
                    elif self.answers:
                        await self._take(topic, said)

    def _opened(self, payload: bytes) -> dict[str, Any]:
        body = payload if self.key is None else jws.deserialize_compact(payload, self.key).payload
        said: dict[str, Any] = json.loads(body)
        return said

    async def _take(self, topic: str, said: dict[str, Any]) -> None:
        if self.refusal is None:
            self.limit_w, self.source = said["limit_w"], said["id"]
            self.taken.append(said)
            self.state = "unlimited" if said["limit_w"] is None else "limited"
        code, reason = self.refusal or (None, None)
        stage = "rejected" if code else "accepted"
        ack = {"stage": stage, "id": said["id"], "seq": said["seq"], "code": code, "reason": reason}
        await self._publish(f"{topic}/ack", ack)

    async def _tell(self, topic: str) -> None:
        with suppress(aiomqtt.MqttError):
            while True:
                await self._publish(f"{topic}/status", self.status(), retain=True)
                await asyncio.sleep(STATUS_EVERY_S)

    async def _publish(self, topic: str, body: dict[str, Any], retain: bool = False) -> None:
        await heeding_cancellation(self._client.publish(topic, json.dumps(body), qos=1, retain=retain))
