"""Whatsminer API v2: the token, and what a miner says that is throttled, off, starting, or somebody else."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.asic.btminer_token import Token
from curtaild_drivers.asic.pyasic_loader import pyasic
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    Device,
    Identity,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, Server, TokenDesk, rpc

OFF = OperatingPoint("off", 50, 0.0)
FULL = OperatingPoint("limit", 3300, 114e12, divisible=True)
HALF = OperatingPoint("limit", 1667, 60e12, divisible=True)

WORKING = {"Power": 3290, "Power Limit": 3300, "HS RT": 114e6, "Elapsed": 9_000, "Upfreq Complete": 1}
ASLEEP = {"mineroff": "true", "power_limit_set": "3300"}
STOPPED = b"Socket connect failed: Connection refused\n"


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command that was understood."""

    desk: TokenDesk = field(default_factory=TokenDesk)
    summary: Answer = field(default_factory=lambda: summary_of(WORKING))
    status: dict[str, Any] = field(default_factory=lambda: {"mineroff": "false", "hash_percent": "0"})
    verdict: Answer | None = None
    not_understood: tuple[int, str] = (135, "check token error")
    tokens: int = 1 << 30
    deaf_while_starting: bool = False
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: dict[str, Any]) -> Answer:
        if "enc" in asked:
            return self._carry_out(asked)
        command = asked["cmd"]
        if command == "get_token":
            self.tokens -= 1
            if self.tokens < 0:
                return {"STATUS": "E", "Code": 136, "Msg": "over max connect"}
            return self.desk.hand_out()
        if command == "status":
            return {"STATUS": "S", "Code": 131, "Msg": self.status}
        if command == "get_version":
            return {"STATUS": "S", "Code": 131, "Msg": {"api_ver": "2.0.5", "fw_ver": "20230803.11.REL"}}
        if command == "devdetails":
            return {"STATUS": [{"STATUS": "S"}], "DEVDETAILS": [{"Model": "M50_VH30"}]}
        return self.summary

    def _carry_out(self, sealed: dict[str, Any]) -> Answer:
        command = self.desk.open(sealed)
        if command is None:
            code, words = self.not_understood
            return {"STATUS": "E", "Code": code, "Msg": words}
        if self.deaf_while_starting and len(self.desk.opened) > 1:
            return {"STATUS": "E", "Code": 14, "Msg": "invalid cmd"}
        if self.verdict is not None:
            return self.verdict
        if command["cmd"] in ("power_off", "power_on"):
            off = command["cmd"] == "power_off"
            self.status["mineroff"] = str(off).lower()
            self.summary = STOPPED if off else summary_of(WORKING | {"HS RT": 0, "Elapsed": 5, "Upfreq Complete": 0})
        return self.desk.seal({"STATUS": "S", "When": 1, "Code": 131, "Msg": "API command OK"})


def summary_of(section: dict[str, Any]) -> dict[str, Any]:
    return {"STATUS": [{"STATUS": "S", "Msg": "Summary"}], "SUMMARY": [section]}


@asynccontextmanager
async def running(
    miner: Miner, password: str | None = None, piece: int = 1 << 20, **settings: Any
) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with rpc(miner.answer, piece) as miner.wire:
        chosen = {"rpc_port": miner.wire.port, **IN_TIME}
        secrets = {} if password is None else {"password": password}
        known = Identity("WhatsMiner", "M50_VH30", "whatsminer-v2")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known, secrets=secrets)
        )
        yield device
        await device.close()


async def test_the_token_is_the_one_pyasic_makes() -> None:
    """Against an implementation that is not ours."""
    theirs = (await pyasic()).rpc.btminer
    desk = TokenDesk("s3cret_")
    token = Token.made_from(desk.hand_out()["Msg"], "s3cret_")
    ours = token.sealed("set_power_pct", percent="50")
    data = theirs.TokenData(host_sign=token.signature, host_passwd_md5=desk.passphrase)
    assert json.loads(theirs.create_privileged_cmd(data, {"cmd": "set_power_pct", "percent": "50"})) == ours
    assert desk.open(ours) == {"cmd": "set_power_pct", "percent": "50"}
    assert "s3cret_" not in repr(token)
    assert token.signature not in repr(token)


