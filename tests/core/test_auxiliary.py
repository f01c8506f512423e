"""What a feeder draws beside its devices: what the meter teaches of it, and when the meter is not believed."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from core.rig import EXACT, PLENTY_W, ROW_A, ROW_B, SITE, SLIDER, SWITCH, PaperSite, reading_of, spec_of, tree_of
from curtaild.core.auxiliary import REMEMBERED_S, STUCK_AFTER, MeteredFeeder
from curtaild.core.events import Condition, MeterChanged
from curtaild.core.feeders import FeederSpec
from curtaild.core.inputs import PollFailure
from curtaild.core.tally import FIGURE_ERROR
from curtaild_drivers.contract import DeviceId, MeterReading, OperatingPoint, Reading, Seconds, Watts

STALE_AFTER_S = 10.0
DEVICES_W = 10_000.0


class Meter:
    """A meter over devices that say `DEVICES_W`, one sample a second, as the tally feeds it."""

    def __init__(self, own_estimate_w: Watts = 0.0) -> None:
        self.feeder = MeteredFeeder(FeederSpec(SITE, None, PLENTY_W, own_estimate_w, STALE_AFTER_S))
        self.now = 1_000.0
        self.energy_j = 0.0

    def says(
        self,
        power_w: Watts,
        *,
        devices_w: Watts = DEVICES_W,
        reserved_w: Watts | None = None,
        moved_at: Seconds = 0.0,
        quiet: bool = True,
        times: int = 1,
        hold_s: Seconds = 0.0,
    ) -> Meter:
        for _ in range(times):
            self.now += 1.0
            self.energy_j += power_w
            self.feeder.observe(MeterReading(self.now, power_w, self.energy_j))
            self.feeder.refresh(self.now)
            reserved_or_drawn_w = reserved_w if reserved_w is not None else devices_w
            self.feeder.estimate(devices_w, reserved_or_drawn_w, moved_at, quiet, hold_s)
        return self

    def auxiliary_w(self, share: float = 1.0, least_w: Watts = -math.inf) -> Watts:
        return self.feeder.upper_w(share, least_w)


def test_the_auxiliary_load_is_the_meter_less_the_devices() -> None:
    assert Meter().says(10_500.0, times=10).auxiliary_w() == pytest.approx(500.0)


def test_it_rises_at_once_but_falls_only_after_a_round_of_polls() -> None:
    """A device restarts by itself: the meter shows it at once, the device's own reading ten seconds later."""
    meter = Meter().says(10_500.0, times=30, hold_s=12.0)
    meter.says(8_000.0, times=11, hold_s=12.0)
    assert meter.auxiliary_w() >= 500.0
    meter.says(8_000.0, devices_w=7_500.0, times=150, hold_s=12.0)
    assert meter.auxiliary_w() == pytest.approx(500.0, abs=20.0)


def test_an_estimate_younger_than_a_round_of_polls_is_none() -> None:
    meter = Meter(own_estimate_w=800.0).says(10_100.0, times=5, hold_s=12.0)
    assert meter.auxiliary_w() == 800.0
    assert meter.says(10_100.0, times=20, hold_s=12.0).auxiliary_w() == pytest.approx(100.0, abs=1.0)


def test_of_a_noisy_meter_the_upper_edge_of_the_mean_counts_and_not_of_a_sample() -> None:
    noise = Random(7)
    meter = Meter()
    edges_w: list[Watts] = []
    for _ in range(600):
        meter.says(10_500.0 + noise.gauss(0.0, 50.0), hold_s=12.0)
        edges_w.append(meter.auxiliary_w())
    known_w = edges_w[60:]
    assert max(known_w) <= 600.0
    assert sum(known_w) / len(known_w) <= 540.0
    assert sum(edge_w >= 500.0 for edge_w in known_w) >= 0.97 * len(known_w)


@pytest.mark.parametrize("period_s", [12.0, 30.0, 120.0])
def test_a_load_that_swings_counts_in_full_however_noisy_the_meter_is(period_s: float) -> None:
    noise = Random(7)
    meter = Meter()
    short_w: list[Watts] = []
    for second in range(900):
        swing_w = 150.0 * math.sin(2 * math.pi * second / period_s)
        meter.says(10_500.0 + swing_w + noise.gauss(0.0, 50.0), hold_s=12.0)
        short_w.append(500.0 + swing_w - meter.auxiliary_w())
    assert sum(watts > 0.0 for watts in short_w[60:]) <= 0.05 * 840
    assert max(short_w[60:]) <= 50.0


