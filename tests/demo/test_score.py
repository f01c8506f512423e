"""Each step is judged by what was really drawn: times, overshoot, utilisation and the verdict, on traces by hand."""

from __future__ import annotations

import pytest

from curtaild.demo.score import Verdict, score
from demo.traces import KW, mark, trace


def test_a_shed_that_came_in_time_is_kept() -> None:
    judged = score(mark(60, 100), trace([100, 90, 59, 59, 59, 59, 59, 59, 59, 59, 59], lowered=[7, 9]))
    assert judged.verdict is Verdict.KEPT
    assert judged.first_command_s == 1.0
    assert judged.to_limit_s == 2.0
    assert (judged.overshoot_w, judged.overshoot_wh) == (0.0, 0.0)
    assert judged.utilisation == pytest.approx(59 / 60)


def test_a_draw_above_the_limit_at_the_end_is_over_and_says_so() -> None:
    judged = score(mark(60, 100), trace([100, 80, 70] + [61] * 8, lowered=[0, 3]))
    assert judged.verdict is Verdict.OVER
    assert judged.to_limit_s is None
    assert judged.overshoot_w == 1 * KW
    assert judged.overshoot_wh == pytest.approx(1 * KW * 7 / 3600)  # from the grace's end at 3 s to 10 s
    assert judged.utilisation == 1.0
    assert judged.reason == "the step: ended at 61.0 kW, 1.0 kW over its limit of 60.0 kW"


def test_what_the_meters_noise_hides_is_no_fault() -> None:
    assert score(mark(60, 100), trace([100, 80] + [60.29] * 9)).verdict is Verdict.KEPT
    assert score(mark(60, 100), trace([100, 80] + [60.31] * 9)).verdict is Verdict.OVER


def test_a_peak_within_the_grace_is_no_overshoot_and_one_after_it_is() -> None:
    within = score(mark(60, 100), trace([100, 100, 59, 59, 59, 59, 59, 59, 59, 59, 59]))
    after = score(mark(60, 100), trace([100, 59, 59, 59, 59, 72, 59, 59, 59, 59, 59]))
    assert within.overshoot_w == 0.0
    assert (after.overshoot_w, after.verdict) == (12 * KW, Verdict.KEPT)
    assert after.to_limit_s == 6.0, "under the limit counts only once it stays"


def test_zero_is_a_limit_and_its_floor_is_told_apart_from_a_failure() -> None:
    at_floor = score(mark(0, 60), trace([60, 30] + [5] * 9))
    above = score(mark(0, 60), trace([60, 30] + [7] * 9))
    assert at_floor.verdict is Verdict.FLOOR
    assert at_floor.to_limit_s == 2.0
    assert (at_floor.utilisation, at_floor.overshoot_w) == (None, 0.0)
    assert above.verdict is Verdict.OVER
    assert above.overshoot_w == 2 * KW


def test_a_release_on_a_ramp_is_measured_against_the_ramp_and_the_demand() -> None:
    # 600 kW/min from 0: 10 kW a second, so all of the demand is allowed from 10 s on
    exactly = score(
        mark(115, 0, ends_at=20, ramp_kw_per_min=600),
        trace([min(100, 10 * at) for at in range(21)], raised=[4, 4, 5]),
    )
    late = score(mark(115, 0, ends_at=20, ramp_kw_per_min=600), trace([0] * 10 + [100] * 11))
    assert exactly.utilisation == 1.0
    assert (exactly.first_command_s, exactly.to_limit_s, exactly.verdict) == (2.0, None, Verdict.KEPT)
    assert late.utilisation == pytest.approx(1050 / 1500)  # kW·s drawn (its rise halved) of kW·s allowed


def test_commands_of_the_other_direction_are_not_the_first_command() -> None:
    """Restores of the step before may still arrive while a shed is asked for."""
    judged = score(mark(60, 100), trace([100, 90] + [59] * 9, lowered=[2, 2, 2, 3], raised=[1, 5, 9]))
    assert judged.first_command_s == 3.0
    assert score(mark(110, 100), trace([100] * 11)).first_command_s is None


def test_a_failsafe_counts_from_when_it_was_due() -> None:
    judged = score(mark(50, 100, due_at=4.0, grace_s=2.0), trace([100] * 6 + [49] * 5, lowered=[0] * 5 + [8]))
    assert (judged.first_command_s, judged.to_limit_s, judged.verdict) == (1.0, 2.0, Verdict.KEPT)
    assert judged.overshoot_w == 0.0


def test_a_trace_that_does_not_reach_the_steps_end_proves_nothing() -> None:
    with pytest.raises(ValueError, match="no sample"):
        score(mark(60, 100, due_at=30.0, ends_at=40.0), trace([59] * 11))
    with pytest.raises(ValueError, match="breaks off"):
        score(mark(60, 100), trace([59] * 5))
