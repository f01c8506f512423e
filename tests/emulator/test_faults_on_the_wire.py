"""What each fault looks like to somebody who only has the wire."""

from __future__ import annotations

import asyncio
import json
import math

import aiohttp
import pytest

from curtaild_emulator import EmulatedFarm, Fault
from curtaild_emulator.wires.unit import Effect
from emulator.asking import farm_of, framed, is_shut, only, rpc, send, settle
from loop_clock import cut_short, put_forward

SUMMARY = b'{"command":"summary"}'


async def session(farm: EmulatedFarm) -> str:
    answer = await rpc(farm, "logon")
    return str(answer["SESSION"][0]["SessionID"])


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.OFFLINE_SILENT])
async def test_silence(fault: Fault) -> None:
    async with farm_of("whatsminer-m50") as farm:
        farm.set_fault(only(farm), fault)
        with pytest.raises(TimeoutError):
            await send(farm, SUMMARY, within_s=0.1)
        farm.set_fault(only(farm), fault, on=False)
        assert b"SUMMARY" in await send(farm, SUMMARY)


async def test_refused() -> None:
    async with farm_of("whatsminer-m50") as farm:
        farm.set_fault(only(farm), Fault.REFUSE_CONNECTION)
        assert await is_shut(farm)
        farm.set_fault(only(farm), Fault.REFUSE_CONNECTION, on=False)
        assert not await is_shut(farm)


async def test_garbage_is_not_the_protocol_and_yet_the_command_is_taken() -> None:
    async with farm_of("luxos-s21") as farm:
        token = await session(farm)
        farm.set_fault(only(farm), Fault.GARBAGE)
        answer = await send(farm, json.dumps({"command": "curtail", "parameter": f"{token},sleep"}).encode())
        assert not answer.startswith(b"{")
        assert settle(farm) == 25.0


async def test_a_command_hangs_and_was_applied() -> None:
    async with farm_of("luxos-s21") as farm:
        token = await session(farm)
        farm.set_fault(only(farm), Fault.HANG_WRITE_APPLIED)
        stop, unit = json.dumps({"command": "curtail", "parameter": f"{token},sleep"}), farm.unit(only(farm))
        with pytest.raises(TimeoutError):
            await cut_short(send(farm, stop.encode()), lambda: unit.answered[Effect.STOP] > 0)
        assert settle(farm) == 25.0
        assert (await rpc(farm, "config"))["CONFIG"][0]["CurtailMode"] == "Sleep"


async def test_closes_instead_of_answering_a_stop() -> None:
    async with farm_of("luxos-s21") as farm:
        token = await session(farm)
        farm.set_fault(only(farm), Fault.CLOSE_AFTER_POWER_OFF)
        assert await send(farm, json.dumps({"command": "curtail", "parameter": f"{token},sleep"}).encode()) == b""
        assert settle(farm) == 25.0
        assert (await rpc(farm, "curtail", f"{token},wakeup"))["STATUS"][0]["STATUS"] == "S"


async def test_acknowledged_and_not_obeyed() -> None:
    async with farm_of("luxos-s21") as farm:
        before_w = farm.true_power_w(only(farm))
        token = await session(farm)
        farm.set_fault(only(farm), Fault.ACK_NO_OBEY)
        assert (await rpc(farm, "profileset", f"{token},310MHz"))["PROFILE"] == [{"Profile": "310MHz"}]
        assert (await rpc(farm, "config"))["CONFIG"][0]["Profile"] == "310MHz"
        assert (await rpc(farm, "power"))["POWER"][0]["Watts"] == pytest.approx(before_w, rel=0.06)


async def test_power_is_not_a_number() -> None:
    async with farm_of("whatsminer-m50") as farm:
        farm.set_fault(only(farm), Fault.NAN_POWER)
        assert math.isnan((await rpc(farm, "summary"))["SUMMARY"][0]["Power"])
        assert (await rpc(farm, "get_psu"))["Code"] == 131


@pytest.mark.parametrize("model", ["antminer-s21", "whatsminer-m50", "whatsminer-m60", "luxos-s21"])
async def test_an_empty_summary_while_asleep(model: str) -> None:
    async with farm_of(model) as farm:
        farm.set_fault(only(farm), Fault.EMPTY_SUMMARY_ASLEEP)
        assert len((await rpc(farm, "summary"))["SUMMARY"]) == 1
        farm.plant.miner(only(farm)).sleep(farm.now())
        assert (await rpc(farm, "summary"))["SUMMARY"] == []
        farm.set_fault(only(farm), Fault.EMPTY_SUMMARY_ASLEEP, on=False)
        assert len((await rpc(farm, "summary"))["SUMMARY"]) == 1


