"""Reserved power, row by row: one miner's logbook of commands, answers and readings, and what must be held for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from core.rig import EXACT, MODES, SITE, SLIDER, ladder, point_of, reading_of, spec_of, tree_of
from curtaild.core.allocation import Allocation, AllocationId, AllocationReceived, HeartbeatReceived, Issuer
from curtaild.core.cycle import Command, step
from curtaild.core.device import Device, DeviceSpec
from curtaild.core.events import ActuationChanged, ActuationStage, Condition, DeviceChanged, Event
from curtaild.core.inputs import Answer, Inputs, PollFailure
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.site import Site
from curtaild_drivers.contract import OperatingPoint, Reading, RunState, Seconds, Watts

OFF_, LOW, NORMAL = MODES.points
ANSWERED, REFUSED, UNKNOWN = ActuationStage.ANSWERED, ActuationStage.REFUSED, ActuationStage.OUTCOME_UNKNOWN
SETTLE_DOWN_S, SETTLE_UP_S, STALE_AFTER_S = 20.0, 100.0, 60.0


class Log:
    """One miner on one site. Each `cycle` is one second of the site; what did not arrive is not passed."""

    def __init__(self, spec: DeviceSpec | None = None, policy: Policy = EXACT) -> None:
        self.spec = spec or miner()
        self.now = 1_000.0
        link = Link(LinkPolicy(SITE, frozenset({SITE}), 0.0), self.now)
        self.site = Site(tree_of(), [self.spec], link, policy, self.now, "run")
        self.events: list[Event] = []
        self.commands: list[Command] = []
        self.seq = 0
        self.limit(None)

    @property
    def device(self) -> Device:
        return self.site.devices[self.spec.id]

    @property
    def reserved_w(self) -> Watts:
        return self.device.reserved_w

    def cycle(self, inputs: Inputs | None = None, seconds: Seconds = 1.0) -> list[Command]:
        self.now += seconds
        inputs = inputs or Inputs()
        inputs.grid.append(HeartbeatReceived())
        decision = step(self.site, inputs, self.now)
        self.events += decision.events
        self.commands += decision.commands
        return decision.commands

    def limit(self, watts: Watts | None) -> list[Command]:
        """The grid states a limit."""
        self.seq += 1
        ceiling = Limit(watts) if watts is not None else UNLIMITED
        said = Allocation(AllocationId(f"a{self.seq}"), self.seq, Issuer("grid"), SITE, ceiling, 0.0, 0.0, None)
        return self.cycle(Inputs(grid=[AllocationReceived(said)]))

    def reads(
        self, point: OperatingPoint, power_w: Watts | None = None, *, asked_ago_s: float = 0.0, **more: Any
    ) -> None:
        """The miner's answer arrives; it was asked `asked_ago_s` before."""
        self.reads_raw(reading_of(point, self.now + 1.0 - asked_ago_s, power_w, **more))

    def reads_raw(self, reading: Reading) -> None:
        self.cycle(Inputs(readings=[(self.spec.id, reading)]))

    def settles_at(self, point: OperatingPoint, power_w: Watts | None = None) -> Log:
        for _ in range(5):
            self.reads(point, power_w)
        assert self.device.setpoint == point
        assert self.device.actuation is None
        return self

    def answers(self, stage: ActuationStage = ANSWERED, detail: str = "") -> None:
        """The driver's call for the last command ended, half a second ago."""
        command = self.commands[-1]
        self.cycle(Inputs(answers=[Answer(self.spec.id, command.actuation, stage, self.now + 0.5, detail)]))

    def fails(self, condition: Condition) -> None:
        self.cycle(Inputs(poll_failures=[PollFailure(self.spec.id, condition, "as the driver said")]))

    def stages(self) -> list[ActuationStage]:
        return [event.stage for event in self.events if isinstance(event, ActuationChanged)]

    def conditions(self) -> list[tuple[Condition, bool]]:
        return [(event.condition, event.begins) for event in self.events if isinstance(event, DeviceChanged)]


def miner(**more: Any) -> DeviceSpec:
    said = {"settle_down_s": SETTLE_DOWN_S, "settle_up_s": SETTLE_UP_S, "stale_after_s": STALE_AFTER_S,
            "min_off_s": 0.0}  # fmt: skip
    return spec_of("m", **{**said, **more})