def test_until_a_meter_has_spoken_the_sites_own_figure_counts() -> None:
    assert Meter(own_estimate_w=300.0).auxiliary_w() == 300.0


def test_the_estimate_follows_when_the_fans_spin_up() -> None:
    meter = Meter().says(10_300.0, times=60)
    meter.says(10_900.0, times=60)
    assert 880.0 <= meter.auxiliary_w() <= 1_150.0


def test_while_a_command_is_unconfirmed_the_estimate_stands_still() -> None:
    """The devices are still counted at 10,000 W and the meter has seen 3,000 of them go: that is no auxiliary load."""
    meter = Meter().says(10_500.0, times=10)
    meter.says(7_500.0, times=20, quiet=False)
    assert meter.auxiliary_w() == pytest.approx(500.0)


def test_a_sample_from_before_the_last_device_settled_is_not_compared_with_it() -> None:
    meter = Meter().says(10_500.0, times=10)
    meter.says(10_500.0, devices_w=7_000.0, reserved_w=10_000.0, moved_at=meter.now + 1.0)
    assert meter.auxiliary_w() == pytest.approx(500.0)
    meter.says(7_400.0, devices_w=7_000.0, moved_at=meter.now)
    assert meter.feeder.mean_w == pytest.approx(480.0, abs=25.0)


def test_after_a_move_the_new_state_is_learned_in_a_few_samples() -> None:
    """Losses follow load: what was true at full draw is not kept for long at half of it."""
    meter = Meter().says(10_500.0, times=100)
    meter.says(5_250.0, devices_w=5_000.0, moved_at=meter.now + 0.5, times=10)
    assert meter.feeder.mean_w == pytest.approx(250.0, abs=60.0)


def test_the_meter_is_believed_at_once_where_it_shows_more_than_everything_reserved() -> None:
    """Whatever is in flight: 2,000 W that no device accounts for are there."""
    meter = Meter().says(10_500.0, times=10)
    meter.says(12_500.0, quiet=False, times=10)
    assert meter.auxiliary_w() == pytest.approx(2_500.0, abs=20.0)
    meter.says(10_500.0, quiet=False, times=10)
    assert meter.auxiliary_w() == pytest.approx(500.0, abs=20.0)


def test_one_spike_of_the_meter_is_not_believed_at_its_height() -> None:
    meter = Meter().says(10_500.0, times=10).says(20_500.0, quiet=False)
    assert meter.auxiliary_w() <= 4_600.0


def test_devices_that_over_report_are_credited_only_as_far_as_they_draw() -> None:
    """They say 10,000 W, the meter 9,700: 300 W too much at full draw, 150 at half of it, none when all sleep."""
    meter = Meter().says(9_700.0, times=50)
    assert meter.auxiliary_w() == pytest.approx(-300.0)
    assert meter.auxiliary_w(share=0.5) == pytest.approx(-150.0)
    assert meter.auxiliary_w(share=0.0) == pytest.approx(0.0)


def test_devices_are_not_believed_to_over_report_without_bound() -> None:
    """A meter wired wrongly says 0 W: the devices' own word counts, less what their sensors may be off."""
    meter = Meter().says(0.0, times=50)
    assert meter.auxiliary_w(least_w=-500.0) == -500.0


@pytest.mark.parametrize("nonsense", [None, math.nan, -1.0, math.inf, 1e9])
def test_nonsense_of_a_meter_is_no_sample(nonsense: Watts | None) -> None:
    meter = Meter().says(10_500.0, times=10)
    assert not meter.feeder.observe(MeterReading(meter.now + 1.0, nonsense))
    assert meter.feeder.power_w == 10_500.0
    meter.feeder.refresh(meter.now + STALE_AFTER_S)
    assert meter.feeder.is_fresh
    meter.feeder.observe(MeterReading(meter.now + STALE_AFTER_S + 1.0, nonsense))
    assert meter.feeder.refresh(meter.now + STALE_AFTER_S + 1.0)
    assert not meter.feeder.is_fresh


