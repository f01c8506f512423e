"""A bare Redfish client, and farms of GPU nodes for it to call. It finds its way by links alone, as DSP0266 wants."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import aiohttp

from curtaild_emulator import EmulatedFarm, FarmPlan
from curtaild_emulator.bmc.profiles import PROFILES
from curtaild_emulator.bmc.service import Bmc
from emulator.asking import ANY, DEADLINE_S

ID = "node-1"
ROOT = "/redfish/v1"


class Told(NamedTuple):
    status: int
    headers: Mapping[str, str]  # in any case
    body: Any


class Client:
    """Calls one BMC over TLS, with basic authentication, a session, or neither."""

    def __init__(self, farm: EmulatedFarm, *, connections: int = 1) -> None:
        self.farm = farm
        self.bmc: Bmc = farm.bmcs[ID]
        self.headers: dict[str, str] = {}
        self.tls = ssl.create_default_context(cafile=str(farm.bmc_authority_file))
        self.session = aiohttp.ClientSession(
            f"https://{farm.bmc_addresses[ID]}:{farm.ports.redfish}",
            connector=aiohttp.TCPConnector(ssl=self.tls, limit=connections),
            timeout=aiohttp.ClientTimeout(total=DEADLINE_S),
        )
        self.knows_password()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    def knows_password(self, password: str = "emulated") -> None:
        """Use basic authentication from now on."""
        words = base64.b64encode(f"{self.bmc.profile.user}:{password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {words}"}

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Told:
        """One request. A header's name is given with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, path, json=body, headers=self.headers | named, allow_redirects=False
        ) as reply:
            told = await reply.json() if reply.content_length != 0 and reply.status != 204 else None
            return Told(reply.status, reply.headers, told)

    async def get(self, path: str) -> Any:
        """A resource that must be there."""
        told = await self.ask("GET", path)
        assert told.status == 200, told
        return told.body

    async def follow(self, *steps: str) -> str:
        """The path that one comes to from the root by these links; a number chooses of a collection's members."""
        path = ROOT
        for step in steps:
            body = await self.get(path)
            target = body["Members"][int(step)] if step.isdecimal() else body[step]
            path = target["@odata.id"]
        return path

    async def patch(self, path: str, body: object) -> Told:
        """A careful write: with the ETag of the resource as it is."""
        etag = (await self.ask("GET", path)).headers["ETag"]
        return await self.ask("PATCH", path, body, If_Match=etag)


@asynccontextmanager
async def client_of(
    bmc: str, *, model: str = "hgx-h100", connections: int = 1, speed: float = 1.0, **plan: object
) -> AsyncIterator[Client]:
    """A client of a farm with one node."""
    assert bmc in PROFILES
    made = FarmPlan.model_validate(
        {
            "speed": speed,
            "latency_s": 0.0,
            "ports": ANY.model_dump(),
            "feeders": [{"id": "site", "meter_noise": 0.0}],
            "nodes": [{"id": ID, "model": model, "bmc": bmc, "feeder": "site", "address": "127.66.0.1"}],
            **plan,
        }
    )
    async with EmulatedFarm(made) as farm, Client(farm, connections=connections) as client:
        yield client


def settled_w(client: Client) -> float:
    """Let everything happen that was set going; what the node then truly draws."""
    client.farm.skip(1_000.0)
    return client.farm.true_power_w(ID)
