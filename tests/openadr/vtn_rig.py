"""A VTN on loopback and a plain HTTP client for it, who knows nothing but the specification."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from curtaild.grid.openadr_vtn import Client, Role, Vtn

BL = Client("bl", "bl-secret", Role.BUSINESS_LOGIC)
VEN = Client("ven-a", "a-secret", Role.VEN)
OTHER_VEN = Client("ven-b", "b-secret", Role.VEN)
CLIENTS = (BL, VEN, OTHER_VEN)
NOON = 1_795_262_400.0
"""2026-11-21T12:00:00Z."""

Json = Any


class HandClock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def wall(self) -> float:
        return NOON + self.at


@dataclass(frozen=True)
class Answer:
    status: int
    body: Json
    headers: Mapping[str, str]

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in self.body]


class Caller:
    """Asks as one client; the token is fetched at the first call."""

    def __init__(self, session: aiohttp.ClientSession, url: str, client: Client) -> None:
        self._session = session
        self._url = url
        self.client = client
        self.token: str | None = None

    async def __call__(self, method: str, path: str, body: Json = None, **params: Any) -> Answer:
        if self.token is None:
            self.token = (await self.ask_token()).body["access_token"]
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self._request(method, path, json=body, params=_pairs(params), headers=headers)

    async def ask_token(self, **form: str) -> Answer:
        whole = {
            "grant_type": "client_credentials",
            "client_id": self.client.client_id,
            "client_secret": self.client.secret,
            **form,
        }
        return await self._request("POST", "/auth/token", data=whole)

    async def raw(self, method: str, path: str, **how: Any) -> Answer:
        """A request with exactly what is given."""
        return await self._request(method, path, **how)

    async def _request(self, method: str, path: str, **how: Any) -> Answer:
        async with self._session.request(method, self._url + path, **how) as answer:
            return Answer(answer.status, await answer.json(), answer.headers)


def _pairs(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, str(each)) for name, value in params.items() for each in (value if isinstance(value, list) else [value])
    ]


@dataclass(frozen=True)
class Talk:
    vtn: Vtn
    clock: HandClock
    bl: Caller
    ven: Caller
    other_ven: Caller


@asynccontextmanager
async def talking(**changes: Any) -> AsyncIterator[Talk]:
    """A VTN over plain HTTP, under a clock of our own, and everybody's client for it."""
    clock = HandClock()
    async with (
        Vtn("127.0.0.1", 0, CLIENTS, tls=None, clock=clock, **changes) as vtn,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
    ):
        bl, ven, other = (Caller(session, vtn.url, client) for client in CLIENTS)
        yield Talk(vtn, clock, bl, ven, other)


async def made(caller: Caller, path: str, **body: Json) -> Json:
    """The object that was created."""
    answer = await caller("POST", path, body)
    assert answer.status == 201, answer.body
    return answer.body


async def a_program(talk: Talk, **more: Json) -> str:
    program_id: str = (await made(talk.bl, "/programs", **{"programName": "curtailment", **more}))["id"]
    return program_id


async def an_event(talk: Talk, program_id: str, **more: Json) -> Json:
    return await made(talk.bl, "/events", programID=program_id, **more)


async def a_ven(talk: Talk, client: Client, *targets: str) -> str:
    name = f"site of {client.client_id}"
    body = {"objectType": "BL_VEN_REQUEST", "clientID": client.client_id, "venName": name, "targets": list(targets)}
    ven_id: str = (await made(talk.bl, "/vens", **body))["id"]
    return ven_id


def capacity_limit(kilowatts: float, start: str = "0001-01-01", duration: str = "P9999Y") -> Json:
    """The keys of an event that limits the import, as the User Guide writes them (8.10.1)."""
    return {
        "intervalPeriod": {"start": start, "duration": duration},
        "payloadDescriptors": [
            {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": "IMPORT_CAPACITY_LIMIT", "units": "KW"}
        ],
        "intervals": [{"id": 0, "payloads": [{"type": "IMPORT_CAPACITY_LIMIT", "values": [kilowatts]}]}],
    }
