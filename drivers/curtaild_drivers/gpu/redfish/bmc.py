"""One BMC over HTTPS: one kept connection, one question at a time, one session that is ended on close. BMCs bear about
four clients (measured by their users), and the other three belong to people.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from yarl import URL

from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DriverError,
    OutcomeUnknown,
    Refused,
    Seconds,
    Unreachable,
)
from curtaild_drivers.gpu.redfish import tls
from curtaild_drivers.gpu.redfish.document import Json, is_path, link, parsed, text, words

ROOT = "/redfish/v1/"
MOST_REPLY_BYTES = 1024 * 1024
REJECTED_PAUSE_S: Seconds = 120.0
"""A rejected password is not tried again sooner: BMCs lock accounts and block addresses after a few."""
LOGOUT_S: Seconds = 2.0

_SESSIONS = "/redfish/v1/SessionService/Sessions"
_REDIRECTS = (301, 302, 303, 307, 308)
_FAILED_TASK = ("Exception", "Killed", "Cancelled")


class Unanswered(Unreachable):
    """The question left and its answer did not come. To a reader the BMC is unreachable; to a writer the outcome is
    unknown."""


class Failing(Unreachable):
    """The BMC answers that it cannot answer now (429, 5xx): it is busy, or that part of it is without power."""


class WantsTag(Refused):
    """The resource changed since it was read, or the BMC wants to be told which state of it is meant (412, 428)."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What a GET brought: the document, and the tag of this state of it where the BMC gives one."""

    body: Json
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Sent:
    """Whether a request has left, as aiohttp tells."""

    has_left: bool = False