def shedding(to_w: Watts = 2_000.0, log: Log | None = None) -> Log:
    """At normal, and just told to go under `to_w`."""
    log = log or Log().settles_at(NORMAL)
    (command,) = log.limit(to_w)
    assert not command.is_raise
    return log


def raising(to_w: Watts = 4_000.0) -> Log:
    """At low, and just told to go up to normal."""
    log = shedding()
    log.answers()
    log.settles_at(LOW)
    (command,) = log.limit(to_w)
    assert (command.target, command.is_raise) == (NORMAL, True)
    return log


# ---- never read -----------------------------------------------------------------------------------


def test_a_miner_never_read_reserves_all_it_can_draw() -> None:
    log = Log()
    log.cycle()
    assert log.reserved_w == 3_000.0
    log.cycle(seconds=900)
    assert log.reserved_w == 3_000.0


def test_what_nobody_knows_of_its_setpoint_reserves_all_until_its_draw_stands_still() -> None:
    """The firmware does not say what it is set to: three steady readings prove it."""
    log = Log()
    held = []
    for _ in range(3):
        log.reads(LOW, 1_500.0, point_key=None)
        held.append(log.reserved_w)
    assert held[:2] == [3_000.0, 3_000.0]
    assert held[2] == pytest.approx(1_500.0, rel=0.01)
    assert log.device.setpoint == LOW


# ---- settled, fresh -------------------------------------------------------------------------------


@pytest.mark.parametrize("true_w", [2_700.0, 2_900.0, 3_000.0, 3_200.0])
def test_settled_it_reserves_its_own_learned_draw(true_w: Watts) -> None:
    """Units differ from their table by up to 15 %: after a few readings each is held at what it takes itself."""
    log = Log().settles_at(NORMAL, true_w)
    assert true_w <= log.reserved_w <= true_w * 1.01


def test_settled_it_never_reserves_less_than_it_was_just_seen_drawing() -> None:
    log = Log().settles_at(NORMAL, 2_800.0)
    log.reads(NORMAL, 2_870.0)
    assert log.reserved_w >= 2_870.0


def test_a_draw_that_moves_reserves_its_upper_edge_not_its_mean() -> None:
    log = Log()
    for index in range(60):
        log.reads(NORMAL, 2_800.0 + 100.0 * (-1) ** index)
    log.reads(NORMAL, 2_700.0)
    assert 2_900.0 <= log.reserved_w <= 3_050.0


def test_noise_moves_no_reservation_a_warmer_day_does() -> None:
    log = Log().settles_at(NORMAL, 2_800.0)
    settled_w = log.reserved_w
    for index in range(30):
        log.reads(NORMAL, 2_800.0 + 2.0 * (-1) ** index)
    assert log.reserved_w == settled_w
    for _ in range(60):
        log.reads(NORMAL, 2_770.0)
    assert 2_770.0 < log.reserved_w < settled_w - 20.0


def test_what_moves_is_read_every_second_but_not_through_the_minutes_of_a_start() -> None:
    log = Log()
    assert log.device.is_watched  # nobody knows where it is set
    log.settles_at(NORMAL)
    assert not log.device.is_watched
    log.limit(0.0)
    assert log.device.is_watched
    log.answers()
    log.settles_at(OFF_, 20.0)
    log.limit(None)
    log.cycle(seconds=120.0)
    assert log.device.in_flight
    assert log.device.is_watched
    log.answers()
    log.reads(NORMAL, 400.0, state=RunState.STARTING)
    assert not log.device.is_watched
    log.reads(NORMAL, 2_900.0)
    assert log.device.is_watched == log.device.in_flight


# ---- going down -----------------------------------------------------------------------------------


def test_going_down_frees_nothing_until_a_reading_asked_after_the_answer_shows_it_gone() -> None:
    log = shedding()
    before = log.reserved_w
    assert before == pytest.approx(3_000.0, rel=0.01)
    log.answers()
    assert log.reserved_w == before  # an acknowledgement confirms nothing
    log.reads(LOW, 1_500.0, asked_ago_s=2.0)
    assert log.reserved_w == before  # asked before the command was answered
    log.reads(NORMAL, 2_400.0)
    assert log.reserved_w == before  # on its way
    log.reads(LOW, 1_500.0)
    assert log.reserved_w == pytest.approx(1_500.0, rel=0.01)
    assert log.stages() == [ActuationStage.ISSUED, ANSWERED, ActuationStage.CONFIRMED]


