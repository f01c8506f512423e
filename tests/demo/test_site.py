"""The demo's farm and the site file that tells the daemon of it belong together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from curtaild.demo import site
from curtaild.demo.pace import FEWEST_DEVICES, MOST_DEVICES, pace
from curtaild_config import check_site
from curtaild_emulator import MODELS

PORTS = {"http": 8001, "rpc": 8002, "whatsminer_v3": 8003, "modbus": 8004, "control": 8005}


@pytest.mark.parametrize("devices", [FEWEST_DEVICES, 15, 41, 210, MOST_DEVICES])
def test_the_site_file_lists_the_very_devices_and_nothing_is_wrong_with_it(devices: int, tmp_path: Path) -> None:
    plan = site.farm_plan(devices, 10.0, 99)
    path = tmp_path / "site.toml"
    path.write_text(site.site_file(plan, PORTS, 1883, "127.99.2.1:9810", pace(96.0), tmp_path / "ledger.db"))
    loaded, problems = check_site(path)
    assert loaded is not None
    assert not problems
    emulated = {device.address: device for device in plan.all_devices()}
    listed = {device.address: device for device in loaded.expand_devices()}
    assert len(listed) == devices
    assert listed.keys() == emulated.keys()
    for address, device in listed.items():
        assert device.feeder == emulated[address].feeder
        assert MODELS[emulated[address].model].firmware.value == getattr(device.settings, "firmware", None)
    firmwares = Counter(MODELS[device.model].firmware for device in emulated.values())
    assert len(firmwares) == 4, "all firmwares are there"
    assert {feeder.id for feeder in loaded.feeder if feeder.meter is not None} == {"site", "row-1", "row-2"}


def test_demand_and_floor_are_the_plants_own() -> None:
    plan = site.farm_plan(28, 1.0, 99)
    plant = plan.plant()
    assert site.demand_w(plan) == plant.true_feeder_power_w("site")
    for device in plant.device_ids:
        plant.miner(device).sleep(1.0)
    plant.advance(1_000.0)
    assert site.floor_w(plan) == pytest.approx(plant.true_feeder_power_w("site"))


def test_a_short_play_still_gives_the_daemon_time_to_hear_the_grid() -> None:
    for seconds in (24.0, 96.0, 600.0):
        chosen = pace(seconds)
        assert chosen.heartbeat_timeout_s >= 2 * chosen.heartbeat_s
        assert chosen.speed * seconds == pytest.approx(pace(96.0).speed * 96.0), "the same physics, faster"
