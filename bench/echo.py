"""What an answer costs without a thought: a message through the broker, its bytes on the disk, a message back."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt

from curtaild_drivers.contract import Seconds

THERE, BACK = "bench/there", "bench/back"
MESSAGE = b"x" * 500
"""As long as an allocation."""


@asynccontextmanager
async def echo_over(port: int, folder: Path) -> AsyncIterator[Callable[[], Awaitable[Seconds]]]:
    """A client that keeps whatever it hears in a file of `folder`, and says so; yields what asks it once, in s."""
    async with _client(port) as far, _client(port) as near:
        await far.subscribe(THERE, qos=1)
        await near.subscribe(BACK, qos=1)
        answering = asyncio.create_task(_answer(far, folder / "echo"))
        back = aiter(near.messages)

        async def ask() -> Seconds:
            asked = time.monotonic()
            await near.publish(THERE, MESSAGE, qos=1)
            await anext(back)
            return time.monotonic() - asked

        try:
            yield ask
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


def _client(port: int) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", port, socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)])


async def _answer(client: aiomqtt.Client, kept: Path) -> None:
    with kept.open("wb", buffering=0) as file:
        async for message in client.messages:
            await asyncio.to_thread(_keep, file.fileno(), bytes(message.payload) if message.payload else b"")
            await client.publish(BACK, b"kept", qos=1)


def _keep(file: int, body: bytes) -> None:
    os.write(file, body)
    os.fdatasync(file)