def test_a_miner_that_answers_already_there_is_believed_no_sooner() -> None:
    log = shedding()
    log.answers(detail="already there")
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)


def test_a_reading_overtaken_on_its_way_is_the_past() -> None:
    log = shedding()
    log.answers()
    log.reads(LOW, 1_500.0)
    reserved = log.reserved_w
    log.reads(NORMAL, 3_000.0, asked_ago_s=30.0)
    assert log.reserved_w == reserved
    assert log.device.setpoint == LOW


def test_a_restarting_miner_confirms_nothing_however_little_it_draws() -> None:
    """Some restart when a limit is set: 60 W for a minute, then 900 W while they warm up, then more."""
    log = shedding()
    log.answers()
    for watts in (60.0, 60.0, 900.0, 900.0, 900.0):
        log.reads(LOW, watts, state=RunState.STARTING)
        assert log.device.in_flight
        assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)
    log.reads(LOW, 1_500.0)
    assert log.reserved_w == pytest.approx(1_500.0, rel=0.01)


def test_a_low_draw_by_chance_confirms_nothing_while_the_miner_says_it_is_set_higher() -> None:
    log = shedding()
    log.answers()
    log.reads(NORMAL, 1_400.0)
    assert log.device.in_flight
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)


def test_while_it_falls_the_site_plans_with_where_it_goes() -> None:
    """Reserved for raises, planned for sheds: else the next miner would be shed for the same watts."""
    log = shedding()
    log.cycle()
    assert log.device.planned_w == pytest.approx(1_500.0, rel=0.01)
    assert log.commands[1:] == []


# ---- going up, outcome unknown --------------------------------------------------------------------


def test_going_up_reserves_the_target_from_the_command_on() -> None:
    log = raising()
    log.cycle()
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)
    log.answers()
    for watts in (1_500.0, 2_000.0, 2_600.0):
        log.reads(NORMAL, watts)
        assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)
    log.reads(NORMAL, 2_980.0)
    assert not log.device.in_flight
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)


def test_a_raise_that_ends_lower_is_learned_after_its_time() -> None:
    """This unit draws 2,700 W at normal: once it has had its time, it is where it is."""
    log = raising()
    log.answers()
    while log.device.in_flight:
        log.reads(NORMAL, 2_700.0)
        assert log.now < 1_600.0
    assert log.stages()[-1] is ActuationStage.CONFIRMED
    for _ in range(100):
        log.reads(NORMAL, 2_700.0)
    assert 2_700.0 <= log.reserved_w <= 2_760.0


def test_an_unknown_outcome_of_a_shed_is_read_back_before_anything_is_sent_again() -> None:
    log = shedding(100.0)
    log.answers(UNKNOWN, "no answer within 5 s")
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)
    log.reads(OFF_)
    assert log.stages()[-1] is ActuationStage.CONFIRMED
    assert len(log.commands) == 1
    assert log.reserved_w == pytest.approx(30.0, rel=0.01)


def test_an_unknown_outcome_is_proved_by_a_steady_draw_where_the_miner_does_not_say() -> None:
    log = shedding(100.0)
    log.answers(UNKNOWN)
    held = []
    for _ in range(3):
        log.reads(OFF_, state=RunState.IDLE, point_key=None)
        held.append(log.device.in_flight)
    assert held == [True, True, False]


def test_an_unknown_outcome_of_a_raise_counts_as_raised_until_it_is_read_otherwise() -> None:
    log = raising()
    log.answers(UNKNOWN)
    log.reads(LOW, 1_500.0)
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)


# ---- refused, diverged ----------------------------------------------------------------------------


def test_refused_keeps_the_old_setpoint_and_the_old_reservation() -> None:
    log = shedding()
    log.answers(REFUSED, "not while it tunes")
    assert log.device.setpoint == NORMAL
    assert not log.device.in_flight
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)
    assert log.conditions() == [(Condition.REFUSED, True)]
    log.cycle(seconds=5)
    assert len(log.commands) == 1  # it counts as fixed for a while


