"""The suite that every driver passes, on eight emulated H100 a hundred times faster than life."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.contract import Device, Identity, RunState
from curtaild_drivers.gpu.nvml import DRIVER
from curtaild_drivers.registry import OpenContext
from drivers.conftest import Bench
from drivers.test_contract import (
    test_a_device_says_who_it_is_and_can_be_reopened_by_that,
    test_any_draw_within_a_divisible_point_can_be_held,
    test_closing_twice_is_closing_once,
    test_each_point_is_reached_and_the_draw_follows,
    test_points_begin_at_off_and_end_at_what_it_is_rated,
)
from gpu_nvml.conftest import LONG_S
from gpu_nvml.test_node import busy, near, wall_w
from nvml_stub.fixtures import MakeGpus

__all__ = [
    "test_a_device_says_who_it_is_and_can_be_reopened_by_that",
    "test_any_draw_within_a_divisible_point_can_be_held",
    "test_closing_twice_is_closing_once",
    "test_each_point_is_reached_and_the_draw_follows",
    "test_points_begin_at_off_and_end_at_what_it_is_rated",
]


@pytest.fixture
async def bench(make_gpus: MakeGpus, tmp_path: Path) -> AsyncIterator[Bench]:
    gpus = make_gpus(speed=100.0)
    busy(gpus)

    def opener(remembered: Identity | None = None, **settings: Any) -> Device:
        assert DRIVER.open_device is not None
        settings.setdefault("state_file", tmp_path / "gpu-state.json")
        settings |= {"read_deadline_s": LONG_S, "write_deadline_s": LONG_S}
        return DRIVER.open_device("localhost", DRIVER.settings.model_validate(settings), OpenContext(remembered))

    with gpus.here():
        device = opener()
        yield Bench(device, opener, patience_s=60.0)
        await device.close()


async def test_a_reading_is_dated_and_sane(bench: Bench) -> None:
    """As for miners, but that a node's rate is a fraction."""
    before = time.monotonic()
    reading = await bench.device.read()
    assert before <= reading.taken_at <= time.monotonic()
    assert reading.state is RunState.RUNNING
    assert reading.power_w == near(wall_w(8 * 700))
    assert reading.rate is not None
    assert 0.5 < reading.rate <= 1.0
    assert reading.point_key is not None
