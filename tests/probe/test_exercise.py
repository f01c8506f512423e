"""Stepping a device through its points: each is timed, liars are caught, and it always comes back to where it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from unittest import mock

import pytest

from curtaild.survey import exercise as exercising
from curtaild.survey.exercise import CannotExercise, Exercise, Step, Watch, chosen, found_at, name_of, says
from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
    OFF,
    Device,
    Identity,
    OperatingPoint,
    OperatingPoints,
    Reading,
    RunState,
)
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import EmulatedFarm, Fault, Miner
from curtaild_emulator.plan import ModelName
from curtaild_emulator.wires.unit import Effect
from loop_clock import comes_true, cut_short, put_forward
from scan.farms import farm, settings

LADDER = OperatingPoints(
    (
        OperatingPoint(OFF, 50.0, 0.0),
        OperatingPoint("limit", 1_000.0, 30e12),
        OperatingPoint("limit", 3_000.0, 100e12, divisible=True),
    )
)
PATIENCE_S = 60.0
ENOUGH_READINGS = 5
"""After so many, what has not settled will not."""


def say_nothing(point: OperatingPoint, reading: Reading | None) -> None:
    """Nobody watches."""


@dataclass
class ShortPatience:
    """Time as it passes, until a step has had enough readings: then its patience is over."""

    readings: int = 0
    skipped_s: float = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped_s

    def watch(self, point: OperatingPoint, reading: Reading | None) -> None:
        self.readings += reading is not None
        if self.readings == ENOUGH_READINGS:
            self.skipped_s += PATIENCE_S


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> ShortPatience:
    made = ShortPatience()
    monkeypatch.setattr(exercising, "time", made)
    return made


@dataclass
class Bench:
    device: Device
    farm: EmulatedFarm
    name: str
    points: OperatingPoints
    home: OperatingPoint
    identity: Identity

    def exercise(
        self, device: Device | None = None, patience_s: float = PATIENCE_S, watch: Watch = say_nothing
    ) -> Exercise:
        return Exercise(device or self.device, self.points, self.home, watch, patience_s=patience_s, read_every_s=0.005)

    async def another(self) -> Device:
        """The same machine once more, by a driver that knows all it needs for a command."""
        assert DRIVER.open_device is not None
        chosen, known = settings(self.farm.ports), OpenContext(self.identity)
        device = DRIVER.open_device(self.farm.addresses[self.name], chosen, known)
        await device.read()
        return device

    def true_power_w(self) -> float:
        return self.farm.true_power_w(self.name)


@asynccontextmanager
async def bench(model: ModelName) -> AsyncIterator[Bench]:
    async with farm(1, "127.34.20.0/24", (model,)) as emulated:
        (name, address), *_ = emulated.addresses.items()
        assert DRIVER.open_device is not None
        device = DRIVER.open_device(address, settings(emulated.ports), OpenContext())
        identity = await device.identify()
        points = await device.operating_points()
        home = found_at(await device.read(), points)
        yield Bench(device, emulated, name, points, home, identity)
        await device.close()


def named(steps: list[Step], points: OperatingPoints) -> dict[str, bool]:
    return {name_of(step.point, points): step.went_well for step in steps}


@pytest.mark.parametrize("model", ["whatsminer-m50", "antminer-s21"])
async def test_all_points_are_reached_timed_and_left_again(model: ModelName) -> None:
    async with bench(model) as its:
        before_w = its.true_power_w()
        exercise = its.exercise()
        await exercise.run(chosen(its.points, []))
        assert len(exercise.steps) >= 3
        assert all(named(exercise.steps, its.points).values()), exercise.steps
        assert all(step.answered_s <= (step.settled_s or 0.0) + 1e-3 for step in exercise.steps)
        assert exercise.steps[-1].point.is_off
        if its.device.capabilities.measures_power:  # one that does not says that it sleeps before its draw has fallen
            assert its.true_power_w() < 0.1 * before_w
        restored = await exercise.restore()
        assert restored is not None
        assert restored.went_well
        assert restored.point == its.home
        assert its.true_power_w() == pytest.approx(before_w, rel=0.2)


async def test_a_device_that_says_yes_and_does_not_obey_is_caught(short_patience: ShortPatience) -> None:
    async with bench("whatsminer-m50") as its:
        its.farm.set_fault(its.name, Fault.ACK_NO_OBEY)
        exercise = its.exercise(watch=short_patience.watch)
        await exercise.run(chosen(its.points, ["limit@1500"]))
        (step,) = exercise.steps
        assert step.answer == "acknowledged"
        assert step.confirmed_s is not None
        assert step.settled_s is None
        assert step.power_w is not None
        assert step.power_w > 3_000.0


async def test_an_interruption_brings_it_back_however_far_it_was() -> None:
    async with bench("luxos-s21") as its:
        before_w = its.true_power_w()
        exercise = its.exercise()
        running = asyncio.create_task(exercise.run(chosen(its.points, ["off"]) * 1_000))
        while its.true_power_w() > 0.1 * before_w:
            await asyncio.wait([running], timeout=0.005)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        exercise.hasten()
        restored = await exercise.restore()
        assert restored is not None
        assert restored.confirmed_s is not None
        assert (await its.device.read()).point_key == its.home.key


async def test_a_limit_that_it_does_not_keep_is_never_taken_for_the_one_it_was_found_at(
    short_patience: ShortPatience,
) -> None:
    """All its limits have one name."""
    async with bench("whatsminer-m50") as its:
        await its.device.apply(replace(its.home, draw_w=2_000.0))
        device, miner = await its.another(), its.farm.plant.miner(its.name)
        its.farm.set_fault(its.name, Fault.HANG)
        exercise = its.exercise(device, watch=short_patience.watch)
        with mock.patch.object(Miner, "strikes", autospec=True, side_effect=Miner.strikes) as strikes:
            restoring = asyncio.create_task(exercise.run([its.home]))
            await comes_true(lambda: mock.call(miner, Fault.HANG) in strikes.mock_calls)  # the command has arrived
        its.farm.set_fault(its.name, Fault.HANG, on=False)
        put_forward()
        await restoring
        (step,) = exercise.steps
        assert step.reading is not None, "it answers again"
        assert step.reading.limit_w == pytest.approx(2_000.0, rel=0.01)
        assert step.confirmed_s is None
        await device.close()


async def test_whoever_is_in_haste_does_not_wait_for_one_that_never_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercising, "HASTE_S", 0.1)
    async with bench("luxos-s21") as its:
        exercise = its.exercise(patience_s=3_600.0)
        await exercise.run(chosen(its.points, ["off"]))
        its.farm.set_fault(its.name, Fault.RESUME_NEVER)
        restoring = asyncio.create_task(exercise.restore())
        await asyncio.wait([restoring], timeout=0.05)
        assert not restoring.done()
        exercise.hasten()
        async with asyncio.timeout(60.0):
            restored = await restoring
        assert restored is not None
        assert restored.settled_s is None


async def test_what_was_found_off_is_left_off() -> None:
    async with bench("luxos-s21") as its:
        await its.device.apply(its.points.lowest)
        home = found_at(await its.device.read(), its.points)
        assert home.is_off
        exercise = Exercise(its.device, its.points, home, lambda *_: None, patience_s=PATIENCE_S, read_every_s=0.005)
        await exercise.run(chosen(its.points, ["310MHz"]))
        assert exercise.steps[0].went_well
        restored = await exercise.restore()
        assert restored is not None
        assert restored.went_well
        assert its.true_power_w() < 100.0


async def test_a_write_whose_answer_is_lost_counts_by_what_is_read() -> None:
    async with bench("luxos-s21") as its:
        its.farm.set_fault(its.name, Fault.HANG_WRITE_APPLIED)
        device, unit = await its.another(), its.farm.unit(its.name)
        exercise = its.exercise(device)
        await cut_short(exercise.run(chosen(its.points, ["off"])), lambda: unit.answered[Effect.STOP] > 0)
        (step,) = exercise.steps
        assert step.answer.startswith("outcome unknown")
        assert step.went_well
        its.farm.set_fault(its.name, Fault.HANG_WRITE_APPLIED, on=False)
        assert (await exercise.restore()) is not None
        await device.close()


async def test_a_wrong_password_ends_it_and_moves_nothing() -> None:
    async with bench("whatsminer-m50") as its:
        assert DRIVER.open_device is not None
        wrong = OpenContext(its.identity, secrets={"password": "not this"})
        device = DRIVER.open_device(its.farm.addresses[its.name], settings(its.farm.ports), wrong)
        exercise = its.exercise(device)
        await exercise.run(chosen(its.points, []))
        assert len(exercise.steps) == 1
        assert exercise.steps[0].answer.startswith("AuthFailed")
        assert await exercise.restore() is None, "nothing to bring back"
        await device.close()


def reading(key: str | None, limit_w: float | None = None, state: RunState = RunState.RUNNING) -> Reading:
    return Reading(0.0, state, power_w=2_000.0, point_key=key, limit_w=limit_w)


def test_where_it_was_found_is_what_it_says_itself() -> None:
    assert found_at(reading("limit", 2_000.0), LADDER).draw_w == 2_000.0
    assert found_at(reading(OFF, state=RunState.ASLEEP), LADDER).is_off
    for unclear in (reading("limit"), reading(None), reading("turbo"), reading("limit", 2e3, RunState.STARTING)):
        with pytest.raises(CannotExercise):
            found_at(unclear, LADDER)


@pytest.mark.parametrize(
    ("seen", "is_there"),
    [
        (reading("limit", 2_000.0), True),
        (reading("limit", 2_000.6), True),
        (reading("limit", 1_980.0), False),
        (reading("limit", 2_000.0, RunState.ASLEEP), False),
        (reading("limit"), True),  # it does not say which, and draws it
        (replace(reading("limit"), power_w=2_900.0), False),
        (reading(OFF), False),
    ],
)
def test_a_limit_is_confirmed_by_its_watts(seen: Reading, is_there: bool) -> None:
    assert says(seen, replace(LADDER.highest, draw_w=2_000.0), LADDER) is is_there


def test_points_are_chosen_by_name_and_go_down() -> None:
    assert [name_of(point, LADDER) for point in chosen(LADDER, [])] == [
        "limit@3000",
        "limit@2000",
        "limit@1000",
        "off",
    ]
    assert [point.draw_w for point in chosen(LADDER, ["off", "limit@2500", "limit"])] == [3_000.0, 2_500.0, 50.0]
    for slip in ("limit@500", "limit@9000", "low", "limit@x"):
        with pytest.raises(CannotExercise, match=r"off, limit@1000, limit@3000"):
            chosen(LADDER, [slip])
