"""Stock Antminer: readings from 4028, the mode from a configuration that must survive every write whole."""

from __future__ import annotations

import json
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
    Unsupported,
)
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, Server, digest_http, http_answer, rpc

OFF, LOW, NORMAL = (OperatingPoint(key, draw_w, 0.0) for key, draw_w in (("off", 30), ("low", 2600), ("normal", 3500)))

POOLS = [
    {"url": "stratum+tcp://one.example:3333", "user": "farm.17", "pass": "x"},
    {"url": "stratum+tcp://two.example:443", "user": "farm.17", "pass": "pass word"},
    {"url": "", "user": "", "pass": ""},
]
CONFIGURATION = {
    "pools": POOLS,
    "api-listen": True,
    "bitmain-fan-ctrl": False,
    "bitmain-fan-pwm": "80",
    "bitmain-freq-level": "90",
    "bitmain-work-mode": "0",
    "of-a-later-firmware": {"kept": [1, 2]},
}
SUCCESS = {"stats": "success", "code": "M000", "msg": "OK!"}


@dataclass
class Miner:
    """The far end's state; each answer can be replaced by what a fault would make of it."""

    configuration: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(CONFIGURATION)))
    summary: Answer = field(default_factory=lambda: summary_of({"GHS 5s": 198_000.5, "Elapsed": 9_000}))
    reads: Answer | None = None
    writes: Answer | None = None
    written: list[dict[str, Any]] = field(default_factory=list)
    rpc: Server = field(default_factory=lambda: Server(0))
    web: Server = field(default_factory=lambda: Server(0))

    def answer_rpc(self, asked: dict[str, Any]) -> Answer:
        if asked["command"] == "version":
            version = {"API": "3.1", "Miner": "uart_trans.1.3", "CompileTime": "Fri", "Type": "Antminer S21"}
            return {"STATUS": [{"STATUS": "S"}], "VERSION": [version]}
        return self.summary

    def answer_web(self, asked: Any) -> Answer:
        if asked.method == "POST":
            self.written.append(asked.body)
            if self.writes is not None:
                return self.writes
            self.configuration["bitmain-work-mode"] = str(asked.body["miner-mode"])
            return SUCCESS
        if asked.page == "get_system_info.cgi":
            return {"minertype": "Antminer S21", "serinum": "SN-1"}
        return self.reads if self.reads is not None else self.configuration


def summary_of(*sections: dict[str, Any], named: str = "cgminer 1.0.0") -> dict[str, Any]:
    return {"STATUS": [{"STATUS": "S", "Msg": "Summary", "Description": named}], "SUMMARY": list(sections)}


@asynccontextmanager
async def running(miner: Miner, password: str = "root", **settings: Any) -> AsyncIterator[Device]:
    """The driver's device beside a scripted miner."""
    assert DRIVER.open_device is not None
    async with rpc(miner.answer_rpc) as miner.rpc, digest_http(miner.answer_web, password) as miner.web:
        chosen = {"rpc_port": miner.rpc.port, "http_port": miner.web.port, **IN_TIME}
        known = Identity("Antminer", "S21", "antminer")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known)
        )
        yield device
        await device.close()


async def test_a_running_miner_tells_its_hashrate_and_mode_but_no_watts() -> None:
    async with running(Miner()) as device:
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key) == (RunState.RUNNING, None, "normal")
    assert reading.rate == 198_000.5e9


async def test_a_reading_is_one_command_once_the_mode_is_known() -> None:
    async with running(miner := Miner()) as device:
        for _ in range(3):
            await device.read()
    assert (len(miner.rpc.asked), len(miner.web.asked)) == (3, 1)


async def test_every_field_survives_a_mode_change() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(LOW) is Outcome.ACKNOWLEDGED
    changed = CONFIGURATION | {"bitmain-work-mode": "3", "miner-mode": 3, "freq-level": "90"}
    assert miner.written == [changed], "freq-level stays at 90; nobody asked for 100"


async def test_names_are_written_back_to_the_letter() -> None:
    async with running(miner := Miner()) as device:
        odd = {"url": "stratum+tcp://één.example:3333", "user": 'a",}{[,b', "pass": "пароль\n\t,}"}
        miner.configuration["pools"] = [odd]
        await device.apply(OFF)
    assert miner.written[0]["pools"] == [odd]


async def test_a_warm_shed_is_one_request_and_shows_in_the_next_reading() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.web.asked)
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert len(miner.web.asked) == before + 1
        miner.summary = summary_of()
        reading = await device.read()
    assert (reading.state, reading.point_key, reading.power_w) == (RunState.ASLEEP, "off", None)


async def test_sleep_and_back_returns_to_the_mode_asked_for() -> None:
    async with running(miner := Miner()) as device:
        for point in (LOW, OFF, LOW):
            await device.apply(point)
            assert (await device.read()).point_key == point.key
    assert [body["miner-mode"] for body in miner.written] == [3, 1, 3]
    assert all(body["pools"] == POOLS for body in miner.written)


async def test_nothing_is_written_where_the_device_says_it_is_there() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(NORMAL) is Outcome.ALREADY_THERE
    assert miner.written == []


async def test_a_configuration_changed_by_a_person_is_not_written_back_old() -> None:
    async with running(miner := Miner(), recheck_s=1e-9) as device:
        await device.read()
        miner.configuration["pools"] = [POOLS[1]]
        await device.apply(OFF)
    assert miner.written[0]["pools"] == [POOLS[1]]


