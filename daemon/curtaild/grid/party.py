"""Another party at the broker, for commissioning: says what a dialect's other side says, hears what the site says.

One connection and no reconnecting: whoever types at a terminal wants to know that the line is down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

import aiomqtt

from curtaild.grid.dialect import Publication
from curtaild_drivers.broker.inbox import Inbox, Shelf
from curtaild_drivers.broker.mqtt import Access, Client, connection, lost, publish, subscribe

MAX_UNREAD = 1_000
MAX_BYTES = 1024 * 1024


class Party:
    """At the broker. Everything raises `ConnectionFailed` once the line is down, and only then."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def say(self, publication: Publication) -> None:
        words = publication
        await publish(self._client, words.topic, words.payload, qos=words.qos, retain=words.retain)

    async def heard(self) -> AsyncIterator[tuple[str, bytes]]:
        """Topic and payload of what arrives, for ever."""
        try:
            async for message in self._client.messages:
                yield message.topic.value, bytes(message.payload)
        except aiomqtt.MqttError as error:
            raise lost(error) from None
        _never_ends()


@asynccontextmanager
async def at_broker(access: Access, topics: Sequence[str] = ()) -> AsyncIterator[Party]:
    """A party that listens to `topics`. Raises `ConnectionFailed`."""
    shelf = Shelf(MAX_UNREAD, MAX_BYTES)
    async with connection(access, Inbox(dict.fromkeys(topics, shelf))) as client:
        if topics:
            await subscribe(client, [(topic, 2) for topic in topics], access)
        yield Party(client)


def _never_ends() -> NoReturn:
    raise AssertionError("aiomqtt's messages end only by an error")
