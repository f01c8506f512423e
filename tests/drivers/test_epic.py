"""ePIC: one summary over HTTP on cgminer's port, commands under a password, a power target where its tuner has one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
    AuthFailed,
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
NORMAL = OperatingPoint("normal", 3500, 200e12)
BY_POWER = {"PowerTune": {"Target": 3000, "Min Throttle Target": 1500, "Throttle Step": 100, "Unit": "W"}}
BY_HASHRATE = {"VoltageOptimizer": {"Target": 143, "Unit": "TH/s"}}


def limit(draw_w: float) -> OperatingPoint:
    return OperatingPoint("limit", draw_w, 1.0, divisible=True)


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command that carries the password."""

    state: Any = "Mining"
    boards: Any = field(default_factory=lambda: [{"Hashrate": [60_000_000.0, 98.0]} for _ in range(3)])
    watts: Any = 2990.4
    uptime: Any = 9_000
    algorithm: dict[str, Any] = field(default_factory=lambda: {"PowerTune": dict(BY_POWER["PowerTune"])})
    running: bool = True
    error: Any = None
    tunes: Any = None
    password: str = "letmein"
    verdict: Answer | None = None
    obeyed: list[Any] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: HttpAsked) -> Answer:
        if asked.method == "GET":
            able = {"Model": "Antminer S21", "Control Board Version": {"cpuSerial": "abc"}, "PerpetualTune": self.tunes}
            return able if asked.page == "capabilities" else self.summary()
        if asked.body["password"] != self.password:
            return {"result": False, "error": "Incorrect password"}
        self.obeyed.append(asked.body["param"])
        if self.verdict is not None:
            return self.verdict
        if asked.page == "algo":
            self.algorithm["PowerTune"]["Target"] = asked.body["param"]["target"]
        else:
            self.state = {"Stop": "Idling", "Autostart": "Initializing"}[asked.body["param"]]
            self.boards, self.watts = [], 38.0
        return {"result": True, "error": None}

    def summary(self) -> dict[str, Any]:
        return {
            "Status": {"Operating State": self.state, "Last Error": self.error},
            "Software": "PowerPlay-BM v1.16.2",
            "Session": {"Uptime": self.uptime},
            "HBs": self.boards,
            "PerpetualTune": {"Running": self.running, "Algorithm": self.algorithm},
            "Power Supply Stats": {"Input Power": self.watts},
        }


@asynccontextmanager
async def running(miner: Miner, password: str | None = None, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with plain_http(miner.answer) as miner.wire:
        chosen = {"rpc_port": miner.wire.port, **IN_TIME}
        secrets = {"password": password} if password else {}
        known = Identity("Antminer", "S21", "epic")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known, secrets=secrets)
        )
        yield device
        await device.close()


async def test_a_reading_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, 2990.4, 180e12)
    assert (reading.point_key, reading.limit_w, reading.fault) == ("limit", 3000.0, None)
    assert len(miner.wire.asked) == 1


async def test_points_in_watts_only_where_its_tuner_runs_by_power() -> None:
    async with running(Miner()) as device:
        points = await device.operating_points()
    assert [(p.key, p.draw_w) for p in points.points] == [("off", 50.0), ("limit", 1750.0), ("limit", 3500.0)]
    for miner in (Miner(algorithm=BY_HASHRATE), Miner(running=False)):
        async with running(miner) as device:
            assert [point.key for point in (await device.operating_points()).points] == ["off", "normal"]
            assert (await device.read()).point_key == "normal"


def tunes(least: Any, most: Any) -> list[Any]:
    """What it names of its algorithms: ePIC's dashboard reads the bounds from there."""
    by_hashrate = {"algorithm": "ChipTune", "min": 60, "max": 120}
    return [by_hashrate, {"algorithm": "PowerTune", "min": least, "max": most}]


@pytest.mark.parametrize(
    ("named", "least_w", "most_w"),
    [
        (tunes(1_800, 3_300), 1_800.0, 3_300.0),
        ({"0": tunes(1_800, 3_300)[1]}, 1_800.0, 3_300.0),
        (tunes(1_200, 5_000), 1_600.0, 3_500.0),  # its throttle wants a step of room; no overclocking
        (tunes("nan", None), 1_750.0, 3_500.0),
        (tunes(3_300, 1_800), 1_750.0, 3_500.0),
        ([7, "x", {}], 1_750.0, 3_500.0),
    ],
)
async def test_its_targets_lie_within_what_it_names(named: Any, least_w: float, most_w: float) -> None:
    async with running(Miner(tunes=named)) as device:
        points = (await device.operating_points()).points
    assert [(point.key, point.draw_w) for point in points[1:]] == [("limit", least_w), ("limit", most_w)]


