"""A VTN over HTTPS: a bearer token by client credentials, requests with it, answers as JSON; all of it bounded, in size
and in time. Redirects are not followed: neither the token nor the secret goes where nobody sent it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import aiohttp

from curtaild.clock import Clock, UnixSeconds
from curtaild.grid import fields
from curtaild.grid.fields import Rejection
from curtaild.grid.openadr import objects
from curtaild.grid.openadr.objects import Token
from curtaild_drivers.broker.mqtt import Obstacle
from curtaild_drivers.contract import Seconds

REQUEST_TIMEOUT_S = 10.0
"""From the first byte of a request to the last of its answer: a drip of bytes is no answer."""
MAX_ANSWER_BYTES = 1024 * 1024
LONGEST_WAIT_ASKED_S = 60.0
"""A VTN may ask us to come back later (`Retry-After`), up to this."""
TOKEN_SHARE = 0.8
"""A token is used for so much of its life."""
TOKEN_LASTS_S = 3_600.0
"""Where nobody says for how long; a 401 renews it anyway."""
MAX_PAGE = 50
"""The most that OpenADR lets us ask for at once."""


class VtnFailed(Exception):
    """No answer that can be used. The text says why and never holds a secret; `status` is HTTP's, if there was any."""

    def __init__(
        self, obstacle: Obstacle, reason: str, status: int | None = None, retry_after_s: Seconds | None = None
    ) -> None:
        super().__init__(reason)
        self.obstacle = obstacle
        self.reason = reason
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def is_refusal(self) -> bool:
        """The VTN has understood the request and will not have it: saying it again changes nothing."""
        return self.status in (400, 403, 404, 405, 409, 413, 422, 501)


