"""A Bitaxe's API: its frequency, its pause, its faults; and what a NerdAxe does otherwise."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, only, settle


class Web:
    """A browser."""

    def __init__(self, farm: EmulatedFarm, client: aiohttp.ClientSession) -> None:
        self.farm = farm
        self._client = client
        self._base = f"http://{farm.addresses[only(farm)]}:{farm.ports.http}"

    async def get(self, path: str) -> Any:
        async with self._client.get(self._base + path) as reply:
            assert reply.status == 200
            return await reply.json()

    async def send(self, method: str, path: str, body: object = None) -> int:
        async with self._client.request(method, self._base + path, json=body) as reply:
            return reply.status

    async def info(self) -> Any:
        return await self.get("/api/system/info")


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with farm_of("bitaxe-gamma") as farm, aiohttp.ClientSession() as client:
        yield Web(farm, client)


async def test_frequencies_are_read_from_it_and_followed(web: Web) -> None:
    told = await web.get("/api/system/asic")
    assert told["frequencyOptions"] == [400, 490, 525, 550, 600, 625]
    assert await web.send("PATCH", "/api/system", {"frequency": 490, "hostname": "ignored"}) == 200
    assert web.farm.unit(only(web.farm)).settings()["core_mv"] == 1150, "what is not sent is kept"
    assert settle(web.farm) == pytest.approx(16.5, rel=0.07)
    info = await web.info()
    assert info["frequency"] == 490
    assert info["power"] == pytest.approx(web.farm.true_power_w(only(web.farm)), rel=0.05)
    assert info["hashRate"] == pytest.approx(1_000.0, rel=0.05)


@pytest.mark.parametrize("body", [{"frequency": 5_000}, {"frequency": "490"}, {"frequency": True}, [], "x"])
async def test_nonsense_changes_nothing(web: Web, body: object) -> None:
    assert await web.send("PATCH", "/api/system", body) == 400
    assert (await web.info())["frequency"] == 625
    assert web.farm.plant.miner(only(web.farm)).is_settled


async def test_pause_and_resume(web: Web) -> None:
    before_w = web.farm.true_power_w(only(web.farm))
    assert await web.send("POST", "/api/system/pause") == 200
    assert settle(web.farm) == 1.0
    assert ((await web.info())["miningPaused"], (await web.info())["hashRate"]) == (True, 0.0)
    assert await web.send("POST", "/api/system/resume") == 200
    assert settle(web.farm) == pytest.approx(before_w)
    assert await web.send("POST", "/api/system/restart") == 200
    assert web.farm.plant.miner(only(web.farm)).is_booting


async def test_faults_show(web: Web) -> None:
    name = only(web.farm)
    web.farm.set_fault(name, Fault.NAN_POWER)
    assert math.isnan((await web.info())["power"])
    web.farm.set_fault(name, Fault.KEYS_VANISH_AFTER_SLEEP)
    await web.send("POST", "/api/system/pause")
    assert "power" not in await web.info()
    web.farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP)
    assert await web.info() == {}
    web.farm.set_fault(name, Fault.HTTP_500)
    assert await web.send("POST", "/api/system/resume") == 500


async def test_there_is_nothing_else(web: Web) -> None:
    assert await web.send("GET", "/kaonsu/v1/brief") == 404
    assert await web.send("GET", "/api/system/pause") == 404


async def test_whatever_else_is_sent_is_taken_as_well(web: Web) -> None:
    unit = web.farm.unit(only(web.farm))
    before = unit.settings()
    sent = {"coreVoltage": 1250, "autofanspeed": 0, "fanspeed": 30, "stratumURL": "elsewhere", "stratumUser": "thief"}
    assert await web.send("PATCH", "/api/system", sent) == 200
    after = unit.settings()
    assert {key for key in after if after[key] != before[key]} == {"core_mv", "fan", "pools"}
    info = await web.info()
    assert (info["coreVoltage"], info["fanspeed"], info["stratumUser"]) == (1250, 30, "thief")


@pytest.fixture
async def nerd() -> AsyncIterator[Web]:
    async with farm_of("nerdqaxe-plus2") as farm, aiohttp.ClientSession() as client:
        yield Web(farm, client)


async def test_a_nerdaxe_is_shut_down_and_restarted(nerd: Web) -> None:
    info = await nerd.info()
    assert (info["deviceModel"], info["shutdown"], info["otp"]) == ("NerdQAxe++", False, False)
    assert "miningPaused" not in info
    assert await nerd.send("POST", "/api/system/pause") == 404
    assert await nerd.send("POST", "/api/system/shutdown") == 200
    assert settle(nerd.farm) == 1.0
    assert ((await nerd.info())["shutdown"], (await nerd.info())["hashRate"]) == (True, 0.0)
    assert await nerd.send("POST", "/api/system/restart") == 200
    assert settle(nerd.farm) == pytest.approx(76.0, rel=0.07)
    assert await nerd.send("POST", "/api/system/restart") == 200
    assert nerd.farm.plant.miner(only(nerd.farm)).is_booting


@pytest.mark.parametrize("frequency", ["525", 525.0, 5_000, True])
async def test_a_nerdaxe_says_yes_to_what_it_passes_over(nerd: Web, frequency: object) -> None:
    assert await nerd.send("PATCH", "/api/system", {"frequency": frequency}) == 200
    assert (await nerd.info())["frequency"] == 600
    assert await nerd.send("PATCH", "/api/system", {"frequency": 525}) == 200
    assert (await nerd.info())["frequency"] == 525


async def test_a_nerdaxe_with_one_time_passwords_lets_nobody_change_it(nerd: Web) -> None:
    nerd.farm.set_fault(only(nerd.farm), Fault.WRONG_PASSWORD)
    assert (await nerd.info())["otp"]
    assert await nerd.send("PATCH", "/api/system", {"frequency": 525}) == 401
    assert await nerd.send("POST", "/api/system/restart") == 401
    assert (await nerd.info())["frequency"] == 600