def test_a_refused_raise_frees_what_was_held_for_it() -> None:
    log = raising()
    log.answers(REFUSED)
    log.reads(LOW, 1_500.0)
    assert log.reserved_w == pytest.approx(1_500.0, rel=0.01)


def test_refused_after_a_raise_that_had_not_settled_nobody_knows_where_it_is() -> None:
    log = raising()
    log.answers()
    log.reads(LOW, 1_500.0)
    log.limit(2_000.0)
    log.answers(REFUSED)
    assert log.device.setpoint is None
    assert log.reserved_w == 3_000.0
    log.reads(NORMAL, 1_900.0)  # the raise had been taken, and goes on
    assert log.reserved_w >= 3_000.0


def test_each_refusal_is_waited_out_longer_up_to_ten_minutes() -> None:
    log = shedding()
    waits = []
    for _ in range(9):
        refused_at = log.now + 1.0
        log.answers(REFUSED)
        told = len(log.commands)
        while len(log.commands) == told:
            log.reads(NORMAL)
        waits.append(log.now - refused_at)
    assert waits[:4] == pytest.approx([10.0, 20.0, 40.0, 80.0], abs=1.0)
    assert waits[-2:] == pytest.approx([600.0, 600.0], abs=1.0)
    assert log.conditions() == [(Condition.REFUSED, True)]  # told once


def test_a_shed_that_never_shows_has_diverged_and_is_held_at_all_it_can_draw() -> None:
    log = shedding(100.0)
    log.answers()
    issued_at = log.now
    while log.device.in_flight:
        log.reads(NORMAL, 2_990.0)
    assert log.now - issued_at == pytest.approx(2 * SETTLE_DOWN_S + EXACT.poll_slack_s, abs=2.0)
    assert log.conditions() == [(Condition.DIVERGED, True)]
    assert log.reserved_w >= 2_990.0
    assert not log.device.is_trusted
    assert log.device.fixed_until > log.now


def test_a_shed_never_answered_diverges_too() -> None:
    log = shedding(100.0)
    for _ in range(100):
        log.reads(NORMAL, 3_000.0)
    assert log.stages()[:2] == [ActuationStage.ISSUED, ActuationStage.DIVERGED]


def test_half_obeyed_it_is_held_at_what_it_holds() -> None:
    """Told 30 W, stays at 1,400 W for good."""
    log = shedding(0.0)
    log.answers()
    for _ in range(60):
        log.reads(LOW, 1_400.0)
    assert Condition.DIVERGED in log.device.conditions
    assert 1_400.0 <= log.reserved_w <= 1_560.0


# ---- miners that report no watts ------------------------------------------------------------------


def antminer(**more: Any) -> DeviceSpec:
    return miner(settle_down_s=45.0, **more)


def mode(point: OperatingPoint, **more: Any) -> dict[str, Any]:
    return {"power_w": None, "rate": point.rate, "point_key": None, **more}


WARY = replace(EXACT, reading_error_fraction=0.05)


def says(log: Log, point: OperatingPoint, **more: Any) -> None:
    said = {"state": RunState.ASLEEP if point.is_off else RunState.RUNNING, **mode(point), **more}
    log.reads_raw(Reading(log.now + 1.0, **said))


def test_without_watts_the_hashrate_proves_the_state_and_its_uncertainty_is_held() -> None:
    log = Log(antminer(), WARY)
    for _ in range(4):
        says(log, NORMAL)
    assert log.device.setpoint == NORMAL
    assert log.reserved_w == pytest.approx(3_150.0)
    log.limit(2_000.0)
    log.answers()
    says(log, NORMAL)
    assert log.reserved_w == pytest.approx(3_150.0)
    for _ in range(50):
        says(log, LOW)
    assert not log.device.in_flight
    assert log.reserved_w == pytest.approx(1_575.0)


def test_without_watts_a_hashrate_between_two_modes_counts_as_the_higher() -> None:
    log = Log(antminer(), WARY)
    for _ in range(4):
        says(log, LOW, rate=80.0)
    assert log.reserved_w >= 3_000.0


