"""What a step between two operating points earns: by that, ASICs and GPU nodes are shed and raised in one market.

A device that restarts at every change is dearer to lower, and cheaper to leave low, by what its restarts lose.
"""

from __future__ import annotations

from curtaild.core import hull
from curtaild.core.device import Device, Step
from curtaild.core.policy import Policy
from curtaild_drivers.contract import OperatingPoint, OperatingPoints

MOST_STEPS = 10_000  # kept of one kind of device; a divisible range has many
LASTS_S = 900.0
"""How long a step lasts until it is undone, for want of better knowledge: in that time it must earn what it costs."""
TOGETHER = 0.15
"""Steps of one device are taken in one where they earn as much per watt, but for this: few moves, and large ones."""
PRICED = -1.0
"""The priority of what has a price: below all that have none, and comparable with each other by money alone."""


def earning(device: Device, lower: OperatingPoint, upper: OperatingPoint) -> tuple[float, float]:
    """What the step between two points earns: `PRICED` and money per watt-hour where the site gives a price, else
    priority and rate per watt."""
    per_watt = (upper.rate - lower.rate) / max(upper.draw_w - lower.draw_w, 1e-9)
    price = device.spec.price_per_rate_h
    return (PRICED, price * per_watt) if price is not None else (float(device.spec.priority), per_watt)


def restart_loss(device: Device, lower: OperatingPoint, upper: OperatingPoint) -> float:
    """What going from one point to the other and back loses of the device's rate by restarts, as a share of the time
    that it lasts. A restart loses half of the settle time, for the climb is even."""
    if not device.spec.restarts:
        return 0.0
    lost = upper.rate if lower.is_off else 2 * lower.rate
    return lost * device.spec.settle_up_s / 2 / LASTS_S


def _with_restarts(device: Device, lower: OperatingPoint, upper: OperatingPoint, sign: float) -> tuple[float, float]:
    """What the step earns, and what restarts lose on top (`sign` 1, to be left) or of it (-1, to be taken)."""
    priority, per_watt = earning(device, lower, upper)
    price = device.spec.price_per_rate_h
    lost = restart_loss(device, lower, upper) / max(upper.draw_w - lower.draw_w, 1e-9)
    return priority, per_watt + sign * lost * (price if price is not None else 1.0)


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
    """The next step down its hull, further ones that earn hardly more included; it earns what the first of them does.
    Where its draw is unknown it is taken to be all that it is planned with."""
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


def fine_step_down(device: Device, present: OperatingPoint) -> Step | None:
    """To the very next point on its hull, whatever moving costs."""
    return _down(device, present, is_fine=True)


def _down(device: Device, present: OperatingPoint | None, is_fine: bool = False) -> Step | None:
    points = device.spec.points
    if points is None:
        return None
    upper = present or hull.point_at(points, max(device.planned_w, points.lowest.draw_w + points.step_w))
    lower = hull.below(points, upper.draw_w if present is not None else max(device.planned_w, upper.draw_w))
    if lower is None:
        return None
    nearest = lower
    lower = _as_low_as_pays(device, points, lower, upper, 0.0 if is_fine else TOGETHER)
    protection = 0
    floor = device.flex_floor()
    if floor is not None:
        if upper.draw_w <= floor.draw_w + points.step_w / 2:
            protection = 1 + device.spec.emergency_order
        elif lower.draw_w < floor.draw_w:
            lower = floor
    first = _as_low_as_pays(device, points, nearest, upper, 0.0)
    return (protection, *_with_restarts(device, first, upper, 1.0)), lower


def _as_low_as_pays(
    device: Device, points: OperatingPoints, lower: OperatingPoint, upper: OperatingPoint, together: float
) -> OperatingPoint:
    """The lowest point on the hull that costs hardly more per watt (`together`) than the cheapest; a stop only where
    that is the cheapest: of a device that restarts one restart over all steps may cost less than one over the first."""
    below = [point for point in hull.hull(points) if point.draw_w <= lower.draw_w]
    costs = [_with_restarts(device, point, upper, 1.0)[1] for point in below]
    cheapest = min(costs)
    most = (1 + together) * cheapest
    return next(
        point
        for point, cost in zip(below, costs, strict=True)
        if cost == cheapest or (cost <= most and not point.is_off)
    )


def step_up(device: Device, present: OperatingPoint, policy: Policy) -> Step | None:
    """The next step up its hull, further ones that earn hardly less included; it earns what the first of them does.
    What a firm limit took past its flex comes back first, in the opposite order. `None` where it would earn less than
    its energy."""
    steps, asked = device.steps.up, (present.draw_w, policy.energy_price_per_wh)
    try:
        return steps[asked]
    except KeyError:
        if len(steps) >= MOST_STEPS:
            steps.clear()
        step = steps[asked] = _up(device, present, policy)
        return step


def _up(device: Device, present: OperatingPoint, policy: Policy) -> Step | None:
    points, step = device.spec.points, fine_step_up(device, present)
    if points is None or step is None or loses_money(device, present, step[1], policy):
        return None
    (protection, _, _), upper = step
    least = _with_restarts(device, present, upper, -1.0)[1] / (1 + TOGETHER)
    for point in hull.hull(points) if not protection else ():
        if point.draw_w > upper.draw_w:
            if _with_restarts(device, present, point, -1.0)[1] < least or loses_money(device, upper, point, policy):
                break
            upper = point
    return step[0], upper


def fine_step_up(device: Device, present: OperatingPoint) -> Step | None:
    """To the very next point on its hull, whatever moving costs."""
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
    return (protection, *_with_restarts(device, present, upper, -1.0)), upper
