"""The dispatch problem as a mixed-integer program, written from the problem and not from the dispatch: which operating
point each device is to hold, so that no feeder is over and the value is the greatest. Solved by HiGHS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import highspy

from curtaild.core.device import DeviceSpec
from curtaild.core.feeders import FeederTree
from curtaild_drivers.contract import FeederId, OperatingPoint, OperatingPoints, Watts

GAP = 1e-3
"""How close to the optimum is close enough."""

Value = Callable[[DeviceSpec, float], float]
"""What a device is worth at a rate."""


def best_value(
    tree: FeederTree,
    limits_w: Mapping[FeederId, Watts],
    specs: Sequence[DeviceSpec],
    value: Value,
    *,
    relaxed: bool = False,
) -> float:
    """The greatest value within `limits_w`; −∞ where even the lowest points are too much.

    A binary for every point, and for every divisible step a share of it, which only the point at its lower end opens:
    the device then draws between the two. With `relaxed` nothing need be whole: a bound above, and found at once.
    """
    feeder_row = {feeder: row for row, feeder in enumerate(tree.specs)}
    row_lower = [-math.inf] * len(feeder_row)
    row_upper = [limits_w[feeder] for feeder in feeder_row]
    gains: list[float] = []
    kinds: list[highspy.HighsVarType] = []
    columns: list[dict[int, float]] = []

    def column(
        gain: float, draw_w: Watts, spec: DeviceSpec, kind: highspy.HighsVarType, **rows: tuple[int, float]
    ) -> None:
        gains.append(gain)
        kinds.append(kind)
        loads = {feeder_row[feeder]: draw_w for feeder in tree.paths[spec.feeder]}
        columns.append(loads | dict(rows.values()))

    def row(lower: float, upper: float) -> int:
        row_lower.append(lower)
        row_upper.append(upper)
        return len(row_lower) - 1

    for spec in specs:
        assert spec.points is not None
        points = spec.points.points
        one_point = row(1.0, 1.0)
        above = [row(-math.inf, 0.0) if upper.divisible else None for upper in points[1:]]  # share − lower point ≤ 0
        for point, opens in zip(points, [*above, None], strict=True):
            rows = {"one_point": (one_point, 1.0)} | ({"opens": (opens, -1.0)} if opens is not None else {})
            column(value(spec, point.rate), point.draw_w, spec, highspy.HighsVarType.kInteger, **rows)
        for (lower, upper), opened in zip(pairwise(points), above, strict=True):
            if opened is not None:
                gain = value(spec, upper.rate) - value(spec, lower.rate)
                step_w = upper.draw_w - lower.draw_w
                column(gain, step_w, spec, highspy.HighsVarType.kContinuous, opened=(opened, 1.0))
    kinds = [highspy.HighsVarType.kContinuous] * len(gains) if relaxed else kinds
    return _maximum(gains, kinds, columns, row_lower, row_upper)


def _maximum(
    gains: list[float],
    kinds: list[highspy.HighsVarType],
    columns: list[dict[int, float]],
    row_lower: list[float],
    row_upper: list[float],
) -> float:
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(gains), len(row_lower)
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_, program.integrality_ = gains, kinds
    program.col_lower_, program.col_upper_ = [0.0] * len(gains), [1.0] * len(gains)
    program.row_lower_, program.row_upper_ = row_lower, row_upper
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = [0, *accumulate(len(column) for column in columns)]
    program.a_matrix_.index_ = [row for column in columns for row in column]
    program.a_matrix_.value_ = [factor for column in columns for factor in column.values()]
    untyped: Any = highspy
    solver = untyped.Highs()
    for option, setting in (("output_flag", False), ("mip_rel_gap", GAP), ("threads", 1)):
        solver.setOptionValue(option, setting)
    solver.passModel(program)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return -math.inf
    return float(solver.getInfo().objective_function_value)


def largest_step(points: OperatingPoints, worth: Callable[[OperatingPoint], float]) -> float:
    """The most that one step up the concave hull of these points adds: what a dispatch by increments may miss."""
    corners: list[OperatingPoint] = []
    for point in points.points:
        while len(corners) >= 2 and _slope(corners[-2], corners[-1], worth) <= _slope(corners[-1], point, worth):
            corners.pop()
        corners.append(point)
    return max((worth(upper) - worth(lower) for lower, upper in pairwise(corners)), default=0.0)


def _slope(lower: OperatingPoint, upper: OperatingPoint, worth: Callable[[OperatingPoint], float]) -> float:
    return (worth(upper) - worth(lower)) / (upper.draw_w - lower.draw_w)
