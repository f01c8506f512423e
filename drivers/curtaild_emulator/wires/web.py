"""The devices' web servers: HTTP/1.1 cut out of the stream, and the replies a firmware builds from its answers."""

from __future__ import annotations

import json

from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.exchange import Exchange
from curtaild_emulator.wires.unit import Answer, Effect, HttpRequest, Unit, Wire

_LONGEST_HEAD = 16 * 1024
_LONGEST_BODY = 64 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}


class WebExchange(Exchange):
    """One HTTP/1.1 connection, kept alive as long as the client wants."""

    wire = Wire.HTTP

    def pump(self, unit: Unit) -> None:
        pump_http(self, unit)


def pump_http(exchange: Exchange, unit: Unit) -> None:
    """Take one whole HTTP request off an exchange's buffer, if there is one, and have the device answer it."""
    head, found, rest = exchange.buffer.partition(b"\r\n\r\n")
    if not found:
        if len(exchange.buffer) > _LONGEST_HEAD:
            exchange.answer(reply(None, 400))
        return
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "0")
    words = request_line.split(" ")
    if len(words) != 3 or not length.isdecimal() or int(length) > _LONGEST_BODY or "transfer-encoding" in headers:
        exchange.buffer = b""
        exchange.answer(reply(None, 400))
        return
    if len(rest) < int(length):
        return
    exchange.buffer = rest[int(length) :]
    request = HttpRequest(exchange.wire, words[0], words[1], headers, rest[: int(length)])
    if unit.miner.strikes(Fault.HTTP_500):
        exchange.answer(reply(request, 500, page("500")))
    else:
        exchange.answer(unit.http(request))


def page(title: str) -> bytes:
    """The least HTML with these words in it."""
    return f"<!doctype html><html><head><title>{title}</title></head><body>{title}</body></html>".encode()


def reply(
    request: HttpRequest | None,
    code: int,
    body: bytes = b"",
    *,
    kind: str = "text/html",
    effect: Effect = Effect.READ,
    header: str = "",
) -> Answer:
    """An HTTP response; it closes the connection where the request wanted that, or was none (`None`)."""
    closes = request is None or not request.keeps_alive
    lines = [
        f"HTTP/1.1 {code} {_REASONS[code]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        f"Connection: {'close' if closes else 'keep-alive'}",
    ]
    if header:
        lines.append(header)
    return Answer("\r\n".join([*lines, "", ""]).encode("latin-1") + body, effect, closes)


def reply_json(request: HttpRequest, told: object, code: int = 200, effect: Effect = Effect.READ) -> Answer:
    """An HTTP response in JSON."""
    return reply(request, code, json.dumps(told).encode(), kind="application/json", effect=effect)
