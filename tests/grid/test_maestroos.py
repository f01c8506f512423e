"""MaestroOS on paper: ON, OFF, silence, two brokers, clocks that differ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild.core.allocation import AllocationReceived, GridMessage, HeartbeatReceived, MessageRejected, RejectCode
from curtaild.core.events import Ack, AckStage, LinkPhase
from curtaild.core.limits import UNLIMITED, Ceiling, Limit
from curtaild.grid.dialect import Received
from curtaild.grid.maestroos import MaestroOSDialect, Switch
from grid.dsx import NOON, ROOT, UPTIME, HandClock
from grid.rig import a_status

TOPIC = "site-1/curtailment"
BEAT = HeartbeatReceived()
OFF = Limit(0.0)


class Maestro:
    """The dialect under test, and what it hears."""

    def __init__(self, on_ceiling: Ceiling = UNLIMITED) -> None:
        self.clock = HandClock()
        switch = Switch(ROOT, on_ceiling, silence_s=240.0, max_clock_skew_s=300.0)
        self.dialect = MaestroOSDialect("maestro", TOPIC, switch, self.clock)

    def hear(self, payload: bytes, retained: bool = False, broker: int = 0) -> list[GridMessage]:
        return list(self.dialect.decode(Received(TOPIC, payload, retained, broker)))

    def said(self, target: Any, at: float, broker: int = 0, retained: bool = False, now: float | None = None) -> Any:
        """What follows from one message stamped `at` s after noon and arriving then, or at `now`."""
        self.clock.moved_s = at if now is None else now
        return self.hear(json.dumps({"target": target, "timestamp": int(NOON + at)}).encode(), retained, broker)

    def later(self, moved_s: float) -> list[GridMessage]:
        self.clock.moved_s = moved_s
        return list(self.dialect.tick(is_connected=True))


def ceilings(messages: list[GridMessage]) -> list[Ceiling]:
    return [message.allocation.ceiling for message in messages if isinstance(message, AllocationReceived)]


def test_on_releases_off_limits_to_nothing_and_what_is_said_again_is_a_sign_of_life() -> None:
    maestro = Maestro()
    assert maestro.dialect.beats
    beat, on = maestro.said(100, 0)
    assert (beat, on.allocation.ceiling, on.allocation.feeder) == (BEAT, UNLIMITED, ROOT)
    assert (on.retained, on.allocation.valid_until) == (False, None)
    assert maestro.said(100, 30) == [BEAT]
    beat, off = maestro.said(0, 60)
    assert (beat, off.allocation.ceiling) == (BEAT, OFF)
    assert off.allocation.issuer == on.allocation.issuer == "maestroos//maestro"
    assert off.allocation.seq > on.allocation.seq
    assert maestro.dialect.owns(off.allocation.issuer)
    assert ceilings(maestro.said(100, 90)) == [UNLIMITED]


def test_on_grants_what_the_site_says() -> None:
    assert ceilings(Maestro(Limit(8e5)).said(100, 0)) == [Limit(8e5)]


def test_silence_is_off_and_no_sign_of_life(caplog: pytest.LogCaptureFixture) -> None:
    maestro = Maestro()
    maestro.said(100, 0)
    assert maestro.later(239) == []
    (off,) = maestro.later(240)
    assert isinstance(off, AllocationReceived)
    assert (off.allocation.ceiling, off.retained, off.allocation.issued_at) == (OFF, True, UPTIME)
    assert maestro.later(300) == []
    assert "for 240 s, which is OFF" in caplog.text
    assert ceilings(maestro.said(100, 310)) == [UNLIMITED]


def test_nobody_there_from_the_start_is_off_after_the_same_silence() -> None:
    maestro = Maestro()
    assert maestro.later(239) == []
    assert ceilings(maestro.later(240)) == [OFF]


def test_of_two_brokers_the_stricter_counts_and_a_silent_one_leaves_the_word_to_the_other() -> None:
    maestro = Maestro()
    assert ceilings(maestro.said(100, 0, broker=0)) == [UNLIMITED]
    assert ceilings(maestro.said(0, 10, broker=1)) == [OFF]
    assert maestro.said(100, 30, broker=0) == [BEAT], "one ON does not outweigh the other's OFF"
    for at in range(60, 250, 30):
        maestro.said(100, at, broker=0)
    assert ceilings(maestro.later(250)) == [UNLIMITED], "broker 1 has been silent for 240 s"
    assert ceilings(maestro.later(480)) == [OFF], "and now nobody speaks"


def test_a_kept_copy_counts_by_its_own_age_and_is_no_sign_of_life() -> None:
    maestro = Maestro()
    (on,) = maestro.said(100, 0, retained=True, now=100)
    assert (on.retained, on.allocation.issued_at) == (True, UPTIME)
    assert ceilings(maestro.later(240)) == [OFF]


def test_a_message_said_again_with_the_same_stamp_grows_no_younger() -> None:
    maestro = Maestro()
    for now in range(0, 240, 30):
        maestro.said(100, 0, now=now)
    assert ceilings(maestro.later(240)) == [OFF], "a publisher that is stuck"


@pytest.mark.parametrize(
    ("at", "now", "code"),
    [(0, 240, RejectCode.EXPIRED), (0, 86_400, RejectCode.EXPIRED), (301, 0, RejectCode.CLOCK_SKEW)],
)
def test_stale_and_future_stamps_are_refused(at: float, now: float, code: RejectCode) -> None:
    (refusal,) = Maestro().said(100, at, now=now)
    assert isinstance(refusal, MessageRejected)
    assert (refusal.code, refusal.issuer) == (code, "maestroos//maestro")


def test_an_on_that_comes_late_is_refused_an_off_is_not() -> None:
    maestro = Maestro()
    maestro.said(100, 200, now=0)  # the sender's clock was ahead
    (refusal,) = maestro.said(100, 30)
    assert refusal.code is RejectCode.STALE_SEQ
    assert ceilings(maestro.said(0, 60)) == [OFF]


def test_both_within_one_second_are_off_until_the_next() -> None:
    maestro = Maestro()
    assert ceilings(maestro.said(0, 0)) == [OFF]
    assert maestro.said(100, 0) == [BEAT]
    assert ceilings(maestro.said(100, 1)) == [UNLIMITED]
    assert ceilings(maestro.said(0, 1)) == [OFF]


def test_in_the_fail_safe_the_word_is_said_again() -> None:
    maestro = Maestro()
    _, on = maestro.said(100, 0)
    maestro.dialect.status(a_status(phase=LinkPhase.FAILSAFE), None)
    assert maestro.said(100, 30) == [BEAT, on]
    maestro.dialect.status(a_status(phase=LinkPhase.UNLIMITED), None)
    assert maestro.said(100, 60) == [BEAT]


def test_a_clock_that_was_ahead_once_does_not_silence_it() -> None:
    maestro = Maestro()
    _, on = maestro.said(100, 0)
    first = on.allocation
    stale = Ack(UPTIME, AckStage.REJECTED, first.id, first.issuer, first.seq, code=RejectCode.STALE_SEQ)
    assert maestro.dialect.ack(stale) == []
    (again,) = maestro.later(1)
    assert isinstance(again, AllocationReceived)
    assert again.allocation.seq > first.seq + 900_000


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"target": 50, "timestamp": NOON}, RejectCode.NOT_A_LIMIT),
        ({"target": -1, "timestamp": NOON}, RejectCode.MALFORMED),
        ({"target": True, "timestamp": NOON}, RejectCode.MALFORMED),
        ({"target": "0", "timestamp": NOON}, RejectCode.MALFORMED),
        ({"target": None, "timestamp": NOON}, RejectCode.MALFORMED),
        ({"timestamp": NOON}, RejectCode.MALFORMED),
        ({"target": 100}, RejectCode.MALFORMED),
        ({"target": 100, "timestamp": "2026-11-20T12:00:00Z"}, RejectCode.MALFORMED),
        ({"target": 100, "timestamp": NOON * 1000}, RejectCode.CLOCK_SKEW),
        ({"target": 100, "timestamp": float("nan")}, RejectCode.MALFORMED),
        ([100, NOON], RejectCode.MALFORMED),
        ({"target": 100, "timestamp": NOON, "padding": "x" * 1_024}, RejectCode.TOO_LARGE),
    ],
)
def test_anything_else_is_refused_and_is_not_on(body: Any, code: RejectCode) -> None:
    maestro = Maestro()
    (refusal,) = maestro.hear(json.dumps(body).encode())
    assert isinstance(refusal, MessageRejected)
    assert refusal.code is code, refusal.reason
    assert ceilings(maestro.later(240)) == [OFF], "nor does it prove that anybody is there"


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(payload: bytes) -> None:
    assert all(isinstance(message, MessageRejected) for message in Maestro().hear(payload))


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 100, NOON, NOON - 1, 10**400]) | st.text(max_size=3)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans(), st.integers(0, 1), st.floats(0, 500)), max_size=6))
def test_no_course_of_messages_raises_and_on_needs_somebody_who_said_it(course: list[Any]) -> None:
    maestro = Maestro()
    was_on_said = False
    for target, stamp, retained, broker, moved_s in sorted(course, key=lambda step: float(step[4])):
        maestro.clock.moved_s = moved_s
        was_on_said |= target == 100
        messages = maestro.hear(json.dumps({"target": target, "timestamp": stamp}).encode(), retained, broker)
        assert was_on_said or UNLIMITED not in ceilings(messages + maestro.later(moved_s))
