"""Miners that pyasic alone speaks to: a real pyasic class on a real socket, and what is made of its optimism."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import Device, DriverError, Identity, OperatingPoint, RunState, Unreachable, Unsupported
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import HANG, HOST, IN_TIME, Answer, plain_http

OFF = OperatingPoint("off", 50, 0.0)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pyasic.*")


def opened(firmware: str, model: str, **settings: Any) -> Device:
    assert DRIVER.open_device is not None
    known = Identity("Antminer", model, firmware)
    chosen = DRIVER.settings.model_validate(IN_TIME | settings)  # the first loads pyasic, too
    return DRIVER.open_device(HOST, chosen, OpenContext(remembered=known))


async def read(told: Answer) -> Any:
    """What is made of a Lucky Miner's answer, which is a Bitaxe's under another name."""
    async with plain_http(lambda asked: told) as web:
        return await opened("luckyminer", "", http_port=web.port).read()


async def test_a_remembered_miner_is_read_without_probing() -> None:
    reading = await read({"hashRate": 1_200.0, "power": 18.0, "uptimeSeconds": 9})
    assert (reading.state, reading.power_w, reading.rate, reading.point_key) == (
        RunState.RUNNING,
        18.0,
        1.2e12,
        "normal",
    )


async def test_where_nothing_proves_that_it_sleeps_nothing_is_claimed() -> None:
    """pyasic's word on whether it mines is yes, whatever it does."""
    reading = await read({"hashRate": 0.0, "power": 4.0})
    assert (reading.state, reading.point_key) == (RunState.UNKNOWN, None)


@pytest.mark.parametrize("told", [{}, {"hashRate": "nan", "power": -3}, [], b"<html>", HANG], ids=str)
async def test_an_answer_of_nonsense_or_none_is_no_reading(told: Answer) -> None:
    with pytest.raises(DriverError):
        await read(told)


async def test_an_offline_miner_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await opened("luckyminer", "", http_port=1).read()


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
        await opened("hiveon", "S99 Imaginary").operating_points()
    assert DRIVER.open_device is not None
    known = Identity("Antminer", "S99 Imaginary", "hiveon")
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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
