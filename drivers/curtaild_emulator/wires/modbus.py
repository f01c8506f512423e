"""Feeder meters over Modbus TCP, one address each, in the register layouts of common makes."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from curtaild_drivers.contract import Seconds, Watts
from curtaild_emulator.faults import MeterFault
from curtaild_emulator.plant import Plant

_HEADER = struct.Struct(">HHHBB")
_READ_HOLDING, _READ_INPUT = 3, 4
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE, _NO_SUCH_UNIT = 1, 2, 3, 11
_MOST_WORDS = 125
_VOLTS, _HERTZ, _JOULES_PER_KWH = 230.0, 50.0, 3.6e6


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a make keeps its registers: the function that reads them, the last address it knows, and its words.

    `words` gives the registers by address for a power (W, may be NaN) and an energy (J).
    """

    function: int
    last: int
    words: Callable[[Watts, float], dict[int, int]]


def _float32(value: float) -> bytes:
    return struct.pack(">f", value)


def _spread(values: Mapping[int, bytes]) -> dict[int, int]:
    """Registers by address, from packed values by the address where each starts."""
    return {
        address + offset // 2: int.from_bytes(packed[offset : offset + 2], "big")
        for address, packed in values.items()
        for offset in range(0, len(packed), 2)
    }


def _sdm630(power_w: Watts, energy_j: float) -> dict[int, int]:
    """Eastron SDM630: input registers, float32, W and kWh. Total power at 52, import energy at 72, frequency 70."""
    phase_w = power_w / 3
    values = {0: _VOLTS, 2: _VOLTS, 4: _VOLTS, 52: power_w, 70: _HERTZ, 72: energy_j / _JOULES_PER_KWH}
    for phase in range(3):
        values[6 + 2 * phase] = phase_w / _VOLTS
        values[12 + 2 * phase] = phase_w
    values[342] = energy_j / _JOULES_PER_KWH
    return _spread({address: _float32(value) for address, value in values.items()})


def _pm5000(power_w: Watts, energy_j: float) -> dict[int, int]:
    """Schneider PM5000: holding registers, float32 kW at 3060, int64 Wh at 3204 (numbered from one)."""
    values = {
        3027: _float32(_VOLTS),
        3029: _float32(_VOLTS),
        3031: _float32(_VOLTS),
        3053: _float32(power_w / 3000),
        3055: _float32(power_w / 3000),
        3057: _float32(power_w / 3000),
        3059: _float32(power_w / 1000),
        3109: _float32(_HERTZ),
        3203: struct.pack(">q", int(energy_j / 3600)),
    }
    return _spread(values)


def _abb_b(power_w: Watts, energy_j: float) -> dict[int, int]:
    """ABB B23/B24: holding registers, int32 in 0.01 W at 0x5B14, uint64 in 0.01 kWh at 0x5000. No value: all ones
    but the sign."""
    hundredths = 0x7FFFFFFF if math.isnan(power_w) else max(-(2**31), min(2**31 - 2, round(power_w * 100)))
    values = {
        0x5000: struct.pack(">Q", int(energy_j / _JOULES_PER_KWH * 100)),
        0x5B00: struct.pack(">I", round(_VOLTS * 10)),
        0x5B14: struct.pack(">i", hundredths),
        0x5B2C: struct.pack(">H", round(_HERTZ * 100)),
    }
    return _spread(values)


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "sdm630": Layout(_READ_INPUT, 400, _sdm630),
        "pm5000": Layout(_READ_HOLDING, 4000, _pm5000),
        "abb-b": Layout(_READ_HOLDING, 0x5FFF, _abb_b),
    }
)
"""Every register layout by the name farm files use."""


@dataclass(slots=True)
class MeterBoard:
    """Which feeder's meter answers at which address, and in which layout."""

    plant: Plant
    clock: Callable[[], Seconds]
    latency_s: Seconds
    meters: dict[str, tuple[str, Layout]] = field(default_factory=dict)
    unit_id: int = 1
    calls: set[asyncio.Transport] = field(default_factory=set)


class ModbusExchange(asyncio.Protocol):
    """One Modbus TCP connection to one meter."""

    __slots__ = ("_board", "_buffer", "_loop", "_meter", "_transport")

    def __init__(self, board: MeterBoard) -> None:
        self._board = board
        self._buffer = b""
        self._meter: tuple[str, Layout] | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are such by behaviour, not by descent
        name = transport.get_extra_info("sockname")
        self._meter = self._board.meters.get(name[0]) if name else None
        if self._meter is None:
            transport.abort()
        else:
            self._transport = transport
            self._board.calls.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._board.calls.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._transport is not None and len(self._buffer) >= 8:
            transaction, protocol, length, unit, function = _HEADER.unpack_from(self._buffer)
            if protocol != 0 or not 2 <= length <= 260:
                self._transport.abort()
                return
            if len(self._buffer) < 6 + length:
                return
            body, self._buffer = self._buffer[8 : 6 + length], self._buffer[6 + length :]
            reply = self._reply(unit, function, body)
            if reply is not None:
                header = struct.pack(">HHHB", transaction, 0, 1 + len(reply), unit)
                self._loop.call_later(self._board.latency_s, self._send, header + reply)

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _reply(self, unit: int, function: int, body: bytes) -> bytes | None:
        assert self._meter is not None
        feeder_id, layout = self._meter
        plant = self._board.plant
        if plant.meter_fault(feeder_id) is MeterFault.DEAD:
            return None
        if unit != self._board.unit_id:
            return bytes((function | 0x80, _NO_SUCH_UNIT))
        if function != layout.function:
            return bytes((function | 0x80, _ILLEGAL_FUNCTION))
        if len(body) != 4:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        first, count = struct.unpack(">HH", body)
        if not 1 <= count <= _MOST_WORDS:
            return bytes((function | 0x80, _ILLEGAL_VALUE))
        if first + count - 1 > layout.last:
            return bytes((function | 0x80, _ILLEGAL_ADDRESS))
        plant.advance(self._board.clock())
        words = layout.words(*plant.metered(feeder_id))
        payload = b"".join(words.get(first + n, 0).to_bytes(2, "big") for n in range(count))
        return bytes((function, len(payload))) + payload