async def test_keys_vanish_after_sleep() -> None:
    async with farm_of("whatsminer-m60") as farm:
        farm.set_fault(only(farm), Fault.KEYS_VANISH_AFTER_SLEEP)
        awake = (await framed(farm, "get.miner.status", "summary"))["msg"]["summary"]
        farm.plant.miner(only(farm)).sleep(farm.now())
        asleep = (await framed(farm, "get.miner.status", "summary"))["msg"]["summary"]
        assert set(awake) - set(asleep) == {"power-rate", "power-5min", "power-realtime", "power-limit"}
        assert "working" not in (await framed(farm, "get.device.info"))["msg"]["miner"]
        assert (await rpc(farm, "status"))["Msg"].get("mineroff") is None


async def test_fragments_arrive_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curtaild_emulator.wires.exchange._FRAGMENT_GAP_S", 100.0)
    async with farm_of("whatsminer-m60") as farm:
        farm.set_fault(only(farm), Fault.FRAGMENT)
        address = farm.addresses[only(farm)]
        reader, writer = await asyncio.open_connection(address, farm.ports.whatsminer_v3)
        request = b'{"cmd":"get.miner.status","param":"summary"}'
        writer.write(len(request).to_bytes(4, "little") + request)
        first = await reader.read(4096)
        assert len(first) == 2  # half a length header
        put_forward()
        rest = await reader.readexactly(2)
        length = int.from_bytes(first + rest, "little")
        assert json.loads(await reader.readexactly(length))["code"] == 0
        writer.close()


async def test_a_numeric_percentage_is_refused_and_a_string_taken() -> None:
    async with farm_of("whatsminer-m60") as farm:
        command = "set.miner.power_percent"
        assert (await framed(farm, command, {"percent": 60, "mode": "fast"}, "super"))["code"] == -1
        assert (await framed(farm, command, {"percent": "60", "mode": "fast"}, "super"))["code"] == 0
        assert settle(farm) == pytest.approx(0.6 * 3_422.0, rel=0.04)
        farm.set_fault(only(farm), Fault.NUMERIC_PERCENT_REFUSED, on=False)
        assert (await framed(farm, command, {"percent": 80, "mode": "fast"}, "super"))["code"] == 0


async def test_the_clock_is_wrong() -> None:
    async with farm_of("antminer-s19") as farm:
        right = (await rpc(farm, "summary"))["STATUS"][0]["When"]
        farm.set_fault(only(farm), Fault.CLOCK_WRONG)
        assert right - (await rpc(farm, "summary"))["STATUS"][0]["When"] > 86_400 * 365


async def test_the_api_is_gone_while_it_boots_and_comes_back() -> None:
    async with farm_of("luxos-s21") as farm:
        token = await session(farm)
        farm.set_fault(only(farm), Fault.REBOOT_ON_LIMIT)
        farm.set_fault(only(farm), Fault.API_GONE_WHILE_BOOTING)
        await rpc(farm, "profileset", f"{token},310MHz")
        assert await is_shut(farm)
        settle(farm)
        assert (await rpc(farm, "profileget"))["PROFILE"] == [{"Profile": "310MHz"}]


async def test_a_web_server_that_is_broken_and_one_that_rejects() -> None:
    async with farm_of("antminer-s21") as farm, aiohttp.ClientSession() as client:
        url = f"http://{farm.addresses[only(farm)]}:{farm.ports.http}/cgi-bin/get_miner_conf.cgi"
        async with client.get(url) as reply:
            assert reply.status == 401
            assert 'realm="antMiner' in reply.headers["WWW-Authenticate"]
        farm.set_fault(only(farm), Fault.HTTP_500)
        async with client.get(url) as reply:
            assert reply.status == 500


async def test_a_changed_password_is_rejected_by_v3_and_luxos() -> None:
    async with farm_of("whatsminer-m60") as farm:
        assert (await framed(farm, "set.miner.service", "stop", "guessed"))["code"] == -4
        farm.set_fault(only(farm), Fault.WRONG_PASSWORD)
        assert (await framed(farm, "set.miner.service", "stop", "super"))["code"] == -4
        assert (await framed(farm, "get.miner.status", "summary"))["code"] == 0
    async with farm_of("luxos-s21") as farm:
        farm.set_fault(only(farm), Fault.WRONG_PASSWORD)
        assert (await rpc(farm, "logon"))["STATUS"][0]["STATUS"] == "E"