class Bmc:
    """`until` is everywhere a moment on the running loop's clock; every call ends by then."""

    def __init__(self, base: URL, trust: tls.Trust, username: str, password: str | None) -> None:
        self._base = base
        self._trust = trust
        self._username = username
        self._password = password
        self._http: aiohttp.ClientSession | None = None
        self._turn = asyncio.Lock()
        self._sessions: str | None = None
        self._token: str | None = None
        self._own_session: str | None = None
        self._rejected = ""
        self._login_again_at: Seconds = float("-inf")

    def __str__(self) -> str:
        return f"{self._base.host}:{self._base.port}"

    async def get(self, path: str, until: Seconds) -> Resource:
        """One resource. Raises `Unreachable`, `AuthFailed`, `BadReply`."""
        answer = await self._exchange("GET", path, until)
        if answer.status in _REDIRECTS:
            answer = await self._exchange("GET", self._same_place(path, answer), until)
        if answer.status == 403:
            raise AuthFailed(f"{path}: user {self._username!r} may not read it: {_told(answer)}")
        if answer.status == 429 or answer.status >= 500:
            raise Failing(f"{path}: {_told(answer)}")
        if answer.status != 200:
            raise BadReply(f"{path}: {_told(answer)}")
        body = parsed(answer.body)
        tag = answer.headers.get("ETag") or body.get("@odata.etag")
        return Resource(body, tag if isinstance(tag, str) and re.fullmatch(r"[!-~]{1,256}", tag) else None)

    async def change(self, method: str, path: str, body: Json, until: Seconds, etag: str | None = None) -> None:
        """One command. Returns if the BMC says yes, which proves nothing. Raises as `contract.Device.apply` says, and
        `WantsTag` if `etag` was wrong or missing."""
        headers = {"If-Match": etag} if etag is not None else {}
        try:
            answer = await self._exchange(method, path, until, body, headers)
        except (Unanswered, BadReply) as error:
            raise OutcomeUnknown(f"{method} {path} was sent, then: {error}") from error
        told = words(answer.body)
        if answer.status in (412, 428):
            raise WantsTag(f"{path}: {_told(answer)}")
        if answer.status == 403 and (told.denies_rights or not told.ids):
            raise AuthFailed(f"{path}: user {self._username!r} may not change it: {_told(answer)}")
        if answer.status >= 500:
            raise OutcomeUnknown(f"{path}: {_told(answer)}")
        if not 200 <= answer.status < 300 or told.refuses:
            raise Refused(f"{path}: {_told(answer)}")
        if answer.status == 202:
            await self._look_at_task(answer, until)

    async def close(self) -> None:
        """Ends the session on the BMC, within two seconds, and the connection."""
        http, self._http = self._http, None
        if http is None:
            return
        try:
            if self._token is not None and self._own_session is not None:
                with suppress(DriverError, TimeoutError, aiohttp.ClientError, OSError):
                    async with asyncio.timeout(LOGOUT_S), self._turn:
                        await self._end_session(http)
        finally:
            self._token = self._own_session = None
            await http.close()

    # ---- one exchange -------------------------------------------------------------------------

    async def _exchange(
        self,
        method: str,
        path: str,
        until: Seconds,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One question and its answer, in the session; once more in a new one if the BMC no longer knows it, which
        refuses the first and so changes nothing."""
        try:
            async with asyncio.timeout_at(until):
                await self._turn.acquire()
        except TimeoutError:
            raise Unreachable(f"{self} was still busy with the question before") from None
        try:
            is_new = await self._log_in(until)
            answer = await self._send(method, path, until, body, headers)
            if answer.status == 401 and not is_new:
                self._token = None
                await self._log_in(until)
                answer = await self._send(method, path, until, body, headers)
            if answer.status == 401:
                await self._give_up_session(until, f"it accepts the password and not the session: {_told(answer)}")
            return answer
        finally:
            self._turn.release()

    async def _send(
        self,
        method: str,
        path: str,
        until: Seconds,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = _Sent()
        session = {"X-Auth-Token": self._token} if self._token is not None else {}
        try:
            async with asyncio.timeout_at(until):
                http = await self._client()
                async with http.request(
                    method,
                    self._base.with_path(path, encoded=True),
                    headers={**session, **(headers or {})},
                    data=json.dumps(body, separators=(",", ":")).encode() if body is not None else None,
                    allow_redirects=False,
                    trace_request_ctx=sent,
                ) as response:
                    return await _whole(response)
        except (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch) as error:
            await self._drop_client()  # what it is verified by may be mended meanwhile
            raise Unreachable(await tls.explained(error, self._base.host or "", self._port, self._trust)) from None
        except TimeoutError:
            if sent.has_left:
                raise Unanswered(f"{self} did not answer in time") from None
            raise Unreachable(f"{self} did not accept a connection in time") from None
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            raise BadReply(f"{self} does not speak HTTP: {text(str(error))}") from None
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            if sent.has_left:
                raise Unanswered(f"{self} closed the connection without an answer") from None
            raise Unreachable(f"no connection to {self}: {text(str(error))}") from None

    @property
    def _port(self) -> int:
        return self._base.port or 443

    async def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            verifier = await self._trust.verifier()
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_note_sent)
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=verifier, limit=1, keepalive_timeout=60.0),
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
                auto_decompress=False,
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "Content-Type": "application/json",
                    "OData-Version": "4.0",
                    "User-Agent": "curtaild",
                },
            )
        return self._http

    async def _drop_client(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def _same_place(self, path: str, answer: Answer) -> str:
        """Where a resource was moved to, if that is on this BMC (iLO wants a slash at the end)."""
        moved = answer.headers.get("Location", "")
        try:
            target = self._base.join(URL(moved, encoded=True))
            is_here = target.origin() == self._base.origin()
        except (ValueError, TypeError):
            raise BadReply(f"{path}: it redirects to {text(moved)!r}") from None
        if not is_here or not is_path(target.raw_path) or target.raw_path == path:
            raise BadReply(f"{path}: it redirects to {text(moved)!r}, which is not followed")
        return target.raw_path

    async def _look_at_task(self, answer: Answer, until: Seconds) -> None:
        """What a task that was just begun has come to, asked once: one that failed at once has refused."""
        monitor = self._path_of(answer.headers.get("Location", ""))
        if monitor is None:
            return
        try:
            state = await self._exchange("GET", monitor, until)
            task = parsed(state.body) if state.status == 200 else {}
        except DriverError:
            return  # it was accepted; the next reading tells what became of it
        if 400 <= state.status < 500 and state.status not in (404, 410):
            raise Refused(f"its task failed: {_told(state)}")
        if task.get("TaskState") in _FAILED_TASK:
            said = words(json.dumps({"@Message.ExtendedInfo": task.get("Messages")}).encode()).said
            raise Refused(f"its task ended as {text(task.get('TaskState'))}: {said or 'no reason given'}")

    def _path_of(self, location: str) -> str | None:
        try:
            path = self._base.join(URL(location, encoded=True)).raw_path
        except (ValueError, TypeError):
            return None
        return path if is_path(path) else None

    # ---- the session (DSP0266, 13.3.4) --------------------------------------------------------

    async def _log_in(self, until: Seconds) -> bool:
        """Whether a new session had to be made. Raises `AuthFailed` and `Unreachable`."""
        if self._token is not None:
            return False
        if self._password is None:
            raise AuthFailed("no password for the BMC: set password_file or password_credential of its group")
        if asyncio.get_running_loop().time() < self._login_again_at:
            raise AuthFailed(self._rejected)
        try:
            if self._sessions is None:
                root = await self._send("GET", ROOT, until)
                self._sessions = link(parsed(root.body), "Links", "Sessions") if root.status == 200 else None
            asked = {"UserName": self._username, "Password": self._password}
            answer = await self._send("POST", self._sessions or _SESSIONS, until, asked)
        except (Unanswered, BadReply) as error:
            raise Unreachable(f"no session: {error}") from error
        told = words(answer.body)
        if answer.status == 429 or answer.status >= 500 or "SessionLimitExceeded" in told.ids:
            raise Unreachable(f"no session, end one that nobody uses: {_told(answer)}")
        token = answer.headers.get("X-Auth-Token", "")
        if answer.status not in (200, 201) or not re.fullmatch(r"[!-~]{1,4096}", token):
            self._reject(f"user {self._username!r} gets no session: {_told(answer)}")
        self._token = token
        self._own_session = self._path_of(answer.headers.get("Location", ""))
        return True

    def _reject(self, why: str) -> None:
        self._rejected = why
        self._login_again_at = asyncio.get_running_loop().time() + REJECTED_PAUSE_S
        raise AuthFailed(why)

    async def _give_up_session(self, until: Seconds, why: str) -> None:
        if self._http is not None and self._own_session is not None:
            with suppress(DriverError, TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout_at(until):
                    await self._end_session(self._http)
        self._token = self._own_session = None
        self._reject(why)

    async def _end_session(self, http: aiohttp.ClientSession) -> None:
        where = self._base.with_path(self._own_session or "", encoded=True)
        async with http.delete(where, headers={"X-Auth-Token": self._token or ""}, allow_redirects=False):
            pass


async def _note_sent(session: object, context: object, params: object) -> None:
    del session, params
    sent = getattr(context, "trace_request_ctx", None)
    if isinstance(sent, _Sent):
        sent.has_left = True


async def _whole(response: aiohttp.ClientResponse) -> Answer:
    """The answer with its body, within bounds. Raises `BadReply`."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        response.close()
        raise BadReply("it packs its answer, which was not asked for")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MOST_REPLY_BYTES:
            response.close()
            raise BadReply(f"the answer is longer than {MOST_REPLY_BYTES // 1024} KiB")
    return Answer(response.status, response.headers, bytes(body))


def _told(answer: Answer) -> str:
    """The status and the BMC's own words."""
    said = words(answer.body).said
    return f"HTTP {answer.status}: {said}" if said else f"HTTP {answer.status}"
