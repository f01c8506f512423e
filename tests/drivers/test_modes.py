"""What a person has set a device to before the daemon came is what it goes back to after a sleep."""

from __future__ import annotations

import pytest

from curtaild_drivers.contract import OperatingPoint, OperatingPoints, Outcome, Reading, RunState
from drivers.conftest import FIRMWARES, Bench
from drivers.defects import OFF
from drivers.rigs import rig_of


def set_by_hand(rig: Bench) -> None:
    """The lowest mode, profile, preset or frequency there is, or two thirds of the watts where it has only those."""
    model, now = rig.miner.model, rig.emulated.now()
    if len(model.presets) > 1:
        rig.miner.set_preset(model.presets[0].key, now)
    else:
        rig.miner.set_limit(round(model.rated_w * 2 / 3), now)
    rig.settle()


def reported(reading: Reading, points: OperatingPoints) -> OperatingPoint:
    """The point that a reading says the device is at."""
    if reading.limit_w is not None:
        return OperatingPoint(str(reading.point_key), reading.limit_w, 0.0, divisible=True)
    return next(point for point in points.points if point.key == reading.point_key)


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_it_goes_back_to_what_it_was_found_in(firmware: str) -> None:
    async with rig_of(firmware) as rig:
        set_by_hand(rig)
        points = await rig.device.operating_points()
        found, reading, draw_w = rig.settings(), await rig.device.read(), rig.true_power_w()
        assert reading.state is RunState.RUNNING
        for _ in range(2):
            assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED
            rig.settle()
            assert (await rig.device.read()).state is RunState.ASLEEP
            assert await rig.device.apply(reported(reading, points)) is Outcome.ACKNOWLEDGED
            rig.settle()
            assert rig.settings() == found
            assert rig.true_power_w() == pytest.approx(draw_w)
