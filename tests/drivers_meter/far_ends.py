"""The other end of a meter's wire: pymodbus' own server for honest meters, a raw TCP server for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

HOST = "127.0.51.1"


@dataclass
class HonestMeter:
    """A pymodbus server with one unit per entry; records every question and connection."""

    port: int = 0
    questions: list[tuple[int, int, int]] = field(default_factory=list)
    """(function code, address, count) of each."""
    connections: int = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


Blocks: TypeAlias = dict[int, list[int]]
"""Registers by their first address; all else is unmapped, and answers exception 2."""


@asynccontextmanager
async def honest_meter(
    holding: Blocks | None = None, inputs: Blocks | None = None, unit: int = 1, port: int = 0
) -> AsyncIterator[HonestMeter]:
    meter = HonestMeter()

    async def record(
        function: int, start: int, address: int, count: int, registers: list[int], written: object
    ) -> ExcCodes | None:
        meter.questions.append((function, address, count))
        return None

    def blocks(of: Blocks | None) -> list[SimData]:
        return [
            SimData(address, values=list(words), datatype=DataType.REGISTERS)
            for address, words in (of or {9_999: [0]}).items()
        ]

    def connected(up: bool) -> None:
        meter.connections += up

    bits = [SimData(0, values=True, datatype=DataType.BITS)]
    device = SimDevice(unit, simdata=(bits, bits, blocks(holding), blocks(inputs)), action=record)
    server = ModbusTcpServer(device, address=(HOST, port), trace_connect=connected)
    await server.serve_forever(background=True)
    meter.port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # pymodbus: BaseTransport
    try:
        yield meter
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it unannotated


Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """A TCP server whose behaviour can be exchanged while it runs."""

    behaviour: Behaviour
    port: int = 0
    connections: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a connection is over."""

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


@asynccontextmanager
async def raw_server(behaviour: Behaviour) -> AsyncIterator[RawServer]:
    raw = RawServer(behaviour)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await raw.behaviour(reader, writer)
        finally:
            writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        raw.ended.set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, HOST, 0)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
