"""Avalons: bare words on port 4028, work levels, and a soft switch that obeys a clock."""

from __future__ import annotations

import json
import re
import time

import pytest

from curtaild_emulator import EmulatedFarm, Fault
from emulator.asking import farm_of, only, rpc, send, settle


async def ask(farm: EmulatedFarm, line: str) -> str:
    return (await send(farm, line.encode())).decode().rstrip("\0")


async def estats(farm: EmulatedFarm) -> dict[str, str]:
    return dict(re.findall(r"(\w+)\[([^\]]*)\]", await ask(farm, "estats")))


def stamp(seconds: int = 5) -> str:
    return f"1:{int(time.time()) + seconds}"


async def test_answers_come_in_the_form_of_the_question() -> None:
    async with farm_of("avalon-a1566") as farm:
        text = await ask(farm, "version")
        assert text.startswith("STATUS=S,When=")
        assert "|VERSION,CGMiner=4.11.1,API=3.7," in text
        assert text.endswith("|")
        assert (await rpc(farm, "version"))["VERSION"][0]["PROD"] == "AvalonMiner 15-194"
        assert set(await rpc(farm, "version+devs")) == {"version", "devs", "id"}
        assert "Code=14,Msg=Invalid command" in await ask(farm, "nonsense")
        assert len(re.findall(r"POOLS?\d*,POOL=", await ask(farm, "pools"))) == 3


async def test_work_levels() -> None:
    async with farm_of("avalon-a1566") as farm:
        assert "Msg=ASC 0 set info: worklevel 2," in await ask(farm, "ascset|0,worklevel,get")
        assert "STATUS=S" in await ask(farm, "ascset|0,worklevel,set,0")
        assert settle(farm) == pytest.approx(2_394.0, rel=0.07)
        told = await estats(farm)
        assert (told["WORKLEVEL"], told["MPO"]) == ("0", "2394")
        assert int(told["WALLPOWER"]) == pytest.approx(farm.true_power_w(only(farm)), rel=0.05)
        for wrong in ("0,worklevel,set,3", "0,worklevel,2", "1,worklevel,set,0", "0,overdrive,set,1", "0", ""):
            assert "STATUS=E" in await ask(farm, f"ascset|{wrong}")
        assert (await estats(farm))["WORKLEVEL"] == "0"


async def test_the_soft_switch_waits_for_its_stamp() -> None:
    async with farm_of("avalon-a1566") as farm:
        before_w = farm.true_power_w(only(farm))
        assert "STATUS=I" in (answer := await ask(farm, f"ascset|0,softoff,{stamp(600)}"))
        assert "success softoff:" in answer
        farm.skip(500.0)
        assert farm.true_power_w(only(farm)) == before_w
        assert (await estats(farm))["SoftOFF"] == "0"
        farm.skip(300.0)
        assert farm.true_power_w(only(farm)) == 40.0
        told = await estats(farm)
        assert told["SoftOFF"] == "1"
        assert told["SYSTEMSTATU"].startswith("Work: In Idle")
        await ask(farm, f"ascset|0,softon,{stamp(-100)}")  # a stamp that is past acts at once
        assert settle(farm) == pytest.approx(before_w)
        assert "STATUS=E" in await ask(farm, "ascset|0,softoff,now")


async def test_with_a_wrong_clock_it_agrees_and_never_switches() -> None:
    async with farm_of("avalon-a1566") as farm:
        before_w = farm.true_power_w(only(farm))
        farm.set_fault(only(farm), Fault.CLOCK_WRONG)
        assert "success softoff:" in await ask(farm, f"ascset|0,softoff,{stamp()}")
        assert settle(farm) == before_w


async def test_commands_in_json_are_dropped() -> None:
    async with farm_of("avalon-a1566") as farm:
        request = json.dumps({"command": "ascset", "parameter": "0,worklevel,set,0"}).encode()
        assert await send(farm, request) == b""
        assert (await estats(farm))["WORKLEVEL"] == "2"
        farm.set_fault(only(farm), Fault.JSON_COMMANDS_IGNORED, on=False)
        assert (await rpc(farm, "ascset", "0,worklevel,set,0"))["STATUS"][0]["Msg"] == "ASC 0 set OK"
        assert (await estats(farm))["WORKLEVEL"] == "0"


async def test_faults_show() -> None:
    async with farm_of("avalon-a1566") as farm:
        name = only(farm)
        farm.set_fault(name, Fault.NAN_POWER)
        assert (await estats(farm))["WALLPOWER"] == "nan"
        farm.set_fault(name, Fault.KEYS_VANISH_AFTER_SLEEP)
        farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP)
        farm.plant.miner(name).sleep(farm.now())
        assert await estats(farm) == {}
        farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP, on=False)
        assert "WALLPOWER" not in await estats(farm)
        farm.set_fault(name, Fault.GARBAGE)
        assert not (await send(farm, b"estats")).startswith(b"STATUS")