def test_an_older_sample_than_the_last_is_not_taken() -> None:
    meter = Meter().says(10_500.0)
    assert not meter.feeder.observe(MeterReading(meter.now - 1.0, 99_000.0))
    assert not meter.feeder.observe(MeterReading(meter.now, 99_000.0))
    assert meter.feeder.power_w == 10_500.0


def test_a_stale_meter_is_no_meter_and_what_it_taught_is_kept_only_upwards() -> None:
    meter = Meter(own_estimate_w=400.0).says(10_900.0, times=20)
    meter.feeder.refresh(meter.now + STALE_AFTER_S + 0.1)
    assert not meter.feeder.is_fresh
    assert meter.auxiliary_w() == pytest.approx(900.0)
    meter = Meter(own_estimate_w=400.0).says(9_900.0, times=20)
    meter.feeder.refresh(meter.now + STALE_AFTER_S + 0.1)
    assert meter.auxiliary_w() == 400.0  # a credit is not given on an old word


def test_a_meter_that_repeats_itself_for_long_is_stuck() -> None:
    """A gateway gives old values new times: power and energy of a real feeder do not both stand still."""
    meter = Meter().says(10_500.0)
    for _ in range(int(STUCK_AFTER * STALE_AFTER_S)):
        meter.now += 1.0
        meter.feeder.observe(MeterReading(meter.now, 10_500.0, meter.energy_j))
        meter.feeder.refresh(meter.now)
        assert meter.feeder.is_fresh
    meter.feeder.observe(MeterReading(meter.now + 1.0, 10_500.0, meter.energy_j))
    assert meter.feeder.refresh(meter.now + 1.0)
    assert not meter.feeder.is_fresh


def test_a_repeated_answer_is_not_counted_as_a_second_sample() -> None:
    meter = Meter().says(10_500.0, times=3)
    counted = meter.feeder.samples
    meter.now += 1.0
    meter.feeder.observe(MeterReading(meter.now, 10_500.0, meter.energy_j))
    meter.feeder.estimate(DEVICES_W, DEVICES_W, 0.0, True, 0.0)
    assert meter.feeder.samples == counted


# ---- the same, as the site lives it ---------------------------------------------------------------


def metered(auxiliary_w: Watts, count: int = 10) -> PaperSite:
    """Ten miners that keep any limit, a meter at the root, and an auxiliary load that the site file does not know."""
    return PaperSite(
        tree_of(FeederSpec(SITE, None, PLENTY_W, 0.0, STALE_AFTER_S)),
        [spec_of(f"m{index}", SLIDER, min_off_s=0.0) for index in range(count)],
        replace(EXACT, margin_fraction=0.002, reading_error_fraction=0.05),
        auxiliary_w=auxiliary_w,
    )


@pytest.mark.parametrize("auxiliary_w", [0.0, 700.0, 3_000.0])
def test_the_meter_comes_to_sit_just_under_the_limit(auxiliary_w: Watts) -> None:
    site = metered(auxiliary_w)
    site.tick(site.states(None))
    site.run(10)
    site.tick(site.states(20_000.0))
    site.run(300)
    assert 19_500.0 <= site.true_w() <= 20_000.0


def test_a_dead_meter_is_told_once_and_leaves_the_devices_word() -> None:
    site = metered(700.0)
    site.tick(site.states(None))
    site.run(10)
    site.tick(site.states(20_000.0))
    site.run(100)
    told = len(site.events)
    site.dead_meters.add(SITE)
    site.run(60)
    changes = [event for event in site.events[told:] if isinstance(event, MeterChanged)]
    assert [(event.feeder, event.is_fresh) for event in changes] == [(SITE, False)]
    assert "11 s ago" in changes[0].detail
    assert site.true_w() <= 20_000.0
    assert site.site.tallies[SITE].auxiliary_w >= 700.0
    site.dead_meters.clear()
    site.run(2)
    assert [event.is_fresh for event in site.events[told:] if isinstance(event, MeterChanged)] == [False, True]


def test_what_a_meter_said_of_sensors_outlives_a_minute_of_silence_but_not_ten() -> None:
    """A raise meanwhile counts with the error that no meter has seen."""
    site = metered(700.0)
    site.tick(site.states(None))
    site.run(10)
    site.tick(site.states(20_000.0))
    site.run(100)
    since, stood_w = site.now, site.true_w()
    site.dead_meters.add(SITE)
    site.run(int(REMEMBERED_S) - 5)
    assert site.told(since) == []
    assert not site.site.meters[SITE].is_fresh
    site.run(10)
    assert site.true_w() <= 0.96 * stood_w


