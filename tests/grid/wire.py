"""A wire between a client and a broker that a test can cut or make long: a small TCP relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Wire:
    """`cut` breaks all connections at once, as a fallen pole does: no goodbye in either direction. What is sent from
    now on takes `delay_s` to arrive."""

    def __init__(self, far_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._far_port = far_port
        self._ends: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._far_port)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, far_writer}
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        finally:
            self._ends -= {writer, far_writer}

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1_000)
        arriving = asyncio.create_task(_arrive(under_way, sink))
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await source.read(65_536):
                await under_way.put((loop.time() + self.delay_s, data))
        await under_way.put((loop.time() + self.delay_s, b""))
        await arriving
        sink.transport.abort()


async def _arrive(under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
    """Each piece at its time; an empty one is the end."""
    loop = asyncio.get_running_loop()
    while True:
        at, data = await under_way.get()
        await asyncio.sleep(max(0.0, at - loop.time()))
        if not data:
            return
        with suppress(OSError):
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def wire_to(far_port: int) -> AsyncIterator[Wire]:
    wire = Wire(far_port)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        await server.wait_closed()
