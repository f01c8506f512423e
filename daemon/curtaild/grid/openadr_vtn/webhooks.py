"""Subscriptions with a callback of the client's own (Definitions, "Webhooks"): checked by an echo, then called."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from curtaild_drivers.contract import Seconds

log = logging.getLogger(__name__)

CALLBACK_TIMEOUT_S: Seconds = 10.0
MOST_WAITING = 1_000
MOST_ECHO_BYTES = 4_096


class NotVerified(Exception):
    """Why a callback URL is not taken."""


class Webhooks:
    """Calls callbacks one after the other. `tls`: whom to trust at the other end."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._waiting: asyncio.Queue[tuple[str, str | None, Mapping[str, Any]]] = asyncio.Queue(MOST_WAITING)

    def add(self, url: str, bearer_token: str | None, notification: Mapping[str, Any]) -> None:
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait((url, bearer_token, notification))

    async def verify(self, url: str) -> None:
        """The URL is https and its owner answers our challenge. Raises `NotVerified`."""
        if urlsplit(url).scheme != "https":
            raise NotVerified("callbackUrl must be https")
        challenge = secrets.token_urlsafe(16)
        try:
            async with (
                self._session() as session,
                session.get(url, params={"echo": challenge}, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(MOST_ECHO_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NotVerified(f"callbackUrl does not answer: {type(error).__name__}") from None
        if answer.status != 200 or challenge.encode() not in body:
            raise NotVerified("callbackUrl does not answer 200 with the value of echo")

    async def run(self) -> None:
        """Ends only by cancellation. A callback that fails is not called again for the same notification."""
        async with self._session() as session:
            while True:
                url, token, notification = await self._waiting.get()
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                try:
                    async with session.post(url, json=notification, headers=headers, allow_redirects=False) as answer:
                        if answer.status >= 300:
                            log.warning("callback %s answers %d", url, answer.status)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.warning("callback %s fails: %s", url, type(error).__name__)

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=CALLBACK_TIMEOUT_S)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls), timeout=timeout)
