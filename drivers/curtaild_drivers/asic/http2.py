"""HTTP/2 as far as short calls on a kept connection need it (RFC 9113), in frames of our own: with a library for
every purpose a reading took twice the CPU. What the far end sends is bounded; who breaks the rules is hung up on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cache
from typing import cast

from hpack import Decoder, HPACKError

from curtaild_drivers.asic.wire import MOST_REPLY_BYTES, Unanswered
from curtaild_drivers.contract import BadReply, DriverError, Unreachable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 3, 4, 5  # section 6
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4  # section 6.5.2
_HEAD_BYTES = 9
_MOST_FRAME_BYTES = 16_384
_MOST_BLOCK_BYTES = 64 * 1024
_WINDOW = 65_535
"""What either side may send of bodies before it hears more (section 6.9.2)."""
_MOST_WINDOW = 2**31 - 1
_OWN_WINDOW = 2 * MOST_REPLY_BYTES
"""What the far end may send of one answer: more than is taken. And of all of them, before it hears that it was read."""
_MOST_UNSENT_BYTES = 256 * 1024
"""A peer that asks and does not read (PING, SETTINGS) is hung up on."""


class _NotHttp2(Exception):
    """The far end breaks the protocol's rules."""


@dataclass(slots=True)
class Exchange:
    """One request and what has come of its answer: the headers, trailers included, and the body."""

    answer: asyncio.Future[Exchange]
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Block:
    """Headers that go on in another frame."""

    stream_id: int
    content: bytearray
    is_last: bool


def literal(name: int | bytes, value: bytes) -> bytes:
    """A header that no table remembers (RFC 7541, section 6.2.2), by its name or the name's place in the static
    table: the same bytes each time."""
    named = b"\0" + _text(name) if isinstance(name, bytes) else _integer(name, 4, 0)
    return named + _text(value)


