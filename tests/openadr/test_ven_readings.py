"""An OpenADR VEN from reading to reading: changes, cancellations, wrong clocks and jumps, hints by MQTT, and what the
core makes of the lists that it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from curtaild.core.allocation import RejectCode, ScheduleReceived
from curtaild.core.events import Ack, AckStage, LinkPhase
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.grid.fields import Rejection
from grid.dsx import NOON, ROOT, ROW, UPTIME
from grid.rig import a_status
from openadr.ven import (
    BEAT,
    HOUR,
    PROGRAM,
    RULES,
    Ven,
    at_noon,
    course,
    event,
    interval,
    limits,
    period,
    refused,
    watts,
)

FOR_EVER = period(0, "P9999Y")


def the_list(messages: Any) -> ScheduleReceived:
    (schedule,) = [each for each in messages if isinstance(each, ScheduleReceived)]
    return schedule


class Followed:
    """A VEN and the core's link behind it."""

    def __init__(self, patience_s: float = 120.0, **meaning: Any) -> None:
        self.ven = Ven(**meaning)
        policy = LinkPolicy(ROOT, frozenset((ROOT, ROW)), 250_000.0, patience_s, failsafe_hold_s=10.0)
        self.link = Link(policy, UPTIME)

    def at(self, moved_s: float) -> None:
        self.ven.clock.moved_s = moved_s
        self.link.advance(self.now)

    @property
    def now(self) -> float:
        return self.ven.clock.monotonic()

    def deliver(self, messages: Any) -> None:
        for message in messages:
            for answer in self.link.receive(message, self.now):
                if isinstance(answer, Ack):
                    self.ven.dialect.ack(answer)
        self.link.advance(self.now)
        self.ven.dialect.status(replace(a_status(), at=self.now, phase=self.link.phase), None)

    def reads(self, *events: Any) -> None:
        self.deliver(self.ven.read(*events))

    def limit_w(self, ahead_s: float = 0.0) -> float | None:
        return watts(self.link.ceilings(self.now + ahead_s)[ROOT][0])


# ---- from reading to reading ------------------------------------------------------------------


def test_the_same_again_is_a_sign_of_life_and_nothing_else() -> None:
    ven = Ven()
    assert the_list(ven.read(event())).allocations
    ven.dialect.status(a_status(phase=LinkPhase.LIMITED), None)
    ven.clock.moved_s = 30
    assert ven.read(event()) == [BEAT]
    ven.clock.moved_s = HOUR + 1
    assert ven.read(event()) == [BEAT], "its end was stated before"
    assert ven.read() == [BEAT], "and gone is what was over"


def test_a_course_of_changes_as_the_core_follows_it() -> None:
    site = Followed(patience_s=2 * HOUR)
    assert site.limit_w() == 250_000.0, "the fail-safe limit, until the VTN was read"
    site.reads(event(intervalPeriod=period(600)))
    assert (site.link.phase, site.limit_w(), site.limit_w(600)) == (LinkPhase.UNLIMITED, None, 5e5)
    site.at(610)
    assert site.limit_w() == 5e5
    site.reads(event(written_s=600, intervalPeriod=period(600), intervals=limits(400)))
    assert (site.link.phase, site.limit_w(), site.limit_w(HOUR)) == (LinkPhase.LIMITED, 4e5, None)
    site.reads(event(written_s=605, intervalPeriod=period(600, "PT30M"), intervals=limits(400, 300)))
    assert [site.limit_w(each) for each in (0, 1_790, 3_580, 3_591)] == [4e5, 3e5, 3e5, None]
    site.at(700)
    site.reads()
    assert (site.limit_w(), site.limit_w(HOUR)) == (None, None), "deleted: nothing of it is left, begun or not"
    assert len(site.link.memory.allocations) == 1


