"""When a device is asked again: in a place of its own, so that ten thousand are not all asked in the same second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from curtaild.poller import TOO_SOON, next_place

START_S, POLL_S = 1_000.0, 10.0


def test_those_that_were_all_asked_at_once_spread_over_the_rhythm_and_stay_there() -> None:
    asked_at = [START_S + 2.0 * number / 100 for number in range(100)]
    for _ in range(3):
        asked_at = [next_place(START_S + POLL_S * n / 100, POLL_S, at) for n, at in enumerate(asked_at)]
    in_each_second = [sum(int(at) % 10 == second for at in asked_at) for second in range(10)]
    assert in_each_second == [10] * 10
    again = [next_place(START_S + POLL_S * n / 100, POLL_S, at + 0.02) for n, at in enumerate(asked_at)]
    assert [round(later - before, 6) for before, later in zip(asked_at, again, strict=True)] == [POLL_S] * 100


@given(st.floats(0.0, 1.0), st.floats(1.0, 600.0), st.floats(0.0, 1e7))
def test_none_waits_much_longer_than_its_rhythm_nor_is_asked_twice_at_once(
    phase: float, poll_s: float, after_s: float
) -> None:
    asked_at = START_S + after_s
    pause_s = next_place(START_S + phase * poll_s, poll_s, asked_at) - asked_at
    assert TOO_SOON * poll_s - 1e-3 <= pause_s <= (1.0 + TOO_SOON) * poll_s + 1e-3
