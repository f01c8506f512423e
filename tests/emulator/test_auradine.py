"""FluxOS on port 8080: tokens, modes and watts; what its faults look like."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, is_shut, only, rpc, settle


class Web:
    """A client that logs in, and sends what it is told."""

    def __init__(self, farm: EmulatedFarm, client: aiohttp.ClientSession) -> None:
        self.farm = farm
        self.token = ""
        self._client = client
        self._base = f"http://{farm.addresses[only(farm)]}:{farm.ports.auradine}"

    async def get(self, name: str) -> Any:
        async with self._client.get(f"{self._base}/{name}", headers={"Token": self.token}) as reply:
            told = await reply.json()
            assert told["STATUS"][0]["STATUS"] == "S", told
            return told

    async def post(self, name: str, **said: object) -> tuple[int, str]:
        async with self._client.post(f"{self._base}/{name}", json=said, headers={"Token": self.token}) as reply:
            told = await reply.json()
            return reply.status, told["STATUS"][0]["STATUS"]

    async def log_in(self, password: str = "admin") -> int:
        said = {"command": "token", "user": "admin", "password": password}
        async with self._client.post(f"{self._base}/token", json=said) as reply:
            told = await reply.json()
            self.token = told["Token"][0]["Token"] if reply.status == 200 else ""
            return reply.status

    async def mode(self) -> Any:
        return (await self.get("mode"))["Mode"][0]


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with farm_of("auradine-at1500") as farm, aiohttp.ClientSession() as client:
        web = Web(farm, client)
        assert await web.log_in() == 200
        yield web


async def test_watts_eco_and_normal(web: Web) -> None:
    assert await web.mode() == {"Mode": "normal", "Sleep": "off", "Tune": "ths", "Power": 3_300}
    assert await web.post("mode", mode="custom", tune="power", power=2_000) == (200, "S")
    assert settle(web.farm) == pytest.approx(2_000.0, rel=0.04)
    assert await web.mode() == {"Mode": "custom", "Sleep": "off", "Tune": "power", "Power": 2_000}
    assert float((await web.get("psu"))["PSU"][0]["PowerIn"].removesuffix("W")) == pytest.approx(2_000.0, rel=0.02)
    assert await web.post("mode", mode="eco") == (200, "S")
    assert settle(web.farm) == pytest.approx(2_475.0, rel=0.07)
    assert (await web.mode())["Mode"] == "eco"
    assert await web.post("mode", mode="custom", tune="power", power=3_000) == (200, "S")
    assert settle(web.farm) == pytest.approx(3_000.0, rel=0.04)
    assert await web.post("mode", mode="normal") == (200, "S")
    assert settle(web.farm) == pytest.approx(3_300.0, rel=0.07)


@pytest.mark.parametrize(
    "said",
    [
        {"mode": "custom", "tune": "power", "power": 1_000},
        {"mode": "custom", "tune": "power", "power": 3_301},
        {"mode": "custom", "tune": "power", "power": "2000"},
        {"mode": "custom", "tune": "power", "power": True},
        {"mode": "custom", "power": 2_000},
        {"mode": "turbo"},
        {"sleep": True},
        {},
    ],
)
async def test_what_it_cannot_do_is_an_error(web: Web, said: dict[str, object]) -> None:
    assert await web.post("mode", **said) == (400, "E")
    assert web.farm.plant.miner(only(web.farm)).is_settled


async def test_sleep_keeps_the_mode(web: Web) -> None:
    await web.post("mode", mode="custom", tune="power", power=2_500)
    assert await web.post("mode", sleep="on") == (200, "S")
    assert settle(web.farm) == 60.0
    assert (await web.mode())["Sleep"] == "on"
    assert (await rpc(web.farm, "summary"))["SUMMARY"][0]["MHS 5s"] == 0.0
    assert await web.post("mode", sleep="off") == (200, "S")
    assert settle(web.farm) == pytest.approx(2_500.0, rel=0.04)


async def test_everything_on_its_port_needs_a_live_token(web: Web) -> None:
    age_s = 0.0
    web.farm.unit(only(web.farm)).board.wall_clock = lambda: age_s
    await web.log_in()
    age_s = 3_601.0
    assert await web.post("mode", sleep="on") == (401, "E")
    assert await web.log_in("guessed") == 401
    assert await web.log_in() == 200
    web.farm.set_fault(only(web.farm), Fault.WRONG_PASSWORD)
    assert await web.post("mode", sleep="on") == (401, "E")
    assert web.farm.plant.miner(only(web.farm)).is_settled


async def test_faults_show(web: Web) -> None:
    name = only(web.farm)
    web.farm.set_fault(name, Fault.NAN_POWER)
    assert (await web.get("psu"))["PSU"][0]["PowerIn"] == "nanW"
    web.farm.set_fault(name, Fault.KEYS_VANISH_AFTER_SLEEP)
    await web.post("mode", sleep="on")
    assert await web.mode() == {"Sleep": "on"}
    assert "PowerIn" not in (await web.get("psu"))["PSU"][0]
    web.farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP)
    assert (await web.get("psu"))["PSU"] == []
    assert (await rpc(web.farm, "summary"))["SUMMARY"] == []
    web.farm.set_fault(name, Fault.CLOSE_AFTER_POWER_OFF)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await web.post("mode", sleep="on")
    web.farm.set_fault(name, Fault.REFUSE_CONNECTION)
    assert await is_shut(web.farm, port=web.farm.ports.auradine)


async def test_there_is_nothing_else(web: Web) -> None:
    assert await web.post("nonsense") == (404, "E")
