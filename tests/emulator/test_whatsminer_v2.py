"""Tokens and envelopes of Whatsminer API 2, by the field's own client code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pyasic.errors import APIError  # type: ignore[import-untyped]  # it ships no types
from pyasic.rpc.btminer import BTMinerRPCAPI  # type: ignore[import-untyped]

from curtaild_emulator import EmulatedFarm, Fault
from curtaild_emulator.wires.unit import Board
from emulator.asking import farm_of, only, rpc, send, settle


def client(farm: EmulatedFarm) -> BTMinerRPCAPI:
    api = BTMinerRPCAPI(farm.addresses[only(farm)])
    api.port = farm.ports.rpc
    return api


async def test_percent_is_fast_and_a_limit_restarts() -> None:
    async with farm_of("whatsminer-m50") as farm:
        name = only(farm)
        assert (await client(farm).set_power_pct(60))["Msg"] == "API command OK"
        assert settle(farm) == pytest.approx(0.6 * 3_306.0, rel=0.04)
        told = (await rpc(farm, "status"))["Msg"]
        assert (told["power_pct"], told["hash_percent"]) == ("60", "0")
        assert (await rpc(farm, "summary"))["SUMMARY"][0]["power_pct"] == 60
        await client(farm).adjust_power_limit(2_500)
        settle(farm)
        assert farm.true_power_w(name) == pytest.approx(2_500.0, rel=0.04)
        summary = (await rpc(farm, "summary"))["SUMMARY"][0]
        assert summary["Power Limit"] == 2_500
        assert summary["Power"] == pytest.approx(2_500.0, rel=0.02)


async def test_modes_power_off_and_on() -> None:
    async with farm_of("whatsminer-m50") as farm:
        await client(farm).power_off()
        assert (await rpc(farm, "status"))["Msg"]["mineroff"] == "true"
        assert settle(farm) == 60.0
        await client(farm).power_on()
        await client(farm).set_low_power()
        assert settle(farm) == pytest.approx(0.7 * 3_306.0, rel=0.07)
        assert (await rpc(farm, "summary"))["SUMMARY"][0]["Power Mode"] == "Low"


async def test_older_firmware_takes_a_percentage_and_does_not_show_it() -> None:
    async with farm_of("whatsminer-m50s") as farm:
        assert (await client(farm).set_power_pct(60))["Msg"] == "API command OK"
        assert settle(farm) == pytest.approx(0.6 * 3_328.0, rel=0.04)
        told = (await rpc(farm, "status"))["Msg"]
        assert told["hash_percent"] == ""
        assert "power_pct" not in told
        assert "power_pct" not in (await rpc(farm, "summary"))["SUMMARY"][0]


async def test_while_stopped_the_relay_may_have_nobody_to_ask() -> None:
    async with farm_of("whatsminer-m50") as farm:
        farm.set_fault(only(farm), Fault.API_DOWN_WHILE_STOPPED)
        await client(farm).power_off()
        assert settle(farm) == 60.0
        for command in ("summary", "edevs", "summary+pools"):
            assert await send(farm, json.dumps({"command": command}).encode()) == (
                b"Socket connect failed: Connection refused\n"
            )
        assert (await rpc(farm, "status"))["Msg"]["mineroff"] == "true"
        await client(farm).power_on()
        assert settle(farm) > 3_000.0
        assert len((await rpc(farm, "summary"))["SUMMARY"]) == 1


async def test_joined_commands_answer_together() -> None:
    async with farm_of("whatsminer-m50") as farm:
        answer = await rpc(farm, "summary+pools")
        assert answer["summary"][0]["SUMMARY"][0]["Power"] > 3_000
        assert len(answer["pools"][0]["POOLS"]) == 3


async def test_the_seventeenth_token_is_refused() -> None:
    async with farm_of("whatsminer-m50") as farm:
        farm.set_fault(only(farm), Fault.TOKEN_LIMIT)
        codes = [(await rpc(farm, "get_token"))["Code"] for _ in range(17)]
        assert codes == [134] * 16 + [136]


async def test_a_token_dies_after_half_an_hour() -> None:
    async with farm_of("whatsminer-m50") as farm:
        age_s = 0.0
        board: Board = farm.unit(only(farm)).board
        board.wall_clock = lambda: age_s
        api = client(farm)
        await api.get_token()
        age_s = 1_799.0
        assert (await api.power_off())["Code"] == 131
        age_s = 1_801.0
        with pytest.raises(APIError, match="check token err"):
            await api.power_on()


async def test_a_wrong_password_does_not_decrypt() -> None:
    async with farm_of("whatsminer-m50") as farm:
        api = client(farm)
        api.pwd = "guessed"
        with pytest.raises(APIError, match="enc json load err"):
            await api.power_off()
        farm.set_fault(only(farm), Fault.WRONG_PASSWORD)
        with pytest.raises(APIError, match="enc json load err"):
            await client(farm).power_off()
        assert farm.true_power_w(only(farm)) > 3_000.0


async def test_commands_in_the_clear_are_denied() -> None:
    async with farm_of("whatsminer-m50") as farm:
        assert (await rpc(farm, "power_off"))["Code"] == 45
        assert (await rpc(farm, "no_such"))["Code"] == 14


@pytest.mark.parametrize(
    ("said", "code"),
    [({"percent": "101"}, 132), ({"percent": None}, 132), ({"percent": "-5"}, 132), ({"percent": 40}, 131)],
)
async def test_percentages_out_of_range_are_errors(said: dict[str, Any], code: int) -> None:
    async with farm_of("whatsminer-m50") as farm:
        answer = await client(farm).send_privileged_command("set_power_pct", ignore_errors=True, **said)
        assert answer["Code"] == code


@pytest.mark.parametrize("data", ["", "!!", "QUJD", 5, None, {"a": 1}])
async def test_hostile_envelopes_are_answered(data: object) -> None:
    async with farm_of("whatsminer-m50") as farm:
        api = client(farm)
        raw = await api._send_bytes(json.dumps({"enc": 1, "data": data}).encode())
        assert json.loads(raw)["Code"] == 23
