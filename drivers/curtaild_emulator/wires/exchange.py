"""What all wires share: find the device that was called, let its faults strike, answer after its latency."""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.unit import Answer, Board, Effect, Unit, Wire

_LONGEST_REQUEST = 256 * 1024
_FRAGMENT_GAP_S = 0.002
_FRAGMENTS = 6
GARBAGE = b"\x15\x03\x00\x00\x02\x02\x50\xff\xfe<nonsense>\x00"


class Exchange(asyncio.Protocol):
    """One connection to one device. Subclasses cut requests out of `buffer` in `pump`, one at a time."""

    wire: ClassVar[Wire]

    __slots__ = ("_is_busy", "_is_last", "_loop", "_transport", "board", "buffer", "unit")

    def __init__(self, board: Board) -> None:
        self.board = board
        self.buffer = b""
        self.unit: Unit | None = None
        self._transport: asyncio.Transport | None = None
        self._is_busy = False
        self._is_last = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are such by behaviour, not by descent
        name = transport.get_extra_info("sockname")
        unit = self.board.unit_at(name[0], self.wire) if name else None
        if unit is None or refuses(unit):
            transport.abort()
            return
        self.unit = unit
        self._transport = transport
        self.board.calls.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self.board.calls.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > _LONGEST_REQUEST and self._transport is not None:
            self._transport.abort()
        elif not self._is_busy:
            self._next()

    def eof_received(self) -> bool:
        self._is_last = True
        return self._is_busy  # a client may close its half and still want the answer

    def pump(self, unit: Unit) -> None:
        """Take one whole request off `buffer`, if there is one, and answer it."""
        raise NotImplementedError

    def answer(self, answer: Answer | None) -> None:
        """Send what the device said; `None` closes without a word."""
        transport, unit = self._transport, self.unit
        if transport is None or unit is None:
            return
        self._is_busy = True
        unit.answered[answer.effect if answer is not None else Effect.READ] += 1
        if answer is None:
            self._later(0.0, transport.close)
            return
        if answer.effect is not Effect.READ and unit.miner.strikes(Fault.HANG_WRITE_APPLIED):
            return
        if answer.effect is Effect.STOP and unit.miner.strikes(Fault.CLOSE_AFTER_POWER_OFF):
            self._later(self.board.latency_s, transport.close)
            return
        if unit.miner.has(Fault.GARBAGE):
            answer = Answer(GARBAGE, answer.effect, closes=True)
        if unit.miner.has(Fault.FRAGMENT):
            self._send_in_pieces(answer)
        else:
            self._later(self.board.latency_s, self._send, answer.data, True, answer.closes)

    def _next(self) -> None:
        transport, unit = self._transport, self.unit
        if transport is None or unit is None or transport.is_closing():
            return
        unit.now()
        if refuses(unit):
            transport.abort()
        elif unit.miner.strikes(Fault.HANG) or unit.miner.has(Fault.OFFLINE_SILENT):
            self._is_busy = True  # for ever: the peer must give up by itself
        else:
            self.pump(unit)

    def _send(self, data: bytes, is_last: bool, closes: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if not is_last:
            return
        self._is_busy = False
        if self.buffer and not closes:
            self._next()
        if closes or (self._is_last and not self._is_busy):
            transport.close()

    def _send_in_pieces(self, answer: Answer) -> None:
        """The first piece is short enough to cut a length header in two."""
        body = answer.data
        size = max(1, (len(body) - 2) // (_FRAGMENTS - 1) + 1)
        pieces = [body[:2], *(body[at : at + size] for at in range(2, len(body), size))]
        for number, piece in enumerate(pieces):
            delay_s = self.board.latency_s + number * _FRAGMENT_GAP_S
            self._later(delay_s, self._send, piece, number == len(pieces) - 1, answer.closes)

    def _later(self, delay_s: float, call: object, *args: object) -> None:
        assert callable(call)
        if delay_s > 0.0:
            self._loop.call_later(delay_s, call, *args)
        else:
            self._loop.call_soon(call, *args)


def refuses(unit: Unit) -> bool:
    """Does the device close every connection at this moment."""
    miner = unit.miner
    if miner.has(Fault.REFUSE_CONNECTION):
        return True
    if not miner.has(Fault.API_GONE_WHILE_BOOTING):
        return False
    unit.now()
    return miner.is_booting
