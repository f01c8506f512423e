"""One BMC's Redfish service: who may ask, what is answered, and what its faults make of it (DMTF DSP0266)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from curtaild_drivers.contract import Seconds
from curtaild_emulator.bmc.caps import caps_of
from curtaild_emulator.bmc.messages import (
    Rejected,
    extended,
    internal_error,
    missing_property,
    not_in_list,
    unknown_property,
)
from curtaild_emulator.bmc.profiles import BASEBOARD, Profile
from curtaild_emulator.bmc.resources import RESET, RESET_TYPES, ROOT, Resource, collection, resources
from curtaild_emulator.bmc.sessions import Session, Sessions
from curtaild_emulator.bmc.tasks import Task, Tasks
from curtaild_emulator.gpu_node import BmcFault, GpuNode, Power

_SESSIONS = f"{ROOT}/SessionService/Sessions"
_SLOW_S = 40.0
_LONGEST_BODY = 64 * 1024
_OVERSIZED_CHUNKS, _CHUNK = 1024, b" " * 64 * 1024
ELSEWHERE = "https://192.0.2.1"
"""Where a BMC with the fault `redirect` sends its clients: an address of the block for documentation."""


class Bmc:
    """The service of one node's BMC. `clock` tells plant time, `wall_clock` the real time that sessions age by;
    `speed` is plant seconds per real second, `latency_s` how long each answer takes in real seconds."""

    def __init__(
        self,
        node: GpuNode,
        profile: Profile,
        password: str,
        *,
        clock: Callable[[], Seconds],
        wall_clock: Callable[[], Seconds],
        speed: float,
        latency_s: Seconds,
    ) -> None:
        self.node = node
        self.profile = profile
        self.password = password
        self.sessions = Sessions(profile.sessions, profile.session_timeout_s, wall_clock)
        self.elsewhere = ELSEWHERE
        self.requests: list[tuple[str, str]] = []  # the last thousand: method and path
        self._heard = asyncio.Event()
        self._clock = clock
        self._speed = speed
        self._latency_s = latency_s
        self._caps = caps_of(profile, node)
        self._tasks = Tasks(node)
        self._writes = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, as far as the faults let it."""
        self.requests = [*self.requests[-999:], (request.method, request.path)]
        self._heard.set()
        self._heard = asyncio.Event()
        self.node.advance(self._clock())
        if self.node.has(BmcFault.HANG):
            await asyncio.Event().wait()  # for ever: the peer must give up by itself
        slow_s = _SLOW_S / self._speed if self.node.has(BmcFault.SLOW) else 0.0
        await asyncio.sleep(self._latency_s + slow_s)
        self.node.advance(self._clock())
        if self.node.has(BmcFault.REDIRECT):
            return web.Response(status=307, headers={"Location": f"{self.elsewhere}{request.path}"})
        if self.node.has(BmcFault.BUSY):
            return web.Response(status=503, headers={"Retry-After": "30"})
        try:
            if self.node.has(BmcFault.HTTP_500):
                raise internal_error()
            told = await self._answer(request)
        except Rejected as rejected:
            told = _json(rejected.body, rejected.status)
            if rejected.status == 401:
                told.headers["WWW-Authenticate"] = 'Basic realm="Redfish"'
        is_write = request.method != "GET" and request.path != _SESSIONS
        if is_write and self.node.has(BmcFault.HANG_WRITE_APPLIED):
            await asyncio.Event().wait()
        if self.node.has(BmcFault.SESSION_FORGOTTEN) and request.path != _SESSIONS:
            self.sessions.forget()
        told.headers["OData-Version"] = "4.0"
        if self.node.has(BmcFault.GARBAGE):
            return web.Response(body=b"\x00<html>{]", content_type="application/json")
        return await self._flood(request) if self.node.has(BmcFault.OVERSIZED) else told

    async def heard(self, method: str, path: str) -> None:
        """Wait until such a request has come in, answered or not."""
        while (method, path) not in self.requests:
            await self._heard.wait()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.path.rstrip("/")
        if request.method == "GET" and path in ("/redfish", ROOT):
            return self._get(path)
        if request.method == "POST" and path == _SESSIONS:
            return self._log_in(await _body(request))
        self._check_allowed(request)
        if request.method == "GET":
            return self._get(path)
        if request.method == "DELETE" and path.startswith(f"{_SESSIONS}/"):
            return self._log_out(path)
        if request.method == "POST" and path == f"{self.profile.system_path}/{RESET}":
            return self._reset(await _body(request))
        if request.method == "PATCH" and path in self._caps:
            return self._patch(path, request.headers.get("If-Match"), await _body(request))
        exists = path in self._resources()
        raise _not_allowed(request.method) if exists else _missing(path)

    # --- reading -----------------------------------------------------------------------------------

    def _resources(self) -> dict[str, Resource]:
        node, power_w = self.node, None
        if node.has(BmcFault.NAN_POWER):
            power_w = float("nan")
        elif not node.has(BmcFault.NO_POWER_READING):
            power_w = node.measured_w()
        told = resources(self.profile, node, self._caps, power_w)
        open_sessions = {f"{_SESSIONS}/{session.number}": self._session(session) for session in self.sessions.live()}
        told |= open_sessions
        told[_SESSIONS] = {"@odata.id": _SESSIONS, **collection("Session", "Sessions", list(open_sessions))}
        tasks = f"{ROOT}/TaskService/Tasks"
        told[tasks] = {"@odata.id": tasks, **collection("Task", "Tasks", self._tasks.paths)}
        return told

    def _get(self, path: str) -> web.Response:
        if path == "/redfish":
            return _json({"v1": f"{ROOT}/"})
        task = self._tasks.at(path)
        if task is not None:
            return self._tell_task(task, is_monitor=path == task.monitor)
        found = self._resources().get(path)
        if found is None:
            raise _missing(path)
        if f"/{BASEBOARD}/" in path and self.node.power is not Power.ON:
            raise internal_error()  # the baseboard has no power
        if self.node.has(BmcFault.ETAG_MOVES):
            self._writes += 1
        return _json({**found, "@odata.etag": self._etag(path)}, headers={"ETag": self._etag(path)})

    def _etag(self, path: str) -> str:
        return f'W/"{self._writes:x}-{len(path):x}"'

    def _tell_task(self, task: Task, *, is_monitor: bool) -> web.Response:
        if not is_monitor:
            return _json(task.told())
        if not task.is_done:
            return _json(task.told(), 202, {"Location": task.monitor, "Retry-After": "5"})
        if task.state == "Exception":
            raise internal_error()
        return web.Response(status=204)

    # --- who may ask -------------------------------------------------------------------------------

    def _check_allowed(self, request: web.BaseRequest) -> None:
        token = request.headers.get("X-Auth-Token")
        if token is not None:
            allowed = self.sessions.use(token)
        else:
            allowed = self._knows(*_basic(request.headers.get("Authorization", "")))
        if not allowed:
            raise Rejected(401, "NoValidSession", "There is no valid session established with the implementation.")

    def _knows(self, user: object, password: object) -> bool:
        known = isinstance(user, str) and isinstance(password, str) and user == self.profile.user
        return known and password == self.password and not self.node.has(BmcFault.WRONG_PASSWORD)

    def _log_in(self, body: dict[str, Any]) -> web.Response:
        for name in ("UserName", "Password"):
            if name not in body:
                raise missing_property(name)
        if not self._knows(body["UserName"], body["Password"]):
            text = "While attempting to log in, the service was denied access to the user name or password."
            raise Rejected(401, "ResourceAtUriUnauthorized", text)
        session = None if self.node.has(BmcFault.SESSIONS_TAKEN) else self.sessions.begin()
        if session is None:
            text = "The session establishment failed due to the number of simultaneous sessions exceeding the limit."
            raise Rejected(503, "SessionLimitExceeded", text)
        headers = {"X-Auth-Token": session.token, "Location": f"{_SESSIONS}/{session.number}"}
        return _json(self._session(session), 201, headers)

    def _session(self, session: Session) -> Resource:
        return {
            "@odata.id": f"{_SESSIONS}/{session.number}",
            "@odata.type": "#Session.v1_7_0.Session",
            "Id": str(session.number),
            "Name": "User Session",
            "UserName": self.profile.user,
        }

    def _log_out(self, path: str) -> web.Response:
        number = path.rpartition("/")[2]
        if not number.isdecimal() or not self.sessions.end(int(number)):
            raise _missing(path)
        return web.Response(status=204)

    # --- writing -----------------------------------------------------------------------------------

    def _patch(self, path: str, if_match: str | None, body: dict[str, Any]) -> web.Response:
        if if_match is None and self.profile.demands_etag:
            text = "A precondition header or annotation is required to change this resource."
            raise Rejected(428, "PreconditionRequired", text)
        if if_match is not None and if_match != "*" and self._etag(path) not in re.split(r"\s*,\s*", if_match):
            raise Rejected(412, "PreconditionFailed", "The ETag supplied did not match the current resource.")
        cap = self._caps[path]
        change = cap.asked(body)
        if f"/{BASEBOARD}/" in path and self.node.power is not Power.ON:
            raise internal_error()
        self._writes += 1
        return self._carry_out(lambda: cap.carry_out(change, self._clock()), path, self.profile.patched)

    def _reset(self, body: dict[str, Any]) -> web.Response:
        for name in body:
            if name != "ResetType":
                raise unknown_property(name)
        kind = body.get("ResetType")
        if kind not in RESET_TYPES:
            raise missing_property("ResetType") if kind is None else not_in_list(kind, "ResetType")
        is_on = self.node.power is not Power.OFF
        if self.profile.in_that_state >= 400 and is_on == (kind == "On"):
            text = f"The action cannot be performed while the system is {self.node.power.value}."
            raise Rejected(self.profile.in_that_state, "ActionNotSupported", text, "ComputerSystem.Reset")
        return self._carry_out(lambda: self._do_reset(str(kind)), self.profile.system_path, 204)

    def _do_reset(self, kind: str) -> None:
        node, now = self.node, self._clock()
        if kind == "GracefulShutdown":
            node.shut_down(now)
        elif kind == "On":
            node.switch_on(now)
        else:
            node.cut_power(now)
            if kind == "ForceRestart":
                node.switch_on(now)

    def _carry_out(self, verb: Callable[[], None], path: str, status: int) -> web.Response:
        fails = self.node.has(BmcFault.TASK_FAILS)
        if fails or self.node.has(BmcFault.TASK):
            task = self._tasks.begin(verb, fails=fails)
            return _json(task.told(), 202, {"Location": task.monitor})
        verb()
        if status == 204:
            return web.Response(status=204)
        success = extended("Success", "The request completed successfully.", severity="OK")
        return _json({"@odata.id": path, "@Message.ExtendedInfo": [success]}, status)

    async def _flood(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"Name":')
        for _ in range(_OVERSIZED_CHUNKS):
            await response.write(_CHUNK)
        await response.write(b'"big"}')
        await response.write_eof()
        return response


def _json(body: Resource, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers, content_type="application/json")


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    try:
        raw = await request.read()
        value = json.loads(raw) if len(raw) <= _LONGEST_BODY else None
    except web.HTTPRequestEntityTooLarge:
        value = None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        text = "The request body submitted was malformed JSON and could not be parsed by the receiving service."
        raise Rejected(400, "MalformedJSON", text)
    return value


def _basic(header: str) -> tuple[str, str]:
    kind, _, words = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(words, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _missing(path: str) -> Rejected:
    return Rejected(404, "ResourceMissingAtURI", f"The resource at the URI '{path}' was not found.", path)


def _not_allowed(method: str) -> Rejected:
    return Rejected(405, "OperationNotAllowed", "The HTTP method is not allowed on this resource.", method)
