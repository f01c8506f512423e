"""VNish's web API: who may command, what the ladder takes, how a token dies."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, is_shut, only, rpc, settle


class Web:
    """A client that unlocks, and sends what it is told."""

    def __init__(self, farm: EmulatedFarm, client: aiohttp.ClientSession) -> None:
        self.farm = farm
        self.token = ""
        self._client = client
        self._base = f"http://{farm.addresses[only(farm)]}:{farm.ports.http}/api/v1"

    async def get(self, name: str) -> Any:
        async with self._client.get(f"{self._base}/{name}") as reply:
            assert reply.status == 200
            return await reply.json()

    async def post(self, name: str, body: object = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self._client.post(f"{self._base}/{name}", json=body, headers=headers) as reply:
            return reply.status, await reply.read()

    async def unlock(self, password: str = "admin") -> int:
        async with self._client.post(f"{self._base}/unlock", json={"pw": password}) as reply:
            self.token = (await reply.json()).get("token", "")
            return reply.status


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with farm_of("vnish-s19j-pro") as farm, aiohttp.ClientSession() as client:
        yield Web(farm, client)


def overclock(preset: object) -> dict[str, Any]:
    return {"miner": {"overclock": {"preset": preset}}}


async def state(web: Web) -> str:
    return str((await web.get("status"))["miner_state"])


async def test_presets_are_read_from_it_and_followed_after_a_restart(web: Web) -> None:
    presets = {preset["name"]: preset for preset in await web.get("autotune/presets")}
    assert list(presets) == ["disabled", "1740", "1850", "2000", "2300", "2500", "2700", "2970"]
    assert presets["1850"]["pretty"] == "1850 watt ~ 76 TH"
    assert await web.unlock() == 200
    assert (await web.post("settings", overclock("1850")))[0] == 200
    assert (await web.get("settings"))["miner"]["overclock"]["preset"] == "1850"
    assert await state(web) == "initializing"
    assert settle(web.farm) == pytest.approx(1_850.0, rel=0.07)
    told = (await web.get("summary"))["miner"]
    assert told["power_usage"] == pytest.approx(web.farm.true_power_w(only(web.farm)), rel=0.05)
    assert told["hr_realtime"] == pytest.approx(76_000.0, rel=0.07)
    assert (await web.get("perf-summary"))["current_preset"]["name"] == "1850"


@pytest.mark.parametrize("preset", ["1900", "disabled", 1850, ["1850"]])
async def test_what_is_not_on_the_ladder_is_refused(web: Web, preset: object) -> None:
    await web.unlock()
    assert (await web.post("settings", overclock(preset)))[0] == 400
    assert (await web.get("settings"))["miner"]["overclock"]["preset"] == "2970"
    assert web.farm.plant.miner(only(web.farm)).is_settled


async def test_settings_that_are_not_sent_are_kept_and_pools_that_are_sent_replace_all(web: Web) -> None:
    await web.unlock()
    await web.post("settings", overclock("2700"))
    assert len((await web.get("settings"))["miner"]["pools"]) == 3
    assert (await web.post("settings", {"miner": {"pools": []}}))[0] == 200
    assert (await web.get("settings"))["miner"]["pools"] == []
    assert (await web.post("settings", {"miner": 5}))[0] == 400


async def test_stop_and_start_are_confirmed_without_a_word(web: Web) -> None:
    await web.unlock()
    before_w = web.farm.true_power_w(only(web.farm))
    assert await web.post("mining/stop") == (200, b"")
    assert await state(web) == "shutting-down"
    assert settle(web.farm) == 60.0
    assert await state(web) == "stopped"
    assert (await web.post("mining/stop"))[0] == 500  # it is stopped already
    assert (await rpc(web.farm, "summary"))["SUMMARY"][0]["GHS 5s"] == 0.0
    assert await web.post("mining/start") == (200, b"")
    assert settle(web.farm) == pytest.approx(before_w)
    assert await state(web) == "mining"


async def test_commands_need_a_live_token_and_reading_needs_none(web: Web) -> None:
    assert await web.unlock("guessed") == 403
    assert (await web.post("mining/stop"))[0] == 401
    age_s = 0.0
    web.farm.unit(only(web.farm)).board.wall_clock = lambda: age_s
    await web.unlock()
    age_s = 1_801.0
    assert (await web.post("mining/stop"))[0] == 401
    assert web.farm.true_power_w(only(web.farm)) > 2_700.0
    await web.unlock()
    web.farm.set_fault(only(web.farm), Fault.WRONG_PASSWORD)
    assert (await web.post("mining/stop"))[0] == 401
    assert await web.unlock() == 403
    assert await state(web) == "mining"


async def test_faults_show(web: Web) -> None:
    name = only(web.farm)
    await web.unlock()
    web.farm.set_fault(name, Fault.NAN_POWER)
    assert math.isnan((await web.get("summary"))["miner"]["power_usage"])
    web.farm.set_fault(name, Fault.ACK_NO_OBEY)
    before_w = web.farm.true_power_w(name)
    assert (await web.post("settings", overclock("1740")))[0] == 200
    assert (await web.get("settings"))["miner"]["overclock"]["preset"] == "1740"
    assert settle(web.farm) == before_w
    web.farm.set_fault(name, Fault.ACK_NO_OBEY, on=False)
    web.farm.set_fault(name, Fault.KEYS_VANISH_AFTER_SLEEP)
    await web.post("mining/stop")
    assert "power_usage" not in (await web.get("summary"))["miner"]
    assert "preset" not in (await web.get("settings"))["miner"]["overclock"]
    web.farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP)
    assert await web.get("summary") == {}
    web.farm.set_fault(name, Fault.HTTP_500)
    assert (await web.post("mining/start"))[0] == 500
    web.farm.set_fault(name, Fault.REFUSE_CONNECTION)
    assert await is_shut(web.farm, port=web.farm.ports.http)


async def test_a_stop_may_close_without_an_answer(web: Web) -> None:
    await web.unlock()
    web.farm.set_fault(only(web.farm), Fault.CLOSE_AFTER_POWER_OFF)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await web.post("mining/stop")
    assert settle(web.farm) == 60.0


async def test_there_is_nothing_else(web: Web) -> None:
    await web.unlock()
    assert (await web.post("mining/nonsense"))[0] == 404
    assert (await web.post("../settings"))[0] == 404


async def test_before_1_3_3_there_is_no_throttle(web: Web) -> None:
    await web.unlock()
    assert "throttled" not in (await web.get("summary"))["miner"]["miner_status"]
    assert (await web.post("mining/throttle", {"percent": 50}))[0] == 404


async def test_a_throttle_is_followed_without_a_restart_and_forgotten_by_a_start() -> None:
    async with farm_of("vnish-1.3-s19j-pro") as farm, aiohttp.ClientSession() as client:
        web = Web(farm, client)
        await web.unlock()
        full_w = farm.true_power_w(only(farm))
        for percent in (19, 101, "50", 50.0, True, None):
            assert (await web.post("mining/throttle", {"percent": percent}))[0] == 400
        assert await web.post("mining/throttle", {"percent": 50}) == (200, b"")
        assert await state(web) == "mining"
        assert settle(farm) == pytest.approx(full_w / 2)
        for page in ((await web.get("summary"))["miner"]["miner_status"], await web.get("status")):
            assert page["throttled"] == 50
        assert (await web.get("settings"))["miner"]["overclock"]["preset"] == "2970"
        await web.post("mining/stop")
        settle(farm)
        await web.post("mining/start")
        assert settle(farm) == pytest.approx(full_w)


async def test_frequencies_sent_with_a_preset_overwrite_its_tuning(web: Web) -> None:
    await web.unlock()
    before = web.farm.unit(only(web.farm)).settings()
    await web.post("settings", overclock("2700"))
    await web.post("settings", overclock("2970"))
    assert web.farm.unit(only(web.farm)).settings() == before
    overwritten = overclock("2700")
    overwritten["miner"]["overclock"]["globals"] = {"freq": 400, "volt": 1200}
    await web.post("settings", overwritten)
    await web.post("settings", {"miner": {"cooling": {"mode": {"name": "manual", "param": 30}}}})
    tuned = {preset["name"] for preset in await web.get("autotune/presets") if preset["status"] == "tuned"}
    assert "2700" not in tuned
    after = web.farm.unit(only(web.farm)).settings()
    assert {key for key in after if after[key] != before[key]} == {"preset", "globals", "cooling", "modified_presets"}


async def test_its_settings_may_be_unreadable_while_all_else_works(web: Web) -> None:
    await web.unlock()
    web.farm.set_fault(only(web.farm), Fault.SETTINGS_UNREADABLE)
    with pytest.raises(AssertionError):
        await web.get("settings")
    assert (await web.post("settings", overclock("1850")))[0] == 200
    assert await state(web) == "initializing"
