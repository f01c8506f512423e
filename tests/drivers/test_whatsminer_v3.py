"""Whatsminer API v3: frames, salted tokens, the percent that must be text, and the proof of sleep."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
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
)
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, Server, frames

OFF = OperatingPoint("off", 50, 0.0)
FULL = OperatingPoint("limit", 3400, 172e12, divisible=True)
HALF = OperatingPoint("limit", 1717, 90e12, divisible=True)

WORKING = {
    "power-realtime": 3391.5,
    "power-limit": 3400,
    "hash-realtime": 171.2,
    "elapsed": 9_000,
    "up-freq-finish": 1,
    "chip-temp-avg": 71.5,
}
NO_SUMMARY = {"code": -2, "msg": "ERR_FAIL"}


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command whose token was good."""

    summary: Answer = field(default_factory=lambda: {"code": 0, "msg": {"summary": dict(WORKING)}})
    setting: dict[str, Any] = field(default_factory=lambda: {"power-limit": 3400, "power-percent": 0})
    working: str = "true"
    salt: str = "Abc123xy"
    password: str = "super"
    verdict: Answer | None = None
    bad_token: dict[str, Any] = field(default_factory=lambda: {"code": -2, "msg": "invalid token"})
    obeyed: list[tuple[str, Any]] = field(default_factory=list)
    received: int = 0
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: dict[str, Any]) -> Answer:
        command, param = asked["cmd"], asked.get("param")
        if command.startswith("set."):
            return self._carry_out(asked)
        if command == "get.miner.status":
            return self.summary
        if command == "get.miner.setting":
            return {"code": 0, "msg": self.setting}
        info: dict[str, Any] = {
            "miner": {"working": self.working, "type": "M60_VK30", "miner-sn": "SN-3"},
            "system": {"fwversion": "20250214.16.REL"},
            "salt": self.salt,
        }
        return {"code": 0, "msg": info if param is None else {param: info[param]}, "desc": command}

    def _carry_out(self, asked: dict[str, Any]) -> Answer:
        text = f"{asked['cmd']}{self.password}{self.salt}{asked['ts']}"
        token = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()[:8]
        if asked["token"] != token or asked["account"] != "super":
            return self.bad_token
        self.received += 1
        if self.verdict is not None:
            return self.verdict
        param = asked["param"]
        if asked["cmd"] == "set.miner.power_percent":
            if not isinstance(param["percent"], str):
                return {"code": -2, "msg": "param error"}
            self.setting["power-percent"] = int(param["percent"])
        else:
            self.working = str(param == "start").lower()
            idle = {"code": 0, "msg": {"summary": WORKING | {"hash-realtime": 0, "up-freq-finish": 0}}}
            self.summary = idle if param == "start" else dict(NO_SUMMARY)
        self.obeyed.append((asked["cmd"], param))
        return {"code": 0, "msg": "ok", "desc": asked["cmd"]}


@asynccontextmanager
async def running(
    miner: Miner, piece: int = 1 << 20, password: str | None = None, **settings: Any
) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with frames(miner.answer, piece) as miner.wire:
        chosen = {"v3_port": miner.wire.port, **IN_TIME}
        known = Identity("WhatsMiner", "M60_VK30", "whatsminer-v3")
        secrets = {} if password is None else {"password": password}
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known, secrets=secrets)
        )
        yield device
        await device.close()


async def test_a_running_miner() -> None:
    async with running(miner := Miner()) as device:
        reading = await device.read()
        await device.read()
    assert (reading.state, reading.power_w, reading.temperature_c) == (RunState.RUNNING, 3391.5, 71.5)
    assert (reading.point_key, reading.limit_w) == ("limit", 3400.0)
    assert reading.rate == pytest.approx(171.2e12)
    assert miner.wire.commands().count("get.miner.status") == 2
    assert len(miner.wire.asked) == 5, "what it is set to is asked once, and so is the salt"


async def test_the_percent_goes_out_as_text_and_comes_back_as_the_limit() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(HALF) is Outcome.ACKNOWLEDGED
        reading = await device.read()
    assert miner.obeyed == [("set.miner.power_percent", {"percent": "50", "mode": "fast"})]
    assert reading.limit_w == 1700.0