def test_without_watts_a_miner_that_says_it_sleeps_is_given_the_time_to_fall() -> None:
    """Stock firmware says 'sleep' at once; the hash boards go quiet later."""
    log = Log(antminer())
    for _ in range(4):
        says(log, NORMAL)
    log.limit(0.0)
    log.answers()
    answered_at = log.now - 0.5
    while log.device.in_flight:
        assert log.reserved_w >= 3_000.0
        says(log, OFF_, rate=None)
    assert log.now - answered_at == pytest.approx(45.0, abs=1.5)
    assert log.reserved_w <= 35.0


@pytest.mark.parametrize("rate", [None, 0.0, math.nan, -5.0])
def test_without_watts_and_without_hashrate_nothing_is_proved(rate: float | None) -> None:
    """A stock Antminer whose pool is lost, or that boots: it may be drawing anything."""
    log = Log(antminer(stale_after_s=10.0))
    for _ in range(30):
        says(log, NORMAL, rate=rate)
    assert log.reserved_w >= 3_000.0


# ---- nonsense -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", [math.nan, -1.0, math.inf, -math.inf, 1e12])
def test_nonsense_is_unknown_and_never_zero(nonsense: float) -> None:
    """A driver should have caught it; if it has not, the reading proves nothing, and the reservation grows with age."""
    log = Log().settles_at(NORMAL)
    before = log.reserved_w
    log.reads(NORMAL, nonsense, rate=None)
    assert log.reserved_w == before
    for _ in range(2 * int(STALE_AFTER_S) + 2):
        log.reads(NORMAL, nonsense, rate=None)
    assert math.isfinite(log.reserved_w)
    assert log.reserved_w >= 3_000.0
    assert log.conditions() == [(Condition.STALE, True)]
    assert math.isfinite(log.site.tallies[SITE].total_planned_w)


def test_nonsense_confirms_no_shed() -> None:
    log = shedding()
    log.answers()
    for nonsense in (math.nan, -1.0, -math.inf):
        log.reads(LOW, nonsense, rate=None)
        assert log.device.in_flight
        assert log.reserved_w == pytest.approx(3_000.0, rel=0.01)


# ---- stale ----------------------------------------------------------------------------------------


def test_a_silent_miner_keeps_its_reservation_for_a_while_then_grows_to_all_it_can_draw() -> None:
    """Asleep at 30 W, then silence: after 60 s the doubt begins, after 120 s it may be awake."""
    log = shedding(0.0)
    log.answers()
    log.settles_at(OFF_)
    read_at = log.now
    held = {}
    while log.now < read_at + 200:
        log.cycle()
        held[log.now - read_at] = log.reserved_w
    assert held[1.0] == held[60.0] == pytest.approx(30.0, rel=0.02)
    assert held[90.0] == pytest.approx(30 + 0.5 * 2_970, rel=0.02)
    assert held[120.0] == held[199.0] == pytest.approx(3_000.0)
    assert all(held[age] <= held[age + 1] for age in range(1, 199))
    assert log.conditions() == [(Condition.STALE, True)]


def test_a_silent_site_below_grows_to_the_limit_that_it_falls_back_to_and_no_further() -> None:
    log = shedding(0.0, Log(miner(falls_back_w=800.0)).settles_at(NORMAL))
    log.answers()
    log.settles_at(OFF_)
    log.cycle(seconds=500)
    assert log.reserved_w == 800.0
    log = Log(miner(falls_back_w=800.0)).settles_at(NORMAL)
    log.cycle(seconds=500)
    assert log.reserved_w == pytest.approx(3_000.0, rel=0.01), "what it was told last may hold as well"


def test_a_reading_ends_the_doubt_at_once() -> None:
    log = shedding(0.0)
    log.answers()
    log.settles_at(OFF_)
    log.cycle(seconds=500)
    assert log.reserved_w == 3_000.0
    log.reads(OFF_)
    assert log.reserved_w == pytest.approx(30.0, rel=0.02)
    assert log.conditions() == [(Condition.STALE, True), (Condition.STALE, False)]


def test_a_stale_miner_is_never_reserved_below_what_it_was() -> None:
    log = Log().settles_at(NORMAL, 3_200.0)  # draws more than its rating
    log.cycle(seconds=500)
    assert log.reserved_w >= 3_200.0


