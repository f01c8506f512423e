"""The explanations against the core itself: who is said to go first goes first, and who stays down is told why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.rig import ROW_A, SLIDER, PaperSite, reading_of, spec_of
from core.test_interlock import site_with_fans
from curtaild.core import dispatch
from curtaild.core.cycle import step
from curtaild.core.inputs import Inputs
from curtaild.core.site import Site
from curtaild.rehearse.play import Order
from curtaild.rehearse.run import Core
from curtaild.rehearse.shell import Shell
from curtaild.why import Explanations, Why, shed_order
from curtaild_drivers.contract import DeviceId, RunState
from curtaild_emulator import Fault
from rehearse.sites import small_site


class Living:
    """A rehearsed site that a test steps through by itself. The grid's orders begin at their second of its life."""

    def __init__(self, folder: Path, *orders: Order, until_s: float = 0.0) -> None:
        self.emulated = small_site(folder)
        self.core = Core(self.emulated)
        self.shell = Shell(self.emulated, self.core, orders, 0.0, lambda now: False)
        self.explanations = Explanations(lambda: self.core.site)
        while self.shell.now < until_s:
            self.shell.tick()

    @property
    def site(self) -> Site:
        return self.core.site

    def why(self, device: DeviceId) -> Why:
        found = self.explanations.of(device, self.shell.now)
        assert found is not None
        return found

    def all(self) -> Iterator[Why]:
        return (self.why(device) for device in self.site.devices)


def at(folder: Path, share: float) -> float:
    return small_site(folder).capacity.at(share)


def test_who_is_said_to_go_first_goes_first(tmp_path: Path) -> None:
    living = Living(tmp_path, Order(301.0, at(tmp_path, 0.7)), until_s=300.0)
    order = shed_order(living.site, 300.0)
    assert sorted(order) == sorted(living.site.devices)
    told = {command.device for command in living.shell.tick()}
    assert 3 <= len(told) < len(order)
    assert told == set(order[: len(told)])


def test_each_is_told_its_place_its_step_and_what_it_earns(tmp_path: Path) -> None:
    living = Living(tmp_path, until_s=300.0)
    order = shed_order(living.site, 300.0)
    for place, device in enumerate(order):
        turn = living.why(device).turn
        assert turn is not None
        assert (turn.place, turn.of, turn.ahead) == (place + 1, len(order), tuple(order[max(0, place - 3) : place]))
        assert 0 < turn.frees_w < 1_500
    earnings = [turn.earning for device in order if (turn := living.why(device).turn) is not None]
    assert earnings == sorted(earnings)
    said = " ".join(living.why(order[0]).sheds)
    assert f"number 1 of {len(order)} to be shed if site is over its limit" in said
    assert "priority 50, then" in said
    assert "TH/s per kW" in said


def test_at_rest_under_a_limit_whoever_stays_down_is_told_why(tmp_path: Path) -> None:
    living = Living(tmp_path, Order(301.0, at(tmp_path, 0.5)), until_s=900.0)
    held = [why for why in living.all() if "as high as it goes" not in why.held_by[0]]
    assert len(held) > 5
    assert all("under" in why.held_by[-1] for why in held)
    assert any("order-1" in why.held_by[-1] for why in held)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_device_s_own_reasons_are_those_of_the_core(tmp_path: Path, share: float) -> None:
    """On the way down, at rest and on the way up: nobody who may not rise is left without a reason."""
    living = Living(tmp_path, Order(301.0, at(tmp_path, share)), Order(420.0, None), until_s=300.0)
    devices = living.site.devices.values()
    seen = 0
    while living.shell.now < 700.0:
        living.shell.tick()
        now, room_since = living.shell.now, living.site.room_since
        if now % 7:
            continue
        for device in devices:
            if room_since is not None and not dispatch.may_rise(device, now, room_since, living.site.policy):
                assert living.why(device.spec.id).held_by, device
                seen += 1
    assert seen > 100


