"""The upper concave hull of a device's rate over watts: only its edges are worth offering to dispatch."""

from __future__ import annotations

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
