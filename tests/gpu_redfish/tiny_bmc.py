"""The far end of Redfish, as small as it can be: documents by path, a session, a PATCH that is merged into them; each
behaviour that a test is about is put in by the test. It records what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web

from curtaild_drivers.contract import Identity, Watts
from curtaild_drivers.gpu.redfish import DRIVER, RedfishNode
from curtaild_drivers.registry import OpenContext
from loop_clock import put_forward

HOST = "127.0.41.1"
USER, PASSWORD = "curtaild", "opensesame"
SESSIONS = "/redfish/v1/SessionService/Sessions"

Json: TypeAlias = dict[str, Any]
Behaviour: TypeAlias = Callable[["Asked"], "web.StreamResponse | Awaitable[web.StreamResponse]"]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class TinyBmc:
    """`behaviours` by method and path stand before what it does of itself. `demands_tag`: a change without the
    present `If-Match` is refused."""

    documents: dict[str, Json]
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    behaviours: dict[tuple[str, str], Behaviour] = field(default_factory=dict)
    demands_tag: bool = False
    tag: int = 1
    logins: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    most_open: int = 0
    _lines: set[asyncio.Transport] = field(default_factory=set)

    def changes(self) -> list[tuple[str, str, Any]]:
        """Every command that it was given."""
        return [(a.method, a.path, a.body) for a in self.asked if a.method in ("PATCH", "POST") and a.path != SESSIONS]

    def gets(self) -> list[str]:
        return [asked.path for asked in self.asked if asked.method == "GET"]

    def put(self, path: str, *keys: str | int, value: Any) -> None:
        """Changes one value of one document."""
        here: Any = self.documents[path]
        for key in keys[:-1]:
            here = here[key]
        here[keys[-1]] = value

    def hang_up(self) -> None:
        """Ends every connection, as a BMC that restarts does."""
        for line in self._lines:
            line.abort()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self._lines = {line for line in self._lines if not line.is_closing()} | {request.transport}
        self.most_open = max(self.most_open, len(self._lines))
        text = await request.text()
        asked = Asked(request.method, request.path, json.loads(text) if text else None, dict(request.headers))
        self.asked.append(asked)
        behaviour = self.behaviours.get((asked.method, asked.path))
        if behaviour is not None:
            answer = behaviour(asked)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        return self.answer(asked)

    def answer(self, asked: Asked) -> web.StreamResponse:
        """What a well-behaved service answers."""
        if (asked.method, asked.path) == ("POST", SESSIONS):
            return self._log_in(asked)
        if asked.path == "/redfish/v1/":
            return web.json_response(self.documents[asked.path])
        token = asked.headers.get("X-Auth-Token", "")
        if token not in self.tokens:
            return refusal(401, "Base.1.8.NoValidSession", "There is no valid session established.")
        if asked.method == "DELETE":
            del self.tokens[token]
            return web.Response(status=204)
        if asked.path not in self.documents:
            return refusal(404, "Base.1.8.ResourceMissingAtURI", f"The resource at {asked.path} was not found.")
        if asked.method == "GET":
            return web.json_response(self.documents[asked.path], headers={"ETag": self._etag()})
        if asked.method == "PATCH":
            return self._patch(asked)
        return web.Response(status=405)

    def _log_in(self, asked: Asked) -> web.StreamResponse:
        if asked.body != {"UserName": USER, "Password": PASSWORD}:
            return refusal(401, "Base.1.8.ResourceAtUriUnauthorized", "Invalid username or password.")
        self.logins += 1
        token = f"token-{self.logins}"
        self.tokens[token] = f"{SESSIONS}/{self.logins}"
        return web.json_response({}, status=201, headers={"X-Auth-Token": token, "Location": self.tokens[token]})

    def _patch(self, asked: Asked) -> web.StreamResponse:
        given = asked.headers.get("If-Match")
        if self.demands_tag and given is None:
            return refusal(428, "Base.1.8.PreconditionRequired", "The If-Match header is missing.")
        if given not in (None, "*", self._etag()):
            return refusal(412, "Base.1.8.PreconditionFailed", "The ETag supplied did not match.")
        merge(self.documents[asked.path], asked.body)
        self.tag += 1
        return web.Response(status=204)

    def _etag(self) -> str:
        return f'W/"{self.tag}"'


def merge(document: Any, change: Any) -> None:
    """What a PATCH does to a document: objects are merged, lists element by element, the rest is replaced."""
    for key, value in change.items() if isinstance(change, dict) else enumerate(change):
        if isinstance(value, dict | list) and document[key]:
            merge(document[key], value)
        else:
            document[key] = value


def refusal(status: int, message_id: str, message: str) -> web.Response:
    """An error with extended information (DSP0266, 8.6)."""
    told = {"MessageId": message_id, "Message": message, "MessageSeverity": "Critical"}
    return web.json_response({"error": {"code": message_id, "@Message.ExtendedInfo": [told]}}, status=status)


async def hang(asked: Asked) -> web.StreamResponse:
    """No answer, with the connection left open, while the loop's time passes."""
    put_forward()
    await asyncio.Event().wait()
    raise AssertionError("never")


@asynccontextmanager
async def tiny_bmc(documents: dict[str, Json], tls: ssl.SSLContext | None = None) -> AsyncIterator[TinyBmc]:
    bmc = TinyBmc(documents)
    application = web.Application(client_max_size=1024 * 1024)
    application.router.add_route("*", "/{path:.*}", bmc.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0, ssl_context=tls)
        await site.start()
        bmc.port = runner.addresses[0][1]
        yield bmc
    finally:
        await runner.cleanup()


@asynccontextmanager
async def opened(
    bmc: TinyBmc,
    rated_w: Watts | None = None,
    password: str | None = PASSWORD,
    remembered: Identity | None = None,
    **settings: Any,
) -> AsyncIterator[RedfishNode]:
    """The driver's node at the other end, over plain HTTP unless the settings say otherwise."""
    plain = {"scheme": "http", "allow_plain_http": True} if "scheme" not in settings else {}
    chosen = {"username": USER, "port": bmc.port, "read_deadline_s": 50, "write_deadline_s": 50, **plain, **settings}
    secrets = {"password": password} if password is not None else {}
    assert DRIVER.open_device is not None
    node = DRIVER.open_device(HOST, DRIVER.settings.model_validate(chosen), OpenContext(remembered, secrets, rated_w))
    assert isinstance(node, RedfishNode)
    try:
        yield node
    finally:
        await node.close()
