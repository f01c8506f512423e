"""LuxOS sessions and profiles; the framed API of Whatsminer v3."""

from __future__ import annotations

import asyncio
import json

import pytest

from curtaild_emulator.wires.unit import Board
from emulator.asking import farm_of, framed, only, rpc, send, settle


async def test_one_session_at_a_time_and_it_ends_by_itself() -> None:
    async with farm_of("luxos-s21") as farm:
        idle_s = 0.0
        board: Board = farm.unit(only(farm)).board
        board.wall_clock = lambda: idle_s
        assert (await rpc(farm, "session"))["SESSION"] == [{"SessionID": ""}]
        first = (await rpc(farm, "logon"))["SESSION"][0]["SessionID"]
        assert (await rpc(farm, "session"))["SESSION"] == [{"SessionID": first}]
        assert (await rpc(farm, "logon"))["STATUS"][0]["STATUS"] == "E"
        assert (await rpc(farm, "curtail", "guess,sleep"))["STATUS"][0]["Msg"] == "Invalid session id"
        idle_s = 61.0
        assert (await rpc(farm, "curtail", f"{first},sleep"))["STATUS"][0]["STATUS"] == "E"
        second = (await rpc(farm, "logon"))["SESSION"][0]["SessionID"]
        assert (await rpc(farm, "logoff", second))["STATUS"][0]["STATUS"] == "S"
        assert (await rpc(farm, "session"))["SESSION"] == [{"SessionID": ""}]


async def test_profiles_have_their_watts_and_are_held() -> None:
    async with farm_of("luxos-s21") as farm:
        token = (await rpc(farm, "logon"))["SESSION"][0]["SessionID"]
        profiles = (await rpc(farm, "profiles"))["PROFILES"]
        assert [row["Profile Name"] for row in profiles][::5] == ["250MHz", "490MHz"]
        target = profiles[1]
        await rpc(farm, "profileset", f"{token},{target['Profile Name']}")
        assert settle(farm) == pytest.approx(target["Watts"], rel=0.07)
        assert (await rpc(farm, "profileset", f"{token},nonsense"))["STATUS"][0]["STATUS"] == "E"
        assert (await rpc(farm, "profileget"))["PROFILE"] == [{"Profile": target["Profile Name"]}]


async def test_thermal_management_keeps_profiles_from_being_set() -> None:
    async with farm_of("luxos-s21") as farm:
        token = (await rpc(farm, "logon"))["SESSION"][0]["SessionID"]
        await rpc(farm, "atmset", f"{token},enabled=true")
        assert (await rpc(farm, "atm"))["ATM"][0]["Enabled"] is True
        assert (await rpc(farm, "profileset", f"{token},310MHz"))["STATUS"][0]["STATUS"] == "E"
        await rpc(farm, "atmset", f"{token},enabled=false")
        assert (await rpc(farm, "profileset", f"{token},310MHz"))["STATUS"][0]["STATUS"] == "S"


@pytest.mark.parametrize("request_bytes", [b"hello", b"[1]", b'{"command":', b"{}}", b'"x"', b"[" * 5000])
async def test_hostile_requests_are_answered_or_waited_for(request_bytes: bytes) -> None:
    async with farm_of("luxos-s21") as farm:
        if request_bytes == b'{"command":':
            with pytest.raises(TimeoutError):
                await send(farm, request_bytes, within_s=0.05)
        else:
            answer = json.loads((await send(farm, request_bytes)).rstrip(b"\0"))
            assert answer["STATUS"][0]["STATUS"] == "E"
        assert (await rpc(farm, "power"))["POWER"][0]["Watts"] > 3_000


async def test_a_request_may_come_in_pieces_and_must_not_be_endless() -> None:
    async with farm_of("luxos-s21") as farm:
        reader, writer = await asyncio.open_connection(farm.addresses[only(farm)], farm.ports.rpc)
        writer.write(b'{"command":')
        await writer.drain()
        writer.write(b'"power"}')
        assert b"Watts" in await reader.read()
        writer.close()
        _, endless = await asyncio.open_connection(farm.addresses[only(farm)], farm.ports.rpc)
        endless.write(b'{"command":"' + b"x" * 8_000_000)
        with pytest.raises(ConnectionError):
            await endless.drain()
        endless.close()


async def test_v3_answers_many_requests_on_one_connection_and_heartbeats_none() -> None:
    async with farm_of("whatsminer-m60") as farm:
        reader, writer = await asyncio.open_connection(farm.addresses[only(farm)], farm.ports.whatsminer_v3)
        request = b'{"cmd":"get.miner.status","param":"summary+pools"}'
        writer.write(b"\0\0\0\0" + (len(request).to_bytes(4, "little") + request) * 3)
        for _ in range(3):
            length = int.from_bytes(await reader.readexactly(4), "little")
            told = json.loads(await reader.readexactly(length))
            assert set(told["msg"]) == {"summary", "pools"}
        writer.close()


async def test_v3_service_limit_and_mode() -> None:
    async with farm_of("whatsminer-m60") as farm:
        assert (await framed(farm, "set.miner.service", "stop", "super"))["msg"] == "ok"
        assert (await framed(farm, "get.device.info", "miner"))["msg"]["miner"]["working"] == "false"
        assert settle(farm) == 60.0
        refused = await framed(farm, "set.miner.power_percent", {"percent": "50", "mode": "fast"}, "super")
        assert refused["code"] == -1  # only while it is awake
        assert (await framed(farm, "set.miner.power_limit", 2_000, "super"))["code"] == 0
        assert (await framed(farm, "set.miner.service", "start", "super"))["code"] == 0
        assert settle(farm) == pytest.approx(2_000.0, rel=0.04)
        assert (await framed(farm, "get.miner.status", "summary"))["msg"]["summary"]["power-limit"] == 2_000


async def test_v3_shows_its_percentage_since_3_0_3() -> None:
    async with farm_of("whatsminer-m60") as farm:
        assert (await framed(farm, "get.miner.setting"))["msg"]["power-percent"] == 0  # none set
        await framed(farm, "set.miner.power_percent", {"percent": "50", "mode": "fast"}, "super")
        told = (await framed(farm, "get.miner.setting"))["msg"]
        assert (told["power-percent"], told["power-limit"], told["power"]) == (50, 3_422, 1_711)
    async with farm_of("whatsminer-m60s") as farm:
        assert "power-percent" not in (await framed(farm, "get.miner.setting"))["msg"]


async def test_v3_refuses_what_it_does_not_know() -> None:
    async with farm_of("whatsminer-m60") as farm:
        assert (await framed(farm, "set.miner.nonsense", 1, "super"))["code"] == -2
        assert (await framed(farm, "set.miner.service", "stop"))["code"] == -4
        assert (await framed(farm, "set.miner.service", "explode", "super"))["code"] == -1
        assert (await framed(farm, "get.miner.status", "nonsense"))["code"] == -3
        assert farm.true_power_w(only(farm)) > 3_000.0


async def test_v3_closes_on_an_absurd_length() -> None:
    async with farm_of("whatsminer-m60") as farm:
        answer = await send(farm, b"\xff\xff\xff\x7f{}", port=farm.ports.whatsminer_v3)
        assert answer == b""
