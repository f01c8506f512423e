"""gRPC over one kept HTTP/2 connection: short unary calls side by side, each bounded in bytes and by a moment on the
loop's clock; says precisely whether the question had left when something failed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from curtaild_drivers.asic.wire import MOST_REPLY_BYTES, Unanswered
from curtaild_drivers.contract import BadReply, DriverError, Seconds, Unreachable

_MOST_UNSENT_BYTES = 256 * 1024
"""A peer that asks and does not read (PING, SETTINGS) is hung up on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's answer: its gRPC status (0 is success) and words, the message, and the headers in lower case."""

    status: int
    words: str
    message: bytes
    headers: dict[str, str] = field(repr=False)


class GrpcChannel:
    """Calls to one server."""

    __slots__ = ("_connecting", "_connection", "_host", "_port")

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, path: str, message: bytes, until: Seconds, token: str | None = None) -> Answer:
        """One unary call. Raises `Unreachable` if the question did not leave, `Unanswered` if it did and nothing came
        in time, `BadReply` for what is not gRPC or longer than 256 KiB."""
        connection: _Connection | None = None
        stream_id: int | None = None
        try:
            async with asyncio.timeout_at(until):
                connection = await self._connected()
                stream_id, answer = connection.send(f"{self._host}:{self._port}", path, message, token)
                return await answer
        except TimeoutError:
            if stream_id is not None:
                raise Unanswered(f"{self._host}:{self._port} did not answer in time") from None
            raise Unreachable(f"{self._host}:{self._port} did not accept a connection in time") from None
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"no connection to {self._host}:{self._port}: {error}") from None
        finally:
            if connection is not None and stream_id is not None and connection.forget(stream_id):
                self.hang_up(connection)  # whoever left one question open gets the next on a new connection

    def hang_up(self, connection: _Connection | None = None) -> None:
        chosen = connection or self._connection
        if chosen is self._connection:
            self._connection = None
        if chosen is not None:
            chosen.retire()

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or not self._connection.is_open:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(_Connection, self._host, self._port)
            return self._connection


class _Call:
    __slots__ = ("answer", "data", "headers")

    def __init__(self, answer: asyncio.Future[Answer]) -> None:
        self.answer = answer
        self.data = bytearray()
        self.headers: dict[str, str] = {}


class _Connection(asyncio.Protocol):
    """One HTTP/2 connection and the calls that are open on it."""

    def __init__(self) -> None:
        self.is_open = False
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._calls: dict[int, _Call] = {}
        self._transport: asyncio.Transport | None = None
        self._is_retired = False

    def send(self, authority: str, path: str, message: bytes, token: str | None) -> tuple[int, asyncio.Future[Answer]]:
        if not self.is_open:  # some take a connection and close it at once
            raise Unreachable("the connection was closed before anything was asked")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        if token is not None:
            headers.append(("authorization", token))
        try:
            stream_id = self._http.get_next_available_stream_id()
            self._http.send_headers(stream_id, headers)
            framed = b"\0" + len(message).to_bytes(4, "big") + message
            self._http.send_data(stream_id, framed, end_stream=True)
        except h2.exceptions.H2Error as error:
            self.is_open = False
            raise Unreachable(f"the connection takes no more calls: {error}") from None
        self._calls[stream_id] = _Call(answer)
        self._flush()
        return stream_id, answer

    def forget(self, stream_id: int) -> bool:
        """Whether the call was still unanswered."""
        call = self._calls.pop(stream_id, None)
        if call is not None:
            call.answer.cancel()
        if self._is_retired and not self._calls:
            self._abort()
        return call is not None

    def retire(self) -> None:
        """Takes no more calls, and closes once those that are open have ended."""
        self._is_retired, self.is_open = True, False
        if not self._calls:
            self._abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck-typing only
        self.is_open = True
        self._http.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._http.receive_data(data):
                self._take(event)
        except (h2.exceptions.H2Error, UnicodeError) as error:
            self._fail_all(BadReply(f"not HTTP/2: {error}"))
            self._abort()
            return
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail_all(Unanswered("the connection was closed without an answer"))

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.is_open = False
            self._fail_all(Unanswered("the connection was ended without an answer"))
            return
        stream_id = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        call = self._calls.get(stream_id) if isinstance(stream_id, int) else None
        if call is None or stream_id is None:
            return
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            call.headers.update((str(name).lower(), str(value)) for name, value in event.headers)
        elif isinstance(event, h2.events.DataReceived):
            call.data += event.data
            if len(call.data) > MOST_REPLY_BYTES:
                self._settle(stream_id, BadReply(f"the answer is longer than {MOST_REPLY_BYTES // 1024} KiB"))
                self._abort()
        elif isinstance(event, h2.events.StreamEnded):
            self._settle(stream_id, _answer(call))
        elif isinstance(event, h2.events.StreamReset):
            self._settle(stream_id, Unanswered("the call was reset without an answer"))

    def _settle(self, stream_id: int, result: Answer | DriverError) -> None:
        call = self._calls.pop(stream_id, None)
        if call is None or call.answer.done():
            return
        if isinstance(result, Answer):
            call.answer.set_result(result)
        else:
            call.answer.set_exception(result)

    def _fail_all(self, error: DriverError) -> None:
        for stream_id in list(self._calls):
            self._settle(stream_id, error)

    def _flush(self) -> None:
        pending = self._http.data_to_send()
        if self._transport is None or not pending:
            return
        self._transport.write(pending)
        if self._transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            self._abort()

    def _abort(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()


def _answer(call: _Call) -> Answer | BadReply:
    code = call.headers.get("grpc-status", "")
    if call.headers.get(":status") != "200" or not (code.isascii() and code.isdigit() and len(code) < 4):
        return BadReply(f"not gRPC: HTTP {call.headers.get(':status')}")
    words = unquote(call.headers.get("grpc-message", ""))[:200]
    data = bytes(call.data)
    if int(code) == 0 and (len(data) < 5 or data[0] or int.from_bytes(data[1:5], "big") != len(data) - 5):
        return BadReply("not one whole uncompressed gRPC message")
    return Answer(int(code), words, data[5:], call.headers)
