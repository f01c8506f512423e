"""The devices' web servers on port 80: digest-protected CGI on Antminers, a plain page on LuxOS."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass

from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.antminer import AntminerUnit
from curtaild_emulator.wires.exchange import Exchange
from curtaild_emulator.wires.unit import Answer, Effect, Unit, Wire

_REALM = "antMiner Configuration"
_USER = "root"
_LONGEST_HEAD = 16 * 1024
_LONGEST_BODY = 64 * 1024
_NONCE_LIFE_S = 600
_DIRECTIVE = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    500: "Internal Server Error",
}
_LUXOS_PAGE = b"<!doctype html><html><head><title>LuxOS</title></head><body>Luxor Firmware</body></html>"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


class WebExchange(Exchange):
    """One HTTP/1.1 connection, kept alive as long as the client wants."""

    wire = Wire.HTTP

    def pump(self, unit: Unit) -> None:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self.buffer) > _LONGEST_HEAD:
                self.answer(_reply(400, b"", closes=True))
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "0")
        words = request_line.split(" ")
        if len(words) != 3 or not length.isdecimal() or int(length) > _LONGEST_BODY or "transfer-encoding" in headers:
            self.buffer = b""
            self.answer(_reply(400, b"", closes=True))
            return
        if len(rest) < int(length):
            return
        self.buffer = rest[int(length) :]
        request = _Request(words[0], words[1], headers, rest[: int(length)])
        if isinstance(unit, AntminerUnit):
            self.answer(self._antminer(unit, request))
        else:
            self.answer(_reply(200, _LUXOS_PAGE, closes=not request.keeps_alive))

    def _antminer(self, unit: AntminerUnit, request: _Request) -> Answer:
        closes = not request.keeps_alive
        if unit.web_is_broken:
            return _reply(500, b"<html><body>500</body></html>", closes)
        if not self._is_authorised(unit, request):
            challenge = f'Digest realm="{_REALM}", nonce="{self._nonce(0)}", algorithm=MD5, qop="auth"'
            return _reply(401, b"<html><body>401</body></html>", closes, f"WWW-Authenticate: {challenge}")
        if request.path in ("/", "/index.html"):
            return _reply(200, b"<!doctype html><html><head><title>Ant Miner</title></head></html>", closes)
        name = request.path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        is_cgi = request.path == f"/cgi-bin/{name}.cgi"
        told = unit.cgi(name, request.body if request.method == "POST" else None) if is_cgi else None
        if told is None:
            # in HTML, as the real one does: a JSON 404 makes scanners take it for another make
            return _reply(404, b"<html><body>404</body></html>", closes)
        answer, effect = told
        return _reply(200, json.dumps(answer).encode(), closes, effect=effect, kind="application/json")

    def _nonce(self, periods_ago: int) -> str:
        period = int(time.time()) // _NONCE_LIFE_S - periods_ago
        return hashlib.md5(f"{self.board.nonce_secret}:{period}".encode()).hexdigest()

    def _is_authorised(self, unit: AntminerUnit, request: _Request) -> bool:
        """RFC 7616 with MD5 and qop=auth, as lighttpd does it."""
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "digest" or unit.miner.has(Fault.WRONG_PASSWORD):
            return False
        said = {name: quoted or plain for name, quoted, plain in _DIRECTIVE.findall(rest)}
        if said.get("uri") != request.target or said.get("nonce") not in (self._nonce(0), self._nonce(1)):
            return False
        secret = _md5(f"{_USER}:{_REALM}:{unit.password}")
        asked = _md5(f"{request.method}:{request.target}")
        middle = ":".join(said.get(name, "") for name in ("nonce", "nc", "cnonce", "qop"))
        expected = _md5(f"{secret}:{middle}:{asked}")
        return said.get("username") == _USER and hmac.compare_digest(
            expected.encode(), said.get("response", "").encode()
        )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _reply(
    code: int,
    body: bytes,
    closes: bool,
    header: str = "",
    *,
    effect: Effect = Effect.READ,
    kind: str = "text/html",
) -> Answer:
    lines = [
        f"HTTP/1.1 {code} {_REASONS[code]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        f"Connection: {'close' if closes else 'keep-alive'}",
    ]
    if header:
        lines.append(header)
    return Answer("\r\n".join([*lines, "", ""]).encode("latin-1") + body, effect, closes)
