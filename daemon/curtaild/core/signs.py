"""What a reading plainly shows of a device, taken with the record of it."""

from __future__ import annotations

from curtaild.core.device import Device
from curtaild_drivers.contract import OperatingPoint, Reading, RunState, Seconds

STEADY_READINGS = 3
SLOWEST_FALL_S = 60.0  # stock Antminers reach standby 10–60 s after they say that they sleep
# Asked at every reading: a name of the module is found in a tenth of the time that an enum takes to find its member.
_ASLEEP, _RUNNING = RunState.ASLEEP, RunState.RUNNING


def is_at_work(setpoint: OperatingPoint, reading: Reading) -> bool:
    """Whether it does what one does that stands at `setpoint`: works, or sleeps."""
    return reading.state is (_ASLEEP if setpoint.is_off else _RUNNING)


def repeats(setpoint: OperatingPoint, reading: Reading) -> bool:
    """Whether the device's own word is plainly the setpoint: so it is nearly always."""
    if setpoint.divisible:
        return reading.limit_w == setpoint.draw_w and reading.state is not _ASLEEP
    return reading.limit_w is None and reading.point_key == setpoint.key and reading.state is not _ASLEEP


def is_steady(device: Device) -> bool:
    """Whether its last readings agree."""
    recent = device.recent_w
    return len(recent) == STEADY_READINGS and max(recent) - min(recent) <= device.spec.tolerance_w


def may_still_fall(device: Device, reading: Reading, since: Seconds) -> bool:
    """It says so, but measures nothing: its draw is given the time to follow."""
    return reading.power_w is None and reading.taken_at < since + min(device.spec.settle_down_s, SLOWEST_FALL_S)


def is_falling_asleep(device: Device, reading: Reading) -> bool:
    return reading.state is _ASLEEP and may_still_fall(device, reading, device.state_since)
