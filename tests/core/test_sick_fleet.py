"""Sixty miners of which nine are sick from the moment that a limit comes: three hang, three refuse, three are silent.
The well ones are told as early as if all were well, others hold the limit, and where none is left the deficit is told.
"""

from __future__ import annotations

import pytest

from core.virtual_site import READ_DEADLINE_S, WRITE_DEADLINE_S, VirtualSite
from curtaild.core.cycle import Decision
from curtaild.core.events import Ack, AckStage, DeficitChanged
from curtaild.core.policy import Policy
from curtaild_drivers.contract import DeviceId, FeederId, Seconds
from curtaild_emulator import MODELS, Fault, Plant, PlantDevice, PlantFeeder

SITE = FeederId("site")
KINDS = ("whatsminer-m60", "luxos-s21", "antminer-s19j-pro", "avalon-a1566")
NAMES = [DeviceId(f"m{number}") for number in range(60)]
SICK = {
    **dict.fromkeys(NAMES[4:60:20], Fault.HANG),
    **dict.fromkeys(NAMES[9:60:20], Fault.WRONG_PASSWORD),
    **dict.fromkeys(NAMES[15:60:20], Fault.OFFLINE_SILENT),
}
WELL = [name for name in NAMES if name not in SICK]
SETTLED_S = 60.0
"""The slowest of these miners is down so long after it was told."""
BELIEVED_S = 15.0
"""So much longer than it may take to fall, a silent one is believed to have heard."""


class Fleet:
    """At full draw, every device known; `told` is when each was first told to go down."""

    def __init__(self) -> None:
        feeders = [PlantFeeder(SITE, None, 800.0, 0.005)]
        devices = [PlantDevice(name, MODELS[KINDS[n % len(KINDS)]], SITE) for n, name in enumerate(NAMES)]
        rating_w = 1.2 * sum(device.model.rated_w for device in devices) + 1_500.0
        self.world = VirtualSite(
            plant=Plant(devices, feeders, 7),
            feeders=feeders,
            feeder_of=dict.fromkeys(NAMES, SITE),
            failsafe_w=rating_w,
            ratings_w={SITE: rating_w},
            policy=Policy(response_s=60.0),
            poll_s=5.0,
        )
        self.told: dict[DeviceId, Seconds] = {}
        self.world.observers.append(self._hear)
        self.world.allocate(None)
        self.world.run(400)
        self.told.clear()

    def _hear(self, decision: Decision) -> None:
        for command in decision.commands:
            if not command.is_raise:
                self.told.setdefault(command.device, self.world.now)

    def fall_sick(self) -> None:
        for name, fault in SICK.items():
            self.world.plant.set_fault(name, fault, on=True)

    def deficit_w(self) -> float:
        told = [event.deficit_w for event in self.world.events if isinstance(event, DeficitChanged)]
        return told[-1] if told else 0.0

    def stages(self, allocation_id: str) -> list[AckStage]:
        acks = [event for event in self.world.events if isinstance(event, Ack)]
        return [ack.stage for ack in acks if ack.allocation_id == allocation_id]


@pytest.mark.parametrize("is_known", [False, True], ids=["just now", "for a minute"])
def test_the_well_are_told_as_early_as_if_all_were_well(is_known: bool) -> None:
    healthy, sick = Fleet(), Fleet()
    sick.fall_sick()
    for fleet in (healthy, sick):
        fleet.world.run(60 if is_known else 0)
        fleet.world.allocate(0.0)
        fleet.world.run(90)
    assert {name: sick.told[name] for name in WELL} == {name: healthy.told[name] for name in WELL}
    assert all(sick.world.plant.miner(name).setting.asleep for name in WELL)


def test_others_hold_the_limit() -> None:
    fleet = Fleet()
    fleet.fall_sick()
    limit_w = 0.6 * fleet.world.true_w()
    allocation = fleet.world.allocate(limit_w)
    fleet.world.run(WRITE_DEADLINE_S + READ_DEADLINE_S + SETTLED_S)
    assert AckStage.REACHED in fleet.stages(allocation.id)
    assert AckStage.SHORTFALL not in fleet.stages(allocation.id)
    assert any(name in fleet.told for name in SICK), "some were counted on at first"
    for _ in range(300):
        fleet.world.tick()
        assert fleet.world.true_w() <= 1.01 * limit_w
    assert fleet.deficit_w() == 0.0


def test_where_nobody_is_left_the_deficit_is_told() -> None:
    fleet = Fleet()
    fleet.fall_sick()
    allocation = fleet.world.allocate(0.0)
    fleet.world.run(WRITE_DEADLINE_S + READ_DEADLINE_S + SETTLED_S + BELIEVED_S)
    assert AckStage.SHORTFALL in fleet.stages(allocation.id)
    drawn_w = fleet.world.true_w()
    assert drawn_w > 0.9 * sum(fleet.world.plant.true_power_w(name) for name in SICK) > 20_000.0
    assert fleet.deficit_w() == pytest.approx(drawn_w, rel=0.15)
    assert set(SICK) <= {device.spec.id for device in fleet.world.site.devices.values() if device.conditions}
