"""What every device of the plant really draws and earns at each of its operating points, found by trying them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from curtaild.rehearse.worth import Worth
from curtaild_drivers.contract import DeviceId, OperatingPoint, OperatingPoints, Watts

if TYPE_CHECKING:
    from curtaild.rehearse.emulated import Emulated

SETTLED_AFTER_S = 2_000.0
"""Longer than any emulated device takes to come to rest."""
FINENESS = 8
"""Draws tried within each range that a device can hold continuously."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a device can be run: its true draw (W), what that earns in an hour, and which of the device's
    ranges it lies in. Within a range every mixture can be held; a single point is a range of its own."""

    draw_w: Watts
    earns_per_h: float
    range: int


def find_ways(emulated: Emulated) -> dict[DeviceId, list[Way]]:
    """The ways of every device, by trying all of its points on the plant's twin."""
    twin, worth, groups = emulated.twin, Worth.of(emulated.site), emulated.group_of
    to_try = {device: _to_try(emulated.models[device].operating_points()) for device in twin.all_ids}
    found: dict[DeviceId, list[Way]] = {device: [] for device in twin.all_ids}
    for number in range(max(len(points) for points in to_try.values())):
        began = twin.now
        trying = {device: points[number] for device, points in to_try.items() if number < len(points)}
        for device, (point, _) in trying.items():
            twin.apply(device, point, began)
        twin.advance(began + SETTLED_AFTER_S)
        for device, (_, range_) in trying.items():
            power_w = twin.true_power_w(device)
            earns_per_h = worth.per_h(groups[device], twin.true_rate(device), power_w)
            found[device].append(Way(power_w, earns_per_h, range_))
    return found


def _to_try(points: OperatingPoints) -> list[tuple[OperatingPoint, int]]:
    """The points, and between those of a range some more, from the highest down; each with the number of its range."""
    listed: list[tuple[OperatingPoint, int]] = [(points.lowest, 0)]
    for lower, upper in zip(points.points, points.points[1:], strict=False):
        number = listed[-1][1] + (0 if upper.divisible else 1)
        for part in range(1, FINENESS) if upper.divisible else ():
            share = part / FINENESS
            draw_w = lower.draw_w + share * (upper.draw_w - lower.draw_w)
            rate = lower.rate + share * (upper.rate - lower.rate)
            listed.append((OperatingPoint(upper.key, draw_w, rate, divisible=True), number))
        listed.append((upper, number))
    return listed[::-1]
