"""An HTTPS server that answers as a test tells it, well or badly: no VTN, but what may stand where one should."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from curtaild.grid.openadr.vtn import VtnAccess
from grid.authority import Authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Canned:
    """`answers` by "METHOD /path"; what is not there is 404. `asked` is what came, in order."""

    url: str
    ca_file: Path
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def access(self, **words: Any) -> VtnAccess:
        return VtnAccess(self.url, ca_file=self.ca_file, **words)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        what = f"{request.method} {request.path.removeprefix('/base')}"
        self.asked.append(what + (f"?{request.query_string}" if request.query_string else ""))
        self.heard.append((what, dict(request.headers), await request.read()))
        answer = self.answers.get(what)
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer is None:
            return web.json_response({"title": "Not Found", "status": 404}, status=404)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def count(self, what: str) -> int:
        return sum(asked.split("?")[0] == what for asked in self.asked)


@asynccontextmanager
async def canned(authority: Authority, name: str = "127.0.0.1") -> AsyncIterator[Canned]:
    """One that runs while the block does, with a certificate for `name`."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue(name))
    server = Canned("", authority.ca_file)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"https://{host}:{port}/base"
        yield server
    finally:
        await runner.cleanup()


def tokens(server: Canned) -> None:
    """A token endpoint where the VTN says, and a token that is counted."""
    count = 0

    def issue(request: web.Request) -> object:
        nonlocal count
        count += 1
        return {"access_token": f"token-{count}", "token_type": "Bearer", "expires_in": 3600}

    server.answers["GET /auth/server"] = {"tokenURL": f"{server.url}/auth/token"}
    server.answers["POST /auth/token"] = issue


def problem(status: int, title: str = "no", **headers: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"title": title, "status": status}), headers=headers)