@pytest.mark.parametrize(
    ("pools", "why"),
    [
        ([], "no pool"),
        ([{"url": "", "user": "", "pass": ""}] * 3, "no pool"),
        (None, "wipe"),
        ("none", "wipe"),
        ([{"url": "stratum+tcp://one.example:3333"}], "wipe"),
        ([POOLS[0], {"url": "x", "user": "y", "pass": "******"}], "stars"),
    ],
)
async def test_without_whole_pools_nothing_is_written(pools: Any, why: str) -> None:
    async with running(miner := Miner()) as device:
        miner.configuration["pools"] = pools
        with pytest.raises(Refused, match=why):
            await device.apply(OFF)
    assert miner.written == []


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        (http_answer(b"", 500), Refused),
        (http_answer(b"<html>"), Refused),
        (http_answer(json.dumps(CONFIGURATION).replace("farm.17", "f\xe4rm").encode("latin-1")), Refused),
        (http_answer(json.dumps(CONFIGURATION).replace("}, {", "}{").encode()), Refused),
        (http_answer(json.dumps(CONFIGURATION).replace("farm.17", "\\ud800").encode()), Refused),
        (http_answer(b"[" * 90_000), Refused),
        (http_answer(b"[]"), Refused),
        (http_answer({}), Refused),
        (HANG, Unreachable),
        (CLOSE, Unreachable),
    ],
)
async def test_a_configuration_that_cannot_be_read_is_not_overwritten(reads: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(reads=reads)) as device:
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.written == []


@pytest.mark.parametrize(
    ("writes", "error"),
    [
        ({"stats": "error", "code": "M001", "msg": "bad"}, Refused),
        ({}, Refused),
        (http_answer({}, 404), Refused),
        (http_answer(b"", 500), OutcomeUnknown),
        (http_answer(b"", 200), OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_success_is_success(writes: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(writes=writes)) as device:
        await device.read()
        with pytest.raises(error):
            await device.apply(OFF)
    assert len(miner.written) == 1, "one attempt"


async def test_after_an_unknown_outcome_the_device_is_asked_what_it_is_set_to() -> None:
    async with running(miner := Miner(writes=HANG)) as device:
        await device.read()
        miner.configuration["bitmain-work-mode"] = "1"  # it was taken after all
        with pytest.raises(OutcomeUnknown):
            await device.apply(OFF)
        assert (await device.read()).point_key == "off"


async def test_a_wrong_password_is_said_by_readings_and_stops_writes() -> None:
    async with running(miner := Miner(), password="changed") as device:
        reading = await device.read()
        with pytest.raises(AuthFailed):
            await device.apply(OFF)
    assert reading.state is RunState.RUNNING
    assert reading.fault is not None
    assert "password" in reading.fault
    assert miner.written == []


async def test_empty_summary_proves_sleep_only_with_the_mode() -> None:
    async with running(miner := Miner(summary=summary_of())) as device:
        assert (await device.read()).state is RunState.UNKNOWN
        miner.configuration["bitmain-work-mode"] = "1"
        assert (await device.read()).state is RunState.ASLEEP


async def test_told_to_sleep_and_still_hashing_is_running() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        reading = await device.read()
    assert miner.configuration["bitmain-work-mode"] == "1"
    assert (reading.state, reading.point_key) == (RunState.RUNNING, "off")


@pytest.mark.parametrize(
    ("section", "state"),
    [
        ({"GHS 5s": 0, "Elapsed": 30}, RunState.STARTING),
        ({"GHS 5s": 90_000, "Elapsed": 120}, RunState.STARTING),
        ({"GHS 5s": 90_000, "Elapsed": 5_000}, RunState.RUNNING),
        ({"GHS 5s": 0, "Elapsed": 5_000}, RunState.IDLE),
        ({"GHS 5s": "nan", "Elapsed": 5_000}, RunState.UNKNOWN),
        ({"Elapsed": 5_000}, RunState.UNKNOWN),
        ({"GHS av": 190_000, "Elapsed": 5_000}, RunState.UNKNOWN),
    ],
)
async def test_few_or_no_hashes_awake(section: dict[str, Any], state: RunState) -> None:
    async with running(Miner(summary=summary_of(section))) as device:
        assert (await device.read()).state is state


async def test_the_web_server_outlives_a_restart_of_the_miner_process() -> None:
    miner = Miner()
    async with running(miner, rpc_port=1) as device:
        reading = await device.read()
    assert (reading.state, reading.point_key, reading.rate) == (RunState.STARTING, "normal", None)


async def test_gone_altogether_is_unreachable() -> None:
    async with running(Miner(), rpc_port=1, http_port=1) as device:
        with pytest.raises(Unreachable):
            await device.read()
        with pytest.raises(Unreachable):
            await device.apply(OFF)


async def test_a_hanging_web_server_does_not_take_the_readings_with_it() -> None:
    async with running(miner := Miner(reads=HANG)) as device:
        for _ in range(3):
            reading = await device.read()
            assert (reading.state, reading.point_key) == (RunState.RUNNING, None)
    assert len(miner.web.asked) == 1


async def test_another_firmware_at_the_same_address_is_noticed() -> None:
    async with running(Miner(summary=summary_of({}, named="LUXminer 2025.1"))) as device:
        with pytest.raises(BadReply, match="identify it again"):
            await device.read()


async def test_a_point_it_has_not_is_unsupported() -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(OperatingPoint("limit", 2000, 0.0, divisible=True))
    assert miner.web.asked == []


async def test_identity_and_points_come_from_the_machine() -> None:
    async with running(Miner(), firmware="antminer") as device:
        identity = await device.identify()
        points = await device.operating_points()
    assert identity == Identity("Antminer", "S21", "antminer", "Fri", "SN-1", 3500.0)
    assert [(point.key, point.draw_w) for point in points.points] == [("off", 30), ("low", 2625), ("normal", 3500)]
