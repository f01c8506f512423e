"""Judges each step of the play by the farm's own truth. Arithmetic on traces, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from curtaild.demo.trace import Sample, StepMark
from curtaild_drivers.contract import Seconds, Watts

NOISE_FRACTION = 0.005
"""The daemon sees the draw through a meter with this much noise: what is within it is no fault."""
END_S = 1.0
"""A step's end is judged by its last second's mean."""


class Verdict(Enum):
    KEPT = "kept"
    FLOOR = "at the floor"  # the limit is under what can be shed; everything that can be is
    OVER = "OVER"


@dataclass(frozen=True, slots=True)
class Score:
    """One step in numbers. Times count from the publish, or from when the fail-safe was due; `None`: nothing was to be
    done, or it never happened. Overshoot counts after the grace, in real time."""

    mark: StepMark
    first_command_s: Seconds | None
    to_limit_s: Seconds | None
    overshoot_w: Watts
    overshoot_wh: float
    utilisation: float | None
    end_w: Watts
    verdict: Verdict

    @property
    def reason(self) -> str:
        """For a step that ended over its limit."""
        over_w = self.end_w - self.mark.limit_w
        return (
            f"{self.mark.name}: ended at {self.end_w / 1e3:.1f} kW, {over_w / 1e3:.1f} kW over its limit of "
            f"{self.mark.limit_w / 1e3:.1f} kW"
        )


def score(mark: StepMark, samples: Sequence[Sample]) -> Score:
    """Judge one step. Raises `ValueError` where the trace does not reach over it."""
    inside = [sample for sample in samples if mark.asked_at <= sample.at <= mark.ends_at]
    due = [sample for sample in inside if sample.at >= mark.due_at]
    if not due:
        raise ValueError(f"no sample of the farm within the step {mark.name!r}")
    held = [sample for sample in due if sample.at >= mark.holds_from]
    last = [sample for sample in due if sample.at >= mark.ends_at - END_S]
    if not held or not last:
        raise ValueError(f"the trace of the step {mark.name!r} breaks off before its end")
    end_w = sum(sample.site_w for sample in last) / len(last)
    keeps_to_w = mark.limit_w * (1 + NOISE_FRACTION)
    overshoot_w = max(0.0, *(sample.site_w - _ceiling_w(mark) for sample in held))
    return Score(
        mark=mark,
        first_command_s=_first_command_s(mark, samples),
        to_limit_s=_to_limit_s(mark, due, keeps_to_w),
        overshoot_w=overshoot_w,
        overshoot_wh=_integral(held, lambda sample: max(0.0, sample.site_w - _ceiling_w(mark))) / 3600,
        utilisation=_utilisation(mark, held),
        end_w=end_w,
        verdict=_verdict(mark, end_w, keeps_to_w),
    )


def _ceiling_w(mark: StepMark) -> Watts:
    """What counts as overshoot: nobody can go below the floor."""
    return max(mark.limit_w, mark.floor_w)


def _verdict(mark: StepMark, end_w: Watts, keeps_to_w: Watts) -> Verdict:
    if end_w <= keeps_to_w:
        return Verdict.KEPT
    is_at_floor = mark.limit_w < mark.floor_w and end_w <= mark.floor_w * (1 + NOISE_FRACTION)
    return Verdict.FLOOR if is_at_floor else Verdict.OVER


def _first_command_s(mark: StepMark, samples: Sequence[Sample]) -> Seconds | None:
    """When the first device had been told to go the step's way, as seen at the farm."""
    before = [sample for sample in samples if sample.at <= mark.due_at]
    if not before:
        return None
    known = before[-1]
    for sample in samples:
        if mark.due_at < sample.at <= mark.ends_at:
            has_begun = sample.lowered > known.lowered if mark.lowers else sample.raised > known.raised
            if has_begun:
                return sample.at - mark.due_at
    return None


def _to_limit_s(mark: StepMark, due: Sequence[Sample], keeps_to_w: Watts) -> Seconds | None:
    """When the draw came under the limit (or to its floor) to stay."""
    if not mark.lowers:
        return None
    enough_w = max(keeps_to_w, mark.floor_w * (1 + NOISE_FRACTION))
    reached: Seconds | None = None
    for sample in due:
        if sample.site_w > enough_w:
            reached = None
        elif reached is None:
            reached = sample.at
    return None if reached is None else max(0.0, reached - mark.due_at)


def _utilisation(mark: StepMark, held: Sequence[Sample]) -> float | None:
    """Energy used ÷ energy allowed while there was demand. At the floor nothing was allowed."""
    if mark.limit_w < mark.floor_w:
        return None
    allowed = _integral(held, lambda sample: mark.allowed_w(sample.at))
    used = _integral(held, lambda sample: min(sample.site_w, mark.allowed_w(sample.at)))
    return used / allowed if allowed > 0 else None


def _integral(samples: Sequence[Sample], power_w: Callable[[Sample], Watts]) -> float:
    """In joules, by trapezoids."""
    return sum((power_w(one) + power_w(two)) / 2 * (two.at - one.at) for one, two in pairwise(samples))
