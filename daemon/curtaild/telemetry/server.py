"""The daemon's HTTP port: `/metrics`, `/status`, `/why`, `/healthz`, `/readyz`. Read-only, and no burden to the event
loop: bodies are rendered in a thread of their own, and who reads slowly is cut off."""

from __future__ import annotations

import asyncio
import errno
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from aiohttp import web

from curtaild.core.status import SiteStatus
from curtaild.telemetry import status_json
from curtaild.telemetry.health import HealthReport
from curtaild.telemetry.telemetry import OPENMETRICS, TEXT, Telemetry
from curtaild_drivers.contract import DeviceId, Seconds

JSON = "application/json"

MOST_BODIES = 8
"""Bodies under way at once; 30,000 devices are some 25 MB each, and a slow reader holds its own."""
MOST_CONNECTIONS = 128
KEEP_ALIVE_S = 75.0
"""Longer than the usual scrape interval, so that Prometheus keeps its connection; an idle one is closed after it."""
SEND_DEADLINE_S = 10.0
"""Prometheus itself gives up after 10 s."""
STOP_DEADLINE_S = 0.5
"""What readers have left when the daemon stops: nobody's scrape holds up a restart."""
PIECE = 256 * 1024

_INDEX = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>curtaild</title><style>
body{font:16px/1.6 system-ui,sans-serif;max-width:34em;margin:4em auto;padding:0 1em;color:#1c2630}
a{color:#0b6e99;font-weight:600;text-decoration:none}dt{margin-top:.8em}dd{margin:0}
</style></head><body><h1>curtaild</h1><p>This site is kept inside the power the grid grants it.</p><dl>
<dt><a href="/status?devices=0">/status</a></dt><dd>the site now, as JSON; <a href="/status">with every device</a></dd>
<dt>/why?device=…</dt><dd>why a device stands where it stands, and when its turn comes</dd>
<dt><a href="/metrics">/metrics</a></dt><dd>for Prometheus</dd>
<dt><a href="/healthz">/healthz</a></dt><dd>is it at work</dd>
<dt><a href="/readyz">/readyz</a></dt><dd>has it begun to work</dd>
</dl></body></html>
"""


class ListenAddress(Protocol):
    """Where to listen; port 0 lets the system choose."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class ListenError(Exception):
    """The port could not be opened. The text names the address and the remedy."""


class TelemetryServer:
    """Serves `telemetry` and `status` at `listen`; `health` is asked at each `/healthz` and `/readyz`, which calls the
    daemon ill once no cycle was completed for `stalled_after_s`. `why` gives what renders the explanation of a device,
    `None` for one that the site does not have; `links` says how the links to the grid's brokers stand."""

    def __init__(
        self,
        listen: ListenAddress,
        telemetry: Telemetry,
        status: Callable[[], SiteStatus | None],
        health: Callable[[], HealthReport],
        *,
        links: Callable[[], Sequence[status_json.Json]] = tuple,
        why: Callable[[DeviceId], Callable[[], Iterable[bytes]] | None] = lambda device: None,
        stalled_after_s: Seconds = 10.0,
        send_deadline_s: Seconds = SEND_DEADLINE_S,
    ) -> None:
        self._host, self._port = listen.host, listen.port
        self._telemetry = telemetry
        self._status = status
        self._health = health
        self._links = links
        self._why = why
        self._stalled_after_s = stalled_after_s
        self._send_deadline_s = send_deadline_s
        self._bodies = 0
        self._rendering: dict[tuple[str, bool], asyncio.Future[bytes]] = {}
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="telemetry")
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where the server answers, once started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Opens the port; raises `ListenError`."""
        app = web.Application()
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._metrics, allow_head=False)
        app.router.add_get("/status", self._status_body, allow_head=False)
        app.router.add_get("/why", self._why_body, allow_head=False)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, shutdown_timeout=STOP_DEADLINE_S)
        await runner.setup()
        try:
            server = await asyncio.get_running_loop().create_server(
                partial(_accept, runner), self._host, self._port, reuse_address=True
            )
        except OSError as problem:
            await runner.cleanup()
            raise _listen_error(self.url, problem) from problem
        self._runner, self._server = runner, server
        self._port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the port and every connection. Harmless if not started."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            for connection in self._runner.server.connections if self._runner.server else ():
                connection.force_close()
            await self._runner.cleanup()
        self._server = self._runner = None
        self._renderer.shutdown(wait=False, cancel_futures=True)

    # --- pages -------------------------------------------------------------------------------------------------------

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=_INDEX, content_type="text/html")

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return _verdict(self._health().ill(self._stalled_after_s))

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        report = self._health()
        return _verdict(report.unready() or report.ill(self._stalled_after_s))

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        kind = OPENMETRICS if openmetrics else TEXT
        return await self._answer(request, kind, kind, partial(self._telemetry.exposition, openmetrics))

    async def _status_body(self, request: web.Request) -> web.StreamResponse:
        status = self._status()
        if status is None:
            return web.json_response({"error": "no cycle has been completed yet"}, status=503)
        with_devices = request.query.get("devices", "1") != "0"
        pieces = partial(status_json.encode, status, with_devices, self._links())
        return await self._answer(request, f"status {with_devices}", JSON, pieces)

    async def _why_body(self, request: web.Request) -> web.StreamResponse:
        device = request.query.get("device", "")
        pieces = self._why(DeviceId(device)) if self._status() is not None else None
        if pieces is None:
            return web.json_response({"error": f"no device {device[:200]!r} at this site"}, status=404)
        return await self._answer(request, f"why {device}", JSON, pieces)

    # --- bodies ------------------------------------------------------------------------------------------------------

    async def _answer(
        self, request: web.Request, what: str, kind: str, pieces: Callable[[], Iterable[bytes]]
    ) -> web.StreamResponse:
        if self._bodies >= MOST_BODIES:
            return web.Response(status=503, text="busy with other readers\n", headers={"Retry-After": "1"})
        self._bodies += 1
        try:
            gzip = "gzip" in request.headers.get("Accept-Encoding", "")
            body = await self._shared(what, gzip, pieces)
            return await self._send(request, body, kind, gzip)
        finally:
            self._bodies -= 1

    async def _shared(self, what: str, gzip: bool, pieces: Callable[[], Iterable[bytes]]) -> bytes:
        """One rendering for all who ask for the same while it is under way."""
        under_way = self._rendering.get((what, gzip))
        if under_way is None:
            under_way = asyncio.get_running_loop().run_in_executor(self._renderer, _body, pieces, gzip)
            self._rendering[what, gzip] = under_way
            under_way.add_done_callback(lambda _: self._rendering.pop((what, gzip), None))
        return await asyncio.shield(under_way)  # one reader going away takes nothing from the others

    async def _send(self, request: web.Request, body: bytes, kind: str, gzip: bool) -> web.StreamResponse:
        """In pieces, as the reader takes them: readers of one rendering share its memory until the deadline."""
        response = web.StreamResponse(headers={"Content-Type": kind, "Vary": "Accept, Accept-Encoding"})
        response.content_length = len(body)
        if gzip:
            response.headers["Content-Encoding"] = "gzip"
        view = memoryview(body)
        try:
            async with asyncio.timeout(self._send_deadline_s):
                await response.prepare(request)
                for start in range(0, len(body), PIECE):
                    await response.write(view[start : start + PIECE])
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        return response


def _body(pieces: Callable[[], Iterable[bytes]], gzip: bool) -> bytes:
    if not gzip:
        return b"".join(pieces())
    squeeze = zlib.compressobj(level=1, wbits=31)  # level 9 costs ten times level 1 for a fifth less on the wire
    return b"".join([*(squeeze.compress(piece) for piece in pieces()), squeeze.flush()])


def _verdict(reason: str | None) -> web.Response:
    return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")


def _accept(runner: web.AppRunner) -> asyncio.Protocol:
    server = runner.server
    if server is None or len(server.connections) >= MOST_CONNECTIONS:
        return _HangUp()
    return server()


class _HangUp(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _listen_error(url: str, problem: OSError) -> ListenError:
    address = url.removeprefix("http://")
    remedy = {
        errno.EADDRINUSE: "another program listens there, maybe another curtaild (`ss -ltnp` names it)",
        errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "this host has no such address (`ip address` lists its own)",
    }.get(problem.errno or 0, "the address should be one of this host's")
    said = os.strerror(problem.errno) if problem.errno and problem.errno > 0 else str(problem)
    return ListenError(
        f"cannot serve /metrics and /status on {address}: {said}. {remedy[0].upper()}{remedy[1:]}; "
        "set `listen` in [telemetry] of the site file to a free address."
    )
