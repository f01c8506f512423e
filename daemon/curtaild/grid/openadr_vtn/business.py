"""The operator's hand at a VTN, ours or anybody's: a business logic client over REST.

It asks once and says what went wrong: whoever types at a terminal wants to know.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp

from curtaild.grid.fields import shown
from curtaild_drivers.contract import Seconds

TIMEOUT_S: Seconds = 10.0
PAGE = 50
MOST_OBJECTS = 100_000
MOST_ANSWER_BYTES = 16 * 1024 * 1024


class VtnFailed(Exception):
    """What the VTN refused, or why it cannot be reached. Never holds a secret."""


class BusinessLogic:
    """Use as `async with BusinessLogic(url, client_id, secret, tls) as operator`. `tls` `None`: the host's own store of
    authorities. Everything raises `VtnFailed`."""

    def __init__(self, url: str, client_id: str, secret: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._client_id = client_id
        self._secret = secret
        self._tls = tls
        self._token: str | None = None
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls) if self._tls is not None else None
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def program(self, name: str) -> str:
        """The id of the program called so; made where there is none."""
        async for program in self.objects("programs"):
            if program.get("programName") == name:
                return str(program["id"])
        return str((await self._ask("POST", "/programs", {"programName": name}))["id"])

    async def enrol(self, client_id: str, name: str, targets: list[str]) -> str:
        """The id of the ven object of a client, which grants it `targets`; made where there is none."""
        body = {"objectType": "BL_VEN_REQUEST", "clientID": client_id, "venName": name, "targets": targets}
        async for ven in self.objects("vens", venName=name):
            return str((await self._ask("PUT", f"/vens/{ven['id']}", body))["id"])
        return str((await self._ask("POST", "/vens", body))["id"])

    async def state(self, event: dict[str, Any]) -> dict[str, Any]:
        """Make an event of this `eventRequest`; answers as the VTN has it."""
        made: dict[str, Any] = await self._ask("POST", "/events", event)
        return made

    async def change(self, event_id: str, event: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = await self._ask("PUT", f"/events/{event_id}", event)
        return changed

    async def event(self, event_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._ask("GET", f"/events/{event_id}")
        return found

    async def delete(self, event_id: str) -> None:
        await self._ask("DELETE", f"/events/{event_id}")

    async def objects(self, plural: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """All objects of a kind that fit the query, page by page."""
        for skip in range(0, MOST_OBJECTS, PAGE):
            page = await self._ask("GET", f"/{plural}", None, {**query, "skip": str(skip), "limit": str(PAGE)})
            for each in page:
                yield each
            if len(page) < PAGE:
                return

    async def _ask(self, method: str, path: str, body: Any = None, query: dict[str, str] | None = None) -> Any:
        if self._token is None:
            self._token = await self._new_token()
        status, answer = await self._request(method, path, body, query)
        if status == 401:  # expired
            self._token = await self._new_token()
            status, answer = await self._request(method, path, body, query)
        if status >= 300:
            said = answer.get("detail") or answer.get("title") if isinstance(answer, dict) else None
            raise VtnFailed(f"{method} {path}: {status} {shown(said or '')}")
        return answer

    async def _new_token(self) -> str:
        """From the endpoint that the VTN names, else from its own."""
        self._token = None
        status, server = await self._request("GET", "/auth/server")
        url = server.get("tokenURL") if status == 200 and isinstance(server, dict) else None
        form = {"grant_type": "client_credentials", "client_id": self._client_id, "client_secret": self._secret}
        status, answer = await self._request("POST", url or "/auth/token", form=form)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(token, str):
            error = answer.get("error") or answer.get("title") if isinstance(answer, dict) else None
            raise VtnFailed(f"no token for {self._client_id}: {status} {shown(error or '')}")
        return token

    async def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        url = path if "://" in path else self._url + path
        headers = {"Authorization": f"Bearer {self._token}"} if self._token is not None else {}
        try:
            async with self._session.request(
                method, url, json=body, params=query, data=form, headers=headers, allow_redirects=False
            ) as answer:
                read = bytearray()
                async for piece in answer.content.iter_any():
                    read += piece
                    if len(read) > MOST_ANSWER_BYTES:
                        raise VtnFailed(f"{method} {path}: the answer does not end")
                try:
                    return answer.status, json.loads(read)
                except (ValueError, RecursionError):
                    return answer.status, None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise VtnFailed(f"{url}: {error or type(error).__name__}") from None
