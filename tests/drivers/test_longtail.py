"""Miners that pyasic speaks to: real pyasic classes on real sockets, and what is made of their optimism."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
    Device,
    DriverError,
    Identity,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import CLOSE, HANG, HOST, Answer, http_answer, plain_http

OFF = OperatingPoint("off", 50, 0.0)
NORMAL = OperatingPoint("normal", 3250, 95e12)


@dataclass
class Marathon:
    """MARA's web API, as far as pyasic uses it."""

    rate_ths: Any = 95.0
    verdict: Answer = field(default_factory=lambda: http_answer(b"{}"))
    mode: str = "Auto"

    def web(self, asked: Any) -> Answer:
        if asked.method == "POST":
            if self.verdict == http_answer(b"{}"):
                self.mode = asked.body["mode"]["work-mode-selector"]
                self.rate_ths = 0.0
            return self.verdict
        if asked.page == "miner_config":
            return {"mode": {"work-mode-selector": self.mode}, "pools": [{"url": "pool.example"}]}
        return {"hashrate_realtime": self.rate_ths, "power_consumption_estimated": 3190}


def opened(firmware: str, model: str, **settings: Any) -> Device:
    assert DRIVER.open_device is not None
    known = Identity("Antminer", model, firmware)
    return DRIVER.open_device(HOST, DRIVER.settings.model_validate(settings), OpenContext(remembered=known))


@asynccontextmanager
async def running(miner: Marathon, **settings: Any) -> AsyncIterator[Device]:
    async with plain_http(miner.web) as web:
        chosen = {"http_port": web.port, "read_deadline_s": 5, "write_deadline_s": 5}
        yield opened("marathon", "S19", **(chosen | settings))


async def test_a_remembered_marathon_is_read_without_probing() -> None:
    async with running(Marathon()) as device:
        reading = await device.read()
        points = await device.operating_points()
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, None, 95e12)
    assert [point.key for point in points.points] == ["off", "normal"]
    assert (device.capabilities.stops, device.capabilities.throttles) == (True, False)


async def test_a_stop_reaches_it() -> None:
    async with running(miner := Marathon()) as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        reading = await device.read()
    assert miner.mode == "Sleep"
    assert (reading.state, reading.point_key) == (RunState.UNKNOWN, None), "pyasic cannot tell sleep from a fault"


@pytest.mark.parametrize("verdict", [http_answer(b"", 500), CLOSE])
async def test_a_stop_that_pyasic_cannot_vouch_for_is_unknown(verdict: Answer) -> None:
    async with running(Marathon(verdict=verdict)) as device:
        with pytest.raises(OutcomeUnknown):
            await device.apply(OFF)


async def test_pyasic_gets_no_more_time_than_anyone() -> None:
    async with running(Marathon(verdict=HANG), write_deadline_s=1) as device:
        await device.read()
        with pytest.raises(OutcomeUnknown):
            await device.apply(OFF)


@pytest.mark.filterwarnings("ignore::UserWarning:pyasic.*")
async def test_an_offline_miner_is_not_acknowledged_for() -> None:
    device = opened("marathon", "S19", http_port=1, rpc_port=1, read_deadline_s=3, write_deadline_s=3)
    with pytest.raises(Unreachable):
        await device.read()
    with pytest.raises(Unreachable):
        await device.apply(OFF)


@pytest.mark.parametrize("rate_ths", ["nan", -1.0, 1e30, None])
async def test_a_reading_of_nonsense_is_none(rate_ths: Any) -> None:
    async with running(Marathon(rate_ths=rate_ths)) as device:
        with pytest.raises(DriverError):
            await device.read()


@pytest.mark.parametrize(("firmware", "model"), [("hiveon", "S19"), ("iceriver", ""), ("goldshell", "")])
async def test_where_no_stop_works_none_is_claimed(firmware: str, model: str) -> None:
    device = opened(firmware, model)
    with pytest.raises(Unsupported, match="only be watched"):
        await device.apply(OFF)
    assert not device.capabilities.stops


async def test_without_a_stop_there_is_one_point() -> None:
    points = await opened("hiveon", "S19").operating_points()
    assert [point.key for point in points.points] == ["normal"]


async def test_a_model_nobody_knows_has_no_points_until_a_person_says_its_watts() -> None:
    with pytest.raises(Unsupported, match="rated_w"):
        await opened("marathon", "S99 Imaginary").operating_points()
    assert DRIVER.open_device is not None
    known = Identity("Antminer", "S99 Imaginary", "marathon")
    device = DRIVER.open_device(HOST, DRIVER.settings(), OpenContext(remembered=known, rated_w=4_200.0))
    assert (await device.operating_points()).highest.draw_w == 4_200.0


def test_pyasic_is_imported_late_leaves_the_root_logger_alone_and_is_quiet() -> None:
    program = """
import asyncio, logging, sys
import curtaild_drivers.asic
from curtaild_drivers.asic.pyasic_loader import pyasic
assert "pyasic" not in sys.modules
class Mine(logging.Handler):
    heard = []
    def emit(self, record):
        self.heard.append(record.getMessage())
root, mine = logging.getLogger(), Mine()
root.setLevel(logging.INFO)
root.addHandler(mine)
module = asyncio.run(pyasic())
assert (root.level, root.handlers) == (logging.INFO, [mine])
logging.info("ours")
exec(compile("import logging; logging.error('theirs')", module.__file__, "exec"))
assert mine.heard == ["ours"], mine.heard
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
