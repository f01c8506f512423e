"""The suite that every driver passes, on a site below."""

from __future__ import annotations

import time

from curtaild_drivers.contract import RunState
from downstream.paper_child import PaperChild
from drivers.conftest import Bench
from drivers.test_contract import (
    test_a_device_says_who_it_is_and_can_be_reopened_by_that,
    test_any_draw_within_a_divisible_point_can_be_held,
    test_closing_twice_is_closing_once,
    test_each_point_is_reached_and_the_draw_follows,
    test_points_begin_at_off_and_end_at_what_it_is_rated,
)

__all__ = [
    "test_a_device_says_who_it_is_and_can_be_reopened_by_that",
    "test_any_draw_within_a_divisible_point_can_be_held",
    "test_closing_twice_is_closing_once",
    "test_each_point_is_reached_and_the_draw_follows",
    "test_points_begin_at_off_and_end_at_what_it_is_rated",
]


async def test_a_reading_is_dated_and_sane(bench: Bench, paper: PaperChild) -> None:
    """As for miners, but for the rate, of which a site says nothing."""
    before = time.monotonic()
    reading = await bench.device.read()
    assert before <= reading.taken_at <= time.monotonic()
    assert (reading.state, reading.point_key) == (RunState.RUNNING, "limit")
    assert reading.power_w == paper.power_w == 8_000.0
    assert reading.limit_w == 8_000.0
