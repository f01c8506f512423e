"""The stock Antminer's configuration over digest HTTP: what is kept, what a careless write loses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, only, settle


class Web:
    """A browser that knows the password."""

    def __init__(self, farm: EmulatedFarm, client: aiohttp.ClientSession) -> None:
        self.farm = farm
        self._client = client
        self._base = f"http://{farm.addresses[only(farm)]}:{farm.ports.http}"

    async def get(self, name: str) -> Any:
        async with self._client.get(f"{self._base}/cgi-bin/{name}.cgi") as reply:
            assert reply.status == 200
            return await reply.json()

    async def post(self, body: object) -> Any:
        async with self._client.post(f"{self._base}/cgi-bin/set_miner_conf.cgi", json=body) as reply:
            return await reply.json()

    async def status(self, path: str) -> int:
        async with self._client.get(f"{self._base}{path}") as reply:
            assert reply.content_type == "text/html"
            return reply.status


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    digest = aiohttp.DigestAuthMiddleware("root", "root")
    async with farm_of("antminer-s19j-pro") as farm, aiohttp.ClientSession(middlewares=(digest,)) as client:
        yield Web(farm, client)


def written(conf: dict[str, Any], mode: object) -> dict[str, Any]:
    """A configuration as the device's own page would send it back."""
    return {
        "bitmain-fan-ctrl": conf["bitmain-fan-ctrl"],
        "bitmain-fan-pwm": conf["bitmain-fan-pwm"],
        "freq-level": conf["bitmain-freq-level"],
        "miner-mode": mode,
        "pools": conf["pools"],
    }


async def test_modes_sleep_low_and_normal(web: Web) -> None:
    name = only(web.farm)
    for mode, watts in ((1, 30.0), (3, 2_200.0), ("0", 3_050.0)):
        conf = await web.get("get_miner_conf")
        assert (await web.post(written(conf, mode)))["stats"] == "success"
        settle(web.farm)
        assert web.farm.true_power_w(name) == pytest.approx(watts, rel=0.07)
        after = await web.get("get_miner_conf")
        assert after["bitmain-work-mode"] == str(mode)
        assert after["pools"] == conf["pools"]


async def test_a_write_without_pools_wipes_them(web: Web) -> None:
    assert (await web.get("get_miner_conf"))["pools"][0]["url"] == "stratum+tcp://pool1.example:3333"
    assert (await web.post({"miner-mode": 0}))["stats"] == "success"
    conf = await web.get("get_miner_conf")
    assert conf["pools"] == [{"url": "", "user": "", "pass": ""}] * 3
    assert conf["bitmain-freq-level"] == ""


@pytest.mark.parametrize("body", [{"pools": []}, {"miner-mode": 9}, [], "x", {"miner-mode": True}])
async def test_nonsense_is_no_success_and_changes_nothing(web: Web, body: object) -> None:
    before = await web.get("get_miner_conf")
    assert (await web.post(body))["stats"] == "error"
    assert await web.get("get_miner_conf") == before


async def test_what_it_reads_back_as_work_mode_is_not_what_it_takes(web: Web) -> None:
    conf = await web.get("get_miner_conf") | {"bitmain-work-mode": "1"}
    assert (await web.post(conf))["stats"] == "error"
    assert web.farm.true_power_w(only(web.farm)) > 2_800.0


async def test_readable_pages(web: Web) -> None:
    assert (await web.get("get_system_info"))["minertype"] == "Antminer S19j Pro"
    stats = await web.get("stats")
    assert stats["STATS"][0]["rate_5s"] == pytest.approx(100_000.0, rel=0.1)
    assert (await web.get("summary"))["SUMMARY"][0]["status"][0]["status"] == "s"
    web.farm.plant.miner(only(web.farm)).sleep(web.farm.now())
    assert (await web.get("stats"))["STATS"] == []
    assert (await web.get("summary"))["SUMMARY"] == []


async def test_there_is_nothing_else(web: Web) -> None:
    assert await web.status("/") == 200
    assert await web.status("/cgi-bin/../etc/passwd") == 404
    assert await web.status("/kaonsu/v1/brief") == 404


async def test_a_changed_password_is_rejected(web: Web) -> None:
    await web.get("get_miner_conf")
    web.farm.set_fault(only(web.farm), Fault.WRONG_PASSWORD)
    assert await web.status("/cgi-bin/get_miner_conf.cgi") == 401


async def test_its_configuration_may_be_unreadable_while_it_can_be_written(web: Web) -> None:
    web.farm.set_fault(only(web.farm), Fault.SETTINGS_UNREADABLE)
    with pytest.raises(AssertionError):
        await web.get("get_miner_conf")
    assert (await web.post({"miner-mode": 0}))["stats"] == "success"
    assert web.farm.unit(only(web.farm)).settings()["pools"] == (("", "", ""),) * 3, "which is how pools are lost"
