"""What the daemon counts and measures, read back from the exposition."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curtaild.core.allocation import RejectCode
from curtaild.core.events import (
    AckStage,
    ActuationStage,
    BreachStage,
    LinkChanged,
    LinkPhase,
    MeterChanged,
)
from curtaild.telemetry import PollOutcome, Telemetry
from curtaild.telemetry.timing import MOST_ALLOCATIONS
from curtaild_drivers.contract import FeederId
from telemetry.exposed import exposed
from telemetry.sites import THE_CONTAINER, THE_STATUS, ack, actuation, at_work, breach, ledger, status_at, taken


class StoppedClock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


def test_a_feeder_shows_its_watts() -> None:
    metrics = exposed(at_work())
    shown = {
        "limit": 12_000,
        "metered": 11_400,
        "reserved": 10_700,
        "planned": 10_300,
        "auxiliary": 1_000,
        "headroom": 300,
        "deficit": 0,
        "curtailed": 3_250,
        "rating": 20_000,
        "measured": 10_400,
        "over_limit": 0,
    }
    assert {name: metrics(f"feeder_{name}_watts", feeder="site") for name in shown} == shown


def test_enumerations_show_one_among_all() -> None:
    metrics = exposed(at_work())
    assert {
        phase: metrics("link_phase", phase=phase) for phase in ("starting", "limited", "unlimited", "failsafe")
    } == {
        "starting": 0,
        "limited": 1,
        "unlimited": 0,
        "failsafe": 0,
    }
    # An allocation's id never becomes a label value.
    assert metrics("feeder_limit_source", feeder="site", source="allocation") == 1
    assert metrics("feeder_limit_source", feeder="site", source="rating") == 0
    assert metrics("feeder_limit_source", feeder="container1", source="rating") == 1


def test_a_stale_meter_is_no_meter_and_no_meter_is_not_a_stale_one() -> None:
    telemetry = Telemetry("1")
    telemetry.update(status_at(1.0, meter_is_fresh=False, meter_age_s=90.0))
    metrics = exposed(telemetry)
    assert metrics.get("feeder_metered_watts", feeder="site") is None
    assert metrics("feeder_meter_fresh", feeder="site") == 0
    assert metrics("feeder_meter_age_seconds", feeder="site") == 90
    assert metrics.get("feeder_meter_fresh", feeder="container1") is None


def test_a_meter_that_never_answered_is_known_by_its_event() -> None:
    telemetry = Telemetry("1")
    telemetry.observe([MeterChanged(1.0, THE_CONTAINER.id, False, "unreachable")])
    telemetry.update(THE_STATUS)
    assert exposed(telemetry)("feeder_meter_fresh", feeder="container1") == 0


def test_what_is_not_known_has_no_sample() -> None:
    telemetry = Telemetry("1")
    assert exposed(telemetry).get("heartbeat_age_seconds") is None
    telemetry.update(replace(THE_STATUS, heartbeat_age_s=None, next_limit_change_at=None))
    metrics = exposed(telemetry)
    assert metrics.get("heartbeat_age_seconds") is None
    assert metrics.get("next_limit_change_seconds") is None
    telemetry.update(THE_STATUS)
    assert exposed(telemetry)("next_limit_change_seconds") == 600


def test_devices_are_counted_by_state_and_by_what_is_the_matter() -> None:
    metrics = exposed(at_work())
    assert metrics("devices", feeder="container1", state="running") == 2
    assert metrics("devices", feeder="container1", state="asleep") == 1
    assert metrics("devices", feeder="container1", state="fault") == 0
    assert metrics("devices_with_condition", feeder="container1", condition="unreachable") == 1
    assert metrics("devices_with_condition", feeder="container1", condition="diverged") == 0
    assert metrics("devices_stale", feeder="container1") == 1


def test_counters_start_at_zero_and_a_new_status_leaves_them_alone() -> None:
    telemetry = Telemetry("1")
    assert exposed(telemetry)("actuations_total", stage="diverged", direction="shed") == 0
    assert exposed(telemetry)("allocations_rejected_total", code="STALE_SEQ") == 0
    telemetry.observe(
        [actuation(1.0, ActuationStage.ISSUED), actuation(1.0, ActuationStage.ISSUED, name="a2", rig="rig2")]
    )
    telemetry.observe([actuation(1.0, ActuationStage.ISSUED, name="a3", rig="rig3", is_raise=True)])
    for at in (1.0, 2.0, 3.0):
        telemetry.update(status_at(at))
    metrics = exposed(telemetry)
    assert metrics("actuations_total", stage="issued", direction="shed") == 2
    assert metrics("actuations_total", stage="issued", direction="restore") == 1
    assert metrics("events_total", kind="actuation") == 3


def test_answers_to_the_grid_are_counted_by_stage_and_code() -> None:
    telemetry = Telemetry("1")
    rejected = ack(1.0, AckStage.REJECTED, code=RejectCode.STALE_SEQ)
    telemetry.observe(
        [taken(1.0), taken(1.0, "later", scheduled=True), ack(1.0, AckStage.ACCEPTED), rejected, rejected]
    )
    metrics = exposed(telemetry)
    assert metrics("allocations_accepted_total", scheduled="false") == 1
    assert metrics("allocations_accepted_total", scheduled="true") == 1
    assert metrics("allocations_rejected_total", code="STALE_SEQ") == 2
    assert metrics("acks_total", stage="rejected") == 2


def test_phases_of_the_link_are_counted_as_they_are_entered() -> None:
    telemetry = Telemetry("1")
    telemetry.observe([LinkChanged(1.0, LinkPhase.LIMITED, LinkPhase.FAILSAFE, "silence")])
    metrics = exposed(telemetry)
    assert (metrics("link_changes_total", phase="failsafe"), metrics("link_changes_total", phase="limited")) == (1, 0)


# --- energy over the limit, breaches ---------------------------------------------------------------------------------


def test_energy_over_the_limit_is_watts_times_time() -> None:
    telemetry = Telemetry("1")
    telemetry.update(status_at(10.0, metered_w=11_900.0))
    telemetry.update(status_at(11.0, metered_w=12_500.0))  # 500 W over from here
    assert exposed(telemetry)("feeder_over_limit_joules_total", feeder="site") == 0
    telemetry.update(status_at(13.0, metered_w=12_100.0))  # held for 2 s, then 100 W over
    assert exposed(telemetry)("feeder_over_limit_joules_total", feeder="site") == 1_000
    telemetry.update(status_at(23.0, metered_w=11_000.0))
    telemetry.update(status_at(99.0, metered_w=11_000.0))
    metrics = exposed(telemetry)
    assert metrics("feeder_over_limit_joules_total", feeder="site") == 2_000
    assert metrics("feeder_over_limit_watts", feeder="site") == 0
    assert metrics("feeder_over_limit_joules_total", feeder="container1") == 0


def test_without_a_fresh_meter_devices_and_auxiliary_load_say_what_is_over() -> None:
    telemetry = Telemetry("1")
    over = {"meter_is_fresh": False, "metered_w": 9_000.0, "measured_w": 11_500.0, "auxiliary_w": 1_000.0}
    telemetry.update(status_at(1.0, **over))
    assert exposed(telemetry)("feeder_over_limit_watts", feeder="site") == 500


def test_a_breach_is_active_until_it_is_resolved() -> None:
    telemetry = Telemetry("1")
    telemetry.update(THE_STATUS)
    assert exposed(telemetry)("feeder_breach_active", feeder="site") == 0
    telemetry.observe([breach(1.0, BreachStage.ACTIVE), breach(2.0, BreachStage.ESCALATED)])
    assert exposed(telemetry)("feeder_breach_active", feeder="site") == 1
    telemetry.observe([breach(3.0, BreachStage.RESOLVED)])
    metrics = exposed(telemetry)
    assert metrics("feeder_breach_active", feeder="site") == 0
    assert metrics("breaches_total", feeder="site", stage="escalated") == 1


# --- times -----------------------------------------------------------------------------------------------------------


def test_a_command_is_timed_to_its_answer_and_to_its_confirmation() -> None:
    telemetry = Telemetry("1")
    telemetry.observe(
        [
            actuation(100.0, ActuationStage.ISSUED),
            actuation(100.25, ActuationStage.ANSWERED),
            actuation(104.0, ActuationStage.CONFIRMED),
        ]
    )
    metrics = exposed(telemetry)
    assert metrics("actuation_answer_seconds_sum", direction="shed") == 0.25
    assert metrics("actuation_confirm_seconds_sum", direction="shed") == 4.0
    assert metrics("actuation_confirm_seconds_count", direction="restore") == 0


def test_an_unknown_outcome_may_still_be_confirmed_but_not_the_command_that_it_replaced() -> None:
    telemetry = Telemetry("1")
    telemetry.observe(
        [
            actuation(0.0, ActuationStage.ISSUED, name="old"),
            actuation(10.0, ActuationStage.ISSUED, name="new"),
            actuation(12.0, ActuationStage.CONFIRMED, name="old"),
            actuation(15.0, ActuationStage.OUTCOME_UNKNOWN, name="new"),
            actuation(40.0, ActuationStage.CONFIRMED, name="new"),
            actuation(41.0, ActuationStage.CONFIRMED, name="new"),
        ]
    )
    metrics = exposed(telemetry)
    assert metrics("actuation_confirm_seconds_count", direction="shed") == 1
    assert metrics("actuation_confirm_seconds_sum", direction="shed") == 30


@pytest.mark.parametrize(
    ("received", "valid_from", "first_shed_s", "reached_s"),
    [
        pytest.param(100.0, 0.0, 2.0, 8.0, id="at once: counted from the receipt"),
        pytest.param(10.0, 101.0, 1.0, 7.0, id="scheduled: counted from the window's start"),
        pytest.param(10.0, 105.0, 0.0, 3.0, id="shed begun ahead of the window: no time at all"),
    ],
)
def test_the_site_is_timed_from_the_allocation_to_shed_and_limit(
    received: float, valid_from: float, first_shed_s: float, reached_s: float
) -> None:
    telemetry = Telemetry("1")
    telemetry.observe([taken(received, valid_from=valid_from)])
    telemetry.observe([actuation(102.0, ActuationStage.ISSUED), actuation(103.0, ActuationStage.ISSUED, rig="rig2")])
    telemetry.observe([ack(108.0, AckStage.REACHED), ack(109.0, AckStage.REACHED)])
    metrics = exposed(telemetry)
    assert metrics("response_first_shed_seconds_count") == 1
    assert metrics("response_first_shed_seconds_sum") == first_shed_s
    assert metrics("response_reached_seconds_count") == 1
    assert metrics("response_reached_seconds_sum") == reached_s


def test_restores_and_allocations_that_asked_for_nothing_are_no_response() -> None:
    telemetry = Telemetry("1")
    telemetry.observe([taken(1.0), actuation(2.0, ActuationStage.ISSUED, is_raise=True), ack(2.0, AckStage.REACHED)])
    telemetry.observe([actuation(3_600.0, ActuationStage.ISSUED)])  # a pump started an hour later
    telemetry.observe([actuation(3_700.0, ActuationStage.ISSUED, allocation_id=None)])
    metrics = exposed(telemetry)
    assert metrics("response_first_shed_seconds_count") == 0
    assert metrics("response_reached_seconds_count") == 0


def test_a_schedule_sent_again_moves_the_window_and_keeps_the_receipt() -> None:
    telemetry = Telemetry("1")
    telemetry.observe([taken(1.0, valid_from=50.0), taken(90.0, valid_from=30.0)])
    telemetry.observe([actuation(31.0, ActuationStage.ISSUED)])
    assert exposed(telemetry)("response_first_shed_seconds_sum") == 1.0


def test_allocations_that_never_end_do_not_pile_up() -> None:
    telemetry = Telemetry("1")
    telemetry.observe([taken(float(number), f"a{number}") for number in range(MOST_ALLOCATIONS + 1)])
    telemetry.observe([actuation(9e9, ActuationStage.ISSUED, allocation_id="a0")])  # forgotten
    assert exposed(telemetry)("response_first_shed_seconds_count") == 0
    telemetry.observe([actuation(5.0, ActuationStage.ISSUED, allocation_id="a1")])
    assert exposed(telemetry)("response_first_shed_seconds_count") == 1


# --- the daemon itself -----------------------------------------------------------------------------------------------


def test_polls_are_counted_and_timed_by_driver() -> None:
    telemetry = Telemetry("1")
    telemetry.observe_poll("asic", PollOutcome.OK, 0.02)
    telemetry.observe_poll("asic", PollOutcome.TIMEOUT, 3.0)
    metrics = exposed(telemetry)
    assert metrics("polls_total", driver="asic", outcome="ok") == 1
    assert metrics("polls_total", driver="asic", outcome="timeout") == 1
    assert metrics("poll_seconds_sum", driver="asic") == pytest.approx(3.02)


def test_cycles_are_timed_and_their_age_grows_between_them() -> None:
    clock = StoppedClock()
    telemetry = Telemetry("1", clock)
    clock.now += 3.0
    assert telemetry.health().cycles == 0
    assert telemetry.health().cycle_age_s == 3.0
    telemetry.observe_cycle(0.004)
    assert exposed(telemetry)("cycle_age_seconds") == 0
    clock.now += 7.0
    metrics = exposed(telemetry)
    assert metrics("cycle_age_seconds") == 7.0
    assert metrics("cycle_seconds_count") == 1
    assert telemetry.health().cycles == 1


def test_the_ledger_counts_on_whatever_its_health_says() -> None:
    telemetry = Telemetry("1")
    telemetry.observe_ledger(ledger(committed=40))
    telemetry.observe_ledger(ledger(committed=40, dropped=3, queued=12))
    metrics = exposed(telemetry)
    assert metrics("ledger_writing") == 0
    assert metrics("ledger_pending_records") == 12
    assert metrics("ledger_committed_records_total") == 40
    assert metrics("ledger_dropped_records_total") == 3


def test_a_broker_is_named_without_its_password() -> None:
    telemetry = Telemetry("1")
    telemetry.observe_broker("mqtts://site:hunter2@grid.example:8883", True)
    telemetry.observe_broker("10.0.0.2:1883", False, False)
    metrics = exposed(telemetry)
    assert metrics("broker_connected", broker="grid.example:8883") == 1
    assert metrics("broker_connected", broker="10.0.0.2:1883") == 0
    assert metrics("broker_heard", broker="10.0.0.2:1883") == 0
    telemetry.observe_broker("10.0.0.2:1883", False, None)
    assert b"broker_heard{" not in b"".join(telemetry.exposition())
    assert b"hunter2" not in b"".join(telemetry.exposition())


def test_two_telemetries_share_nothing() -> None:
    first, second = Telemetry("1"), Telemetry("2")
    first.observe_cycle(0.1)
    assert exposed(second)("cycle_seconds_count") == 0
    assert exposed(second)("build_info", version="2", python=exposed(first).labels_of("build_info")[0]["python"]) == 1


def test_feeders_of_any_name_survive_both_formats() -> None:
    hostile = FeederId('a\\b"c\nd ü \ud800')
    telemetry = Telemetry("1")
    telemetry.update(replace(THE_STATUS, feeders=[THE_CONTAINER._replace(id=hostile)]))
    for openmetrics in (False, True):
        assert exposed(telemetry, openmetrics)("feeder_rating_watts", feeder='a\\b"c\nd ü ?') == 15_000