def test_nobody_is_shed_for_what_silent_devices_might_draw_while_the_meter_shows_that_they_do_not() -> None:
    site = metered(700.0)
    site.tick(site.states(None))
    site.run(10)
    site.tick(site.states(20_000.0))
    site.run(100)
    site.silent = {"m0", "m1", "m2"}
    since, stood_w = site.now, site.true_w()
    site.run(150)
    assert site.told(since) == []
    assert site.site.tallies[SITE].total_reserved_w > 20_500.0
    site.points[DeviceId("m0")] = SLIDER.highest
    assert site.true_w() > stood_w + 500.0 > 20_000.0
    site.run(5)
    assert site.told(since), "now the meter shows it"
    assert site.true_w() <= 20_000.0


def test_a_rows_meter_speaks_for_its_row_alone() -> None:
    tree = tree_of(
        FeederSpec(SITE, None, PLENTY_W),
        FeederSpec(ROW_A, SITE, PLENTY_W, 0.0, STALE_AFTER_S),
        FeederSpec(ROW_B, SITE, PLENTY_W, 250.0),
    )
    site = PaperSite(tree, [spec_of("a", SWITCH, ROW_A), spec_of("b", SWITCH, ROW_B)])
    site.tick(site.states(None))
    site.run(10)
    tallies = site.site.tallies
    assert tallies[ROW_A].auxiliary_w == pytest.approx(0.0, abs=1.0)
    assert tallies[ROW_B].auxiliary_w == 250.0
    assert tallies[SITE].auxiliary_w == pytest.approx(250.0, abs=1.0)
    assert tallies[SITE].total_reserved_w == pytest.approx(2_250.0, rel=0.01)


@pytest.mark.parametrize(("never_heard", "is_estimated"), [(1, True), (4, False)])
def test_a_device_that_was_never_heard_does_not_take_the_meter_from_all_the_others(
    never_heard: int, is_estimated: bool
) -> None:
    """Of thirty. It counts with all it can draw, whatever the meter shows; the others no longer with their error."""
    site = metered(700.0, count=30)
    lost = [DeviceId(f"m{index}") for index in range(never_heard)]
    site.silent = set(lost)
    failures = [PollFailure(name, Condition.UNREACHABLE, "no answer") for name in lost]
    site.tick(site.states(None), failed=failures)
    site.tick(failed=failures)
    site.run(30)
    sums = site.site.tallies[SITE]
    error_w = 0.05 * sums.reserved_w
    assert site.site.meters[SITE].is_estimated is is_estimated
    assert sums.total_reserved_w >= site.true_w()
    assert (sums.total_reserved_w < sums.reserved_w + error_w) is is_estimated
    for name in lost:
        site.points[name] = SLIDER.lowest
    site.run(30)
    for name in lost:
        site.points[name] = SLIDER.highest
        assert site.true_w() <= site.site.tallies[SITE].total_reserved_w


def test_a_device_never_heard_that_is_much_of_its_site_takes_the_meter_from_it() -> None:
    """Counted twice, as auxiliary load and with all it can draw, it would stop the others."""
    site = metered(700.0, count=4)
    lost = DeviceId("m0")
    site.silent = {lost}
    failures = [PollFailure(lost, Condition.UNREACHABLE, "no answer")]
    site.tick(site.states(None), failed=failures)
    site.tick(failed=failures)
    site.run(30)
    sums = site.site.tallies[SITE]
    assert sums.never_heard_w <= 0.05 * 0.1 * site.site.tree.specs[SITE].rating_w
    assert not site.site.meters[SITE].is_estimated
    assert sums.total_reserved_w <= 1.06 * sums.reserved_w + 700.0


# ---- what those draw that were never heard, where the site file says what the rest is -------------

FIGURE_W = 800.0
SENSORS_OFF = 0.01
LOST = DeviceId("m0")


class LowReading(PaperSite):
    """Every sensor is off by as much as it may be, to the side that hides a load."""

    def reading_at(self, point: OperatingPoint) -> Reading:
        return reading_of(point, self.now, (1 - SENSORS_OFF) * point.draw_w)


