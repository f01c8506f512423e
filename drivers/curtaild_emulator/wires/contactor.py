"""A contactor's controller on Modbus TCP: a coil that switches fans on, an input that says whether they run."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from curtaild_drivers.contract import Seconds

_HEADER = struct.Struct(">HHHBB")
_READ_COILS, _READ_INPUTS, _WRITE_COIL = 1, 2, 5
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE, _NO_SUCH_UNIT = 1, 2, 3, 11
_ON = b"\xff\x00"


@dataclass(slots=True)
class Contactor:
    """The fans run `lag_s` after the coil was switched on; not at all if `is_stuck`. `is_dead`: it answers nothing."""

    clock: Callable[[], Seconds]
    lag_s: Seconds = 0.0
    unit_id: int = 1
    is_on: bool = False
    is_stuck: bool = False
    is_dead: bool = False
    on_since: Seconds = 0.0
    writes: list[bool] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        return self.is_on and not self.is_stuck and self.clock() >= self.on_since + self.lag_s

    def switch(self, is_on: bool) -> None:
        self.writes.append(is_on)
        if is_on and not self.is_on:
            self.on_since = self.clock()
        self.is_on = is_on

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Answers there until the server is closed."""
        return await asyncio.start_server(self._serve, host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                transaction, protocol, length, unit, function = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                if protocol != 0 or not 2 <= length <= 260:
                    return
                body = await reader.readexactly(length - 2)
                if self.is_dead:
                    continue
                reply = self._reply(unit, function, body)
                writer.write(struct.pack(">HHHB", transaction, 0, 1 + len(reply), unit) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _reply(self, unit: int, function: int, body: bytes) -> bytes:
        if unit != self.unit_id:
            return bytes((function | 0x80, _NO_SUCH_UNIT))
        if function not in (_READ_COILS, _READ_INPUTS, _WRITE_COIL):
            return bytes((function | 0x80, _ILLEGAL_FUNCTION))
        if len(body) != 4:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        if body[:2] != b"\x00\x00":
            return bytes((function | 0x80, _ILLEGAL_ADDRESS))
        if function == _WRITE_COIL:
            if body[2:] not in (_ON, b"\x00\x00"):
                return bytes((function | 0x80, _ILLEGAL_VALUE))
            self.switch(body[2:] == _ON)
            return bytes((function,)) + body
        if body[2:] != b"\x00\x01":
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        return bytes((function, 1, self.is_on if function == _READ_COILS else self.is_running))
