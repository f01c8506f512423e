"""Braiins OS by the field's own client: login, power target, pause, and what its faults look like over gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
import uvloop
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from pyasic.errors import APIError  # type: ignore[import-untyped]  # it ships no types
from pyasic.web.braiins_os.boser import BOSerWebAPI  # type: ignore[import-untyped]
from pyasic.web.braiins_os.proto.braiins.bos import v1  # type: ignore[import-untyped]

from curtaild_emulator import EmulatedFarm, Fault
from curtaild_emulator.wires.unit import Effect
from emulator.asking import farm_of, is_shut, only, rpc, send, settle
from loop_clock import cut_short


@pytest.fixture
async def farm() -> AsyncIterator[EmulatedFarm]:
    async with farm_of("braiins-s19j-pro") as farm:
        yield farm


def client(farm: EmulatedFarm) -> BOSerWebAPI:
    api = BOSerWebAPI(farm.addresses[only(farm)])
    api.port = farm.ports.braiins
    return api


async def set_target(api: BOSerWebAPI, watts: int) -> int:
    return int((await api.set_power_target(watts))["powerTarget"]["watt"])


async def test_a_power_target_is_followed_without_a_restart(farm: EmulatedFarm) -> None:
    api = client(farm)
    assert await set_target(api, 2_000) == 2_000
    assert farm.plant.miner(only(farm)).state.value == "running"
    assert settle(farm) == pytest.approx(2_000.0, rel=0.04)
    mode = await api.get_active_performance_mode()
    assert mode["tunerMode"]["powerTarget"]["powerTarget"]["watt"] == 2_000
    watts = (await api.get_miner_stats())["powerStats"]["approximatedConsumption"]["watt"]
    assert watts == pytest.approx(2_000.0, rel=0.02)
    assert (await api.get_miner_configuration())["tuner"]["powerTarget"]["watt"] == 2_000
    assert (await rpc(farm, "tunerstatus"))["TUNERSTATUS"][0]["PowerLimit"] == 2_000


async def test_its_constraints_are_told_and_kept(farm: EmulatedFarm) -> None:
    api = client(farm)
    limits = (await api.get_constraints())["tunerConstraints"]["powerTarget"]
    assert (limits["min"]["watt"], limits["max"]["watt"]) == (1_220, 3_050)
    for watts in (1_219, 3_051, 0):
        with pytest.raises(APIError):
            await set_target(api, watts)
    with pytest.raises(APIError):
        await api.set_power_target(2_000, save_action=v1.SaveAction.SAVE)
    assert farm.plant.miner(only(farm)).is_settled


async def test_pause_and_resume_keep_the_target(farm: EmulatedFarm) -> None:
    api = client(farm)
    await set_target(api, 2_500)
    assert await api.pause_mining() == {}
    assert settle(farm) == 50.0
    assert await api.pause_mining() == {"alreadyPaused": True}
    assert (await api.get_miner_details())["status"] == v1.MinerStatus.PAUSED
    assert (await rpc(farm, "devs"))["DEVS"][0]["MHS 5s"] == 0.0
    assert await api.resume_mining() == {}
    assert settle(farm) == pytest.approx(2_500.0, rel=0.04)
    assert await api.resume_mining() == {"alreadyMining": True}


async def test_a_token_is_asked_for_and_dies(farm: EmulatedFarm) -> None:
    api = client(farm)
    api.pwd = "guessed"
    with pytest.raises(GRPCError, match="Invalid credentials"):
        await api.pause_mining()
    async with Channel(farm.addresses[only(farm)], farm.ports.braiins) as channel:
        told = await v1.AuthenticationServiceStub(channel).login(v1.LoginRequest(username="root", password="root"))
    assert (len(told.token), told.timeout_s) == (32, 3_600)
    unit = farm.unit(only(farm))
    age_s = 0.0
    unit.board.wall_clock = lambda: age_s
    api = client(farm)
    token = await api.auth()
    age_s = 3_601.0
    await api.pause_mining()  # pyasic logs in again when it is told to
    assert api.token != token
    farm.set_fault(only(farm), Fault.WRONG_PASSWORD)
    with pytest.raises(APIError):
        await api.resume_mining()
    assert settle(farm) == 50.0


async def test_silence_and_a_lost_answer(farm: EmulatedFarm) -> None:
    name, api = only(farm), client(farm)
    await api.auth()
    farm.set_fault(name, Fault.HANG_WRITE_APPLIED)
    unit = farm.unit(name)
    with pytest.raises(TimeoutError):
        await cut_short(asyncio.wait_for(set_target(api, 2_000), 60.0), lambda: unit.answered[Effect.COMMAND] > 0)
    assert (await api.get_tuner_state())["powerTargetModeState"]["currentTarget"]["watt"] == 2_000
    for fault in (Fault.HANG, Fault.OFFLINE_SILENT):
        farm.set_fault(name, fault)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client(farm).get_miner_stats()
        farm.set_fault(name, fault, on=False)


async def test_a_connection_is_closed_in_place_of_an_answer(farm: EmulatedFarm) -> None:
    name, api = only(farm), client(farm)
    await api.auth()
    farm.set_fault(name, Fault.CLOSE_AFTER_POWER_OFF)
    with pytest.raises(StreamTerminatedError):
        await api.pause_mining()
    assert settle(farm) == 50.0
    farm.set_fault(name, Fault.GARBAGE)
    with pytest.raises(StreamTerminatedError):
        await api.get_miner_stats()
    farm.set_fault(name, Fault.REFUSE_CONNECTION)
    assert await is_shut(farm, port=farm.ports.braiins)


async def test_what_is_missing(farm: EmulatedFarm) -> None:
    name, api = only(farm), client(farm)
    farm.set_fault(name, Fault.NAN_POWER)  # an unsigned integer cannot be NaN
    assert "approximatedConsumption" not in (await api.get_miner_stats())["powerStats"]
    farm.set_fault(name, Fault.NAN_POWER, on=False)
    farm.set_fault(name, Fault.KEYS_VANISH_AFTER_SLEEP)
    await api.pause_mining()
    assert "approximatedConsumption" not in (await api.get_miner_stats())["powerStats"]
    assert await api.get_active_performance_mode() == {}
    farm.set_fault(name, Fault.EMPTY_SUMMARY_ASLEEP)
    assert await api.get_miner_stats() == {}
    assert (await rpc(farm, "summary"))["SUMMARY"] == []


async def test_bytes_that_are_no_http_2_end_the_connection(farm: EmulatedFarm) -> None:
    await send(farm, b"GET / HTTP/1.1\r\n\r\n", port=farm.ports.braiins)  # reads to the connection's end, or times out
    assert await set_target(client(farm), 2_000) == 2_000


async def test_logging_is_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    async with farm_of("braiins-s21"):
        assert (root.level, root.handlers) == before


def test_it_is_served_under_uvloop() -> None:
    async def ask() -> None:
        async with farm_of("braiins-s21") as farm:
            assert await set_target(client(farm), 2_000) == 2_000

    uvloop.run(ask())
