"""The plant's physics and faults, in virtual time: what a device draws after each command, and what it claims."""

from __future__ import annotations

import itertools
import math

import pytest

from curtaild_drivers.contract import (
    OFF,
    AuthFailed,
    BadReply,
    DeviceId,
    DriverError,
    FeederId,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_emulator import LIMIT, MODELS, Fault, MeterFault, Plant, PlantDevice, PlantFeeder

SITE = FeederId("site")
SETTLED_S = 1_000.0


def plant_of(*models: str, seed: int = 1, feeder: PlantFeeder | None = None) -> Plant:
    """A site with one device per model, named a, b, c …"""
    devices = [PlantDevice(DeviceId(chr(97 + i)), MODELS[name], SITE) for i, name in enumerate(models)]
    return Plant(devices, [feeder or PlantFeeder(SITE, meter_noise=0.0)], seed)


def point(plant: Plant, key: str, draw_w: float | None = None) -> OperatingPoint:
    """The point of device a with that key, at that draw."""
    offered = [p for p in plant.operating_points("a").points if p.key == key]
    return offered[-1] if draw_w is None else OperatingPoint(key, draw_w, 0.0, divisible=True)


def trace(plant: Plant, *times: float) -> list[float]:
    """True watts of device a at each time."""
    watts = []
    for now in times:
        plant.advance(now)
        watts.append(plant.true_power_w("a"))
    return watts


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_sleeps_to_standby_and_wakes_to_its_full_draw(name: str) -> None:
    model = MODELS[name]
    plant = plant_of(name)
    full_w = plant.true_power_w("a")
    assert full_w == pytest.approx(model.rated_w, rel=0.07)
    assert plant.apply("a", point(plant, OFF), 0.0) is Outcome.ACKNOWLEDGED
    assert plant.true_power_w("a") == full_w  # nothing falls before time passes
    half_way, asleep = trace(plant, model.fall_s / 4, model.fall_s)
    assert asleep == pytest.approx(model.standby_w)
    assert asleep < half_way < full_w
    reading = plant.read("a", model.fall_s)
    assert reading.state is RunState.ASLEEP
    assert reading.rate == 0.0
    woken_at = 100.0
    assert plant.apply("a", plant.operating_points("a").highest, woken_at) is Outcome.ACKNOWLEDGED
    booting = woken_at + model.boot_s / 2
    plant.advance(booting)
    assert plant.true_power_w("a") < 0.05 * full_w
    assert plant.read("a", booting).state is RunState.STARTING
    warm = woken_at + 6.0 + model.boot_s + model.warm_s / 2
    assert trace(plant, warm) == [pytest.approx(model.warm_w)]
    restart_s = model.capabilities().settle_up_s + 10.0
    assert trace(plant, woken_at + restart_s) == [pytest.approx(full_w)]
    assert plant.read("a", woken_at + restart_s).state is RunState.RUNNING


def test_a_tuned_ladder_yields_what_it_was_tuned_to() -> None:
    model = MODELS["vnish-s19j-pro"]
    assert [round(point.rate / 1e12) for point in model.operating_points().points] == [0, 65, 76, 80, 87, 92, 96, 100]
    assert model.rate_hs(1_795.0) == pytest.approx(70.5e12)
    best = min(model.operating_points().points[1:], key=lambda point: point.draw_w / point.rate)
    assert best.key == "1850"


@pytest.mark.parametrize("name", sorted(name for name, model in MODELS.items() if model.presets[0].tuned_hs is None))
def test_hashrate_is_concave_in_power_and_best_per_watt_when_throttled(name: str) -> None:
    points = MODELS[name].operating_points().points
    slopes = [(b.rate - a.rate) / (b.draw_w - a.draw_w) for a, b in itertools.pairwise(points)]
    assert all(slope > 0 for slope in slopes)
    assert slopes == sorted(slopes, reverse=True)
    assert points[-1].rate == pytest.approx(MODELS[name].rated_hs)
    assert points[1].draw_w / points[1].rate < points[-1].draw_w / points[-1].rate


def test_a_percentage_is_followed_fast_and_an_absolute_limit_restarts() -> None:
    plant = plant_of("whatsminer-m50")
    plant.apply("a", point(plant, LIMIT, 2_000.0), 0.0)
    plant.advance(10.0)
    reading = plant.read("a", 10.0)
    assert reading.limit_w == pytest.approx(60 * 33.06)  # whole percents, rounded down
    assert reading.power_w == pytest.approx(60 * 33.06, rel=0.02)
    assert reading.state is RunState.RUNNING
    plant.miner("a").set_limit(2_500.0, 10.0)
    assert trace(plant, 40.0) == [pytest.approx(70.0)]
    assert trace(plant, 100.0) == [pytest.approx(900.0)]  # holds while temperatures settle
    assert trace(plant, 400.0) == [pytest.approx(2_500.0, rel=0.04)]


def test_where_watts_are_a_setting_they_are_followed_without_a_restart() -> None:
    plant = plant_of("braiins-s21")
    assert plant.operating_points("a").step_w == 1.0
    assert plant.apply("a", point(plant, LIMIT, 2_000.7), 0.0) is Outcome.ACKNOWLEDGED
    assert plant.read("a", 1.0).state is RunState.RUNNING
    assert plant.apply("a", point(plant, LIMIT, 2_000.2), 2.0) is Outcome.ALREADY_THERE
    assert trace(plant, 60.0) == [pytest.approx(2_000.0, rel=0.04)]
    assert plant.read("a", 60.0).limit_w == 2_000.0
    assert plant.apply("a", point(plant, OFF), 60.0) is Outcome.ACKNOWLEDGED
    assert plant.apply("a", point(plant, LIMIT, 2_000.0), 100.0) is Outcome.ACKNOWLEDGED  # wakes to what it was set to
    assert trace(plant, 400.0) == [pytest.approx(2_000.0, rel=0.04)]


def test_an_order_for_later_is_carried_out_at_its_time() -> None:
    plant = plant_of("avalon-a1566")
    miner = plant.miner("a")
    full_w = miner.power_w
    miner.schedule(100.0, miner.sleep)
    assert trace(plant, 99.0) == [full_w]
    assert miner.heading_w == full_w
    assert trace(plant, 500.0) == [40.0]
    lit_s = (miner.energy_j(500.0) - 400.0 * 40.0) / full_w
    assert 100.0 < lit_s < 100.0 + miner.model.fall_s
    miner.schedule(600.0, miner.wake)
    assert miner.heading_w == pytest.approx(full_w)  # it will draw that much, if nobody tells it otherwise
    assert trace(plant, 599.0, 1_000.0) == [40.0, pytest.approx(full_w)]


def test_a_limit_given_while_it_starts_is_where_it_ends() -> None:
    plant = plant_of("whatsminer-m60")
    plant.apply("a", point(plant, OFF), 0.0)
    plant.apply("a", point(plant, LIMIT, 1_711.0), 50.0)
    assert max(trace(plant, *range(51, 600))) == pytest.approx(1_711.0, rel=0.04)
    assert plant.read("a", 600.0).limit_w == pytest.approx(1_711.0)


def test_a_percentage_set_too_early_may_be_lost() -> None:
    plant = plant_of("whatsminer-m60")
    plant.set_fault("a", Fault.PERCENT_LOST_WHILE_STARTING, True)
    full_w = plant.true_power_w("a")
    plant.apply("a", point(plant, OFF), 0.0)
    assert plant.apply("a", point(plant, LIMIT, 1_711.0), 50.0) is Outcome.ACKNOWLEDGED
    assert trace(plant, SETTLED_S) == [pytest.approx(full_w)]
    plant.apply("a", point(plant, LIMIT, 1_711.0), SETTLED_S)
    assert trace(plant, SETTLED_S + 10.0) == [pytest.approx(1_711.0, rel=0.04)]


def test_a_mode_change_of_a_stock_antminer_restarts_it() -> None:
    plant = plant_of("antminer-s19j-pro")
    plant.apply("a", point(plant, "low"), 0.0)
    assert trace(plant, 10.0) == [pytest.approx(60.0)]
    assert trace(plant, SETTLED_S) == [pytest.approx(2_200.0, rel=0.07)]
    reading = plant.read("a", SETTLED_S)
    assert (reading.point_key, reading.power_w) == ("low", None)  # it has no power sensor


def test_a_luxos_profile_changes_without_a_restart() -> None:
    plant = plant_of("luxos-s21")
    plant.apply("a", point(plant, "310MHz"), 0.0)
    watts = trace(plant, *range(30))
    assert watts == sorted(watts, reverse=True)
    assert watts[-1] == pytest.approx(0.56 * 3_500.0, rel=0.07)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_restarts_at_every_change_says_so(name: str) -> None:
    """From its highest point to the one below: half the draw of the higher is seen only in a boot."""
    plant = Plant([PlantDevice(DeviceId("m"), MODELS[name], SITE)], [PlantFeeder(SITE, None)], seed=1)
    *_, lower, highest = MODELS[name].operating_points().points
    least_w = plant.true_power_w("m")
    plant.apply("m", lower, 0.0)
    for second in range(1, 90):
        plant.advance(float(second))
        least_w = min(least_w, plant.true_power_w("m"))
    assert (least_w < 0.5 * highest.draw_w) is MODELS[name].capabilities().restarts


def test_energy_is_the_integral_of_power() -> None:
    plant = plant_of("luxos-s19", "antminer-s19", feeder=PlantFeeder(SITE, None, 100.0, 0.02, 0.0))
    plant.apply("a", point(plant, OFF), 0.0)
    summed_j, step_s, before_w = 0.0, 0.1, plant.true_feeder_power_w("site")
    for tick in range(1, 2_001):
        if tick == 300:
            plant.apply("a", plant.operating_points("a").highest, tick * step_s)
        plant.advance(tick * step_s)
        now_w = plant.true_feeder_power_w("site")
        summed_j += (before_w + now_w) / 2 * step_s
        before_w = now_w
    assert plant.true_feeder_energy_j("site") == pytest.approx(summed_j, rel=1e-4)


def test_feeders_sum_devices_children_and_auxiliary_load() -> None:
    feeders = [
        PlantFeeder(SITE, None, auxiliary_w=1_000.0, auxiliary_fraction=0.01),
        PlantFeeder(FeederId("row"), SITE, auxiliary_w=200.0, auxiliary_fraction=0.05),
    ]
    devices = [
        PlantDevice(DeviceId("a"), MODELS["luxos-s19"], FeederId("row")),
        PlantDevice(DeviceId("b"), MODELS["luxos-s19"], SITE),
    ]
    plant = Plant(devices, feeders, seed=3)
    row_w = plant.true_power_w("a") * 1.05 + 200.0
    assert plant.true_feeder_power_w("row") == pytest.approx(row_w)
    assert plant.true_feeder_power_w("site") == pytest.approx((row_w + plant.true_power_w("b")) * 1.01 + 1_000.0)
    samples = [plant.read_meter("site", 0.0).power_w for _ in range(200)]
    mean_w = sum(w for w in samples if w is not None) / 200
    assert mean_w == pytest.approx(plant.true_feeder_power_w("site"), rel=0.002)
    assert len(set(samples)) > 100


class Heater:
    """A load that somebody else emulates."""

    power_w = 500.0

    def energy_j(self, now: float) -> float:
        return self.power_w * now


def test_a_feeder_carries_what_is_emulated_elsewhere() -> None:
    feeder = PlantFeeder(SITE, auxiliary_w=100.0, auxiliary_fraction=0.1, meter_noise=0.0)
    plant = plant_of(feeder=feeder)
    plant.carry(SITE, Heater())
    plant.advance(10.0)
    assert plant.true_feeder_power_w(SITE) == pytest.approx(1.1 * 500 + 100)
    assert plant.read_meter(SITE, 10.0).energy_j == pytest.approx(10 * (1.1 * 500 + 100))


@pytest.mark.parametrize(
    ("feeders", "device_feeder", "words"),
    [
        ([PlantFeeder(SITE), PlantFeeder(SITE)], SITE, "same id"),
        ([PlantFeeder(SITE, FeederId("nowhere"))], SITE, "does not exist"),
        ([PlantFeeder(SITE, FeederId("row")), PlantFeeder(FeederId("row"), SITE)], SITE, "hangs on itself"),
        ([PlantFeeder(SITE)], FeederId("row"), "does not exist"),
    ],
)
def test_what_is_no_tree_is_refused(feeders: list[PlantFeeder], device_feeder: FeederId, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Plant([PlantDevice(DeviceId("a"), MODELS["luxos-s19"], device_feeder)], feeders, seed=1)


def test_the_same_seed_tells_the_same_story() -> None:
    def story(seed: int) -> list[object]:
        plant = plant_of("whatsminer-m50", "luxos-s21", "antminer-s21", seed=seed)
        plant.set_fault("a", Fault.RESUME_NEVER, True, probability=0.5)
        told: list[object] = []
        for now in range(0, 2_000, 100):
            offered = plant.operating_points("a")
            told.append(plant.apply("a", offered.lowest if now % 200 else offered.highest, float(now)))
            told += [plant.read(name, float(now)) for name in "abc"]
            told.append(plant.read_meter("site", float(now)))
        return told

    assert story(7) == story(7)
    assert story(7) != story(8)


def test_units_of_a_model_differ_and_so_do_their_sensors() -> None:
    plant = plant_of(*["whatsminer-m50"] * 20)
    truth = [plant.true_power_w(name) for name in plant.device_ids]
    told = [plant.read(name, 0.0).power_w for name in plant.device_ids]
    assert len(set(truth)) == 20
    assert all(t is not None and t != w and t == pytest.approx(w, rel=0.06) for t, w in zip(told, truth, strict=True))


# --- faults ------------------------------------------------------------------------------------------


READ_FAULTS: dict[Fault, type[DriverError]] = {
    Fault.HANG: Unreachable,
    Fault.OFFLINE_SILENT: Unreachable,
    Fault.REFUSE_CONNECTION: Unreachable,
    Fault.GARBAGE: BadReply,
}


@pytest.mark.parametrize(("fault", "error"), READ_FAULTS.items())
def test_a_read_fails_as_the_fault_dictates_and_heals(fault: Fault, error: type[DriverError]) -> None:
    plant = plant_of("whatsminer-m50")
    plant.set_fault("a", fault, True)
    with pytest.raises(error):
        plant.read("a", 0.0)
    plant.set_fault("a", fault, False)
    assert plant.read("a", 1.0).power_w == pytest.approx(3_306.0, rel=0.1)


@pytest.mark.parametrize(
    ("model", "fault", "error", "obeys"),
    [
        ("whatsminer-m50", Fault.HANG, OutcomeUnknown, False),
        ("whatsminer-m50", Fault.HANG_WRITE_APPLIED, OutcomeUnknown, True),
        ("whatsminer-m50", Fault.CLOSE_AFTER_POWER_OFF, OutcomeUnknown, True),
        ("whatsminer-m50", Fault.GARBAGE, OutcomeUnknown, True),
        ("whatsminer-m50", Fault.TOKEN_LIMIT, Refused, False),
        ("whatsminer-m60", Fault.WRONG_PASSWORD, AuthFailed, False),
        ("antminer-s21", Fault.HTTP_500, OutcomeUnknown, False),
        ("luxos-s21", Fault.REFUSE_CONNECTION, Unreachable, False),
        ("luxos-s21", Fault.OFFLINE_SILENT, Unreachable, False),
    ],
)
def test_a_command_fails_as_the_fault_dictates(model: str, fault: Fault, error: type[DriverError], obeys: bool) -> None:
    plant = plant_of(model)
    plant.set_fault("a", fault, True)
    with pytest.raises(error):
        plant.apply("a", point(plant, OFF), 0.0)
    plant.advance(SETTLED_S)
    assert (plant.true_power_w("a") < 100.0) is obeys


def test_acknowledged_is_not_obeyed() -> None:
    plant = plant_of("whatsminer-m50")
    plant.set_fault("a", Fault.ACK_NO_OBEY, True)
    before_w = plant.true_power_w("a")
    assert plant.apply("a", point(plant, LIMIT, 1_653.0), 0.0) is Outcome.ACKNOWLEDGED
    plant.advance(SETTLED_S)
    assert plant.true_power_w("a") == before_w
    assert plant.read("a", SETTLED_S).limit_w == pytest.approx(1_653.0)


def test_half_obeyed_settles_at_half_the_limit() -> None:
    plant = plant_of("whatsminer-m50")
    plant.set_fault("a", Fault.HALF_OBEY, True)
    plant.apply("a", point(plant, LIMIT, 2_314.2), 0.0)
    assert trace(plant, SETTLED_S) == [pytest.approx(2_314.2 / 2, rel=0.04)]


def test_drift_returns_to_the_old_draw_while_the_limit_is_still_reported() -> None:
    plant = plant_of("whatsminer-m50")
    before_w = plant.true_power_w("a")
    plant.set_fault("a", Fault.DRIFT_BACK, True)
    plant.apply("a", point(plant, LIMIT, 2_000.0), 0.0)
    obeyed_w, creeping_w, back_w = trace(plant, 30.0, 130.0, 300.0)
    assert obeyed_w < creeping_w < back_w == before_w
    reading = plant.read("a", 300.0)
    assert reading.limit_w is not None
    assert reading.limit_w < 2_001.0


def test_a_wake_that_never_comes_stays_at_standby_and_a_second_may_work() -> None:
    plant = plant_of("luxos-s19")
    plant.set_fault("a", Fault.RESUME_NEVER, True)
    plant.apply("a", point(plant, OFF), 0.0)
    assert plant.apply("a", plant.operating_points("a").highest, 50.0) is Outcome.ACKNOWLEDGED
    assert trace(plant, SETTLED_S) == [pytest.approx(25.0)]
    assert plant.read("a", SETTLED_S).state is RunState.IDLE
    plant.set_fault("a", Fault.RESUME_NEVER, False)
    plant.miner("a").wake(SETTLED_S)
    assert trace(plant, 2 * SETTLED_S) == [pytest.approx(3_250.0, rel=0.07)]


def test_a_probability_decides_how_many_never_resume() -> None:
    plant = plant_of(*["luxos-s19"] * 400)
    for name in plant.device_ids:
        plant.set_fault(name, Fault.RESUME_NEVER, True, probability=0.1)
        plant.miner(name).sleep(0.0)
    plant.advance(50.0)
    for name in plant.device_ids:
        plant.miner(name).wake(50.0)
    plant.advance(SETTLED_S)
    assert 20 <= sum(plant.true_power_w(name) < 100.0 for name in plant.device_ids) <= 60


@pytest.mark.parametrize(("model", "expected_w"), [("antminer-s21", 2_600.0), ("whatsminer-m50", 3_306.0)])
def test_wakes_in_another_mode(model: str, expected_w: float) -> None:
    plant = plant_of(model)
    if model.startswith("whatsminer"):
        plant.miner("a").set_limit(2_000.0, 0.0)
    plant.set_fault("a", Fault.WAKES_OTHER_MODE, True)
    plant.miner("a").sleep(SETTLED_S)
    plant.miner("a").wake(SETTLED_S + 100.0)
    assert trace(plant, 3 * SETTLED_S) == [pytest.approx(expected_w, rel=0.07)]


def test_reboots_on_a_limit_and_its_api_is_gone_meanwhile() -> None:
    plant = plant_of("luxos-s21")
    plant.set_fault("a", Fault.REBOOT_ON_LIMIT, True)
    plant.set_fault("a", Fault.API_GONE_WHILE_BOOTING, True)
    plant.apply("a", point(plant, "310MHz"), 0.0)
    with pytest.raises(Unreachable):
        plant.read("a", 30.0)
    assert plant.true_power_w("a") == pytest.approx(40.0)
    assert plant.read("a", SETTLED_S).point_key == "310MHz"


def test_bias_is_constant_and_five_to_twenty_percent() -> None:
    plant = plant_of(*["whatsminer-m50"] * 30)
    for name in plant.device_ids:
        plant.set_fault(name, Fault.BIAS, True)
        ratios = []
        for now in (1.0, 2.0):
            power_w = plant.read(name, now).power_w
            assert power_w is not None
            ratios.append(power_w / plant.true_power_w(name))
        assert 0.035 <= abs(ratios[0] - 1.0) <= 0.215
        assert ratios[0] == pytest.approx(ratios[1], abs=0.03)


def test_unknown_is_none_never_zero() -> None:
    plant = plant_of("whatsminer-m50")
    plant.set_fault("a", Fault.NAN_POWER, True)
    assert plant.read("a", 0.0).power_w is None
    plant.set_fault("a", Fault.NAN_POWER, False)
    plant.set_fault("a", Fault.KEYS_VANISH_AFTER_SLEEP, True)
    assert plant.read("a", 1.0).power_w is not None
    plant.apply("a", point(plant, OFF), 1.0)
    vanished = plant.read("a", 100.0)
    assert (vanished.power_w, vanished.point_key, vanished.state) == (None, None, RunState.UNKNOWN)


def test_what_is_not_offered_is_unsupported() -> None:
    plant = plant_of("antminer-s21")
    for wrong in (OperatingPoint(LIMIT, 2_000.0, 0.0), OperatingPoint("normal", math.nan, 0.0)):
        with pytest.raises(Unsupported):
            plant.apply("a", wrong, 0.0)
    assert plant.apply("a", point(plant, "normal"), 0.0) is Outcome.ALREADY_THERE


def test_meter_faults() -> None:
    plant = plant_of("luxos-s19", feeder=PlantFeeder(SITE, meter_noise=0.0))
    full_w = plant.true_feeder_power_w("site")
    plant.set_meter_fault("site", MeterFault.FROZEN)
    assert plant.read_meter("site", 0.0).power_w == full_w
    plant.apply("a", point(plant, OFF), 0.0)
    assert plant.read_meter("site", 500.0).power_w == full_w
    plant.set_meter_fault("site", MeterFault.NAN)
    assert plant.read_meter("site", 500.0).power_w is None
    plant.set_meter_fault("site", MeterFault.NEGATIVE)
    assert plant.read_meter("site", 500.0).power_w is None
    assert plant.metered("site")[0] == pytest.approx(-25.0)
    plant.set_meter_fault("site", MeterFault.DEAD)
    with pytest.raises(Unreachable):
        plant.read_meter("site", 500.0)
    plant.set_meter_fault("site", MeterFault.STALE)
    assert plant.read_meter("site", 500.0).power_w == pytest.approx(25.0)
    plant.apply("a", plant.operating_points("a").highest, 500.0)
    assert plant.read_meter("site", 559.0).power_w == pytest.approx(25.0)
    assert plant.read_meter("site", 561.0).power_w == pytest.approx(plant.true_feeder_power_w("site"))
    plant.set_meter_fault("site", None)
    assert plant.read_meter("site", 900.0).power_w == pytest.approx(full_w)


def test_where_it_is_heading_is_the_most_it_may_come_to() -> None:
    plant = plant_of("whatsminer-m50")
    miner = plant.miner("a")
    full_w = miner.power_w
    assert miner.heading_w == full_w
    miner.sleep(0.0)
    assert miner.heading_w == 60.0
    miner.wake(100.0)
    assert miner.heading_w == pytest.approx(full_w)


def test_time_past_changes_nothing() -> None:
    plant = plant_of("luxos-s19")
    plant.apply("a", point(plant, OFF), 10.0)
    plant.advance(12.0)
    watts = plant.true_power_w("a")
    plant.advance(11.0)
    assert (plant.now, plant.true_power_w("a")) == (12.0, watts)
