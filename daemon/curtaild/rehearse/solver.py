"""A mixed-integer program, row by row and column by column, and HiGHS to solve it. Knows nothing of watts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GAP = 1e-4
DEADLINE_S = 10.0


class NoSolver(Exception):
    """HiGHS is not installed."""


@dataclass(frozen=True, slots=True)
class Solved:
    """The columns' values, and a bound that no solution exceeds: the optimum, to within `GAP`."""

    values: Sequence[float]
    bound: float


class Program:
    """Maximise a sum over columns in [0, 1] under rows. Raises `NoSolver`."""

    def __init__(self) -> None:
        try:
            import highspy
        except ImportError:
            raise NoSolver("the solver HiGHS is not installed: pip install 'curtaild[rehearse]'") from None
        self._highspy = highspy
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._gains: list[float] = []
        self._is_integer: list[bool] = []
        self._starts: list[int] = [0]
        self._rows: list[int] = []
        self._factors: list[float] = []

    def row(self, lower: float = -math.inf, upper: float = math.inf) -> int:
        """A sum that must lie in [lower, upper]; its number."""
        self._lower.append(lower)
        self._upper.append(upper)
        return len(self._lower) - 1

    def column(self, gain: float, entries: Mapping[int, float], is_integer: bool = False) -> int:
        """A value in [0, 1] that brings `gain` and counts in rows by these factors; its number."""
        self._gains.append(gain)
        self._is_integer.append(is_integer)
        self._rows += entries.keys()
        self._factors += entries.values()
        self._starts.append(len(self._rows))
        return len(self._gains) - 1

    def require(self, lower: float) -> None:
        """From now on the gain as it stands must be at least `lower`, and all gains start anew at 0."""
        number = self.row(lower=lower)
        rows, factors, starts = self._rows, self._factors, self._starts
        self._rows, self._factors, self._starts = [], [], [0]
        for column, gain in enumerate(self._gains):
            self._rows += [*rows[starts[column] : starts[column + 1]], number]
            self._factors += [*factors[starts[column] : starts[column + 1]], gain]
            self._starts.append(len(self._rows))
        self._gains = [0.0] * len(self._gains)

    def gain(self, column: int, gain: float) -> None:
        """Set what a column brings."""
        self._gains[column] = gain

    def maximise(self) -> Solved | None:
        """Solve it; `None` where no solution exists."""
        highspy = self._highspy
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(self._gains), len(self._lower)
        program.sense_ = highspy.ObjSense.kMaximize
        program.col_cost_ = self._gains
        program.col_lower_ = [0.0] * len(self._gains)
        program.col_upper_ = [1.0] * len(self._gains)
        program.row_lower_, program.row_upper_ = self._lower, self._upper
        program.integrality_ = [
            highspy.HighsVarType.kInteger if integer else highspy.HighsVarType.kContinuous
            for integer in self._is_integer
        ]
        program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        program.a_matrix_.start_ = self._starts
        program.a_matrix_.index_ = self._rows
        program.a_matrix_.value_ = self._factors
        solver = highspy.Highs()
        for option, value in (("output_flag", False), ("mip_rel_gap", GAP), ("time_limit", DEADLINE_S), ("threads", 1)):
            solver.setOptionValue(option, value)
        solver.passModel(program)
        solver.run()
        if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            return None
        found = solver.getInfo()
        return Solved(list(solver.getSolution().col_value), float(found.mip_dual_bound))