class Http2Connection(asyncio.Protocol):
    """One connection as the client, and the requests that are open on it."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._exchanges: dict[int, Exchange] = {}
        self._next_id = 1
        self._table = Decoder(_MOST_BLOCK_BYTES)
        self._unfinished: _Block | None = None
        self._has_begun = False
        self._is_retired = False
        self._may_send = self._may_send_each = _WINDOW
        self._most_at_once = _MOST_WINDOW
        self._taken = 0

    def send(self, headers: bytes, body: bytes) -> tuple[int, asyncio.Future[Exchange]]:
        """A request, all of it: its header block and its body. Raises `Unreachable` if it did not leave."""
        if not self.is_open:  # some take a connection and close it at once
            raise Unreachable("the connection was closed before anything was asked")
        room = min(self._may_send, self._may_send_each, _MOST_FRAME_BYTES)
        if len(body) > room or len(self._exchanges) >= self._most_at_once:
            self.is_open = False
            raise Unreachable("the connection takes no more calls")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._may_send -= len(body)
        exchange = Exchange(asyncio.get_running_loop().create_future())
        self._exchanges[stream_id] = exchange
        head = _frame(_HEADERS, _END_HEADERS, stream_id, headers)
        self._write(head + _frame(_DATA, _END_STREAM, stream_id, body))
        return stream_id, exchange.answer

    def forget(self, stream_id: int) -> bool:
        """Whether the request was still unanswered."""
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            exchange.answer.cancel()
        if self._is_retired and not self._exchanges:
            self._abort()
        return exchange is not None

    def retire(self) -> None:
        """Takes no more requests, and closes once those that are open have ended."""
        self._is_retired, self.is_open = True, False
        if not self._exchanges:
            self._abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck-typing only
        self.is_open = True
        no_push = b"\0\2" + (0).to_bytes(4, "big")
        window = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _OWN_WINDOW.to_bytes(4, "big")
        self._write(_PREFACE + _frame(_SETTINGS, 0, 0, no_push + window) + _more_room(_OWN_WINDOW - _WINDOW))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._take_frames()
        except _NotHttp2 as error:
            self._buffer.clear()
            self._fail_all(BadReply(f"not HTTP/2: {error}"))
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail_all(Unanswered("the connection was closed without an answer"))

    def _take_frames(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= _HEAD_BYTES:
            kind, flags = buffer[at + 3], buffer[at + 4]
            end = at + _HEAD_BYTES + int.from_bytes(buffer[at : at + 3], "big")
            if end - at > _HEAD_BYTES + _MOST_FRAME_BYTES:
                raise _NotHttp2("a frame is longer than it may be")
            if not self._has_begun and (kind, flags) != (_SETTINGS, 0):
                raise _NotHttp2("it does not begin with its settings")
            if len(buffer) < end:
                break
            self._has_begun = True
            stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big") & _MOST_WINDOW
            self._take(kind, flags, stream_id, bytes(buffer[at + _HEAD_BYTES : end]))
            at = end
        del buffer[:at]

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == _CONTINUATION or self._unfinished is not None:
            self._go_on(kind, flags, stream_id, payload)
        elif kind == _DATA:
            self._take_body(flags, stream_id, payload)
        elif kind == _HEADERS:
            block = _unpadded(flags, payload)[5 if flags & _PRIORITY else 0 :]
            if flags & _END_HEADERS:
                self._take_headers(stream_id, block, bool(flags & _END_STREAM))
            else:
                self._unfinished = _Block(stream_id, bytearray(block), bool(flags & _END_STREAM))
        elif kind == _RST_STREAM:
            self._settle(stream_id, Unanswered("the call was reset without an answer"))
        elif kind == _SETTINGS and not flags & _ACK:
            self._obey(payload)
        elif kind == _PING and not flags & _ACK:
            if len(payload) != 8:
                raise _NotHttp2("a ping is not of eight bytes")
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream_id == 0:
            self._may_send += int.from_bytes(payload, "big") & _MOST_WINDOW
        elif kind == _GOAWAY:
            self.is_open = False
            last = int.from_bytes(payload[:4], "big") & _MOST_WINDOW
            for each in [number for number in self._exchanges if number > last]:
                self._settle(each, Unanswered("the connection was ended without an answer"))
        elif kind == _PUSH_PROMISE:
            raise _NotHttp2("it pushes what nobody has asked for")

    def _take_body(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken > _OWN_WINDOW // 2:
            self._write(_more_room(self._taken))
            self._taken = 0
        exchange = self._exchanges.get(stream_id)
        if exchange is None:
            return
        exchange.body += _unpadded(flags, payload)
        if len(exchange.body) > MOST_REPLY_BYTES:
            self._settle(stream_id, BadReply(f"the answer is longer than {MOST_REPLY_BYTES // 1024} KiB"))
            self._abort()
        elif flags & _END_STREAM:
            self._settle(stream_id)

    def _go_on(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        begun = self._unfinished
        if begun is None or kind != _CONTINUATION or stream_id != begun.stream_id:
            raise _NotHttp2("headers break off, or go on where none have begun")
        begun.content += payload
        if len(begun.content) > _MOST_BLOCK_BYTES:
            raise _NotHttp2("headers without an end")
        if flags & _END_HEADERS:
            self._unfinished = None
            self._take_headers(stream_id, bytes(begun.content), begun.is_last)

    def _take_headers(self, stream_id: int, block: bytes, is_last: bool) -> None:
        """Read for requests that are forgotten too: what it does to the table counts for those that follow."""
        try:
            stated = dict(cast("list[tuple[str, str]]", self._table.decode(block)))
        except (HPACKError, IndexError, TypeError, UnicodeError) as error:
            raise _NotHttp2(f"headers that cannot be read: {error}") from None
        exchange = self._exchanges.get(stream_id)
        if exchange is None or stated.get(":status", "").startswith("1"):
            return  # 1xx: the answer is still to come
        if exchange.headers and not is_last:
            raise _NotHttp2("trailers without an end")
        exchange.headers.update(stated)
        if is_last:
            self._settle(stream_id)

    def _obey(self, settings: bytes) -> None:
        for at in range(0, len(settings) - 5, 6):
            key = int.from_bytes(settings[at : at + 2], "big")
            value = int.from_bytes(settings[at + 2 : at + 6], "big")
            if key == _MAX_CONCURRENT_STREAMS:
                self._most_at_once = value
            elif key == _INITIAL_WINDOW_SIZE:
                self._may_send_each = value
        self._write(_frame(_SETTINGS, _ACK, 0, b""))

    def _settle(self, stream_id: int, error: DriverError | None = None) -> None:
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is None or exchange.answer.done():
            return
        if error is None:
            exchange.answer.set_result(exchange)
        else:
            exchange.answer.set_exception(error)

    def _fail_all(self, error: DriverError) -> None:
        for stream_id in list(self._exchanges):
            self._settle(stream_id, error)

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            self._abort()

    def _abort(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return (len(payload) << 16 | kind << 8 | flags).to_bytes(5, "big") + stream_id.to_bytes(4, "big") + payload


def _more_room(size: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big"))


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise _NotHttp2("more padding than there is of a frame")
    return payload[1 : len(payload) - payload[0]]


@cache
def _integer(value: int, bits: int, pattern: int) -> bytes:
    """A number behind a pattern of bits (RFC 7541, section 5.1). Cached: they are lengths and places in a table."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([pattern | value])
    rest, pieces = value - most, bytearray([pattern | most])
    while rest > 0x7F:
        pieces.append(rest & 0x7F | 0x80)
        rest >>= 7
    pieces.append(rest)
    return bytes(pieces)


def _text(value: bytes) -> bytes:
    return _integer(len(value), 7, 0) + value
