"""MARA's API: its configuration, which is written whole, its power target, its sleep, its faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, only, settle


class Web:
    """A browser of somebody who knows the password."""

    def __init__(self, farm: EmulatedFarm, client: httpx.AsyncClient) -> None:
        self.farm = farm
        self._client = client
        self._base = f"http://{farm.addresses[only(farm)]}:{farm.ports.http}/kaonsu/v1/"

    async def get(self, page: str) -> Any:
        return (await self._client.get(self._base + page)).json()

    async def send(self, page: str, body: object) -> int:
        return (await self._client.post(self._base + page, json=body)).status_code

    async def configure(self, **changed: Any) -> int:
        """Another mode or target in the configuration as it is, and all of it sent back."""
        config = await self.get("miner_config")
        concorde = config["mode"]["concorde"] | {k: v for k, v in changed.items() if k != "work-mode-selector"}
        mode = config["mode"] | {k: v for k, v in changed.items() if k == "work-mode-selector"}
        return await self.send("miner_config", config | {"mode": mode | {"concorde": concorde}})


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with (
        farm_of("marathon-s19j-pro") as farm,
        httpx.AsyncClient(auth=httpx.DigestAuth("root", "root"), trust_env=False) as client,
    ):
        yield Web(farm, client)


async def test_a_power_target_is_followed_and_slept_through(web: Web) -> None:
    assert await web.configure(**{"power-target": 2_000}) == 200
    assert settle(web.farm) == pytest.approx(2_000.0, rel=0.06)
    assert (await web.get("brief"))["power_consumption_estimated"] == pytest.approx(2_000.0, rel=0.02)
    assert await web.configure(**{"work-mode-selector": "Sleep"}) == 200
    assert settle(web.farm) == 45.0
    assert ((await web.get("brief"))["status"], (await web.get("brief"))["hashrate_realtime"]) == ("Stopped", 0.0)
    assert await web.configure(**{"work-mode-selector": "Auto"}) == 200
    assert settle(web.farm) == pytest.approx(2_000.0, rel=0.06)


@pytest.mark.parametrize(
    "changed",
    [{"work-mode-selector": "Snooze"}, {"power-target": 100}, {"power-target": 9_000}, {"power-target": "2000"}],
)
async def test_nonsense_is_refused(web: Web, changed: dict[str, Any]) -> None:
    before = web.farm.unit(only(web.farm)).settings()
    assert await web.configure(**changed) == 400
    assert web.farm.unit(only(web.farm)).settings() == before


async def test_what_is_not_sent_is_lost(web: Web) -> None:
    assert await web.send("miner_config", {"mode": {"work-mode-selector": "Sleep"}}) == 200
    unit = web.farm.unit(only(web.farm))
    assert {pool.url for pool in unit.pools} == {""}
    assert unit.settings()["modes"] == ("Auto", "None")


async def test_faults_show(web: Web) -> None:
    name = only(web.farm)
    web.farm.set_fault(name, Fault.SETTINGS_UNREADABLE)
    with pytest.raises(ValueError, match="Expecting value"):
        await web.get("miner_config")
    web.farm.set_fault(name, Fault.WRONG_PASSWORD)
    assert await web.send("locate_miner", {"blinking": True}) == 401
    assert not web.farm.unit(name).is_blinking
