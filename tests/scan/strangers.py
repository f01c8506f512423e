"""What else lives on a network beside miners: servers that flood, that say nothing, and that are something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends for ever, beginning as a miner might."""
    writer.write(b'{"STATUS":[{"STATUS":"S","Description":"')
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def tarpit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes every connection and says nothing."""
    await reader.read()


async def not_found(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server that words everything in JSON, refusals too."""
    await reader.read(4096)
    body = b'{"error":"not found"}'
    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


def page(text: str) -> Talk:
    """A web server with one page, whatever it is asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        body = text.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return talk


@asynccontextmanager
async def stranger(address: str, talk: Talk) -> AsyncIterator[int]:
    """`talk` at a port of `address`, which is the context's value."""
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            await talk(reader, writer)
        conversations.discard(task)
        writer.close()

    server = await asyncio.start_server(converse, address, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in conversations:
            task.cancel()