def test_a_liar_is_said_to_be_asked_last(tmp_path: Path) -> None:
    living = Living(tmp_path, Order(301.0, at(tmp_path, 0.5)), until_s=300.0)
    liar = shed_order(living.site, 300.0)[0]
    living.emulated.plant.set_fault(liar, Fault.ACK_NO_OBEY, True)
    while not living.site.devices[liar].conditions:
        assert living.shell.now < 900.0
        living.shell.tick()
    why = living.why(liar)
    assert why.conditions == ("diverged",)
    assert "asked last in a shed, and no watt of it is counted on" in " ".join(why.stands)
    assert any("did not obey, and is left alone for another" in reason for reason in why.held_by)
    fixed_until = living.site.devices[liar].fixed_until
    assert liar not in shed_order(living.site, fixed_until - 1.0)
    assert shed_order(living.site, fixed_until)[-1] == liar


def test_a_lower_limit_to_come_is_named(tmp_path: Path) -> None:
    """Full power again for three minutes, then the floor: what takes five to come back stays down."""
    first, gap = Order(301.0, at(tmp_path, 0.2), lasts_s=300.0), Order(601.0, None, lasts_s=180.0)
    floor = Order(781.0, at(tmp_path, 0.0), announced_s=480.0)
    living = Living(tmp_path, first, gap, floor, until_s=640.0)
    reasons = [reason for why in living.all() for reason in why.held_by]
    assert any("a lower limit begins in" in reason and "and down again" in reason for reason in reasons), reasons


def test_explaining_changes_nothing(tmp_path: Path) -> None:
    def commands(is_explained: bool) -> list[tuple[float, str, str]]:
        living = Living(tmp_path, Order(310.0, at(tmp_path, 0.4)), Order(420.0, None), until_s=300.0)
        given: list[tuple[float, str, str]] = []
        while living.shell.now < 600.0:
            given += [(living.shell.now, command.device, command.target.key) for command in living.shell.tick()]
            if is_explained:
                list(living.all())
        return given

    assert commands(is_explained=True) == commands(is_explained=False)


def test_a_device_that_is_not_there_is_nobody(tmp_path: Path) -> None:
    assert Living(tmp_path).explanations.of(DeviceId("luxos/1.2.3.4"), 0.0) is None


def test_a_stopped_device_is_told_what_its_fans_do() -> None:
    paper = site_with_fans()
    explanations = Explanations(lambda: paper.site)

    def held_by() -> list[str]:
        paper.tick()
        why = explanations.of(DeviceId("a"), paper.now)
        assert why is not None
        return [sentence for sentence in why.held_by if "fans" in sentence]

    assert held_by() == ["the fans of row-a were not seen yet"]
    paper.fans[ROW_A] = False
    assert held_by() == ["the fans of row-a stand still"]
    paper.fans[ROW_A] = True
    assert held_by() == []


def test_room_that_is_kept_for_fans_is_told_as_taken() -> None:
    paper = site_with_fans(fans_w=900.0, rating_w=2_850.0, more=("c",), fans=False)
    explanations = Explanations(lambda: paper.site)

    def held_by() -> tuple[str, ...]:
        why = explanations.of(DeviceId("c"), paper.now)
        assert why is not None
        return why.held_by

    paper.run(25)  # 2,850 W less 1,000 for b and 900 for the fans
    assert [sentence.split(" under ")[0] for sentence in held_by()] == ["site has 945 W free"]


def test_what_a_device_says_is_the_matter_with_it_is_told() -> None:
    paper = PaperSite(specs=[spec_of("node", SLIDER)])
    paper.tick()
    reading = replace(reading_of(SLIDER.highest, paper.now), state=RunState.FAULT, fault="GPU 3: the GPU is lost")
    step(paper.site, Inputs(readings=[(DeviceId("node"), reading)]), paper.now)
    why = Explanations(lambda: paper.site).of(DeviceId("node"), paper.now)
    assert why is not None
    assert "It says of itself: GPU 3: the GPU is lost." in why.stands
