"""A broker that hangs up before the loop has come to watch the socket: the loss is told of, and no traceback is."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from curtaild_drivers.broker.inbox import Inbox
from curtaild_drivers.broker.mqtt import Access, connection
from mosquitto import Mosquitto


async def test_a_socket_that_is_gone_is_watched_for_nothing(broker: Mosquitto) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with connection(Access("127.0.0.1", broker.port, False, "gone"), Inbox({})) as client:
        gone = socket.socket()
        client._on_socket_register_write(client._client, None, gone)
        gone.close()
        for _ in range(3):
            await asyncio.sleep(0)
    assert told == []
