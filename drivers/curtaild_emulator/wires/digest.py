"""HTTP digest authentication as the devices' lighttpd does it: RFC 7616 with MD5 and qop=auth."""

from __future__ import annotations

import hashlib
import hmac
import re
import time

from curtaild_emulator.wires.unit import HttpRequest

_NONCE_LIFE_S = 600
_DIRECTIVE = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


class Digest:
    """One realm with one user."""

    __slots__ = ("_realm", "_secret", "_user")

    def __init__(self, realm: str, user: str, nonce_secret: str) -> None:
        self._realm = realm
        self._user = user
        self._secret = nonce_secret

    def challenge(self) -> str:
        """The header that asks for a password."""
        return f'WWW-Authenticate: Digest realm="{self._realm}", nonce="{self._nonce(0)}", algorithm=MD5, qop="auth"'

    def is_authorised(self, request: HttpRequest, password: str) -> bool:
        """Does the request prove that its sender knows the password."""
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "digest":
            return False
        said = {name: quoted or plain for name, quoted, plain in _DIRECTIVE.findall(rest)}
        if said.get("uri") != request.target or said.get("nonce") not in (self._nonce(0), self._nonce(1)):
            return False
        secret = _md5(f"{self._user}:{self._realm}:{password}")
        asked = _md5(f"{request.method}:{request.target}")
        middle = ":".join(said.get(name, "") for name in ("nonce", "nc", "cnonce", "qop"))
        expected = _md5(f"{secret}:{middle}:{asked}")
        return said.get("username") == self._user and hmac.compare_digest(
            expected.encode(), said.get("response", "").encode()
        )

    def _nonce(self, periods_ago: int) -> str:
        period = int(time.time()) // _NONCE_LIFE_S - periods_ago
        return _md5(f"{self._secret}:{period}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
