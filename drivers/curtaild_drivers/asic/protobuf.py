"""Protocol Buffers, as much of them as a dozen short messages need: read by field number, bounded by what arrived."""

from __future__ import annotations

import struct
from typing import TypeAlias

from curtaild_drivers.contract import BadReply

_Value: TypeAlias = int | bytes


class Message:
    """One message of unknown type. A field that is absent reads as `None`, or as an empty message; of one that
    comes more than once, the last counts."""

    __slots__ = ("_fields",)

    def __init__(self, raw: bytes = b"") -> None:
        """Raises `BadReply` if `raw` is no message."""
        self._fields: dict[int, _Value] = {}
        at, end = 0, len(raw)
        while at < end:
            key, at = _varint(raw, at)
            kind = key & 7
            if kind == 0:
                self._fields[key >> 3], at = _varint(raw, at)
                continue
            if kind == 2:
                length, at = _varint(raw, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise BadReply(f"not a protobuf message: wire type {kind}")
            if at + length > end:
                raise BadReply("a protobuf message breaks off")
            self._fields[key >> 3] = raw[at : at + length]
            at += length

    def has(self, field: int) -> bool:
        return field in self._fields

    def number(self, field: int) -> int:
        """An unsigned number, enum or boolean; 0 where absent, as the format has it."""
        value = self._fields.get(field, 0)
        return value if isinstance(value, int) else 0

    def double(self, field: int) -> float:
        value = self._fields.get(field, b"")
        return float(struct.unpack("<d", value)[0]) if isinstance(value, bytes) and len(value) == 8 else 0.0

    def text(self, field: int) -> str:
        value = self._fields.get(field, b"")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""

    def message(self, field: int) -> Message:
        value = self._fields.get(field, b"")
        return Message(value if isinstance(value, bytes) else b"")


def number(field: int, value: int) -> bytes:
    """A field that holds an unsigned number or enum."""
    return _sized(field << 3) + _sized(value)


def nested(field: int, content: bytes) -> bytes:
    """A field that holds text or a message."""
    return _sized(field << 3 | 2) + _sized(len(content)) + content


def _sized(value: int) -> bytes:
    pieces = bytearray()
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    if at < len(raw) and raw[at] < 0x80:  # as nearly all are
        return raw[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise BadReply("a protobuf message breaks off")
        value |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            return value, at
    raise BadReply("not a protobuf message: a number without an end")
