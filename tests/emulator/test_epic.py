"""ePIC's API: HTTP where others speak cgminer, a password in each command, targets in watts and in TH/s."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, only, send, settle


class Web:
    """A client that knows the password."""

    def __init__(self, farm: EmulatedFarm, client: aiohttp.ClientSession) -> None:
        self.farm = farm
        self._client = client
        self._base = f"http://{farm.addresses[only(farm)]}:{farm.ports.rpc}"

    async def get(self, name: str) -> Any:
        async with self._client.get(f"{self._base}/{name}") as reply:
            assert reply.status == 200
            return await reply.json()

    async def post(self, name: str, param: object, password: str = "letmein") -> Any:
        body = {"param": param, "password": password}
        async with self._client.post(f"{self._base}/{name}", json=body) as reply:
            assert reply.status == 200
            told = await reply.json()
            return told["error"] if told["result"] is False else "done"

    async def tune(self, algorithm: object, target: object) -> Any:
        return await self.post("perpetualtune/algo", {"algo": algorithm, "target": target})


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with farm_of("epic-s19j-pro") as farm, aiohttp.ClientSession() as client:
        yield Web(farm, client)


async def test_a_target_in_watts_and_one_in_terahashes(web: Web) -> None:
    bounds = {tuner["algorithm"]: tuner for tuner in (await web.get("capabilities"))["PerpetualTune"]}
    assert (bounds["PowerTune"]["min"], bounds["PowerTune"]["max"]) == (1_373, 3_050)
    assert await web.tune("PowerTune", 2_000) == "done"
    assert settle(web.farm) == pytest.approx(2_000.0, rel=0.04)
    told = await web.get("summary")
    assert told["Power Supply Stats"]["Input Power"] == pytest.approx(2_000.0, rel=0.02)
    assert told["PerpetualTune"]["Algorithm"]["PowerTune"]["Target"] == 2_000
    assert await web.tune("VoltageOptimizer", 80) == "done"
    settle(web.farm)
    told = await web.get("summary")
    assert sum(board["Hashrate"][0] for board in told["HBs"]) == pytest.approx(80e6, rel=0.05)
    assert list(told["PerpetualTune"]["Algorithm"]) == ["VoltageOptimizer"]
    assert await web.tune("ChipTune", 100) == "done"
    assert settle(web.farm) == pytest.approx(3_050.0, rel=0.07)


@pytest.mark.parametrize(
    ("algorithm", "target"),
    [("PowerTune", 1_000), ("PowerTune", 3_051), ("VoltageOptimizer", 20), ("ChipTune", 101), ("Sleep", 0), (5, 80)]
    + [("PowerTune", target) for target in (True, "2000", 2_000.5, None)],
)
async def test_a_target_it_cannot_hold_is_refused(web: Web, algorithm: object, target: object) -> None:
    assert await web.tune(algorithm, target) == "Invalid tuning target"
    assert web.farm.plant.miner(only(web.farm)).is_settled


async def test_stop_and_autostart(web: Web) -> None:
    before_w = web.farm.true_power_w(only(web.farm))
    assert await web.post("miner", "Stop") == "done"
    assert settle(web.farm) == 45.0
    assert (await web.get("summary"))["Status"]["Operating State"] == "Idling"
    assert await web.post("miner", "Autostart") == "done"
    assert (await web.get("summary"))["Status"]["Operating State"] == "AdjustingClockVoltage"
    assert settle(web.farm) == pytest.approx(before_w)
    assert await web.post("miner", "Explode") == "Unknown command"


async def test_a_wrong_password_is_told_with_status_200(web: Web) -> None:
    assert await web.post("miner", "Stop", password="guessed") == "Incorrect password"
    web.farm.set_fault(only(web.farm), Fault.WRONG_PASSWORD)
    assert await web.post("miner", "Stop") == "Incorrect password"
    assert web.farm.plant.miner(only(web.farm)).is_settled


async def test_faults_show(web: Web) -> None:
    name = only(web.farm)
    web.farm.set_fault(name, Fault.NAN_POWER)
    assert math.isnan((await web.get("summary"))["Power Supply Stats"]["Input Power"])
    web.farm.set_fault(name, Fault.HALF_OBEY)
    assert await web.tune("PowerTune", 3_000) == "done"
    assert settle(web.farm) == pytest.approx(1_500.0, rel=0.04)
    web.farm.set_fault(name, Fault.KEYS_VANISH_AFTER_SLEEP)
    await web.post("miner", "Stop")
    assert "Power Supply Stats" not in await web.get("summary")
    web.farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP)
    assert await web.get("summary") == {}
    web.farm.set_fault(name, Fault.CLOSE_AFTER_POWER_OFF)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await web.post("miner", "Stop")


async def test_it_does_not_speak_cgminer(web: Web) -> None:
    with pytest.raises(TimeoutError):  # no line, no header: it waits for the rest
        await send(web.farm, b'{"command":"summary"}', within_s=0.05)
