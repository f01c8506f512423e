"""Steps one device through its operating points, times each, and puts it back to the point it was found at: after the
last step, after a failure, and after an interruption.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from curtaild_drivers.contract import (
    AuthFailed,
    Device,
    DriverError,
    OperatingPoint,
    OperatingPoints,
    OutcomeUnknown,
    Reading,
    RunState,
    Seconds,
    Watts,
)

READ_EVERY_S: Seconds = 1.0
TOLERANCE = 0.05
"""A draw within this share of the full draw is the point's: units of a model differ by a few percent."""
IN_A_ROW = 3
"""So many readings within the tolerance, and the draw has settled."""
LEAST_PATIENCE_S: Seconds = 60.0
PATIENCE = 3.0
"""A device may take so many times what its firmware is known to take."""
RESTORE_TRIES = 3
HASTE_S: Seconds = 20.0
"""How long each try to put it back may take once somebody wants to be gone."""


class CannotExercise(Exception):
    """Nothing was commanded. The text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One point, as it went; times in s from the command, `None` where it never came. `answer` is how the device
    answered, in words; `power_w` and `rate` are its last reading's."""

    point: OperatingPoint
    answer: str
    answered_s: Seconds
    confirmed_s: Seconds | None = None
    settled_s: Seconds | None = None
    power_w: Watts | None = None
    rate: float | None = None
    reading: Reading | None = None

    @property
    def went_well(self) -> bool:
        return self.confirmed_s is not None and self.settled_s is not None


Watch = Callable[[OperatingPoint, Reading | None], None]
"""Called before each command with the point, and after each reading with both."""


def name_of(point: OperatingPoint, points: OperatingPoints) -> str:
    """A point as a person types it: its key, with watts where several share one or it is divisible."""
    is_alone = sum(other.key == point.key for other in points.points) == 1
    return point.key if is_alone and not point.divisible else f"{point.key}@{point.draw_w:.0f}"


def found_at(reading: Reading, points: OperatingPoints) -> OperatingPoint:
    """The point the device is at, to be put back to. Raises `CannotExercise` where it does not say."""
    if reading.state not in (RunState.RUNNING, RunState.ASLEEP, RunState.IDLE):
        raise CannotExercise(f"it is {reading.state.value}: wait until it runs, and try again")
    candidates = [point for point in points.points if point.key == reading.point_key]
    if not candidates:
        raise CannotExercise(
            f"it says it is set to {reading.point_key or 'nothing that is known'!r}, which is none of its points: it "
            "could not be put back"
        )
    if len(candidates) == 1 and not candidates[0].divisible:
        return candidates[0]
    if reading.limit_w is None:
        raise CannotExercise("it does not say which limit it keeps: it could not be put back")
    highest = candidates[-1]
    return replace(highest, draw_w=min(max(reading.limit_w, candidates[0].draw_w), highest.draw_w))


def chosen(points: OperatingPoints, words: Sequence[str]) -> list[OperatingPoint]:
    """The points to step through, from the highest down: all of them and one within each divisible range, or those that
    `words` name ("off", "limit@2000"). Raises `CannotExercise`."""
    if words:
        return sorted((_named(word, points) for word in words), key=lambda point: -point.draw_w)
    steps = list(points.points)
    for lower, upper in pairwise(points.points):
        if upper.divisible:
            middle_w = (lower.draw_w + upper.draw_w) / 2
            steps.append(replace(upper, draw_w=middle_w, rate=(lower.rate + upper.rate) / 2))
    return sorted(steps, key=lambda point: -point.draw_w)


def _named(word: str, points: OperatingPoints) -> OperatingPoint:
    key, at, text = word.rpartition("@")
    if not at:
        key, text = word, ""
    of_key = [point for point in points.points if point.key == key]
    if not of_key and (exact := [point for point in points.points if point.key == word]):
        return exact[0]  # a preset's own name may have an @
    known = ", ".join(name_of(point, points) for point in points.points)
    try:
        draw_w = float(text) if text else of_key[-1].draw_w
    except (ValueError, IndexError):
        raise CannotExercise(f"{word!r} is none of its points: {known}") from None
    for point in of_key:
        if abs(point.draw_w - draw_w) < 0.5:
            return point
    if of_key and of_key[-1].divisible and _floor_w(of_key[-1], points) <= draw_w <= of_key[-1].draw_w:
        share = draw_w / of_key[-1].draw_w
        return replace(of_key[-1], draw_w=draw_w, rate=of_key[-1].rate * share)
    raise CannotExercise(f"{word!r} is none of its points: {known}")


def _floor_w(point: OperatingPoint, points: OperatingPoints) -> Watts:
    return max((other.draw_w for other in points.points if other.draw_w < point.draw_w), default=point.draw_w)


