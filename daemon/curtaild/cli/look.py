"""Asks a running daemon for its status over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import aiohttp

from curtaild.core.status import SiteStatus
from curtaild.telemetry.status_json import BadStatus, Json, from_json

TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class NoDaemon(Exception):
    """Nobody there, or somebody else. One line, for a person."""


class NoSuchDevice(Exception):
    """The daemon is there; the device is not."""


async def fetch_json(session: aiohttp.ClientSession, url: str) -> Json:
    """The body of `url`/status. Raises `NoDaemon`."""
    return await _fetch(session, url, "/status", {})


async def fetch_why(session: aiohttp.ClientSession, url: str, device: str) -> Json:
    """The body of `url`/why about `device`. Raises `NoDaemon` and `NoSuchDevice`."""
    return await _fetch(session, url, "/why", {"device": device})


async def _fetch(session: aiohttp.ClientSession, url: str, path: str, query: Mapping[str, str]) -> Json:
    try:
        async with session.get(f"{url}{path}", params=query, timeout=TIMEOUT) as answer:
            text = await answer.text()
            if answer.status == 503:
                raise NoDaemon(f"the daemon at {url} is not ready: {text.strip()[:200]}")
            if answer.status == 404 and "error" in text and query:
                raise NoSuchDevice(f"no device {query['device']!r} at this site")
            if answer.status != 200:
                raise NoDaemon(f"{url}{path} answers {answer.status}: no curtaild is there")
            body = json.loads(text)
    except TimeoutError:
        raise NoDaemon(f"no answer from {url} within {TIMEOUT.total:g} s") from None
    except aiohttp.InvalidURL:
        raise NoDaemon(f"{url!r} is no address; write http://127.0.0.1:9810") from None
    except aiohttp.ClientConnectorError as error:
        code = error.os_error.errno
        raise NoDaemon(f"no daemon at {url}: {os.strerror(code) if code else error.os_error}") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise NoDaemon(f"{url} does not answer as a curtaild does: {error}") from None
    if not isinstance(body, dict):
        raise NoDaemon(f"{url} does not answer as a curtaild does: no object")
    return body


async def fetch_status(session: aiohttp.ClientSession, url: str) -> SiteStatus:
    """The status of the daemon at `url`. Raises `NoDaemon`."""
    body = await fetch_json(session, url)
    try:
        return from_json(body)
    except BadStatus as error:
        raise NoDaemon(f"{url} does not answer as a curtaild of this version does: {error}") from None