async def test_a_target_after_a_reading_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(limit(2000)) is Outcome.ACKNOWLEDGED
        assert [asked.method for asked in miner.wire.asked] == ["GET", "POST"]
        miner.algorithm["PowerTune"]["Throttle Step"] = 200  # somebody else is at it
        await device.apply(limit(2500))
    assert miner.obeyed[1]["throttle_step"] == 200, "read again after a write"
    async with running(old := Miner(), recheck_s=1e-6) as device:
        await device.read()
        await device.apply(limit(2000))
    assert [asked.method for asked in old.wire.asked] == ["GET", "GET", "POST"], "nothing old is written back"


async def test_a_stop_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert len(miner.wire.asked) == 1
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key, reading.limit_w) == (RunState.ASLEEP, 38.0, "off", None)


async def test_a_target_keeps_what_it_is_written_together_with() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(limit(2000.9)) is Outcome.ACKNOWLEDGED
        assert (await device.read()).limit_w == 2000.0
        assert await device.apply(limit(2000)) is Outcome.ALREADY_THERE
    assert miner.obeyed == [{"algo": "PowerTune", "target": 2000, "min_throttle": 1500, "throttle_step": 100}]


async def test_it_wakes_as_it_slept_and_another_target_is_set_before() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.apply(limit(3000))
        assert miner.obeyed == ["Stop", "Autostart"]
        await device.apply(OFF)
        await device.apply(limit(2000))
    assert [told if isinstance(told, str) else told["target"] for told in miner.obeyed[2:]] == [
        "Stop",
        2000,
        "Autostart",
    ]


async def test_without_a_power_tuner_it_is_only_stopped_and_started() -> None:
    async with running(miner := Miner(algorithm=BY_HASHRATE)) as device:
        for point in (limit(2000), OperatingPoint("low", 2000, 1.0)):
            with pytest.raises(Unsupported):
                await device.apply(point)
        assert await device.apply(NORMAL) is Outcome.ALREADY_THERE
        await device.apply(OFF)
        await device.apply(NORMAL)
    assert miner.obeyed == ["Stop", "Autostart"]


async def test_a_wrong_password_reads_and_does_not_write() -> None:
    async with running(miner := Miner(password="other")) as device:
        assert (await device.read()).state is RunState.RUNNING
        with pytest.raises(AuthFailed):
            await device.apply(OFF)
    assert miner.obeyed == []
    async with running(Miner(password="other"), password="other") as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        ({"result": False, "error": "Miner is tuning"}, Refused),
        (http_answer({}, 400), Refused),
        (http_answer({}, 500), OutcomeUnknown),
        ({}, OutcomeUnknown),
        ({"result": "yes"}, OutcomeUnknown),
        (http_answer(b"<html>"), OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_success_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.obeyed == ["Stop"], "one attempt"


async def test_offline_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.read()
    for call in (device.read, lambda: device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call()


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"state": "Idling"}, RunState.RUNNING),
        ({"state": "Idling", "boards": []}, RunState.ASLEEP),
        ({"state": "AdjustingClockVoltage"}, RunState.STARTING),
        ({"boards": []}, RunState.IDLE),
        ({"boards": [], "uptime": 5}, RunState.STARTING),
        ({"boards": None}, RunState.UNKNOWN),
        ({"boards": [{"Hashrate": ["nan"]}]}, RunState.UNKNOWN),
        ({"state": None}, RunState.UNKNOWN),
    ],
)
async def test_states(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(**changed)) as device:
        assert (await device.read()).state is state


@pytest.mark.parametrize("watts", ["nan", -5, 0, None, 10**400])
async def test_nonsense_watts_are_unknown(watts: Any) -> None:
    async with running(Miner(watts=watts)) as device:
        assert (await device.read()).power_w is None


async def test_identity() -> None:
    async with running(Miner(error="chip 3 lost"), firmware="epic") as device:
        assert await device.identify() == Identity("Antminer", "S21", "epic", "PowerPlay-BM v1.16.2", "abc", 3500.0)
        assert (await device.read()).fault == "chip 3 lost"