@dataclass(frozen=True, slots=True)
class VtnAccess:
    """Where the VTN is and who we are there. `ca_file` `None`: the host's own store of authorities."""

    url: str
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    token_url: str | None = None
    scope: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`date`: when the VTN wrote it, by its own clock, if it says so. `size` in bytes."""

    body: object
    date: UnixSeconds | None
    size: int


class Vtn:
    """`async with Vtn(access, clock) as vtn`. Everything raises `VtnFailed`, and nothing else."""

    def __init__(self, access: VtnAccess, clock: Clock) -> None:
        self._access = access
        self._clock = clock
        self._token: Token | None = None
        self._token_until: Seconds = 0.0
        self._token_url = access.token_url
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        tls = await asyncio.to_thread(_tls_context, self._access)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=2),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # what is packed small may unpack to any size
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def token(self) -> str | None:
        """The token in use, for the VTN's broker."""
        return self._token.text if self._token is not None else None

    async def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        return await self._ask("GET", path, query, None)

    async def post(self, path: str, body: Mapping[str, object]) -> Answer:
        return await self._ask("POST", path, (), body)

    async def _ask(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: Mapping[str, object] | None
    ) -> Answer:
        """With a token; where the VTN does not want it any more, once again with a new one."""
        url = f"{self._access.url}{path}"
        data = json.dumps(body, allow_nan=False).encode() if body is not None else None
        for is_last in (False, True):
            headers = {"Content-Type": "application/json"} if data is not None else {}
            if (token := await self._current_token()) is not None:
                headers["Authorization"] = f"Bearer {token}"
            try:
                return await self._request(method, url, query, data, headers)
            except VtnFailed as failure:
                if failure.status != 401 or is_last or token is None:
                    raise
                self._token = None
        raise AssertionError("the last attempt returns or raises")

    # ---- the token ----------------------------------------------------------------------------

    async def _current_token(self) -> str | None:
        access = self._access
        if access.client_id is None or access.client_secret is None:
            return None
        if self._token is None or self._clock.monotonic() >= self._token_until:
            form = {"grant_type": "client_credentials", "client_id": access.client_id}
            form |= {"client_secret": access.client_secret} | ({"scope": access.scope} if access.scope else {})
            self._token = await self._fetch_token(urlencode(form).encode())
            lasts_s = self._token.lasts_s if self._token.lasts_s is not None else TOKEN_LASTS_S
            self._token_until = self._clock.monotonic() + TOKEN_SHARE * lasts_s
        return self._token.text

    async def _fetch_token(self, form: bytes) -> Token:
        url = self._token_url
        try:
            if url is None:
                found = await self._request("GET", f"{self._access.url}/auth/server", (), None, {})
                url = self._token_url = objects.read_token_url(found.body)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await self._request("POST", url, (), form, headers)
            return objects.read_token(answer.body)
        except Rejection as refusal:
            raise VtnFailed(Obstacle.SETUP, f"the token endpoint's answer is not taken: {refusal.reason}") from None
        except VtnFailed as failure:
            self._token_url = self._access.token_url  # it may have moved
            if url is None and failure.is_refusal:
                reason = f"the VTN tells of no token endpoint: {failure.reason} (see token_url)"
                raise VtnFailed(Obstacle.SETUP, reason, failure.status) from None
            if failure.status in (400, 401):
                reason = f"no token for client_id {fields.shown(self._access.client_id)}: {failure.reason}"
                raise VtnFailed(Obstacle.SETUP, f"{reason} (see client_secret_file)", 403) from None
            raise

    # ---- one request --------------------------------------------------------------------------

    async def _request(
        self,
        method: str,
        url: str,
        query: Sequence[tuple[str, str]],
        data: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        try:
            async with self._session.request(
                method, url, params=list(query), data=data, headers=headers, allow_redirects=False
            ) as response:
                raw = await _bounded(response)
                if 200 <= response.status < 300:
                    return Answer(objects.read_json(raw) if raw else None, _date(response), len(raw))
                raise _refused(response, raw, url)
        except Rejection as refusal:
            raise VtnFailed(Obstacle.NETWORK, f"{_path(url)}: the answer is {refusal.reason}") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _unreachable(error, url) from None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise fields.malformed("packed, though we asked for it plain")
    raw = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise fields.malformed(f"longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(raw)


def _date(response: aiohttp.ClientResponse) -> UnixSeconds | None:
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def _refused(response: aiohttp.ClientResponse, raw: bytes, url: str) -> VtnFailed:
    """Anything but success, with what the VTN says about it (`problem`, or `authError` of OAuth2)."""
    status = response.status
    said = _said(raw)
    if 300 <= status < 400:
        where = fields.shown(response.headers.get("Location", "nowhere"))
        return VtnFailed(Obstacle.SETUP, f"{_path(url)} redirects to {where}, which is not followed", status)
    reason = f"{_path(url)} answers {status}{said}"
    if status in (429, 500, 502, 503, 504):
        asked = response.headers.get("Retry-After", "")
        wait_s = min(float(asked), LONGEST_WAIT_ASKED_S) if asked.isdecimal() and len(asked) < 9 else None
        return VtnFailed(Obstacle.NETWORK, reason, status, wait_s)
    return VtnFailed(Obstacle.SETUP, reason, status)


def _said(raw: bytes) -> str:
    try:
        body = objects.an_object(objects.read_json(raw), "the answer")
    except Rejection:
        return ""
    words = [body.get(key) for key in ("error", "title", "detail", "error_description")]
    return "".join(f", {fields.shown(word)}" for word in words if isinstance(word, str) and word)


def _path(url: str) -> str:
    """An address for messages: without what might stand in a query."""
    return fields.shown(url.partition("?")[0]).strip("'")


def _unreachable(error: Exception, url: str) -> VtnFailed:
    at = _path(url)
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as certificate):
            why = certificate.verify_message
            return VtnFailed(Obstacle.SETUP, f"the certificate of {at} is not accepted: {why} (see ca_file)")
        case aiohttp.ClientConnectorDNSError():
            return VtnFailed(Obstacle.NETWORK, f"the name in {at} cannot be resolved")
        case aiohttp.ClientSSLError():
            return VtnFailed(Obstacle.SETUP, f"{at} does not speak TLS as asked: {fields.shown(str(error))}")
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            why = (error.reason or "").replace("_", " ").lower()
            return VtnFailed(Obstacle.SETUP, f"{at} refuses our side of TLS: {why} (see cert_file)")
        case aiohttp.ClientConnectorError():
            return VtnFailed(Obstacle.NETWORK, f"cannot connect to {at}: {error.os_error.strerror or 'no answer'}")
        case TimeoutError():
            return VtnFailed(Obstacle.NETWORK, f"no whole answer from {at} in {REQUEST_TIMEOUT_S:g} s")
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return VtnFailed(Obstacle.NETWORK, f"{at} hung up without an answer")
        case _:
            return VtnFailed(Obstacle.NETWORK, f"{at} does not answer in HTTP: {type(error).__name__}")


def _tls_context(access: VtnAccess) -> ssl.SSLContext:
    """Built anew for each session, so that a renewed certificate is taken up without a restart."""
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ValueError) as error:
        raise VtnFailed(Obstacle.SETUP, f"cannot use ca_file {access.ca_file}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.cert_file is not None:
        try:
            context.load_cert_chain(access.cert_file, access.key_file)
        except (OSError, ValueError) as error:
            files = f"cert_file {access.cert_file} with key_file {access.key_file}"
            raise VtnFailed(Obstacle.SETUP, f"cannot use {files}: {error}") from None
    return context