async def test_a_running_miner() -> None:
    async with running(miner := Miner()) as device:
        reading = await device.read()
        await device.read()
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, 3290.0, 114e12)
    assert (reading.point_key, reading.limit_w) == ("limit", None), "it does not say what percent it keeps to"
    assert miner.wire.commands() == ["summary", "status", "get_token", "summary"], "one command a reading"


async def test_the_limit_is_reported_where_the_firmware_tells_its_percent() -> None:
    async with running(miner := Miner()) as device:
        miner.status["power_pct"] = "50"
        assert (await device.read()).limit_w == 1650.0


async def test_points_are_every_percent_of_its_own_power_limit() -> None:
    async with running(Miner(), lowest_power_percent=30) as device:
        points = await device.operating_points()
    assert [(point.key, round(point.draw_w), point.divisible) for point in points.points] == [
        ("off", 50, False),
        ("limit", 990, False),
        ("limit", 3300, True),
    ]
    assert points.step_w == 33.0


async def test_throttling_sends_the_percent_as_text_and_never_rounds_up() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(HALF) is Outcome.ACKNOWLEDGED
    assert miner.desk.opened == [{"cmd": "set_power_pct", "percent": "50"}]


async def test_a_reading_keeps_a_token_in_hand_so_that_a_shed_is_one_command() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.wire.asked)
        await device.apply(OFF)
    assert len(miner.wire.asked) == before + 1
    assert miner.desk.opened[-1] == {"cmd": "power_off", "respbefore": "true"}


async def test_a_stopped_miner_reads_as_asleep_and_never_as_zero_watts() -> None:
    async with running(Miner()) as device:
        await device.apply(OFF)
        reading = await device.read()
    assert (reading.state, reading.point_key, reading.power_w) == (RunState.ASLEEP, "off", None)


async def test_waking_to_a_limit_says_the_percent_after_the_start() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.read()
        await device.apply(HALF)
        assert (await device.read()).state is RunState.STARTING
    assert [command["cmd"] for command in miner.desk.opened] == ["power_off", "power_on", "set_power_pct"]


async def test_waking_to_full_power_is_one_command() -> None:
    async with running(miner := Miner(summary=STOPPED, status=dict(ASLEEP))) as device:
        await device.read()
        await device.apply(FULL)
    assert [command["cmd"] for command in miner.desk.opened] == ["power_on"]


async def test_woken_and_not_throttled_is_an_unknown_outcome() -> None:
    async with running(miner := Miner(summary=STOPPED, status=dict(ASLEEP), deaf_while_starting=True)) as device:
        with pytest.raises(OutcomeUnknown, match="not throttled"):
            await device.apply(HALF)
    assert miner.status["mineroff"] == "false"


async def test_a_token_the_device_forgot_is_renewed_within_the_same_call() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(HALF)
        miner.desk.moment = 1234  # it rebooted and gives out other tokens
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert miner.wire.commands().count("get_token") == 2


@pytest.mark.parametrize("said", [(135, "check token error"), (23, "enc json load err"), (137, "base64 decode error")])
async def test_a_wrong_password_is_tried_once(said: tuple[int, str]) -> None:
    async with running(miner := Miner(not_understood=said), password="wrong-one") as device:
        with pytest.raises(AuthFailed) as caught:
            await device.apply(OFF)
    assert "wrong-one" not in str(caught.value)
    assert miner.wire.commands().count("get_token") == 1


async def test_readings_do_not_beg_for_tokens() -> None:
    async with running(miner := Miner(tokens=0)) as device:
        for _ in range(3):
            assert (await device.read()).state is RunState.RUNNING
    assert miner.wire.commands().count("get_token") == 1


