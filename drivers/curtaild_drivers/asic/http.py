"""HTTP as the miners' small web servers speak it: one request, one connection, one bounded answer (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from curtaild_drivers.asic.cgminer import Reply, parse
from curtaild_drivers.asic.wire import ask
from curtaild_drivers.contract import BadReply, Seconds

_MOST_HEAD_BYTES = 16 * 1024
_STATUS = re.compile(r"HTTP/1\.[01] (\d{3})\b")
_CONTENT_LENGTH = re.compile(r"^content-length:\s*(\d{1,9})\s*$", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(r"^transfer-encoding:.*\bchunked\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer: its status code, its head as it came, and its body."""

    status: int
    head: str
    body: bytes


@dataclass(frozen=True, slots=True)
class WebServer:
    """Where a miner's web server listens."""

    host: str
    port: int

    async def request(
        self, method: str, path: str, until: Seconds, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """One request and its answer. Raises `Unreachable` (`Unanswered` once sent) and `BadReply`."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\nAccept: */*\r\n"
        for name, value in (headers or {}).items():
            head += f"{name}: {value}\r\n"
        if method != "GET":
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        question = f"{head}\r\n".encode() + body
        return _parsed(await ask(self.host, self.port, question, until, _Whole()))


def said(answer: Response) -> Reply:
    """The answer's body as a JSON object. Raises `BadReply` for anything else, and for a status that is not 200."""
    if answer.status != 200:
        raise BadReply(f"HTTP {answer.status}: {answer.body[:80]!r}")
    return parse(answer.body)


class _Whole:
    """Notices the end of an HTTP answer without waiting for the server to close; looks at each byte of the head
    once, so that an answer in single bytes costs no more than one in a piece."""

    __slots__ = ("_has_head", "_looked", "_size")

    def __init__(self) -> None:
        self._looked = 0
        self._has_head = False
        self._size: int | None = None

    def __call__(self, buffer: bytearray) -> bool:
        if not self._has_head:
            end = buffer.find(b"\r\n\r\n", max(0, self._looked - 3))
            self._looked = len(buffer)
            if end < 0:
                return len(buffer) > _MOST_HEAD_BYTES
            self._has_head = True
            head = buffer[:end].decode("latin-1")
            length = 0 if head.startswith(("HTTP/1.1 204", "HTTP/1.0 204")) else _content_length(head)
            self._size = None if length is None else end + 4 + length
        return self._size is not None and len(buffer) >= self._size


def _content_length(head: str) -> int | None:
    found = _CONTENT_LENGTH.search(head)
    return int(found[1]) if found else None


def _parsed(raw: bytes) -> Response:
    head_bytes, gap, body = raw.partition(b"\r\n\r\n")
    head = head_bytes.decode("latin-1")
    first = _STATUS.match(head)
    if not gap or first is None:
        raise BadReply(f"not HTTP: {head[:80]!r}")
    length = _content_length(head)
    if length is not None and len(body) < length:
        raise BadReply(f"the answer breaks off after {len(body)} of {length} bytes")
    if _CHUNKED.search(head):
        body = _joined(body)
    elif length is not None:
        body = body[:length]
    return Response(int(first[1]), head, body)


def _joined(body: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while True:
        line_end = body.find(b"\r\n", at, at + 64)
        try:
            size = int(body[at:line_end].split(b";")[0], 16) if line_end > 0 else -1
        except ValueError:
            size = -1
        at = line_end + 2 + size
        if size < 0 or at > len(body):
            raise BadReply("the answer breaks off between chunks")
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[line_end + 2 : at])
        at += 2
