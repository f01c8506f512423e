"""Digest authentication as the miners' small web servers ask for it, with the server's nonce remembered so that the
next request needs no challenge (RFC 7616, MD5 with or without qop).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from curtaild_drivers.asic.http import Response, WebServer
from curtaild_drivers.contract import AuthFailed, Seconds

_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class _Challenge:
    realm: str
    nonce: str
    qop: str
    opaque: str


class DigestClient:
    """Requests to one server under one user."""

    __slots__ = ("_challenge", "_count", "_password", "_server", "_username")

    def __init__(self, host: str, port: int, username: str, password: str) -> None:
        self._server = WebServer(host, port)
        self._username = username
        self._password = password
        self._challenge: _Challenge | None = None
        self._count = 0

    async def request(self, method: str, path: str, until: Seconds, body: bytes = b"") -> Response:
        """One request; a second one if the server asks for (fresh) credentials first, which refuses the first and so
        changes nothing. Raises `AuthFailed`, `Unreachable` (`Unanswered` once sent), `BadReply`."""
        for _ in range(2):
            answer = await self._send(method, path, until, body)
            if answer.status != 401:
                return answer
            self._challenge = _challenge(answer.head)
            self._count = 0
        self._challenge = None
        raise AuthFailed(f"the web server rejects user {self._username!r} and the password")

    async def _send(self, method: str, path: str, until: Seconds, body: bytes) -> Response:
        headers = {}
        if self._challenge is not None:
            headers["Authorization"] = self._authorization(self._challenge, method, path)
        return await self._server.request(method, path, until, headers, body)

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
