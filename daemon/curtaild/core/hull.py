"""The upper concave hull of a device's rate over watts: only its edges are worth offering to dispatch. And what lies
between its points."""

from __future__ import annotations

import math
from functools import lru_cache

from curtaild_drivers.contract import OperatingPoint, OperatingPoints, Watts


@lru_cache(maxsize=65_536)
def hull(points: OperatingPoints) -> tuple[OperatingPoint, ...]:
    """The points that no mixture of two others beats, by rising draw. Devices of one model share the result."""
    kept: list[OperatingPoint] = []
    for point in points.points:
        while len(kept) >= 2 and _efficiency(kept[-2], kept[-1]) <= _efficiency(kept[-1], point):
            kept.pop()
        kept.append(point)
    return tuple(kept)


def _efficiency(lower: OperatingPoint, upper: OperatingPoint) -> float:
    """Rate gained per watt on the way from one point to the next."""
    return (upper.rate - lower.rate) / (upper.draw_w - lower.draw_w)


def below(points: OperatingPoints, draw_w: Watts) -> OperatingPoint | None:
    """The next hull point under `draw_w`."""
    return next((point for point in reversed(hull(points)) if point.draw_w < draw_w - points.step_w / 2), None)


def above(points: OperatingPoints, draw_w: Watts) -> OperatingPoint | None:
    """The next hull point over `draw_w`."""
    return next((point for point in hull(points) if point.draw_w > draw_w + points.step_w / 2), None)


def point_at(points: OperatingPoints, watts: Watts) -> OperatingPoint:
    """The highest operating point the device can hold at or under `watts`; its lowest if none is."""
    best = points.lowest
    for lower, upper in zip(points.points, points.points[1:], strict=False):
        if upper.draw_w <= watts:
            best = upper
        elif upper.divisible and lower.draw_w < watts:
            steps = math.floor((watts - lower.draw_w) / points.step_w)
            draw_w = lower.draw_w + steps * points.step_w
            if draw_w > lower.draw_w:
                share = (draw_w - lower.draw_w) / (upper.draw_w - lower.draw_w)
                rate = lower.rate + share * (upper.rate - lower.rate)
                best = OperatingPoint(upper.key, draw_w, rate, divisible=True)
    return best


@lru_cache(maxsize=4_096)
def flex_floor(points: OperatingPoints, flex: float) -> OperatingPoint:
    """The lowest point on the hull at which the device keeps 1 − `flex` of its highest rate."""
    least = (1.0 - flex) * points.highest.rate * (1.0 - 1e-9)
    edges = hull(points)
    kept = next((n for n, point in enumerate(edges) if point.rate >= least), len(edges) - 1)
    upper = edges[kept]
    if kept == 0 or not upper.divisible:
        return upper
    lower = edges[kept - 1]
    share = (least - lower.rate) / (upper.rate - lower.rate)
    floor = point_at(points, lower.draw_w + share * (upper.draw_w - lower.draw_w) + points.step_w)
    return floor if floor.draw_w < upper.draw_w else upper
