"""From a power limit to what a GPU node still gets done, and from that to the operating points a node offers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from curtaild_drivers.contract import OFF, OperatingPoint, OperatingPoints, Watts

LIMIT = "limit"
"""The key of the points that are held by a power limit in watts."""

Curve: TypeAlias = Sequence[tuple[float, float]]
"""(fraction of full GPU power, fraction of full throughput kept there), falling from (1, 1); below its end throughput
falls in proportion to power."""

DEFAULT_CURVE: Curve = ((1.0, 1.0), (0.8, 0.96), (0.7, 0.92), (0.6, 0.86), (0.5, 0.72))
"""Median of published cap sweeps of training on data-centre GPUs; some fall off earlier (A40 at half: .75)."""

BASE_FRACTION = 0.22
"""What a node draws beside its GPUs' share, as a fraction of its most, where nobody says it: 8 × H100 under
1.8 kW + 1.15 · Σ GPU."""


def checked(curve: Curve) -> Curve:
    """The curve itself; raises ValueError unless it falls from full power and full throughput."""
    if curve[0] != (1.0, 1.0):
        raise ValueError("curve must begin with [1.0, 1.0]: full power, full throughput")
    if any(above[0] <= below[0] or above[1] < below[1] for above, below in pairwise(curve)):
        raise ValueError("curve must fall: each pair less power than the one before, and no more throughput")
    return curve


def throughput(curve: Curve, power_fraction: float) -> float:
    """The fraction of full throughput (0..1) kept at a fraction of full GPU power."""
    lowest = curve[-1]
    if power_fraction <= lowest[0]:
        return lowest[1] * max(power_fraction, 0.0) / lowest[0]
    for (upper, kept_above), (lower, kept_below) in pairwise(curve):
        if power_fraction >= lower:
            share = min((power_fraction - lower) / (upper - lower), 1.0)
            return kept_below + share * (kept_above - kept_below)
    return curve[0][1]


def node_points(
    least_w: Watts,
    most_w: Watts,
    base_w: Watts,
    off_w: Watts | None = None,
    curve: Curve = DEFAULT_CURVE,
    step_w: Watts = 1.0,
) -> OperatingPoints:
    """The points of a node that takes any limit from `least_w` to `most_w` (W at the wall), `base_w` of which its
    GPUs never see, and that draws `off_w` when off (`None`: it offers no off).

    The curve's corners between the two become points, so that straight lines between them are the curve itself.
    Raises ValueError unless 0 ≤ off_w < least_w ≤ most_w, base_w < most_w and all are finite.
    """
    draws = [least_w, most_w, base_w] if off_w is None else [off_w, least_w, most_w, base_w]
    if not all(math.isfinite(draw_w) and draw_w >= 0 for draw_w in draws):
        raise ValueError(f"a node's watts must be finite and not negative: {draws}")
    if not least_w <= most_w or base_w >= most_w or (off_w is not None and off_w >= least_w):
        raise ValueError(f"a node's watts must rise from off over least to most, and its base lie under that: {draws}")
    gpus_w = most_w - base_w
    corners = {base_w + fraction * gpus_w for fraction, _ in curve[1:]}
    inner = sorted(corner for corner in corners if least_w + step_w <= corner <= most_w - step_w)
    draws = [least_w, *inner] if most_w == least_w else [least_w, *inner, most_w]
    points = [
        OperatingPoint(LIMIT, draw_w, throughput(curve, (draw_w - base_w) / gpus_w), divisible=place > 0)
        for place, draw_w in enumerate(draws)
    ]
    if off_w is not None:
        points.insert(0, OperatingPoint(OFF, off_w, 0.0))
    return OperatingPoints(tuple(points), step_w)