async def test_a_stopped_miner_reads_as_asleep() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        reading = await device.read()
    assert miner.obeyed == [("set.miner.service", "stop")]
    assert (reading.state, reading.point_key, reading.power_w) == (RunState.ASLEEP, "off", None)


async def test_a_reading_keeps_the_salt_in_hand_so_that_a_shed_is_one_frame() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.wire.asked)
        await device.apply(OFF)
    assert len(miner.wire.asked) == before + 1


async def test_waking_to_a_limit_says_the_percent_after_the_start() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.read()
        await device.apply(HALF)
        assert (await device.read()).state is RunState.STARTING
    assert [param for _, param in miner.obeyed] == ["stop", "start", {"percent": "50", "mode": "fast"}]


async def test_a_new_salt_is_fetched_when_the_old_one_is_refused() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(HALF)
        miner.salt = "Fresh123"
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED


@pytest.mark.parametrize("said", [{"code": -4, "msg": "no permission"}, {"code": -2, "msg": "invalid token"}])
async def test_a_wrong_password(said: dict[str, Any]) -> None:
    async with running(miner := Miner(bad_token=said), password="wrong-one") as device:
        with pytest.raises(AuthFailed) as caught:
            await device.apply(OFF)
    assert "wrong-one" not in str(caught.value)
    assert miner.obeyed == []


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        ({"code": -4, "msg": "no permission for write command"}, AuthFailed),
        ({"code": -3, "msg": "param is null"}, Refused),
        ({"code": -1, "msg": "fail"}, Refused),
        ({"code": -2, "msg": "param error"}, Refused),
        ({"msg": "ok"}, OutcomeUnknown),
        ({}, OutcomeUnknown),
        (b"\x05\x00\x00\x00{", OutcomeUnknown),
        (b"\xff\xff\xff\xff{}", OutcomeUnknown),
        (b"\x02\x00", OutcomeUnknown),
        (b"\x02\x00\x00\x00[]", OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_code_zero_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner()) as device:
        await device.apply(HALF)  # with a salt in hand
        miner.verdict, miner.received = verdict, 0
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.received == (2 if error is AuthFailed else 1), "one attempt, and one more under a fresh salt"


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\x7f{}", b"{}{}{}{}{}", b"\x04\x00\x00\x00null", b"\x09\x00\x00\x00{}"])
async def test_what_is_no_frame_is_a_bad_reply(raw: bytes) -> None:
    async with running(Miner(summary=raw)) as device:
        with pytest.raises(BadReply):
            await device.read()


async def test_frames_in_single_bytes() -> None:
    async with running(Miner(), piece=1) as device:
        assert (await device.read()).power_w == 3391.5
        assert await device.apply(HALF) is Outcome.ACKNOWLEDGED


async def test_offline_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.apply(HALF)
    with pytest.raises(Unreachable):
        await device.read()
    with pytest.raises(Unreachable):
        await device.apply(OFF)


async def test_asleep_and_silent_about_it_is_unknown() -> None:
    """Keys that vanish with sleep prove nothing, and least of all that it is starting."""
    async with running(miner := Miner()) as device:
        miner.summary = {"code": 0, "msg": {"summary": {"hash-realtime": 0, "up-freq-finish": 0, "elapsed": 5}}}
        miner.working = None  # type: ignore[assignment]  # the key is there and says nothing
        reading = await device.read()
    assert (reading.state, reading.point_key) == (RunState.UNKNOWN, None)


async def test_an_older_firmware_without_settings_is_read_all_the_same() -> None:
    miner = Miner()
    real = miner.answer
    miner.answer = lambda asked: {"code": -2, "msg": "x"} if "setting" in asked["cmd"] else real(asked)  # type: ignore[method-assign]
    async with running(miner) as device:
        reading = await device.read()
    assert (reading.state, reading.limit_w) == (RunState.RUNNING, None)


async def test_identity() -> None:
    async with running(Miner(), firmware="whatsminer-v3") as device:
        identity = await device.identify()
    assert identity == Identity("WhatsMiner", "M60_VK30", "whatsminer-v3", "20250214.16.REL", "SN-3", 3422.0)


async def test_full_power_is_a_hundred_percent() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(FULL)
    assert miner.obeyed == [("set.miner.power_percent", {"percent": "100", "mode": "fast"})]
