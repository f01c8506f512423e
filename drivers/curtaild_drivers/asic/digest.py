"""HTTP with digest authentication as the miners' small web servers speak it: one request, one connection, and the
server's nonce remembered so that the next request needs no challenge (RFC 7616, MD5 with or without qop).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from curtaild_drivers.asic.wire import ask
from curtaild_drivers.contract import AuthFailed, BadReply, Seconds

_MOST_HEAD_BYTES = 16 * 1024
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer: its status code and its body."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Challenge:
    realm: str
    nonce: str
    qop: str
    opaque: str


class DigestClient:
    """Requests to one server under one user."""

    __slots__ = ("_challenge", "_count", "_host", "_password", "_port", "_username")

    def __init__(self, host: str, port: int, username: str, password: str) -> None:
        self._host = host
        self._port = port
        self._username = username
        self._password = password
        self._challenge: _Challenge | None = None
        self._count = 0

    async def request(self, method: str, path: str, until: Seconds, body: bytes = b"") -> Response:
        """One request; a second one if the server asks for (fresh) credentials first, which refuses the first and so
        changes nothing. Raises `AuthFailed`, `Unreachable` (`Unanswered` once sent), `BadReply`."""
        for _ in range(2):
            head, answer = await self._send(method, path, until, body)
            if answer.status != 401:
                return answer
            self._challenge = _challenge(head)
            self._count = 0
        self._challenge = None
        raise AuthFailed(f"the web server rejects user {self._username!r} and the password")

    async def _send(self, method: str, path: str, until: Seconds, body: bytes) -> tuple[str, Response]:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", "Connection: close", "Accept: */*"]
        if self._challenge is not None:
            lines.append(f"Authorization: {self._authorization(self._challenge, method, path)}")
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        question = "\r\n".join([*lines, "", ""]).encode() + body
        return _parse(await ask(self._host, self._port, question, until, _Whole()))

    def _authorization(self, challenge: _Challenge, method: str, path: str) -> str:
        secret = _md5(f"{self._username}:{challenge.realm}:{self._password}")
        asked = _md5(f"{method}:{path}")
        fields = (
            f'Digest username="{self._username}", realm="{challenge.realm}", nonce="{challenge.nonce}", uri="{path}"'
        )
        if challenge.qop:
            self._count += 1
            count, own = f"{self._count:08x}", secrets.token_hex(8)
            response = _md5(f"{secret}:{challenge.nonce}:{count}:{own}:auth:{asked}")
            fields += f', qop=auth, nc={count}, cnonce="{own}"'
        else:
            response = _md5(f"{secret}:{challenge.nonce}:{asked}")
        if challenge.opaque:
            fields += f', opaque="{challenge.opaque}"'
        return f'{fields}, algorithm=MD5, response="{response}"'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _challenge(head: str) -> _Challenge:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() != "www-authenticate" or not value.strip().lower().startswith("digest"):
            continue
        found = {key.lower(): quoted or bare for key, quoted, bare in _PARAMETER.findall(value)}
        if found.get("algorithm", "MD5").upper() != "MD5" or "nonce" not in found:
            break
        qop = "auth" if "auth" in re.split(r"[\s,]+", found.get("qop", "")) else ""
        return _Challenge(found.get("realm", ""), found["nonce"], qop, found.get("opaque", ""))
    raise AuthFailed("the web server wants credentials of a kind that its firmware never asked for: is it another?")


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
            length = _content_length(buffer[:end].decode("latin-1"))
            self._size = None if length is None else end + 4 + length
        return self._size is not None and len(buffer) >= self._size


def _content_length(head: str) -> int | None:
    found = re.search(r"^content-length:\s*(\d{1,9})\s*$", head, re.IGNORECASE | re.MULTILINE)
    return int(found[1]) if found else None


def _parse(raw: bytes) -> tuple[str, Response]:
    head_bytes, gap, body = raw.partition(b"\r\n\r\n")
    head = head_bytes.decode("latin-1")
    first = re.match(r"HTTP/1\.[01] (\d{3})\b", head)
    if not gap or first is None:
        raise BadReply(f"not HTTP: {head[:80]!r}")
    length = _content_length(head)
    if length is not None and len(body) < length:
        raise BadReply(f"the answer breaks off after {len(body)} of {length} bytes")
    if re.search(r"^transfer-encoding:.*\bchunked\b", head, re.IGNORECASE | re.MULTILINE):
        body = _joined(body)
    elif length is not None:
        body = body[:length]
    return head, Response(int(first[1]), body)


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
