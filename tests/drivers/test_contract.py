"""What every device must do, whatever its firmware: run on emulated miners, or on a real one with `--device`.

On real hardware the suite walks the machine down to off and back up, which takes as long as it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise, repeat

from curtaild_drivers.contract import OperatingPoint, Outcome, Reading, RunState
from drivers.conftest import Bench


async def read_until(bench: Bench, shows: Callable[[Reading], bool], asked_at: float) -> Reading:
    """Reads, taken after `asked_at`, until one shows it; the last one if none does in the bench's patience. An emulated
    device is given all the time that it needs, in no time, and shows it then or never."""
    for has_had_time in (False, False, True) if bench.farm is not None else repeat(False):
        reading = await bench.device.read()
        assert reading.taken_at >= asked_at
        if has_had_time or shows(reading) or time.monotonic() > asked_at + bench.patience_s:
            break
        if bench.farm is not None:
            bench.settle()
    return reading


def is_at(points: tuple[OperatingPoint, ...], point: OperatingPoint) -> Callable[[Reading], bool]:
    """Whether a reading proves that the device is at `point`: by its watts where it measures them, else by what it
    says it is set to and by its hashes. Units of a model differ by a few percent."""
    full = points[-1]

    def shows(reading: Reading) -> bool:
        if point.is_off:
            return reading.state is RunState.ASLEEP and (reading.power_w or 0.0) < 0.1 * full.draw_w
        if reading.state is not RunState.RUNNING or reading.point_key != point.key:
            return False
        if reading.power_w is not None:
            return abs(reading.power_w - point.draw_w) < 0.06 * full.draw_w
        return reading.rate is not None and abs(reading.rate - point.rate) < 0.1 * full.rate

    return shows


async def test_a_device_says_who_it_is_and_can_be_reopened_by_that(bench: Bench) -> None:
    identity = await bench.device.identify()
    assert identity.make
    assert identity.model
    assert identity.firmware
    assert identity.rated_w is None or 100 < identity.rated_w < 20_000
    again = bench.open_another(remembered=identity)
    assert again.capabilities == bench.device.capabilities, "declared before a word is exchanged"
    assert (await again.read()).state is RunState.RUNNING
    await again.close()


async def test_a_reading_is_dated_and_sane(bench: Bench) -> None:
    before = time.monotonic()
    reading = await bench.device.read()
    assert before <= reading.taken_at <= time.monotonic()
    assert reading.state is RunState.RUNNING
    assert (reading.power_w is not None) == bench.device.capabilities.measures_power
    assert reading.rate is not None
    assert 1e12 < reading.rate < 1e15
    assert reading.point_key is not None


async def test_points_begin_at_off_and_end_at_what_it_is_rated(bench: Bench) -> None:
    identity = await bench.device.identify()
    points = await bench.device.operating_points()
    assert points.lowest.is_off == bench.device.capabilities.stops
    assert [point.rate for point in points.points] == sorted(point.rate for point in points.points)
    assert identity.rated_w is None or abs(points.highest.draw_w - identity.rated_w) < 0.05 * identity.rated_w
    assert (await bench.device.read()).point_key in {point.key for point in points.points}


async def test_each_point_is_reached_and_the_draw_follows(bench: Bench) -> None:
    points = (await bench.device.operating_points()).points
    for point in (*reversed(points), *points[1:]):
        asked_at = time.monotonic()
        outcome = await bench.device.apply(point)
        assert outcome in (Outcome.ACKNOWLEDGED, Outcome.ALREADY_THERE)
        reading = await read_until(bench, is_at(points, point), asked_at)
        if not is_at(points, point)(reading):  # a start may forget what it was told before it
            asked_at = time.monotonic()
            await bench.device.apply(point)
            reading = await read_until(bench, is_at(points, point), asked_at)
        assert is_at(points, point)(reading), f"{point} not reached: {reading}"
        if bench.farm is not None:  # one that measures no watts says that it sleeps before its draw has fallen
            await read_until(bench, partial(_draws, bench, point, points[-1]), asked_at)
            assert _draws(bench, point, points[-1]), (point, bench.true_power_w())


def _draws(bench: Bench, point: OperatingPoint, full: OperatingPoint, _: Reading | None = None) -> bool:
    return abs(bench.true_power_w() - point.draw_w) < 0.1 * full.draw_w


async def test_any_draw_within_a_divisible_point_can_be_held(bench: Bench) -> None:
    points = (await bench.device.operating_points()).points
    for lower, upper in pairwise(points):
        if not upper.divisible:
            continue
        wanted = OperatingPoint(upper.key, (lower.draw_w + upper.draw_w) / 2, 0.0, divisible=True)
        asked_at = time.monotonic()
        assert await bench.device.apply(wanted) is Outcome.ACKNOWLEDGED
        assert is_at(points, wanted)(await read_until(bench, is_at(points, wanted), asked_at))


async def test_closing_twice_is_closing_once(bench: Bench) -> None:
    await bench.device.read()
    await bench.device.close()
    await bench.device.close()
