"""Farm files: what they say when they are wrong, and the live control of a farm that runs from one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
import uvloop
from pymodbus.client import AsyncModbusTcpClient

import curtaild_emulator
from curtaild_emulator import BadPlan, EmulatedFarm, FarmPlan, Fault, run_farm
from emulator.asking import farm_of, only, rpc

EXAMPLE = Path(curtaild_emulator.__file__).with_name("farm.example.toml")
SMALL = """
latency_s = 0.0
[ports]
http = 0
rpc = 0
whatsminer_v3 = 0
modbus = 0
control = {control}
[[feeders]]
id = "site"
address = "127.65.0.1"
[[fleets]]
id = "m"
model = "luxos-s21"
feeder = "site"
address = "127.65.1.254"
count = 4
"""


def test_the_example_is_whole() -> None:
    plan = FarmPlan.load(EXAMPLE)
    members = plan.all_devices()
    assert len(members) == 41
    assert [d.address for d in members if d.id == "antminers-20"] == ["127.20.1.20"]
    assert plan.plant().faults("liar") >= {Fault.ACK_NO_OBEY, Fault.BIAS}


def test_fleets_count_addresses_across_a_boundary(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(SMALL.format(control=0))
    addresses = {d.id: d.address for d in FarmPlan.load(path).all_devices()}
    assert addresses == {"m-1": "127.65.1.254", "m-2": "127.65.1.255", "m-3": "127.65.2.0", "m-4": "127.65.2.1"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'model = "luxos-s21"',
            'model = "luxos-s22"',
            r"fleets\[0\].model: 'luxos-s22': Input should be 'antminer-s19'",
        ),
        ('"127.65.0.1"', '"10.0.0.1"', r"feeders\[0\].address: '10.0.0.1': would be reachable from elsewhere"),
        ('"127.65.0.1"', '"here"', r"'here': is no IPv4 address; take one of 127"),
        ('"127.65.0.1"', '"127.65.2.0"', "device 'm-3' has the address 127.65.2.0 of meter of feeder 'site'"),
        ('feeder = "site"', 'feeder = "row"', "hangs on feeder 'row', which does not exist"),
        ("count = 4", "count = 0", r"fleets\[0\].count: 0: Input should be greater than or equal to 1"),
        ("latency_s", "latency", "latency: 0.0: Extra inputs are not permitted"),
        ("count = 4", "count = ", "no TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(SMALL.format(control=0).replace(old, new))
    with pytest.raises(BadPlan, match=words) as caught:
        FarmPlan.load(path)
    assert str(path) in str(caught.value)


def test_a_mixed_farm_is_the_same_for_the_same_seed() -> None:
    first, second = (FarmPlan.mixed(40, feeders=3, seed=5).plant() for _ in range(2))
    assert first.true_feeder_power_w("site") == second.true_feeder_power_w("site")
    assert first.true_feeder_power_w("site") > sum(first.true_power_w(name) for name in first.device_ids)
    assert len(first.feeder_ids) == 4


def test_a_share_of_wakes_fails_by_plan() -> None:
    plan = FarmPlan.mixed(50).model_copy(update={"resume_failure": 0.5})
    assert all(Fault.RESUME_NEVER in plan.plant().faults(device.id) for device in plan.devices)


async def test_faults_are_switched_through_the_control_api() -> None:
    async with farm_of("whatsminer-m50") as farm, aiohttp.ClientSession() as client:
        base, name = f"http://127.0.0.1:{farm.ports.control}", only(farm)
        async with client.post(f"{base}/faults", json={"device": name, "fault": "nan_power"}) as reply:
            assert (await reply.json())["faults"] == ["nan_power"]
        assert Fault.NAN_POWER in farm.plant.faults(name)
        async with client.post(f"{base}/faults", json={"device": name, "fault": "nan_power", "on": False}) as reply:
            assert (await reply.json())["faults"] == []
        async with client.post(f"{base}/meters", json={"feeder": "site", "fault": "dead"}) as reply:
            assert reply.status == 200
        async with client.get(f"{base}/feeders") as reply:
            site = (await reply.json())[0]
        assert (site["feeder"], site["fault"]) == ("site", "dead")
        async with client.get(f"{base}/devices") as reply:
            (device,) = await reply.json()
        assert device["true_power_w"] == pytest.approx(farm.true_power_w(name), abs=0.1)
        assert device["state"] == "running"


def test_plant_time_runs_at_the_plan_s_speed_and_can_be_skipped() -> None:
    plan = FarmPlan.mixed(1, feeders=0, speed=1_000.0)
    farm = EmulatedFarm(plan)  # not opened: its clock runs all the same
    outer_began, began, inner_began = time.monotonic(), farm.now(), time.monotonic()
    inner, passed, outer = time.monotonic() - inner_began, farm.now() - began, time.monotonic() - outer_began
    assert 1_000.0 * inner <= passed + 1e-3
    assert passed <= 1_000.0 * outer + 1e-3
    assert passed > 0.0
    farm.skip(3_600.0)
    assert farm.now() - began > 3_600.0
    with pytest.raises(ValueError, match="backwards"):
        farm.skip(-1.0)


def test_a_farm_runs_under_uvloop() -> None:
    async def ask() -> None:
        async with farm_of("luxos-s21") as farm:
            assert (await rpc(farm, "power"))["POWER"][0]["Watts"] > 3_000
            client = AsyncModbusTcpClient(farm.meter_addresses["site"], port=farm.ports.modbus, timeout=60)
            assert await client.connect()
            assert len((await client.read_input_registers(52, count=2)).registers) == 2
            client.close()

    uvloop.run(ask())


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/faults", '{"device": "nobody", "fault": "hang"}', 404, "no device 'nobody'"),
        ("/faults", '{"device": "x", "fault": "tired"}', 400, "fault: Input should be 'hang'"),
        ("/faults", "nonsense", 400, "Invalid JSON"),
        ("/meters", '{"feeder": "nowhere", "fault": null}', 404, "no feeder 'nowhere'"),
    ],
)
async def test_the_control_api_says_what_is_wrong(path: str, body: str, status: int, words: str) -> None:
    async with (
        farm_of("luxos-s21") as farm,
        aiohttp.ClientSession(f"http://127.0.0.1:{farm.ports.control}") as client,
        client.post(path, data=body) as reply,
    ):
        assert reply.status == status
        assert words in (await reply.json())["error"]


async def test_a_farm_runs_from_a_file_until_it_is_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(SMALL.format(control=0))
    stop = asyncio.Event()
    stop.set()
    with caplog.at_level("INFO", logger="curtaild_emulator"):
        await run_farm(path, stop=stop)
    assert "emulating 4 devices and 1 meters" in caplog.text


def test_the_command_says_where_everything_is_until_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    nodes = '[[nodes]]\nid = "n"\nmodel = "hgx-h100"\nbmc = "cray"\nfeeder = "site"\naddress = "127.65.3.1"\n'
    path.write_text(SMALL.format(control=0).replace("modbus = 0", "modbus = 0\nredfish = 0") + nodes)
    command = [sys.executable, "-c", "from curtaild.cli import main; main()", "emulate", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        lines = [child.stderr.readline(), child.stderr.readline()]
        child.terminate()
        assert child.wait(120.0) == 0
    authority = lines[0].rpartition(" ")[2].strip()
    assert lines[0].startswith("emulating 1 GPU nodes: their BMCs' Redfish on ")
    assert not Path(authority).exists()  # temporary, as the file named none
    assert "4 devices and 1 meters" in lines[1]
    assert "control at http://127.0.0.1:" in lines[1]