def test_silence_is_the_failsafe_and_what_is_known_holds_on_until_the_vtn_answers_again() -> None:
    site = Followed()
    site.reads(event(intervalPeriod=period(0, "PT10M"), intervals=limits(100)))
    site.at(130)
    assert (site.link.phase, site.limit_w()) == (LinkPhase.FAILSAFE, 1e5)
    site.at(601)
    assert site.limit_w() == 250_000.0
    site.ven.dialect.status(a_status(phase=LinkPhase.FAILSAFE), None)
    site.reads(event(intervalPeriod=period(0, "PT10M"), intervals=limits(100)))
    assert (site.link.phase, site.limit_w()) == (LinkPhase.UNLIMITED, None), "the old list, said again"


def test_a_site_may_fall_back_to_the_failsafe_between_events() -> None:
    site = Followed(base=Limit(250_000.0))
    site.reads(event(intervals=limits(800)))
    assert (site.limit_w(), site.limit_w(HOUR)) == (8e5, 250_000.0), "an event grants more"
    assert Ven(base=Limit(250_000.0)).course(event(intervals=limits(100)))[0] == (0, 100_000.0)


def test_lists_that_come_back_older_are_not_taken() -> None:
    site = Followed()
    site.reads(event(written_s=-60, intervals=limits(400)))
    messages = site.ven.read(event(written_s=-600, intervals=limits(900)))
    (refusal,) = refused(messages)
    assert refusal.code is RejectCode.STALE_SEQ
    site.deliver(messages)
    assert site.limit_w() == 4e5


def test_a_refused_change_leaves_the_event_as_it_was() -> None:
    site = Followed()
    site.reads(event())
    site.reads(event(written_s=-30, intervals=limits(-1)))
    assert site.limit_w() == 5e5
    site.reads(event(written_s=-20, intervals=limits(300)))
    assert site.limit_w() == 3e5


def test_a_clock_that_was_ahead_once_does_not_silence_it() -> None:
    site = Followed()
    site.link.memory.schedule_seq[the_list(site.ven.read()).issuer] = int((NOON + 600) * 1_000)
    site.ven.dialect.status(a_status(phase=LinkPhase.STARTING), None)
    site.reads(event())
    assert site.limit_w() == 250_000.0, "refused by the core for a sequence number"
    site.reads(event())
    assert site.limit_w() == 5e5


def test_only_its_own_answers_are_its_own() -> None:
    ven = Ven()
    issuer = the_list(ven.read(event())).issuer
    assert issuer == "openadr//vtn"
    assert ven.dialect.owns(issuer)
    assert not ven.dialect.owns(None)
    assert ven.dialect.beats
    rejected = Ack(UPTIME, AckStage.REJECTED, None, issuer, 1, code=RejectCode.STALE_SEQ)
    assert ven.dialect.ack(rejected) == []
    assert [*ven.dialect.goodbye()] == []


# ---- what limits how much is stated -----------------------------------------------------------


def test_of_very_many_intervals_the_far_ones_are_one_as_strict_as_the_strictest() -> None:
    many = [float(900 - number % 7) for number in range(1_000)]
    stated = Ven().course(event(intervalPeriod=period(0, "PT1M"), intervals=limits(*many)))
    assert len(stated) == 256
    assert stated[:2] == [(0, 900_000.0), (60, 899_000.0)]
    assert stated[-1] == (255 * 60, 894_000.0)


def test_what_was_too_far_is_told_apart_when_it_is_near() -> None:
    ven = Ven()
    body = event(
        intervalPeriod=period(0, "PT1M"), intervals=limits(*[float(900 - number % 7) for number in range(1_000)])
    )
    ven.read(body)
    assert ven.dialect.tick(True) == []
    ven.clock.moved_s = 200 * 60
    (stated,) = ven.dialect.tick(True)
    assert isinstance(stated, ScheduleReceived)
    assert course(stated, since=UPTIME)[:3] == [(12_000, 896_000.0), (12_060, 895_000.0), (12_120, 894_000.0)]
    assert len(stated.allocations) == 256


