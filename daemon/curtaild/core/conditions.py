"""What is the matter with a device: told once when it begins, once when it is over."""

from __future__ import annotations

from curtaild.core.device import Device
from curtaild.core.events import Condition, DeviceChanged, Event
from curtaild_drivers.contract import Seconds

OF_POLLS = (Condition.UNREACHABLE, Condition.AUTH_FAILED, Condition.BAD_REPLY)
"""Those that a reading which was understood ends."""


def begin(device: Device, condition: Condition, now: Seconds, detail: str) -> list[Event]:
    """Something is the matter, by `detail`; nothing where that is known."""
    if condition in device.conditions:
        return []
    device.conditions.add(condition)
    return [DeviceChanged(now, device.spec.id, condition, begins=True, detail=detail)]


def end(device: Device, condition: Condition, now: Seconds) -> list[Event]:
    """It is over; nothing where it never was."""
    if condition not in device.conditions:
        return []
    device.conditions.discard(condition)
    return [DeviceChanged(now, device.spec.id, condition, begins=False, detail="")]


def poll_failed(device: Device, condition: Condition, now: Seconds, detail: str) -> list[Event]:
    """A read failed. A single silence is the network's; two, or a clear word, are the device's."""
    device.failed_polls += 1
    if condition is Condition.UNREACHABLE and device.failed_polls < 2:
        return []
    return begin(device, condition, now, detail)
