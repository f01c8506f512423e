"""A shed waits for nothing: what devices have acknowledged is told when the last shed has left, a refusal at once."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from curtaild import actuator
from curtaild.actuator import Actuator
from curtaild.clock import SystemClock
from curtaild.core.cycle import Command
from curtaild.core.events import ActuationId, ActuationStage
from curtaild.core.inputs import Answer
from curtaild.fleet import FleetDevice
from curtaild_config import DeviceSpec
from curtaild_drivers.contract import OFF, Device, DeviceId, OperatingPoint, Outcome, Refused, TellsWords

STOP = OperatingPoint(OFF, 30.0, 0.0)
NAMES = [DeviceId(f"miner-{n}") for n in range(4)]


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: neither is a command slow nor an acknowledgement old before a test says so."""
    monkeypatch.setattr(actuator, "SLOW_AFTER_S", 3_600.0)
    monkeypatch.setattr(actuator, "KEEP_ACKNOWLEDGED_S", 3_600.0)


class Miner:
    """Answers when it is let; says no where it is told to."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.was_told = asyncio.Event()
        self.may_answer = asyncio.Event()
        self._refuses = refuses

    async def apply(self, point: OperatingPoint) -> Outcome:
        self.was_told.set()
        await self.may_answer.wait()
        if self._refuses:
            raise Refused("not now")
        return Outcome.ACKNOWLEDGED


class Wordy(Miner, TellsWords):
    """Has more to tell."""

    @property
    def last_words(self) -> str:
        return "3 jobs suspended"


class Site:
    """Four miners, one command under way at a time, and what was heard of them."""

    def __init__(self, refusing: int | None = None) -> None:
        self.miners = [Miner(refuses=number == refusing) for number in range(len(NAMES))]
        self.fleet: dict[DeviceId, FleetDevice] = {}
        for name, miner in zip(NAMES, self.miners, strict=True):
            self.put(name, miner)
        self.heard: asyncio.Queue[Answer] = asyncio.Queue()
        self.actuator = Actuator(self.fleet, self.heard.put_nowait, SystemClock(), concurrency=1)

    def put(self, name: DeviceId, miner: Miner) -> None:
        self.fleet[name] = FleetDevice(cast(DeviceSpec, None), cast(Device, miner), None)

    def shed_all(self) -> None:
        for number, name in enumerate(NAMES):
            self.submit(name, is_raise=False, shed_w=100.0 - number)

    def submit(self, name: DeviceId, *, is_raise: bool, shed_w: float) -> None:
        self.actuator.submit(Command(ActuationId(f"to {name}"), name, STOP, is_raise, shed_w))

    async def answers(self, number: int) -> None:
        """This miner has been told, and answers; the next one, if any, has been told."""
        await self.miners[number].was_told.wait()
        self.miners[number].may_answer.set()
        if number + 1 < len(NAMES):
            await self.miners[number + 1].was_told.wait()

    async def told(self) -> list[tuple[str, ActuationStage]]:
        """What has been heard since the last look, once there is something."""
        found = [await self.heard.get()]
        while not self.heard.empty():
            found.append(self.heard.get_nowait())
        return [(answer.device, answer.stage) for answer in found]


async def test_acknowledgements_are_told_when_the_last_shed_has_left() -> None:
    site = Site()
    site.shed_all()
    for number in (0, 1):
        await site.answers(number)
    assert site.actuator.is_shedding
    assert site.heard.empty()
    await site.answers(2)
    assert not site.actuator.is_shedding, "the last one is under way"
    await site.answers(3)
    assert await site.told() == [(name, ActuationStage.ANSWERED) for name in NAMES]


async def test_a_refusal_calls_for_another_decision_and_is_told_at_once() -> None:
    site = Site(refusing=1)
    site.shed_all()
    await site.answers(0)
    await site.answers(1)
    assert site.actuator.is_shedding
    assert await site.told() == [(NAMES[1], ActuationStage.REFUSED)]
    await site.actuator.close(0.0)


async def test_a_long_shed_tells_what_it_knows_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actuator, "KEEP_ACKNOWLEDGED_S", 0.0)
    site = Site()
    site.shed_all()
    await site.answers(0)
    assert site.actuator.is_shedding
    assert await site.told() == [(NAMES[0], ActuationStage.ANSWERED)]
    await site.actuator.close(0.0)


async def test_restores_keep_nobody_waiting() -> None:
    site = Site()
    for name in NAMES:
        site.submit(name, is_raise=True, shed_w=-100.0)
    await site.answers(0)
    assert await site.told() == [(NAMES[0], ActuationStage.ANSWERED)]
    await site.actuator.close(0.0)


async def test_what_was_acknowledged_is_told_before_the_daemon_stops() -> None:
    site = Site()
    site.shed_all()
    await site.answers(0)
    closing = asyncio.create_task(site.actuator.close(60.0))
    site.miners[1].may_answer.set()
    await closing
    told = dict(await site.told())
    assert told[NAMES[0]] is ActuationStage.ANSWERED
    assert told[NAMES[1]] is ActuationStage.ANSWERED
    assert told[NAMES[2]] is ActuationStage.CANCELLED


async def test_what_a_device_tells_beside_its_outcome_is_passed_on() -> None:
    site = Site()
    for name, miner in ((NAMES[0], Wordy()), (NAMES[1], Miner())):
        site.put(name, miner)
        miner.may_answer.set()
        site.submit(name, is_raise=False, shed_w=1.0)
    details = [(await site.heard.get()).detail for _ in range(2)]
    assert details == ["acknowledged; 3 jobs suspended", "acknowledged"]


async def test_who_does_not_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actuator, "SLOW_AFTER_S", 0.01)
    site = Site()
    site.shed_all()
    async with asyncio.timeout(30):
        for miner in site.miners:  # one command at a time, and none is ever answered
            await miner.was_told.wait()
    assert not site.actuator.is_shedding
    await site.actuator.close(0.0)
