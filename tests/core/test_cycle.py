"""The whole turn: one allocation from the grid to the devices and back, restarts, new site files, thirty thousand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from core.rig import (
    EXACT,
    MODES,
    PLENTY_W,
    ROW_A,
    ROW_B,
    SITE,
    SLIDER,
    SWITCH,
    PaperSite,
    described,
    point_of,
    reading_of,
    spec_of,
    tree_of,
    two_rows,
)
from core.virtual_site import VirtualSite
from curtaild.core import cycle
from curtaild.core.allocation import Allocation, AllocationId, AllocationReceived, HeartbeatReceived, Issuer
from curtaild.core.cycle import absorb, make_more, step
from curtaild.core.events import (
    Ack,
    ActuationChanged,
    ActuationId,
    ActuationStage,
    AllocationTaken,
    Condition,
    Event,
    LimitChanged,
    LinkChanged,
    LinkPhase,
)
from curtaild.core.feeders import FeederSpec
from curtaild.core.inputs import Answer, DeviceNews, Inputs, PollFailure
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.site import RaiseIntent, Site
from curtaild.core.snapshot import status_of
from curtaild_drivers.contract import DeviceId, FeederId, MeterReading, OperatingPoint, Reading, RunState
from curtaild_emulator import MODELS, Fault, Plant, PlantDevice, PlantFeeder


def paper(count: int = 3, **more: object) -> PaperSite:
    return PaperSite(specs=[spec_of(f"m{index}", MODES, min_off_s=0.0) for index in range(count)], **more)  # type: ignore[arg-type]


# ---- the way of one allocation --------------------------------------------------------------------


def logbook(events: list[Event], start: float) -> list[tuple[float, str, str]]:
    """(seconds, what, of whom) of each event."""
    lines = []
    for event in events:
        match event:
            case AllocationTaken():
                lines.append((event.at - start, "taken", str(event.allocation.id)))
            case LinkChanged():
                lines.append((event.at - start, f"link {event.after.value}", ""))
            case LimitChanged():
                lines.append((event.at - start, f"limit {within_w(event):.0f} W", event.source))
            case ActuationChanged():
                lines.append((event.at - start, f"{event.stage.value} {event.target.key}", str(event.device)))
            case Ack():
                lines.append((event.at - start, f"ack {event.stage.value}", str(event.allocation_id)))
            case _:
                lines.append((event.at - start, event.kind, ""))
    return lines


def within_w(event: LimitChanged) -> float:
    return event.after.watts if isinstance(event.after, Limit) else math.inf


def test_the_way_of_an_allocation_from_the_grid_to_the_devices_and_back() -> None:
    site = paper(2)
    site.tick(site.states(None, lasts_s=20.0))
    site.run(9)
    site.events.clear()
    site.tick(site.states(3_100.0, lasts_s=20.0))
    site.run(22)
    assert logbook(site.events, site.start) == [
        (11.0, "taken", "a2"),
        (11.0, "ack accepted", "a2"),
        (11.0, "link limited", ""),
        (11.0, "limit 3100 W", "a2"),
        (11.0, "issued low", "m0"),
        (11.0, "issued low", "m1"),
        (11.0, "ack ended", "a1"),
        (11.0, "ack applying", "a2"),
        (11.5, "answered low", "m0"),
        (11.5, "answered low", "m1"),
        (12.0, "confirmed low", "m0"),
        (12.0, "confirmed low", "m1"),
        (12.0, "ack reached", "a2"),
        (31.0, "link failsafe", ""),
        (31.0, "limit 0 W", "fail-safe"),
        (31.0, "issued off", "m0"),
        (31.0, "issued off", "m1"),
        (31.0, "deficit", ""),
        (31.0, "ack ended", "a2"),
        (31.5, "answered off", "m0"),
        (31.5, "answered off", "m1"),
        (32.0, "confirmed off", "m0"),
        (32.0, "confirmed off", "m1"),
    ]


def test_every_command_says_which_allocation_and_which_rule() -> None:
    site = paper(2)
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(3_100.0))
    issued = [
        event for event in site.events if isinstance(event, ActuationChanged) and event.stage is ActuationStage.ISSUED
    ]
    assert {event.allocation_id for event in issued} == {"a2"}
    assert {event.rule for event in issued} == {"site over by 2930 W"}
    assert {event.power_w for event in issued} == {3_000.0}
    assert all(event.reserved_w == pytest.approx(3_015.0) for event in issued)


def test_the_largest_shed_is_sent_first() -> None:
    points = [SWITCH, MODES, SLIDER]
    site = PaperSite(specs=[spec_of(f"m{index}", points[index]) for index in range(3)])
    site.tick(site.states(None))
    site.run(5)
    decision = site.tick(site.states(0.0))
    assert [command.shed_w for command in decision.commands] == sorted(
        (command.shed_w for command in decision.commands), reverse=True
    )
    assert {command.device for command in decision.commands[:2]} == {"m1", "m2"}


def about_to_stop() -> tuple[PaperSite, Inputs]:
    """Twelve devices at rest, and what tells them to draw nothing."""
    points = [SWITCH, MODES, SLIDER]
    site = PaperSite(specs=[spec_of(f"m{index}", points[index % 3]) for index in range(12)])
    site.tick(site.states(None))
    site.run(5)
    return site, Inputs(grid=[AllocationReceived(site.states(0.0))])


def test_the_largest_sheds_can_be_sent_before_the_others_are_made() -> None:
    site, inputs = about_to_stop()
    whole = step(site.site, inputs, site.now + 1.0)
    site, inputs = about_to_stop()
    first = step(site.site, inputs, site.now + 1.0, at_once=5)
    assert len(first.commands) == 5
    commands, events = first.commands, first.events
    for many in (5, 2):
        more, issued = make_more(site.site, site.now + 1.0, 5)
        assert len(more) == many
        commands += more
        events += issued
    assert [command[1:] for command in commands] == [command[1:] for command in whole.commands]  # ids apart
    noted = {event.id: event.device for event in events if isinstance(event, ActuationChanged)}
    assert noted == {command.actuation: command.device for command in commands}
    assert not site.site.left_over


def test_a_reload_drops_the_commands_that_were_not_made_and_the_next_cycle_decides_anew() -> None:
    site, inputs = about_to_stop()
    now, core = site.now + 1.0, site.site
    first = step(core, inputs, now, at_once=5)
    kept = [device.spec for device in core.devices.values()][:-1]
    core.reconfigure(site.tree, kept, core.link.policy, core.policy)
    assert make_more(core, now, 100) == ([], [])
    told = {command.device for command in first.commands}
    again = step(core, Inputs(), now + 1.0)
    assert {command.device for command in again.commands} == {spec.id for spec in kept} - told


def test_a_limit_of_zero_switches_all_off_and_tells_what_stands_by() -> None:
    site = paper(3)
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(0.0))
    site.run(20)
    assert {point.key for point in site.points.values()} == {"off"}
    assert site.site.deficits[SITE] == pytest.approx(90.0, rel=0.02)
    assert status_of(site.site, site.now).site.ceiling == Limit(0.0)


def test_nothing_is_told_twice_while_nothing_changes() -> None:
    site = paper(3)
    site.tick(site.states(5_000.0))
    site.run(20)
    told = len(site.events)
    site.run(500)
    assert site.events[told:] == []


def test_a_site_is_at_rest_but_from_the_cycle_that_makes_a_command_until_it_has_had_its_effect() -> None:
    site = paper(3)
    site.tick(site.states(None))
    site.run(20)
    assert site.site.is_at_rest
    assert site.tick(site.states(0.0)).commands
    assert not site.site.is_at_rest
    while any(device.actuation is not None for device in site.site.devices.values()):
        site.run(1)
        assert site.site.is_at_rest is all(device.actuation is None for device in site.site.devices.values())


def test_many_that_were_told_are_counted_anew_bit_by_bit_between_cycles_and_all_of_them_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cycle, "RECOUNTED_AT_ONCE", 2)
    site = paper(7)
    site.tick(site.states(None))
    site.run(20)
    assert len(site.tick(site.states(0.0)).commands) == 7
    flying = site.site.roster.members[SITE].flying
    seen = []
    for _ in range(2):
        absorb(site.site, DeviceNews(), site.now)
        seen.append(len(flying))
    assert seen == [2, 4]
    assert step(site.site, Inputs(), site.now).commands == []
    assert len(flying) == 7


# ---- start, crash, restart ------------------------------------------------------------------------


def test_at_boot_the_fail_safe_limit_holds_without_a_word_from_the_grid() -> None:
    site = paper(3, failsafe_w=3_500.0, heartbeats=False)
    site.run(10)
    assert site.true_w() <= 3_500.0
    assert site.site.link.phase is LinkPhase.STARTING


def test_in_the_boot_grace_devices_not_read_yet_are_not_shed_for_what_they_might_draw() -> None:
    """Three miners at 30 W each, a limit of 5,000 W: for a moment nobody knows, and nobody is told to stop."""
    site = paper(3, policy=replace(EXACT, boot_grace_s=10.0))
    for name in site.points:
        site.points[name] = MODES.lowest
    site.silent = {"m0", "m1", "m2"}
    site.tick(site.states(5_000.0))
    site.run(5)
    assert site.told() == []
    site.silent.clear()
    site.run(30)
    assert not [key for _, _, key in site.told() if key == "off"]


def test_a_stop_in_the_boot_grace_is_no_load_to_the_other_rows() -> None:
    """It may well draw 30 W in standby, and is planned with nothing yet."""
    tree = tree_of(
        FeederSpec(SITE, None, PLENTY_W), FeederSpec(ROW_A, SITE, PLENTY_W, 200.0), FeederSpec(ROW_B, SITE, PLENTY_W)
    )
    specs = [spec_of("a", MODES, ROW_A), spec_of("b", MODES, ROW_B)]
    site = PaperSite(tree, specs, replace(EXACT, boot_grace_s=10.0), silent={"a"})
    site.tick(site.states(None), site.states(0.0, feeder=ROW_A))
    assert site.told() == [(1.0, "a", "off")]


def test_after_the_boot_grace_a_silent_device_counts_with_all_it_can_draw() -> None:
    site = paper(3, policy=replace(EXACT, boot_grace_s=10.0))
    site.silent = {"m0"}
    site.tick(site.states(6_100.0))
    site.run(8)
    assert site.told() == []
    site.run(6)
    assert {device for _, device, _ in site.told()} >= {"m1"} or {device for _, device, _ in site.told()} >= {"m2"}
    assert site.site.tallies[SITE].total_planned_w <= 6_100.0


def test_a_silent_device_counts_with_what_its_driver_says_it_can_draw_not_with_the_first_guess() -> None:
    site = PaperSite(specs=[spec_of("m", None, rated_w=6_000.0)])
    site.tick()
    assert site.device("m").reserved_w == 6_000.0
    site.tick(found=[described(spec_of("m"))])
    assert site.device("m").reserved_w == 3_000.0


def test_no_device_is_raised_before_it_has_been_read_in_this_run() -> None:
    site = paper(2)
    for name in site.points:
        site.points[name] = MODES.lowest
    site.silent = {"m0"}
    site.tick(site.states(None))
    site.run(60)
    assert {device for _, device, _ in site.told()} == {"m1"}
    site.silent.clear()
    site.run(10)
    assert {device for _, device, _ in site.told()} == {"m0", "m1"}


def test_a_raise_found_unconfirmed_at_the_start_is_neither_forgotten_nor_assumed() -> None:
    """The run before wrote it down and died. Nobody knows whether it was sent: it is reserved until read back."""
    intent = RaiseIntent(DeviceId("m0"), point_of(MODES, "normal"))
    gone = RaiseIntent(DeviceId("no-longer-here"), point_of(MODES, "normal"))
    site = paper(1, intents=[intent, gone])
    site.points[DeviceId("m0")] = point_of(MODES, "low")
    site.silent = {"m0"}
    site.tick(site.states(None))
    device = site.device("m0")
    assert device.actuation is not None
    assert device.actuation.stage is ActuationStage.OUTCOME_UNKNOWN
    assert device.reserved_w >= 3_000.0
    site.silent.clear()
    site.run(5)
    assert device.reserved_w >= 3_000.0  # it reads low: it may be on its way
    assert site.told() == []
    site.points[DeviceId("m0")] = point_of(MODES, "normal")
    site.run(1)
    assert device.setpoint == point_of(MODES, "normal")
    assert [event.stage for event in site.events if isinstance(event, ActuationChanged)] == [ActuationStage.CONFIRMED]


def test_a_shed_overrides_a_raise_found_at_the_start() -> None:
    site = paper(1, intents=[RaiseIntent(DeviceId("m0"), point_of(MODES, "normal"))])
    site.tick(site.states(0.0))
    site.run(3)
    assert site.told()[0][1:] == ("m0", "off")
    assert site.watts("m0") == 30.0


# ---- a new site file ------------------------------------------------------------------------------


def test_a_new_site_file_keeps_what_is_known() -> None:
    site = PaperSite(two_rows(), [spec_of("a", MODES, ROW_A), spec_of("b", MODES, ROW_B)])
    site.tick(site.states(3_100.0))
    site.run(10)
    known = site.device("a")
    told = len(site.told())
    specs = [spec_of("a", None, ROW_B, rated_w=3_000.0, priority=90), spec_of("c", MODES, ROW_A)]
    policy = LinkPolicy(SITE, frozenset(site.tree.specs), 0.0)
    site.site.reconfigure(site.tree, specs, policy, replace(EXACT, exchange_after_s=math.inf))
    site.points = {DeviceId("a"): site.points[DeviceId("a")], DeviceId("c"): point_of(MODES, "low")}
    site.run(10)
    assert site.device("a") is known
    assert (known.spec.feeder, known.spec.priority, known.spec.points) == (ROW_B, 90, MODES)
    assert set(site.site.devices) == {"a", "c"}
    assert site.site.limit_w(SITE) == 3_100.0
    assert [device for _, device, _ in site.told()[told:] if device == "a"] == []


def test_a_device_not_described_yet_follows_the_new_site_file_too() -> None:
    """Its row is gone and it hangs on another: the site goes on."""
    both = two_rows()
    one = tree_of(FeederSpec(SITE, None, PLENTY_W), FeederSpec(ROW_B, SITE, PLENTY_W))
    site = PaperSite(both, [spec_of("a", None, ROW_A), spec_of("b", MODES, ROW_B)])
    site.run(3)
    moved = [spec_of("a", None, ROW_B, priority=7), spec_of("b", MODES, ROW_B)]
    site.site.reconfigure(one, moved, LinkPolicy(SITE, frozenset(one.specs), 0.0), EXACT)
    site.tree = one
    site.run(3)
    assert (site.device("a").spec.feeder, site.device("a").spec.priority) == (ROW_B, 7)


# ---- determinism ----------------------------------------------------------------------------------


def a_bad_hour(seed: int) -> list[Event]:
    """Eight miners of all makes, faults, silence, limits up and down, a crash: everything that happened."""
    feeders = [PlantFeeder(SITE, None, 800.0, 0.01), PlantFeeder(ROW_A, SITE, 200.0), PlantFeeder(ROW_B, SITE, 200.0)]
    names = (sorted(MODELS) * 3)[:8]
    devices = [
        PlantDevice(DeviceId(f"m{index}"), MODELS[name], ROW_A if index % 2 else ROW_B)
        for index, name in enumerate(names)
    ]
    full_w = sum(MODELS[name].rated_w for name in names) * 1.1 + 1_500.0
    world = VirtualSite(
        plant=Plant(devices, feeders, seed),
        feeders=feeders,
        feeder_of={device.id: device.feeder for device in devices},
        failsafe_w=0.3 * full_w,
        ratings_w=dict.fromkeys((SITE, ROW_A, ROW_B), full_w),
        policy=Policy(reading_error_fraction=0.08),
    )
    for share, feeder in [(1.0, None), (0.5, None), (0.0, ROW_A), (0.7, None), (0.2, None)]:
        world.allocate(share * full_w, feeder=feeder, ramp_w_per_min=0.3 * full_w)
        world.run(120)
    world.plant.set_fault(DeviceId("m1"), Fault.HANG, True)
    world.plant.set_fault(DeviceId("m2"), Fault.ACK_NO_OBEY, True)
    world.allocate(0.4 * full_w)
    world.run(200)
    world.boot()
    world.heartbeats = False
    world.run(200)
    return world.events


def test_the_same_trace_twice_gives_the_same_events() -> None:
    first, second = a_bad_hour(5), a_bad_hour(5)
    assert len(first) > 100
    assert first == second
    assert first != a_bad_hour(6)


# ---- whatever arrives -----------------------------------------------------------------------------


def test_words_about_strangers_are_passed_over() -> None:
    site = paper(1)
    site.tick(site.states(None))
    nobody = DeviceId("nobody")
    reading = reading_of(MODES.highest, site.now)
    inputs = Inputs(
        described=[described(spec_of("nobody", MODES))],
        answers=[Answer(nobody, ActuationId("x"), ActuationStage.ANSWERED, site.now)],
        readings=[(nobody, reading)],
        poll_failures=[PollFailure(nobody, Condition.UNREACHABLE, "")],
        meters=[(FeederId("nowhere"), MeterReading(site.now, 1.0))],
    )
    assert step(site.site, inputs, site.now + 1.0).commands == []
    assert set(site.site.devices) == {"m0"}


@pytest.mark.parametrize("power_w", [None, math.nan, -5.0, math.inf, 0.0, 1e300])
@pytest.mark.parametrize("state", list(RunState))
def test_no_reading_makes_the_cycle_fail_or_the_site_forget_its_watts(power_w: float | None, state: RunState) -> None:
    site = paper(2)
    site.tick(site.states(4_600.0))
    site.run(5)
    for rate in (None, math.nan, -1.0, 0.0, 80.0, math.inf):
        for limit_w in (None, math.nan, -1.0, math.inf):
            site.now += 1.0
            said = Reading(site.now, state, power_w, rate, "what?", limit_w, math.nan, None)
            step(site.site, Inputs(grid=[HeartbeatReceived()], readings=[(DeviceId("m0"), said)]), site.now)
            sums = site.site.tallies[SITE]
            assert math.isfinite(sums.total_reserved_w)
            assert math.isfinite(sums.total_planned_w)
            assert sums.reserved_w >= site.device("m1").reserved_w


def test_points_that_a_driver_finds_out_later_are_taken() -> None:
    site = PaperSite(specs=[spec_of("m0", None)])
    site.points[DeviceId("m0")] = point_of(MODES, "normal")
    site.tick(site.states(2_000.0))
    site.run(20)
    assert site.told() == []
    assert site.site.deficits[SITE] == pytest.approx(1_000.0, rel=0.02)
    site.tick(found=[replace(described(spec_of("m0", MODES)), settle_down_s=7.0)])
    site.run(5)
    assert (site.device("m0").spec.points, site.device("m0").spec.settle_down_s) == (MODES, 7.0)
    assert site.true_w() == 1_500.0


# ---- thirty thousand ------------------------------------------------------------------------------


def test_thirty_thousand_miners_are_one_cycle() -> None:
    count = 30_000
    rows = [FeederId(f"row-{index}") for index in range(100)]
    tree = tree_of(FeederSpec(SITE, None, 1e9), *(FeederSpec(row, SITE, 1e6) for row in rows))
    specs = [spec_of(f"m{index}", SLIDER, rows[index % 100]) for index in range(count)]
    now = 1_000.0
    link = Link(LinkPolicy(SITE, frozenset(tree.specs), 1e9), now)
    site = Site(tree, specs, link, EXACT, now, "run")

    def says(seq: int, limit: Limit | None) -> AllocationReceived:
        ceiling = limit if limit is not None else UNLIMITED
        return AllocationReceived(
            Allocation(AllocationId(f"a{seq}"), seq, Issuer("grid"), SITE, ceiling, now, 0.0, None)
        )

    def cycle(points: dict[DeviceId, OperatingPoint], *said: AllocationReceived) -> dict[DeviceId, OperatingPoint]:
        nonlocal now
        now += 1.0
        readings = [(device, reading_of(point, now)) for device, point in points.items()]
        decision = step(site, Inputs(grid=[HeartbeatReceived(), *said], readings=readings), now)
        return {command.device: command.target for command in decision.commands}

    points = {spec.id: SLIDER.highest for spec in specs}
    assert cycle(points, says(1, None)) == {}
    limit_w = 0.5 * count * 3_000.0
    told = cycle({}, says(2, Limit(limit_w)))
    assert 0 < len(told) <= count
    assert sum(told.get(device, point).draw_w for device, point in points.items()) <= limit_w
    assert site.deficits[SITE] == 0.0
    assert cycle({}) == {}


# ---- the meter has the last word --------------------------------------------------------------------


def test_what_a_meter_goes_on_showing_above_the_limit_is_shed_whatever_it_is() -> None:
    """A miner is told to stop and stays: nobody need wait a minute for proof of it, the meter shows it sooner."""
    tree = tree_of(FeederSpec(SITE, None, 1e6, meter_stale_after_s=10.0))
    specs = [spec_of(f"m{index}", SWITCH, settle_down_s=60.0, min_off_s=0.0) for index in range(5)]
    site = PaperSite(tree=tree, specs=specs, failsafe_w=1e6, deaf={"m0"})
    site.tick(site.states(None))
    site.run(5)
    site.tick(site.states(4_100.0))
    site.run(3)
    assert site.device("m0").headed_for() == SWITCH.lowest  # the first told to go, and deaf
    assert site.true_w() == 5_000.0
    site.run(25)
    assert site.true_w() == 4_000.0
    assert len(site.told()) == 2  # one more in its place, and once