def test_of_very_many_events_none_is_forgotten() -> None:
    now = [event(f"e-{number}", priority=number, intervals=limits(900.0 - number / 10)) for number in range(900)]
    assert Ven().course(*now)[:2] == [(0, 900_000.0), (HOUR, None)]
    more = [event(f"e-{number}", priority=number, intervals=limits(900.0 - number / 10)) for number in range(1_100)]
    assert Ven().course(*more) == [(0, 790_100.0)], "too many to be told apart: the strictest of all"


def test_of_very_many_to_come_the_far_ones_are_as_strict_as_anything_that_is_asked() -> None:
    rising = [float(100 + number) for number in range(1_000)]
    one = event(intervalPeriod=period(0, "PT1M"), intervals=limits(*rising))
    other = event("event-2", intervalPeriod=period(0, "PT1M"), intervals=limits(*[50.0, *rising[1:]]))
    stated = Ven().course(one, other)
    assert stated[:3] == [(0, 50_000.0), (60, 101_000.0), (120, 102_000.0)]
    assert stated[-1][1] == 50_000.0
    assert len(stated) == 256


def test_in_whatever_order_intervals_stand_the_nearest_are_told_apart() -> None:
    minutes = [
        interval(n, ("IMPORT_CAPACITY_LIMIT", [100.0 + n]), intervalPeriod=period(60 * n, "PT1M")) for n in range(1_000)
    ]
    minutes[3]["payloads"][0]["values"] = [9.0, 8.0]
    others = [event(f"e-{n}", intervals=limits(2_000), intervalPeriod=period(0, "PT24H")) for n in range(50)]
    stated = Ven().course(event(intervals=minutes[::-1]), *others)
    assert stated[:6] == [(0, 1e5), (60, 1.01e5), (120, 1.02e5), (180, 9e3), (210, 8e3), (240, 1.04e5)]


def test_more_than_can_be_read_is_no_reading_at_all() -> None:
    ven = Ven()
    with pytest.raises(Rejection) as caught:
        ven.read(*[event(f"e-{number}", intervals=limits(*[1.0] * 1_000)) for number in range(21)])
    assert caught.value.code is RejectCode.TOO_LARGE
    assert ven.dialect.tick(True) == []


def test_what_repeats_itself_is_spelled_out_again_in_time_and_that_is_no_sign_of_life() -> None:
    site = Followed()
    daily = event(intervalPeriod=period(0, "PT12H"), intervals=limits(500, 300), duration="P9999Y")
    site.reads(daily)
    site.ven.dialect.status(a_status(phase=LinkPhase.LIMITED), None)
    assert site.ven.dialect.tick(True) == []
    site.ven.clock.moved_s = 13 * HOUR
    (again,) = site.ven.dialect.tick(True)
    assert isinstance(again, ScheduleReceived)
    assert again.retained
    assert course(again, since=site.now)[:3] == [(0, 3e5), (11 * HOUR, 5e5), (23 * HOUR, 3e5)]


# ---- programs ---------------------------------------------------------------------------------


def test_only_the_programs_named_are_followed() -> None:
    ven = Ven(replace(RULES, programs=frozenset(("Envelopes",))))
    other = {**PROGRAM, "id": "program-2", "programName": "Tariff"}
    messages = ven.read(event(programID="program-2"), programs=[PROGRAM, other])
    assert course(the_list(messages)) == [(0, None)]
    assert [*ven.dialect.programs] == ["program-1"]


def test_a_program_named_and_not_shown_is_no_reading_so_that_a_slip_of_the_pen_releases_nothing() -> None:
    ven = Ven(replace(RULES, programs=frozenset(("Envelops",))))
    with pytest.raises(Rejection) as caught:
        ven.read(event())
    assert caught.value.code is RejectCode.UNAUTHORIZED
    assert "shows no program Envelops" in caught.value.reason


