"""The VTN's HTTP side: every path of the OpenADR 3.1.0 OpenAPI definition, over TLS.

An emulated VTN, to rehearse with and to test against: objects live in memory and are gone with it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from curtaild.clock import Clock, SystemClock
from curtaild.grid.openadr_vtn.bodies import BadBody
from curtaild.grid.openadr_vtn.collection import Collection
from curtaild.grid.openadr_vtn.notices import MqttNotifier, Notices
from curtaild.grid.openadr_vtn.objects import OadrObject, Objects, Refused
from curtaild.grid.openadr_vtn.problems import allow, problem
from curtaild.grid.openadr_vtn.tokens import Client, NotAdmitted, Role, Tokens
from curtaild.grid.openadr_vtn.topics import Topics
from curtaild.grid.openadr_vtn.webhooks import NotVerified, Webhooks
from curtaild_drivers.contract import Seconds

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 1024 * 1024
BASE_PATH = "/openadr3/3.1.0"
"""Where the API begins, unless told otherwise; the specification leaves it to the VTN."""

Meddler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Stands before everything: what it answers is the answer. For faults."""

Handler = Callable[[web.Request, Client], Awaitable[web.StreamResponse]]


class Vtn:
    """Use as `async with Vtn(host, port, clients, tls=…) as vtn`; `vtn.url` is the base URL that VENs are given.

    Port 0 lets the system choose. `tls` `None` serves plain HTTP, which the specification forbids; for tests that look
    at nothing else. `trusts`: whom callbacks of subscriptions must be certified by. Raises `OSError` where it cannot
    listen.
    """

    def __init__(
        self,
        host: str,
        port: int,
        clients: Iterable[Client],
        *,
        tls: ssl.SSLContext | None,
        base_path: str = BASE_PATH,
        notifier: MqttNotifier | None = None,
        token_lifetime_s: Seconds = 3600.0,
        grants_unasked: bool = False,
        trusts: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._host, self._port, self._tls = host, port, tls
        self._base_path = base_path.rstrip("/")
        self.tokens = Tokens(clients, clock, token_lifetime_s)
        self.objects = Objects(clock, self._note, grants_unasked=grants_unasked)
        self.meddler: Meddler | None = None
        self._notifier = notifier
        self.notices = Notices(notifier) if notifier is not None else None
        self._topics = Topics(notifier.prefix, offers_all=notifier.offers_all) if notifier is not None else None
        self._trusts = trusts
        self._webhooks: Webhooks
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}{self._base_path}"

    async def __aenter__(self) -> Self:
        self._webhooks = Webhooks(self._trusts or ssl.create_default_context())
        async with AsyncExitStack() as stack:
            runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, self._host, self._port, ssl_context=self._tls, reuse_address=True)
            await site.start()
            self._port = runner.addresses[0][1]
            works = [self._webhooks.run(), *([self.notices.run()] if self.notices is not None else [])]
            for work in works:
                task = asyncio.create_task(work)
                stack.push_async_callback(_ended, task)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MOST_BODY_BYTES, middlewares=[self._as_problem])
        route, admitted, base = app.router.add_route, self._admitted, self._base_path
        route("GET", f"{base}/auth/server", self._auth_server)
        route("POST", f"{base}/auth/token", self._auth_token)
        for plural, kind in (
            ("programs", "PROGRAM"),
            ("events", "EVENT"),
            ("reports", "REPORT"),
            ("subscriptions", "SUBSCRIPTION"),
            ("vens", "VEN"),
            ("resources", "RESOURCE"),
        ):
            acts = Collection(kind, self.objects, self._verify_callbacks)
            route("GET", f"{base}/{plural}", admitted(acts.search))
            route("POST", f"{base}/{plural}", admitted(acts.create))
            route("GET", f"{base}/{plural}/{{id}}", admitted(acts.read))
            route("PUT", f"{base}/{plural}/{{id}}", admitted(acts.update))
            route("DELETE", f"{base}/{plural}/{{id}}", admitted(acts.delete))
        route("GET", f"{base}/notifiers", admitted(self._notifiers))
        route("GET", f"{base}/notifiers/mqtt/topics/{{path:.+}}", admitted(self._topic_names))
        return app

    # ---- who asks, and what goes wrong ----------------------------------------------------------

    @web.middleware
    async def _as_problem(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Whatever fails is answered with a problem object."""
        try:
            if self.meddler is not None and (answer := await self.meddler(request)) is not None:
                return answer
            return await handler(request)
        except Refused as refusal:
            return problem(refusal.status, refusal.reason)
        except BadBody as fault:
            return problem(400, str(fault))
        except web.HTTPException as error:
            answer = problem(error.status, error.text or error.reason)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return problem(500, "the VTN failed; its log says why")

    def _admitted(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """`handler` for those alone who bring a token that holds."""

        async def handle(request: web.Request) -> web.StreamResponse:
            kind, _, token = request.headers.get("Authorization", "").partition(" ")
            who = self.tokens.owner(token.strip()) if kind.lower() == "bearer" else None
            if who is not None:
                return await handler(request, who)
            answer = problem(401, "no bearer token, or one that is unknown or expired")
            answer.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if token else "Bearer"
            return answer

        return handle

    async def _auth_server(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"tokenURL": f"{self.url}/auth/token"})

    async def _auth_token(self, request: web.Request) -> web.StreamResponse:
        """RFC 6749: credentials in the form, or as HTTP Basic."""
        headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
        try:
            form = await request.post()
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            client_id, secret = _basic(request) or (fields.get("client_id"), fields.get("client_secret"))
            token = self.tokens.give(fields.get("grant_type"), client_id, secret, fields.get("scope"))
        except NotAdmitted as refusal:
            answer = problem(refusal.status, refusal.reason, error=refusal.error, error_description=refusal.reason)
            answer.headers.update(headers)
            return answer
        owner = self.tokens.owner(token)
        scope = fields.get("scope") or (" ".join(owner.role.value) if owner is not None else "")
        said = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(self.tokens.lifetime_s),
            "scope": scope,
        }
        return web.json_response(said, headers=headers)

    # ---- notifications --------------------------------------------------------------------------

    async def _notifiers(self, request: web.Request, who: Client) -> web.StreamResponse:
        binding = {} if self._notifier is None else {"MQTT": self._notifier.binding}
        return web.json_response({"WEBHOOK": True, **binding})

    async def _topic_names(self, request: web.Request, who: Client) -> web.StreamResponse:
        if self._topics is None:
            raise Refused(404, "this VTN has no MQTT notifier")
        path = request.match_info["path"]
        match path.split("/"):
            case ["programs"]:
                return web.json_response(self._topics.of("programs"))
            case ["programs", program_id]:
                self.objects.one("PROGRAM", program_id, who)
                return web.json_response(self._topics.of(path, ("UPDATE", "DELETE")))
            case ["programs", program_id, "events"]:
                self.objects.one("PROGRAM", program_id, who)
                return web.json_response(self._topics.of(f"events/programs/{program_id}"))
            case ["events" | "reports" | "subscriptions" | "vens" | "resources"]:
                allow(who, "read_bl")
                return web.json_response(self._topics.of(path))
            case ["vens", ven_id]:
                self.objects.one("VEN", ven_id, who)
                return web.json_response(self._topics.of(path, ("UPDATE", "DELETE")))
            case ["vens", ven_id, ("events" | "programs" | "resources") as what]:
                self.objects.one("VEN", ven_id, who)
                return web.json_response(self._topics.of(f"{what}/vens/{ven_id}"))
        raise Refused(404, "no such topics")

    def _note(self, operation: str, subject: OadrObject) -> None:
        targets = {"targets": subject["targets"]} if subject.get("targets") else {}
        notification = {"objectType": subject["objectType"], "operation": operation, "object": subject, **targets}
        if self._topics is not None and self.notices is not None:
            for topic in self._topics.told(operation, subject, self.objects):
                self.notices.add(topic, notification)
        for callback_url, token in self._callbacks(operation, subject):
            self._webhooks.add(callback_url, token, notification)

    def _callbacks(self, operation: str, subject: OadrObject) -> Iterator[tuple[str, str | None]]:
        """The subscribers who may see it and want to hear of it."""
        for subscription in self.objects.seen("SUBSCRIPTION", _EVERYTHING):
            who = self.tokens.client(subscription["clientID"])
            if who is None or subscription.get("programID") not in (None, subject.get("programID"), subject["id"]):
                continue
            asked = subscription.get("targets")
            is_his = any(
                each["id"] == subject["id"] for each in self.objects.seen(subject["objectType"], who, asked or None)
            )
            for wanted in subscription["objectOperations"] if is_his else ():
                if subject["objectType"] in wanted["objects"] and operation in wanted["operations"]:
                    yield wanted["callbackUrl"], wanted.get("bearerToken")

    async def _verify_callbacks(self, subscription: OadrObject) -> None:
        """Raises `Refused` 400."""
        try:
            for wanted in subscription["objectOperations"]:
                await self._webhooks.verify(wanted["callbackUrl"])
        except NotVerified as fault:
            raise Refused(400, str(fault)) from None


def _basic(request: web.Request) -> tuple[str, str] | None:
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        client_id, mark, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        mark = ""
    if not mark:
        raise NotAdmitted("invalid_client", "the Authorization header cannot be read", 401)
    return client_id, secret


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))


_EVERYTHING = Client("", "", Role.BUSINESS_LOGIC)
