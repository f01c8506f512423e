"""A mixed-integer program, row by row and column by column, and HiGHS to solve it. Knows nothing of watts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = 1e-4
DEADLINE_S = 10.0


class NoSolver(Exception):
    """HiGHS is not installed."""


@dataclass(frozen=True, slots=True)
class Solved:
    """The columns' values, and a bound that no solution exceeds: the optimum, to within `GAP`, or where integers were
    let go the optimum without them."""

    values: Sequence[float]
    bound: float


class Program:
    """Maximise a sum over columns in [0, 1] under rows. Raises `NoSolver`. With `in_parts` what must be an integer may
    be a fraction: that bounds what integers can reach, and is solved far sooner."""

    def __init__(self, in_parts: bool = False) -> None:
        try:
            import highspy
        except ImportError:
            raise NoSolver("the solver HiGHS is not installed: pip install 'curtaild[rehearse]'") from None
        self._highspy = highspy
        self._solver: Any = None  # of its last program, for as long as that is the same
        self._in_parts = in_parts
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._gains: list[float] = []
        self._is_integer: list[bool] = []
        self._starts: list[int] = [0]
        self._rows: list[int] = []
        self._factors: list[float] = []

    def row(self, lower: float = -math.inf, upper: float = math.inf) -> int:
        """A sum that must lie in [lower, upper]; its number."""
        self._solver = None
        self._lower.append(lower)
        self._upper.append(upper)
        return len(self._lower) - 1

    def limit(self, row: int, upper: float) -> None:
        """Another upper end for a row. Where nothing else is changed between one `maximise` and the next, that starts
        from the last one's solution."""
        self._upper[row] = upper
        if self._solver is not None:
            self._solver.changeRowBounds(row, self._lower[row], upper)

    def column(self, gain: float, entries: Mapping[int, float], is_integer: bool = False) -> int:
        """A value in [0, 1] that brings `gain` and counts in rows by these factors; its number."""
        self._solver = None
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
        self._solver = None
        self._gains[column] = gain

    def maximise(self) -> Solved | None:
        """Solve it; `None` where no solution exists."""
        highspy = self._highspy
        if self._solver is None or not self._in_parts:
            self._solver = highspy.Highs()
            for option, value in (("output_flag", False), ("mip_rel_gap", GAP), ("threads", 1)):
                self._solver.setOptionValue(option, value)
            self._solver.passModel(self._model())
        solver = self._solver
        solver.setOptionValue("time_limit", solver.getRunTime() + DEADLINE_S)  # it counts from its first run
        solver.run()
        if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            return None
        found = solver.getInfo()
        bound = found.objective_function_value if self._in_parts else found.mip_dual_bound
        return Solved(list(solver.getSolution().col_value), float(bound))

    def _model(self) -> object:
        """As HiGHS takes it."""
        highspy = self._highspy
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self._gains), len(self._lower)
        model.sense_ = highspy.ObjSense.kMaximize
        model.col_cost_ = self._gains
        model.col_lower_ = [0.0] * len(self._gains)
        model.col_upper_ = [1.0] * len(self._gains)
        model.row_lower_, model.row_upper_ = self._lower, self._upper
        if not self._in_parts:
            model.integrality_ = [
                highspy.HighsVarType.kInteger if integer else highspy.HighsVarType.kContinuous
                for integer in self._is_integer
            ]
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = self._starts
        model.a_matrix_.index_ = self._rows
        model.a_matrix_.value_ = self._factors
        return model