def test_a_program_that_cannot_be_read_is_told() -> None:
    messages = Ven().read(event(), programs=[{"id": "program-1"}])
    assert [each.reason for each in refused(messages)] == ["a program: programName is missing"]
    assert course(the_list(messages))[0] == (0, 5e5)


# ---- clocks -----------------------------------------------------------------------------------


class Wall(Ven):
    """A VEN whose wall clock jumps while its monotonic clock goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.jump_s = 0.0
        clock = self.clock
        object.__setattr__(clock, "wall", lambda: NOON + clock.moved_s + self.jump_s)


@pytest.mark.parametrize("jump_s", [-NOON, -7_200.0, -200.0, 200.0, 7_200.0])
def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs_what_was_taken(jump_s: float) -> None:
    ven = Wall()
    stated = the_list(ven.read(event()))
    ven.dialect.status(a_status(phase=LinkPhase.LIMITED), None)
    ven.jump_s = jump_s
    ven.clock.moved_s = 600
    if abs(jump_s) < 300:
        assert ven.read(event(), date=NOON + 600) == [BEAT]
    else:
        with pytest.raises(Rejection) as caught:
            ven.read(event(), event("new", intervals=limits(100)), date=NOON + 600)
        assert caught.value.code is RejectCode.CLOCK_SKEW
        assert "the VTN's clock is" in caught.value.reason
    assert [each.valid_until for each in stated.allocations] == [UPTIME + HOUR, None]
    ven.jump_s = 0.0
    assert ven.read(event(), date=NOON + 600) == [BEAT], "right again, and nothing has changed"


def test_a_clock_that_was_a_little_off_and_is_put_right_moves_what_it_had_misplaced() -> None:
    ven = Wall()
    ven.jump_s = 200.0
    assert course(the_list(ven.read(event(), date=NOON))) == [(0, 5e5), (HOUR - 200, None)]
    ven.dialect.status(a_status(phase=LinkPhase.LIMITED), None)
    ven.jump_s = 0.0
    assert ven.read(event()) == [BEAT], "nobody says which time was right"
    assert course(the_list(ven.read(event(), date=NOON + 1))) == [(0, 5e5), (HOUR, None)]


def test_at_boot_in_1970_nothing_is_taken_and_nothing_is_a_sign_of_life() -> None:
    ven = Wall()
    ven.jump_s = -NOON
    for date in (NOON, None):
        with pytest.raises(Rejection) as caught:
            ven.read(event(), date=date)
        assert caught.value.code is RejectCode.CLOCK_SKEW
    ven.jump_s = 0.0
    assert course(the_list(ven.read(event(), date=NOON)))[0] == (0, 5e5)


def test_the_vtn_may_be_a_little_off() -> None:
    for date in (NOON - 299, NOON + 299, None):
        assert BEAT in Ven().read(event(written_s=299), date=date)


# ---- notifications ----------------------------------------------------------------------------


def test_a_notification_tightens_at_once_and_a_reading_settles_it() -> None:
    site = Followed()
    site.reads(event())
    (stated,) = site.ven.hears("CREATE", event("event-2", written_s=0, intervals=limits(300)))
    assert isinstance(stated, ScheduleReceived)
    assert stated.retained, "the broker is no proof that the VTN is alive"
    site.deliver([stated])
    assert site.limit_w() == 3e5
    site.reads(event(), event("event-2", written_s=0, intervals=limits(300)))
    assert site.limit_w() == 3e5
    site.reads(event())
    assert site.limit_w() == 5e5


@pytest.mark.parametrize(
    "body",
    [
        event("event-1", written_s=0, intervals=limits(900)),
        event("event-2", written_s=0, priority=0, intervals=limits(900)),
        event("event-2", written_s=0, priority=0, intervals=limits(0, kind="SIMPLE")),
    ],
)
def test_a_notification_loosens_nothing(body: dict[str, Any]) -> None:
    site = Followed()
    site.reads(event(priority=5))
    site.deliver(site.ven.hears("UPDATE", body))
    assert site.limit_w() == 5e5
    site.deliver(site.ven.hears("DELETE", event(written_s=0)))
    assert site.limit_w() == 5e5


def test_what_no_reading_shows_is_gone_when_it_should_have_been_shown() -> None:
    site = Followed()
    site.reads(event())
    site.deliver(site.ven.hears("CREATE", event("ghost", written_s=0, intervals=limits(10))))
    site.at(1)
    site.reads(event())
    assert site.limit_w() == 10_000.0, "the VTN may be a moment behind its broker"
    site.at(4)
    site.reads(event())
    assert site.limit_w() == 5e5


def test_a_later_word_of_the_broker_replaces_an_earlier() -> None:
    site = Followed()
    site.reads()
    site.deliver(site.ven.hears("CREATE", event(written_s=0, intervals=limits(10))))
    site.deliver(site.ven.hears("UPDATE", event(written_s=1, intervals=limits(20))))
    assert site.limit_w() == 20_000.0
    site.ven.hears("DELETE", event(written_s=2))
    site.reads()
    assert site.limit_w() is None


@pytest.mark.parametrize(
    ("operation", "body", "kind", "retained"),
    [
        ("CREATE", event("event-2", written_s=0, intervals=limits(1)), "EVENT", True),
        ("READ", event("event-2", written_s=0, intervals=limits(1)), "EVENT", False),
        ("UPDATE", event(written_s=-60, intervals=limits(1)), "EVENT", False),
        ("UPDATE", event(written_s=-600, intervals=limits(1)), "EVENT", False),
        ("CREATE", PROGRAM, "PROGRAM", False),
    ],
    ids=["kept by the broker", "somebody read", "known", "older", "a program"],
)
def test_what_says_nothing_new_changes_nothing(operation: str, body: Any, kind: str, retained: bool) -> None:
    ven = Ven()
    ven.read(event())
    assert ven.hears(operation, body, kind, retained) == []


def test_nothing_is_taken_from_a_broker_before_the_vtn_was_read() -> None:
    assert Ven().hears("CREATE", event(intervals=limits(1))) == []


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("CREATE", 7, RejectCode.MALFORMED),
        ("CREATE", event("a/b"), RejectCode.MALFORMED),
        ("CREATE", event("x", intervals=limits(-1)), RejectCode.NOT_A_LIMIT),
        ("CREATE", event("x", written_s=301), RejectCode.CLOCK_SKEW),
        ("CREATE", event("x", padding="x" * 300_000), RejectCode.TOO_LARGE),
        (7, event("x"), RejectCode.MALFORMED),
    ],
)
def test_a_notification_that_cannot_be_taken_is_refused(operation: Any, body: Any, code: RejectCode) -> None:
    ven = Ven()
    ven.read(event())
    (refusal,) = refused(ven.hears(operation, body))
    assert (refusal.code, refusal.retained) == (code, True), refusal.reason


def test_a_flood_of_notifications_is_bounded() -> None:
    ven = Ven()
    ven.read(event())
    taken = sum(bool(ven.hears("CREATE", event(f"e-{n}", written_s=0, intervals=limits(499 - n)))) for n in range(80))
    assert taken == 64


def test_what_decides_stands_in_the_allocation() -> None:
    intervals = [interval(7, ("SIMPLE", [1])), interval(9, ("SIMPLE", [3]))]
    stated = the_list(Ven().read(event(intervals=intervals)))
    assert [each.id.split("/")[3] for each in stated.allocations] == ["event-1.7", "event-1.9", "no-event"]
    assert stated.allocations[-1].ceiling == UNLIMITED
    assert at_noon() == "2026-11-20T12:00:00.000Z"