# ---- drift ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "reading"),
    [
        ("somebody set it back, and it draws", {"point": NORMAL, "power_w": 3_000.0}),
        ("somebody set it back, and it has not risen yet", {"point": NORMAL, "power_w": 1_500.0}),
        ("it says low, and draws like normal", {"point": LOW, "power_w": 2_900.0}),
    ],
)
def test_a_miner_that_leaves_its_setpoint_is_noticed_reported_once_and_shed_again(
    what: str, reading: dict[str, Any]
) -> None:
    log = shedding(2_000.0)
    log.answers()
    log.settles_at(LOW)
    told = len(log.commands)
    log.reads(**reading)
    assert (Condition.DRIFTED, True) in log.conditions(), what
    assert log.reserved_w >= 2_900.0
    for _ in range(4):
        log.reads(**reading)
    assert log.conditions().count((Condition.DRIFTED, True)) == 1
    assert {command.is_raise for command in log.commands[told:]} == {False}, what
    log.answers()
    log.reads(log.commands[-1].target)
    assert log.conditions()[-1] == (Condition.DRIFTED, False)


def test_a_miner_found_lower_than_it_was_set_is_believed() -> None:
    """Somebody stopped it by hand: its watts are free once that is read, and nobody fights over it."""
    log = Log().settles_at(NORMAL)
    log.reads(OFF_)
    log.reads(OFF_)
    assert log.reserved_w == pytest.approx(30.0, rel=0.02)


def test_a_divisible_limit_is_followed_to_the_step() -> None:
    log = Log(miner(points=SLIDER)).settles_at(point_of(SLIDER, "limit"))
    (command,) = log.limit(2_505.0)
    assert command.target.key == "limit"
    assert 2_460.0 <= command.target.draw_w <= 2_500.0
    log.answers()
    log.settles_at(command.target)
    assert log.reserved_w <= 2_505.0


# ---- told once at the start, once at the recovery -------------------------------------------------


def test_one_missed_read_is_the_networks_two_are_the_miners() -> None:
    log = Log().settles_at(NORMAL)
    log.fails(Condition.UNREACHABLE)
    log.reads(NORMAL)
    log.fails(Condition.UNREACHABLE)
    assert log.conditions() == []
    for _ in range(20):
        log.fails(Condition.UNREACHABLE)
    assert log.conditions() == [(Condition.UNREACHABLE, True)]
    log.reads(NORMAL)
    log.reads(NORMAL)
    assert log.conditions() == [(Condition.UNREACHABLE, True), (Condition.UNREACHABLE, False)]


@pytest.mark.parametrize("condition", [Condition.AUTH_FAILED, Condition.BAD_REPLY])
def test_a_clear_word_is_told_at_once(condition: Condition) -> None:
    log = Log().settles_at(NORMAL)
    for _ in range(5):
        log.fails(condition)
    log.reads(NORMAL)
    assert log.conditions() == [(condition, True), (condition, False)]


def test_a_refusal_is_over_when_a_command_is_obeyed() -> None:
    log = shedding()
    log.answers(REFUSED)
    while len(log.commands) == 1:
        log.reads(NORMAL)
    log.answers()
    log.reads(log.commands[-1].target)
    assert log.conditions() == [(Condition.REFUSED, True), (Condition.REFUSED, False)]


def test_a_late_answer_to_a_command_already_replaced_says_nothing_about_the_new_one() -> None:
    log = shedding(2_000.0)
    first = log.commands[0]
    log.limit(0.0)
    assert len(log.commands) == 2
    log.cycle(Inputs(answers=[Answer(log.spec.id, first.actuation, REFUSED, log.now + 0.5)]))
    assert log.device.actuation is not None
    assert log.device.actuation.id == log.commands[1].actuation
    assert log.device.actuation.answered_at is None


def test_a_miner_with_presets_only_never_gets_a_point_it_does_not_offer() -> None:
    odd = ladder(("off", 20.0, 0.0), ("p1", 1_740.0, 65.0), ("p2", 2_300.0, 87.0), ("p3", 2_970.0, 100.0))
    log = Log(miner(points=odd)).settles_at(odd.highest)
    for watts in (2_900.0, 2_299.0, 1_741.0, 1_739.0, 21.0):
        log.limit(watts)
        target = log.commands[-1].target
        assert target in odd.points
        assert target.draw_w <= watts
        if log.device.in_flight:
            log.answers()
            log.settles_at(target)
