"""MARA's firmware: its configuration is written whole, and it is believed only by what it is then set to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
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
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, HttpAsked, Server, http_answer, plain_http

OFF = OperatingPoint("off", 50, 0.0)
NORMAL = OperatingPoint("normal", 3250, 95e12)
POOLS = [{"url": "pool.example", "user": "farm.1", "pass": "x"}]


def limit(draw_w: float) -> OperatingPoint:
    return OperatingPoint("limit", draw_w, 1.0, divisible=True)


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a write, which is then not carried out."""

    mode: str = "Auto"
    concorde: Any = field(default_factory=lambda: {"mode-select": "PowerTarget", "power-target": 3000})
    brief: Any = field(
        default_factory=lambda: {"hashrate_realtime": 95.0, "power_consumption_estimated": 3190, "elapsed": 9_000}
    )
    more: dict[str, Any] = field(default_factory=lambda: {"pools": POOLS, "fan": 70})
    verdict: Answer | None = None
    obeyed: list[Any] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: HttpAsked) -> Answer:
        if asked.method == "POST":
            self.obeyed.append(asked.body)
            if self.verdict is not None:
                return self.verdict
            self.mode, self.concorde = asked.body["mode"]["work-mode-selector"], asked.body["mode"]["concorde"]
            self.brief["hashrate_realtime"] = 0.0 if self.mode == "Sleep" else 95.0
            return {}
        if asked.page == "miner_config":
            return {"mode": {"work-mode-selector": self.mode, "concorde": self.concorde}, **self.more}
        if asked.page == "overview":
            return {"model": "Antminer S19", "mac": "aa:bb", "version_firmware": "1.0.3"}
        return self.brief if isinstance(self.brief, (dict, bytes)) else {}


@asynccontextmanager
async def running(miner: Miner, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with plain_http(miner.answer) as miner.wire:
        chosen = {"http_port": miner.wire.port, **IN_TIME}
        known = Identity("Antminer", "S19", "marathon")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known)
        )
        yield device
        await device.close()


async def test_it_is_read_by_what_it_says_itself() -> None:
    async with running(Miner()) as device:
        reading = await device.read()
        points = await device.operating_points()
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, 3190.0, 95e12)
    assert (reading.point_key, reading.limit_w) == ("limit", 3000.0)
    assert [(point.key, point.draw_w) for point in points.points] == [
        ("off", 50.0),
        ("limit", 1625.0),
        ("limit", 3250.0),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "Fixed"},
        {"mode": "Stock"},
        {"concorde": {"mode-select": "Hashrate", "hash-target": 95}},
        {"concorde": 7},
    ],
)
async def test_what_does_not_run_by_a_power_target_is_stopped_and_started_only(changed: dict[str, Any]) -> None:
    async with running(miner := Miner(**changed)) as device:
        assert [point.key for point in (await device.operating_points()).points] == ["off", "normal"]
        assert (await device.read()).point_key == "normal"
        with pytest.raises(Unsupported):
            await device.apply(limit(2000))
        assert await device.apply(NORMAL) is Outcome.ALREADY_THERE
        await device.apply(OFF)
        assert (await device.read()).state is RunState.ASLEEP
        await device.apply(NORMAL)
    assert [told["mode"]["work-mode-selector"] for told in miner.obeyed] == ["Sleep", changed.get("mode", "Auto")]


async def test_a_target_and_a_waking_are_one_write_and_nothing_else_is_changed() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(limit(2000.9)) is Outcome.ACKNOWLEDGED
        assert (await device.read()).limit_w == 2000.0
        assert await device.apply(limit(2000)) is Outcome.ALREADY_THERE
        await device.apply(OFF)
        await device.apply(limit(2500))
    assert [
        (told["mode"]["work-mode-selector"], told["mode"]["concorde"]["power-target"]) for told in miner.obeyed
    ] == [
        ("Auto", 2000),
        ("Sleep", 2000),
        ("Auto", 2500),
    ]
    assert all((asked["pools"], asked["fan"]) == (POOLS, 70) for asked in miner.obeyed)


async def test_the_write_leaves_first_and_is_read_back_then() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.wire.asked)
        await device.apply(OFF)
        assert [asked.method for asked in miner.wire.asked[before:]] == ["POST", "GET"]


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (http_answer(b"{}"), Refused),
        (http_answer(b'{"error": "busy"}'), Refused),
        (http_answer(b"<html>"), Refused),
        (http_answer(b"", 400), Refused),
        (http_answer(b"", 500), OutcomeUnknown),
        (b"nonsense", OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
        (HANG, OutcomeUnknown),
    ],
)
async def test_a_yes_is_believed_only_where_it_is_set_so_then(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        await device.read()
        with pytest.raises(error):
            await device.apply(OFF)
    assert len(miner.obeyed) == 1, "one attempt"


@pytest.mark.parametrize(
    "more",
    [
        {"fan": 70},
        {"pools": []},
        {"pools": [{"url": ""}]},
        {"pools": "x"},
        {"pools": [{"url": "pool.example", "user": "farm.1", "pass": "****"}]},
    ],
)
async def test_nothing_is_written_that_would_lose_something(more: dict[str, Any]) -> None:
    async with running(miner := Miner(more=more)) as device:
        with pytest.raises(Refused):
            await device.apply(OFF)
    assert miner.obeyed == []


async def test_a_configuration_without_a_mode_is_none() -> None:
    async with running(miner := Miner(mode=None)) as device:  # type: ignore[arg-type]
        assert ((await device.read()).state, (await device.read()).point_key) == (RunState.RUNNING, None)
        with pytest.raises(Refused, match="no mode"):
            await device.apply(OFF)
    assert miner.obeyed == []


@pytest.mark.parametrize(
    ("brief", "mode", "state"),
    [
        ({"hashrate_realtime": 0.0, "elapsed": 5}, "Auto", RunState.STARTING),
        ({"hashrate_realtime": 0.0, "elapsed": 5_000}, "Auto", RunState.IDLE),
        ({"hashrate_realtime": 0.0}, "Auto", RunState.UNKNOWN),
        ({"hashrate_realtime": "nan", "elapsed": 5}, "Auto", RunState.UNKNOWN),
        ({}, "Sleep", RunState.ASLEEP),
        ({"hashrate_realtime": 90.0}, "Sleep", RunState.RUNNING),
    ],
)
async def test_states(brief: dict[str, Any], mode: str, state: RunState) -> None:
    async with running(Miner(brief=brief, mode=mode)) as device:
        assert (await device.read()).state is state


@pytest.mark.parametrize("watts", ["nan", -5, 0, None, 10**400])
async def test_nonsense_watts_are_unknown(watts: Any) -> None:
    async with running(Miner(brief={"hashrate_realtime": 95.0, "power_consumption_estimated": watts})) as device:
        assert (await device.read()).power_w is None


async def test_what_is_no_json_object_is_no_reading() -> None:
    async with running(Miner(brief=http_answer(b"[1]"))) as device:
        with pytest.raises(BadReply):
            await device.read()


async def test_offline_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.read()
    for call in (device.read, lambda: device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call()


async def test_identity() -> None:
    async with running(Miner(), firmware="marathon") as device:
        assert await device.identify() == Identity("Antminer", "S19", "marathon", "1.0.3", "aa:bb", 3250.0)