def with_one_lost(
    count: int = 20, auxiliary_w: Watts = FIGURE_W, lost_at: OperatingPoint = SLIDER.highest, heard: int = 0
) -> PaperSite:
    """A metered site whose file says what it draws beside its devices, one of which answers nobody. `heard` others hang
    on a row that has a meter of its own."""
    site = LowReading(
        tree_of(
            FeederSpec(SITE, None, PLENTY_W, FIGURE_W, STALE_AFTER_S),
            FeederSpec(ROW_A, SITE, PLENTY_W, 0.0, STALE_AFTER_S),
        ),
        [
            *(spec_of(f"m{index}", SLIDER, min_off_s=0.0) for index in range(count)),
            *(spec_of(f"a{index}", SLIDER, ROW_A, min_off_s=0.0) for index in range(heard)),
        ],
        replace(EXACT, margin_fraction=0.002, reading_error_fraction=0.05 if heard else SENSORS_OFF),
        auxiliary_w=auxiliary_w,
    )
    site.silent, site.deaf, site.points[LOST] = {LOST}, {LOST}, lost_at
    failures = [PollFailure(LOST, Condition.UNREACHABLE, "no answer")]
    site.tick(site.states(None), failed=failures)
    site.tick(failed=failures)
    site.run(30)
    return site


def test_what_the_site_file_cannot_explain_is_drawn_by_those_never_heard_and_not_counted_twice() -> None:
    """Of 25, for 20 of which a row's meter speaks: only the error of four sensors and of the figure is left open."""
    site = with_one_lost(5, heard=20)
    sums = site.site.tallies[SITE]
    open_w = FIGURE_ERROR * FIGURE_W + 0.05 * 4 * SLIDER.highest.draw_w
    assert sums.never_heard_w == SLIDER.highest.draw_w
    assert site.true_w() <= sums.total_reserved_w <= site.true_w() + open_w
    site.points[LOST] = SLIDER.lowest
    site.run(30)
    assert sums.total_reserved_w - open_w <= site.site.tallies[SITE].total_reserved_w
    site.points[LOST] = SLIDER.highest
    assert site.true_w() <= site.site.tallies[SITE].total_reserved_w


def test_it_takes_the_meter_from_nobody_however_much_of_the_site_it_is() -> None:
    site = with_one_lost(count=4)
    assert site.site.meters[SITE].is_estimated
    assert site.true_w() <= site.site.tallies[SITE].total_reserved_w <= 1.05 * site.true_w()


@pytest.mark.parametrize("count", [4, 20])
def test_one_never_heard_that_sleeps_may_start_by_itself_at_any_time(count: int) -> None:
    """With the figure as far too low as it may be and every sensor too: what was given out leaves room for it."""
    site = with_one_lost(count, (1 + FIGURE_ERROR) * FIGURE_W, SLIDER.lowest)
    limit_w = 2_000.0 * count
    site.tick(site.states(limit_w))
    site.run(200)
    assert site.true_w() >= 0.97 * limit_w - SLIDER.highest.draw_w
    site.points[LOST] = SLIDER.highest
    assert site.true_w() <= limit_w


@pytest.mark.parametrize("auxiliary_w", [1_800.0, 3_000.0, 4_000.0, 6_000.0, 9_000.0])
def test_where_the_figure_is_much_too_low_the_meter_says_so_within_seconds(auxiliary_w: Watts) -> None:
    site = with_one_lost(20, auxiliary_w, SLIDER.lowest)
    site.tick(site.states(40_000.0))
    site.run(200)
    assert site.true_w() <= 40_000.0
    site.points[LOST] = SLIDER.highest
    site.run(10)
    for _ in range(60):
        site.tick()
        assert site.true_w() <= 40_000.0


def test_more_than_those_never_heard_can_draw_says_that_the_figure_is_too_low() -> None:
    """Then nobody knows what of it is theirs, and all that they could draw is added."""
    site = with_one_lost(auxiliary_w=12_000.0, lost_at=SLIDER.lowest)
    assert site.site.tallies[SITE].total_reserved_w >= site.true_w() + SLIDER.highest.draw_w - SLIDER.lowest.draw_w
