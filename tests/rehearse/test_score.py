"""The judge, by traces whose score a person can reckon."""

from __future__ import annotations

from array import array

import pytest

from curtaild.rehearse.play import Order
from curtaild.rehearse.score import _response, overshoot
from curtaild.rehearse.trace import FeederTrace


def slots(limits_w: list[float], drawn_w: list[float]) -> FeederTrace:
    """One value per 4 s."""
    return FeederTrace(array("d", drawn_w), array("d", limits_w))


def test_a_lower_limit_binds_after_its_grace() -> None:
    trace = slots([100.0] * 2 + [50.0] * 6, [100, 100, 90, 80, 60, 60, 50, 50])
    found = overshoot(trace, [], grace_s=8.0)
    assert (found.slots, found.worst_w, found.broken_at_s) == (2, 10.0, (16.0, 20.0))
    assert found.energy_wh == pytest.approx(20.0 * 4 / 3600)


def test_an_order_may_ask_for_more_haste_than_the_site_promises() -> None:
    trace = slots([100.0] * 2 + [50.0] * 6, [100, 100, 90, 80, 60, 60, 50, 50])
    assert overshoot(trace, [Order(8.0, 50.0, reach_by_s=4.0)], grace_s=8.0).slots == 3


def test_during_the_grace_the_limit_before_still_holds() -> None:
    trace = slots([100.0] * 2 + [50.0] * 4, [100, 100, 120, 90, 50, 50])
    found = overshoot(trace, [], grace_s=8.0)
    assert (found.slots, found.worst_w) == (1, 20.0)


def test_limits_that_fall_and_fall_give_no_grace_for_ever() -> None:
    """A ramp of a step per slot: what binds is the limit of a grace ago."""
    trace = slots([100, 90, 80, 70, 60, 50, 40, 40, 40, 40], [100] * 10)
    assert overshoot(trace, [], grace_s=8.0).slots == 7


def test_a_hair_over_is_counted_but_not_certain() -> None:
    found = overshoot(slots([100.0] * 3, [100.0, 100.4, 100.6]), [], grace_s=0.0)
    assert found.slots == 1
    assert found.broken_at_s == (8.0,)
    assert overshoot(slots([1e5] * 2, [1e5 + 400.0, 1e5 + 600.0]), [], grace_s=0.0).slots == 2


@pytest.mark.parametrize(
    ("drawn_w", "first_s", "most_s", "within_s"),
    [
        ([99, 90, 60, 52, 50, 50], 2.0, 4.0, 5.0),
        ([100, 100, 50, 50, 50, 50], 3.0, 3.0, 3.0),
        ([50, 50, 50, 60, 50, 50], 1.0, 1.0, 5.0),
        ([90, 80, 70, 60, 60, 60], 1.0, None, None),
    ],
)
def test_the_times_of_a_response(
    drawn_w: list[float], first_s: float, most_s: float | None, within_s: float | None
) -> None:
    found = _response(drawn_w, 0.0, from_w=100.0, to_w=50.0, limit_w=50.0)
    assert (found.first_s, found.most_s, found.within_s) == (first_s, most_s, within_s)


def test_a_play_that_begins_with_a_limit_gives_its_grace_too() -> None:
    assert overshoot(slots([50.0] * 4, [100, 100, 50, 50]), [], grace_s=8.0).slots == 0