async def test_the_seventeenth_token_is_refused() -> None:
    async with running(miner := Miner(tokens=0)) as device:
        with pytest.raises(Refused, match="no token left"):
            await device.apply(OFF)
    assert miner.desk.opened == []


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        ({"STATUS": "E", "Code": 45, "Msg": "permission denied"}, AuthFailed),
        ({"STATUS": "E", "Code": 132, "Msg": "can't access write cmd"}, AuthFailed),
        ({"STATUS": "E", "Code": 132, "Msg": "command error"}, Refused),
        ({"STATUS": "E", "Code": 14, "Msg": "invalid cmd"}, Refused),
        ({}, OutcomeUnknown),
        ({"enc": "AAAA"}, OutcomeUnknown),
        ({"enc": 5}, OutcomeUnknown),
        (b"\xff\xff", OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_an_answer_that_says_so_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        with pytest.raises(error):
            await device.apply(OFF)
    assert len(miner.desk.opened) == 1, "one attempt"


async def test_offline_is_unreachable_also_with_a_token_in_hand() -> None:
    async with running(Miner()) as device:
        await device.apply(HALF)
        device_with_token = device
    with pytest.raises(Unreachable) as caught:
        await device_with_token.apply(OFF)
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_limit_outside_its_range_is_not_sent() -> None:
    async with running(miner := Miner()) as device:
        for draw_w in (900, 3400):
            with pytest.raises(Unsupported):
                await device.apply(OperatingPoint("limit", draw_w, 0.0, divisible=True))
    assert miner.desk.opened == []


@pytest.mark.parametrize("power", ["nan", -1, 0, 1e9, None, "x"])
async def test_nonsense_watts_are_unknown(power: Any) -> None:
    async with running(Miner(summary=summary_of(WORKING | {"Power": power}))) as device:
        reading = await device.read()
    assert (reading.power_w, reading.state) == (None, RunState.RUNNING)


async def test_keys_that_vanish_leave_what_is_known() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        miner.summary = summary_of({"HS RT": 100e6})
        assert (await device.read()).rate == 100e12
        assert (await device.operating_points()).highest.draw_w == 3300.0


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"Upfreq Complete": 0}, RunState.STARTING),
        ({"HS RT": 0, "Elapsed": 20}, RunState.STARTING),
        ({"HS RT": 0}, RunState.IDLE),
        ({"HS RT": None}, RunState.UNKNOWN),
    ],
)
async def test_awake_and_not_at_full_work(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(summary=summary_of(WORKING | changed))) as device:
        assert (await device.read()).state is state


async def test_off_by_its_word_and_still_hashing_is_running() -> None:
    async with running(Miner(status={"btmineroff": "true"}, summary=summary_of(WORKING))) as device:
        reading = await device.read()
    assert (reading.state, reading.point_key) == (RunState.RUNNING, "off")


async def test_fragments_are_one_answer() -> None:
    async with running(Miner(), piece=7) as device:
        assert await device.apply(HALF) is Outcome.ACKNOWLEDGED
        assert (await device.read()).power_w == 3290.0


async def test_another_firmware_at_the_same_address_is_noticed() -> None:
    reply = {"STATUS": [{"STATUS": "S", "Description": "cgminer 1.0.0"}], "SUMMARY": [{}]}
    async with running(Miner(summary=reply)) as device:
        with pytest.raises(BadReply, match="identify it again"):
            await device.read()


async def test_identity() -> None:
    async with running(Miner(), firmware="whatsminer-v2") as device:
        identity = await device.identify()
    assert identity == Identity("WhatsMiner", "M50_VH30", "whatsminer-v2", "20230803.11.REL", "", 3306.0)


def test_a_farms_tokens_are_renewed_one_by_one_and_leave_no_garbage() -> None:
    handed_out = {"time": "7130", "salt": "BQ5hoXV9", "newsalt": "jbzkfQls"}
    Token.made_from(handed_out, "admin")
    gc.collect()
    gc.disable()
    try:
        tokens = [Token.made_from(handed_out, "admin") for _ in range(20)]
        assert gc.collect() == 0
    finally:
        gc.enable()
    ahead_s = [token.good_until - token.renew_at for token in tokens]
    assert 300.0 <= min(ahead_s) < max(ahead_s) <= 840.0
