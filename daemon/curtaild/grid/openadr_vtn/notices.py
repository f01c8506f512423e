"""Tells the broker what changed. The VTN never waits for it: notices queue up while it is gone, the oldest give way."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curtaild_drivers.broker.inbox import Inbox
from curtaild_drivers.broker.mqtt import Access, ConnectionFailed, connection, publish
from curtaild_drivers.contract import Seconds

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
RETRY_AFTER_S: Seconds = 1.0


@dataclass(frozen=True, slots=True)
class MqttNotifier:
    """The broker as VENs are told of it (`mqttNotifierBindingObject`), and how the VTN itself reaches it.

    `authentication` is the binding's own object: `{"method": "ANONYMOUS"}`, `{"method": "OAUTH2_BEARER_TOKEN",
    "username": …}` or `{"method": "CERTIFICATE", …}`.
    """

    access: Access
    uris: Sequence[str]
    authentication: Mapping[str, str]
    prefix: str = "openadr/3.1.0"
    offers_all: bool = True
    retain: bool = True

    @property
    def binding(self) -> dict[str, Any]:
        return {"URIS": list(self.uris), "serialization": "JSON", "authentication": dict(self.authentication)}


class Notices:
    """What waits for the broker, and the task that takes it there."""

    def __init__(self, notifier: MqttNotifier) -> None:
        self._notifier = notifier
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=MOST_WAITING)
        self._has_some = asyncio.Event()
        self._all_told = asyncio.Event()
        self._all_told.set()

    def add(self, topic: str, notification: Mapping[str, Any]) -> None:
        self._waiting.append((topic, json.dumps(notification, ensure_ascii=False).encode()))
        self._all_told.clear()
        self._has_some.set()

    async def told(self) -> None:
        """Returns once the broker has acknowledged everything."""
        await self._all_told.wait()

    async def run(self) -> None:
        """Ends only by cancellation; says in the log when the broker goes and when it is back."""
        is_known_gone = False
        while True:
            try:
                async with connection(self._notifier.access, Inbox({})) as client:
                    log.info("notifications go to %s", self._notifier.access.url)
                    is_known_gone = False
                    while True:
                        await self._has_some.wait()
                        while self._waiting:
                            topic, payload = first = self._waiting[0]
                            await publish(client, topic, payload, qos=1, retain=self._notifier.retain)
                            if self._waiting[0] is first:  # else it gave way meanwhile
                                self._waiting.popleft()
                        self._has_some.clear()
                        self._all_told.set()
            except ConnectionFailed as failure:
                if not is_known_gone:
                    log.warning("%s: %s; notifications wait", self._notifier.access.url, failure)
                is_known_gone = True
                await asyncio.sleep(RETRY_AFTER_S)
