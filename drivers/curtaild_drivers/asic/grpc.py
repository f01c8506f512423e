"""gRPC over one kept HTTP/2 connection: short unary calls side by side, each bounded in bytes and by a moment on the
loop's clock; says precisely whether the question had left when something failed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import unquote

from curtaild_drivers.asic.http2 import Exchange, Http2Connection, literal
from curtaild_drivers.asic.wire import Unanswered
from curtaild_drivers.contract import BadReply, Seconds, Unreachable

_AUTHORITY, _PATH, _CONTENT_TYPE, _AUTHORIZATION = 1, 4, 31, 23  # RFC 7541, appendix A
_POST_OVER_HTTP = b"\x83\x86"
_KIND = literal(b"te", b"trailers") + literal(_CONTENT_TYPE, b"application/grpc")


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's answer: its gRPC status (0 is success) and words, the message, and the headers in lower case."""

    status: int
    words: str
    message: bytes
    headers: dict[str, str] = field(repr=False)


class GrpcChannel:
    """Calls to one server."""

    __slots__ = ("_authority", "_connecting", "_connection", "_host", "_port")

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._authority = literal(_AUTHORITY, f"{host}:{port}".encode())
        self._connection: Http2Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, path: str, message: bytes, until: Seconds, token: str | None = None) -> Answer:
        """One unary call. Raises `Unreachable` if the question did not leave, `Unanswered` if it did and nothing came
        in time, `BadReply` for what is not gRPC or longer than 256 KiB."""
        headers = _POST_OVER_HTTP + _path(path) + self._authority + _KIND
        if token is not None:
            headers += literal(_AUTHORIZATION, token.encode())
        body = b"\0" + len(message).to_bytes(4, "big") + message
        connection: Http2Connection | None = None
        stream_id: int | None = None
        try:
            async with asyncio.timeout_at(until):
                connection = await self._connected()
                stream_id, answer = connection.send(headers, body)
                return _told(await answer)
        except TimeoutError:
            if stream_id is not None:
                raise Unanswered(f"{self._host}:{self._port} did not answer in time") from None
            raise Unreachable(f"{self._host}:{self._port} did not accept a connection in time") from None
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"no connection to {self._host}:{self._port}: {error}") from None
        finally:
            if connection is not None and stream_id is not None and connection.forget(stream_id):
                self.hang_up(connection)  # whoever left one question open gets the next on a new connection

    def hang_up(self, connection: Http2Connection | None = None) -> None:
        chosen = connection or self._connection
        if chosen is self._connection:
            self._connection = None
        if chosen is not None:
            chosen.retire()

    async def _connected(self) -> Http2Connection:
        if self._connection is not None and self._connection.is_open:
            return self._connection
        async with self._connecting:
            if self._connection is None or not self._connection.is_open:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(Http2Connection, self._host, self._port)
            return self._connection


@cache
def _path(path: str) -> bytes:
    return literal(_PATH, path.encode())


def _told(call: Exchange) -> Answer:
    code = call.headers.get("grpc-status", "")
    if call.headers.get(":status") != "200" or not (code.isascii() and code.isdigit() and len(code) < 4):
        raise BadReply(f"not gRPC: HTTP {call.headers.get(':status')}")
    words = unquote(call.headers.get("grpc-message", ""))[:200]
    data = bytes(call.body)
    if int(code) == 0 and (len(data) < 5 or data[0] or int.from_bytes(data[1:5], "big") != len(data) - 5):
        raise BadReply("not one whole uncompressed gRPC message")
    return Answer(int(code), words, data[5:], call.headers)
