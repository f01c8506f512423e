"""What a step between two operating points earns: by that, ASICs and GPU nodes are shed and raised in one market."""

from __future__ import annotations

from curtaild.core import hull
from curtaild.core.device import Device, Step
from curtaild.core.policy import Policy
from curtaild_drivers.contract import OperatingPoint

MOST_STEPS = 10_000  # kept of one kind of device; a divisible range has many
PRICED = -1.0
"""The priority of what has a price: below all that have none, and comparable with each other by money alone."""


def earning(device: Device, lower: OperatingPoint, upper: OperatingPoint) -> tuple[float, float]:
    """What the step between two points earns: `PRICED` and money per watt-hour where the site gives a price, else
    priority and rate per watt."""
    per_watt = (upper.rate - lower.rate) / max(upper.draw_w - lower.draw_w, 1e-9)
    price = device.spec.price_per_rate_h
    return (PRICED, price * per_watt) if price is not None else (float(device.spec.priority), per_watt)


def loses_money(device: Device, lower: OperatingPoint, upper: OperatingPoint, policy: Policy) -> bool:
    """Whether the step earns less than its energy costs; never where either price is not given."""
    if device.spec.price_per_rate_h is None or policy.energy_price_per_wh is None:
        return False
    return earning(device, lower, upper)[1] < policy.energy_price_per_wh


def earns_too_little(device: Device, policy: Policy) -> bool:
    """Whether the step that it stands on earns less than its energy."""
    points, setpoint = device.spec.points, device.setpoint
    if points is None or setpoint is None or policy.energy_price_per_wh is None:
        return False
    lower = hull.below(points, setpoint.draw_w)
    return lower is not None and loses_money(device, lower, setpoint, policy)


def step_down(device: Device, present: OperatingPoint | None) -> Step | None:
    """The next step down its hull; where its draw is unknown it is taken to be all that it is planned with."""
    if present is None:
        return _down(device, None)
    steps = device.steps.down
    try:
        return steps[present.draw_w]
    except KeyError:
        if len(steps) >= MOST_STEPS:
            steps.clear()
        step = steps[present.draw_w] = _down(device, present)
        return step


def _down(device: Device, present: OperatingPoint | None) -> Step | None:
    points = device.spec.points
    if points is None:
        return None
    upper = present or hull.point_at(points, max(device.planned_w, points.lowest.draw_w + points.step_w))
    lower = hull.below(points, upper.draw_w if present is not None else max(device.planned_w, upper.draw_w))
    if lower is None:
        return None
    protection = 0
    floor = device.flex_floor()
    if floor is not None:
        if upper.draw_w <= floor.draw_w + points.step_w / 2:
            protection = 1 + device.spec.emergency_order
        elif lower.draw_w < floor.draw_w:
            lower = floor
    return (protection, *earning(device, lower, upper)), lower


def step_up(device: Device, present: OperatingPoint) -> Step | None:
    """The next step up its hull; what a firm limit took past its flex comes back first, in the opposite order."""
    steps = device.steps.up
    try:
        return steps[present.draw_w]
    except KeyError:
        if len(steps) >= MOST_STEPS:
            steps.clear()
        step = steps[present.draw_w] = _up(device, present)
        return step


def _up(device: Device, present: OperatingPoint) -> Step | None:
    points = device.spec.points
    if points is None:
        return None
    upper = hull.above(points, present.draw_w)
    if upper is None:
        return None
    protection = 0
    floor = device.flex_floor()
    if floor is not None and present.draw_w < floor.draw_w - points.step_w / 2:
        protection = 1 + device.spec.emergency_order
        if upper.draw_w > floor.draw_w:
            upper = floor
    return (protection, *earning(device, present, upper)), upper