class Exercise:
    """One device under exercise. `steps` grows as it goes."""

    def __init__(
        self,
        device: Device,
        points: OperatingPoints,
        home: OperatingPoint,
        watch: Watch,
        *,
        patience_s: Seconds | None = None,
        read_every_s: Seconds = READ_EVERY_S,
    ) -> None:
        self._device = device
        self._points = points
        self._home = home
        self._watch = watch
        self._patience_s = patience_s
        self._read_every_s = read_every_s
        self._may_have_moved = False
        self._is_hasty = False
        self.steps: list[Step] = []

    async def run(self, steps: Iterable[OperatingPoint]) -> None:
        """Each of `steps` in turn. Ends early where the device rejects the password: all else would be rejected too."""
        for point in steps:
            step = await self._step(point)
            self.steps.append(step)
            if step.answer.startswith(AuthFailed.__name__):
                return

    async def restore(self) -> Step | None:
        """Back to where it was found, and its draw awaited unless in haste; `None` where it was never moved. The last
        try's step says whether it is there: a start may forget what it was told before it."""
        if not self._may_have_moved:
            return None
        for _ in range(RESTORE_TRIES):
            step = await self._step(self._home)
            if step.went_well or (self._is_hasty and step.confirmed_s is not None):
                break
        return step

    @property
    def is_hasty(self) -> bool:
        return self._is_hasty

    def hasten(self) -> None:
        """Wait for its word only from now on, not for its draw, and for neither long."""
        self._is_hasty = True

    async def _step(self, point: OperatingPoint) -> Step:
        self._watch(point, None)
        began = time.monotonic()
        answer, may_have_worked = await self._apply(point)
        step = Step(point, answer, time.monotonic() - began)
        if not may_have_worked:
            return step
        in_band: list[Seconds] = []
        patience_s = self._patience(point)
        while time.monotonic() - began < (min(patience_s, HASTE_S) if self._is_hasty else patience_s):
            try:
                reading = await self._device.read()
            except DriverError:
                reading = None  # some restart their API with every change
            if reading is not None and reading.taken_at >= began:
                self._watch(point, reading)
                step = self._judged(step, reading, began, in_band)
                if step.went_well or (step.confirmed_s is not None and self._is_hasty):
                    break
            await asyncio.sleep(self._read_every_s)
        return step

    async def _apply(self, point: OperatingPoint) -> tuple[str, bool]:
        """The answer in words, and whether the device may have obeyed."""
        had_moved, self._may_have_moved = self._may_have_moved, True  # also if this is interrupted half-way
        try:
            return (await self._device.apply(point)).value, True
        except OutcomeUnknown as error:
            return f"outcome unknown: {error}", True
        except DriverError as error:
            self._may_have_moved = had_moved
            return f"{type(error).__name__}: {error}", False

    def _judged(self, step: Step, reading: Reading, began: Seconds, in_band: list[Seconds]) -> Step:
        after_s = reading.taken_at - began
        step = replace(step, power_w=reading.power_w, rate=reading.rate, reading=reading)
        if not says(reading, step.point, self._points):
            in_band.clear()
            return replace(step, confirmed_s=None)
        if step.confirmed_s is None:
            step = replace(step, confirmed_s=after_s)
        if is_settled(reading, step.point, self._points):
            in_band.append(after_s)
        else:
            in_band.clear()
        return replace(step, settled_s=in_band[0]) if len(in_band) >= IN_A_ROW else step

    def _patience(self, point: OperatingPoint) -> Seconds:
        if self._patience_s is not None:
            return self._patience_s
        able = self._device.capabilities
        last_w = self.steps[-1].point.draw_w if self.steps else self._home.draw_w
        settle_s = able.settle_up_s if point.draw_w > last_w else able.settle_down_s
        return max(LEAST_PATIENCE_S, PATIENCE * settle_s)


def says(reading: Reading, point: OperatingPoint, points: OperatingPoints) -> bool:
    """Whether the device itself says that it is at `point`, or shows it by its state. A limit must be the same one to
    within a step; where it does not say which it keeps, its draw tells."""
    if point.is_off:
        return reading.state is RunState.ASLEEP
    if reading.point_key != point.key or reading.state not in (RunState.RUNNING, RunState.STARTING, RunState.IDLE):
        return False
    if reading.limit_w is not None:
        return abs(reading.limit_w - point.draw_w) <= points.step_w
    is_alone = sum(other.key == point.key for other in points.points) == 1
    return (is_alone and not point.divisible) or is_settled(reading, point, points)


def is_settled(reading: Reading, point: OperatingPoint, points: OperatingPoints) -> bool:
    """Whether the draw is the point's; by the hashrate where the firmware measures no watts."""
    full = points.highest
    if reading.power_w is not None:
        return abs(reading.power_w - point.draw_w) <= TOLERANCE * full.draw_w
    if point.is_off:
        return not reading.rate
    return reading.rate is not None and abs(reading.rate - point.rate) <= 2 * TOLERANCE * full.rate
