"""OpenADR 3.1 events on paper: what each word of the specification (Definitions, User Guide 7 and 8) does to the site.
Times are seconds after noon; `None` is no limit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild.core.allocation import RejectCode, ScheduleReceived, Urgency
from curtaild.core.limits import Limit
from curtaild.grid.openadr.periods import duration_s, shift_s
from grid.dsx import ROOT, ROW
from openadr.ven import BEAT, HOUR, MEANING, PROGRAM, Ven, at_noon, event, interval, limits, period, refused

NOTHING: list[tuple[float, float | None]] = [(0.0, None)]
DESCRIPTOR = {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": "IMPORT_CAPACITY_LIMIT", "units": "KW"}


def units(name: str | None) -> dict[str, Any]:
    return {"payloadDescriptors": [{**DESCRIPTOR, "units": name}]}


CONFORMANCE: dict[str, tuple[dict[str, Any], list[tuple[float, float | None]]]] = {
    "a limit for the time of its interval": ({}, [(0, 5e5), (HOUR, None)]),
    "intervals follow one another (7.3)": (
        {"intervals": limits(500, 300)},
        [(0, 5e5), (HOUR, 3e5), (2 * HOUR, None)],
    ),
    "one interval of another length (7.4)": (
        {"intervals": [*limits(500)[:1], {**limits(300)[0], "id": 1, "intervalPeriod": {"duration": "PT2H"}}]},
        [(0, 5e5), (HOUR, 3e5), (3 * HOUR, None)],
    ),
    "an interval with a start of its own leaves a gap": (
        {"intervals": [limits(500)[0], {**limits(300)[0], "intervalPeriod": period(2 * HOUR, "PT30M")}]},
        [(0, 5e5), (HOUR, None), (2 * HOUR, 3e5), (2.5 * HOUR, None)],
    ),
    "intervals that overlap: the strictest": (
        {"intervals": [limits(500)[0], {**limits(300)[0], "intervalPeriod": period(0.5 * HOUR, "PT1H")}]},
        [(0, 5e5), (0.5 * HOUR, 3e5), (1.5 * HOUR, None)],
    ),
    "periods in the intervals alone": (
        {"intervalPeriod": None, "intervals": [{**limits(500)[0], "intervalPeriod": period(60, "PT1M")}]},
        [(0, None), (60, 5e5), (120, None)],
    ),
    "known ahead": ({"intervalPeriod": period(HOUR)}, [(0, None), (HOUR, 5e5), (2 * HOUR, None)]),
    "begun before it was read: the rest of it": ({"intervalPeriod": period(-1800)}, [(0, 5e5), (1800, None)]),
    "over": ({"intervalPeriod": period(-2 * HOUR)}, NOTHING),
    "now, for ever (7.3)": ({"intervalPeriod": period("0001-01-01", "P9999Y")}, [(0, 5e5)]),
    "now, as a whole timestamp": ({"intervalPeriod": period("0001-01-01T00:00:00", "P9999Y")}, [(0, 5e5)]),
    "now, as VTNs before 3.1 wrote it": ({"intervalPeriod": period("0000-00-00", "P9999Y")}, [(0, 5e5)]),
    "now is when it was written: a minute ago": (
        {"intervalPeriod": period("0001-01-01", "PT1H")},
        [(0, 5e5), (HOUR - 60, None)],
    ),
    "no start at all is now": ({"intervalPeriod": {"duration": "PT1H"}}, [(0, 5e5), (HOUR - 60, None)]),
    "cancelled in place (7.9)": ({"intervalPeriod": period("0001-01-01", "PT0S")}, NOTHING),
    "the default duration is nothing": ({"intervalPeriod": period(0, None)}, NOTHING),
    "event.duration cuts short (7.3)": (
        {"intervals": limits(500, 300), "duration": "PT90M"},
        [(0, 5e5), (HOUR, 3e5), (1.5 * HOUR, None)],
    ),
    "event.duration repeats (7.3)": (
        {"intervals": limits(500, 300), "duration": "PT3H"},
        [(0, 5e5), (HOUR, 3e5), (2 * HOUR, 5e5), (3 * HOUR, None)],
    ),
    "repeated since long ago": (
        {"intervalPeriod": period(-1000 * HOUR - 1800), "intervals": limits(500, 300), "duration": "P42D"},
        [(0, 5e5), (1800, 3e5), (1800 + HOUR, 5e5), (1800 + 2 * HOUR, 3e5), (1800 + 3 * HOUR, 5e5)],
    ),
    "a length from event.duration alone": (
        {"intervalPeriod": period(0, None), "duration": "PT2H"},
        [
            (0, 5e5),
            (2 * HOUR, None),
        ],
    ),
    "several values share the interval (7.3)": (
        {"intervals": [interval(0, ("IMPORT_CAPACITY_LIMIT", [500, 300]))]},
        [(0, 5e5), (1800, 3e5), (HOUR, None)],
    ),
    "several values for ever: the strictest": (
        {"intervalPeriod": period(0, "P9999Y"), "intervals": [interval(0, ("IMPORT_CAPACITY_LIMIT", [500, 300, 400]))]},
        [(0, 3e5)],
    ),
    "zero is a limit": ({"intervals": limits(0)}, [(0, 0.0), (HOUR, None)]),
    "in kW, as described": (units("KW"), [(0, 5e5), (HOUR, None)]),
    "in kW, the only enumerated unit of power, where none is named": (units(None), [(0, 5e5), (HOUR, None)]),
    "in W": (units("W"), [(0, 500.0), (HOUR, None)]),
    "in MW": (units("MW"), [(0, 5e8), (HOUR, None)]),
    "a dispatch setpoint is a ceiling (8.5)": (
        {"intervals": limits(400, kind="DISPATCH_SETPOINT")},
        [(0, 4e5), (HOUR, None)],
    ),
    "SIMPLE levels as the site means them (8.2)": (
        {"intervals": limits(0, 1, 2, 3, kind="SIMPLE")},
        [(0, None), (HOUR, 7.5e5), (2 * HOUR, 5e5), (3 * HOUR, 2.5e5), (4 * HOUR, None)],
    ),
    "a grid emergency (8.1)": (
        {"intervals": [interval(0, ("ALERT_GRID_EMERGENCY", ["the grid fails"]))]},
        [(0, 1e5), (HOUR, None)],
    ),
    "payloads side by side: the strictest": (
        {"intervals": [interval(0, ("SIMPLE", [1]), ("IMPORT_CAPACITY_LIMIT", [600]))]},
        [(0, 6e5), (HOUR, None)],
    ),
    "prices and other words are others' business": (
        {"intervals": [interval(0, ("PRICE", [0.17]), ("EXPORT_CAPACITY_LIMIT", [4])), interval(1, ("X_OWN", ["?"]))]},
        NOTHING,
    ),
    "an event that only asks for reports": (
        {"intervals": None, "reportDescriptors": [{"payloadType": "USAGE"}]},
        NOTHING,
    ),
    "keys of their own are ignored": ({"x-own": {"a": [1]}, "eventName": None}, [(0, 5e5), (HOUR, None)]),
}


@pytest.mark.parametrize("words", CONFORMANCE)
def test_what_an_event_does(words: str) -> None:
    body, expected = CONFORMANCE[words]
    assert Ven().course(event(**body))[: len(expected)] == expected


def test_units_may_come_from_the_program() -> None:
    ven = Ven()
    program = {**PROGRAM, "payloadDescriptors": [{**DESCRIPTOR, "units": "W"}]}
    (schedule, beat) = ven.read(event(), programs=[program])
    assert isinstance(schedule, ScheduleReceived)
    assert (schedule.allocations[0].ceiling, beat) == (Limit(500.0), BEAT)
    (schedule, beat) = ven.read(event(), programs=[PROGRAM])
    assert isinstance(schedule, ScheduleReceived)
    assert schedule.allocations[0].ceiling == Limit(5e5), "the program's word changed what the event says"


def test_an_emergency_is_of_that_class_and_is_told_to_people(caplog: pytest.LogCaptureFixture) -> None:
    (schedule, _) = Ven().read(event(intervals=[interval(0, ("ALERT_GRID_EMERGENCY", ["a \n storm"]))]))
    assert isinstance(schedule, ScheduleReceived)
    assert [each.urgency for each in schedule.allocations] == [Urgency.EMERGENCY, Urgency.NORMAL]
    assert "event event-1: 'a \\n storm'" in caplog.text


@pytest.mark.parametrize(
    ("priorities", "ceiling_w"),
    [((0, 1), 8e5), ((1, 0), 5e5), ((None, 7), 5e5), ((7, None), 8e5), ((3, 3), 5e5), ((None, None), 5e5)],
    ids=str,
)
def test_of_events_that_conflict_the_lowest_priority_number_wins_and_the_stricter_of_equals(
    priorities: tuple[int | None, int | None], ceiling_w: float
) -> None:
    one, other = priorities
    found = Ven().course(event("a", priority=one, intervals=limits(800)), event("b", priority=other))
    assert found[0] == (0, ceiling_w)


def test_other_payloads_and_other_programs_do_not_conflict_the_strictest_holds() -> None:
    dispatch = event("a", priority=0, intervals=limits(800, kind="DISPATCH_SETPOINT"))
    assert Ven().course(dispatch, event("b", priority=9))[0] == (0, 5e5)
    other = event("a", priority=0, intervals=limits(800), programID="program-2")
    assert Ven().course(other, event("b", priority=9))[0] == (0, 5e5)
    released = event("a", priority=0, intervals=limits(0, kind="SIMPLE"))
    level_2 = event("b", priority=1, intervals=limits(2, kind="SIMPLE"))
    assert Ven().course(released, level_2)[0] == (0, None), "level 0 is a word, too"


def test_the_event_shown_in_the_page_is_taken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "grid" / "openadr.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert Ven().course(json.loads(block)) == [(0, 12.5e6), (1_800, 9e6), (3_600, None)]


# ---- randomizeStart ---------------------------------------------------------------------------


def test_a_random_start_is_within_its_bounds_the_same_each_time_and_another_for_each_site() -> None:
    shifts = [shift_s(f"site-{number}/event-1", 300.0) for number in range(1_000)]
    assert all(-300 <= shift <= 300 for shift in shifts)
    assert abs(sum(shifts) / 1_000) < 30
    assert sum(shift < -150 for shift in shifts) == pytest.approx(250, abs=60)
    assert shift_s("site-1/event-1", 300.0) == shifts[1]
    assert shift_s("site-1/event-1", 0.0) == 0.0


def test_what_follows_is_shifted_alike_until_an_interval_is_random_by_itself() -> None:
    shift = shift_s("thar-1/event-1", 600.0)
    own = shift_s("thar-1/event-1/3", 60.0)
    body = event(
        intervalPeriod=period(HOUR, randomizeStart="-PT10M"),
        intervals=[
            *limits(500, 400),
            {**limits(300)[0], "intervalPeriod": period(3 * HOUR)},
            {**limits(200)[0], "intervalPeriod": period(None, "PT1H", randomizeStart="PT1M")},
        ],
    )
    assert Ven().course(body) == [
        (0, None),
        (pytest.approx(HOUR + shift, abs=0.002), 5e5),
        (pytest.approx(2 * HOUR + shift, abs=0.002), 4e5),
        (pytest.approx(3 * HOUR + shift, abs=0.002), 3e5),
        *(
            [(pytest.approx(4 * HOUR + shift, abs=0.002), None)] if own > shift else []
        ),  # a gap, or none: both are as it says
        (pytest.approx(4 * HOUR + own, abs=0.002), 2e5),
        (pytest.approx(5 * HOUR + own, abs=0.002), None),
    ]


# ---- targets ----------------------------------------------------------------------------------


def test_targets_say_which_feeder() -> None:
    targets = {"group-1": ROOT, "row": ROW}
    both = event(targets=["row", "group-1", "somebody-else"])
    assert Ven(targets=targets).course(both, feeder=ROOT)[0] == (0, 5e5)
    assert Ven(targets=targets).course(both, feeder=ROW)[0] == (0, 5e5)
    row = event(targets=["row"])
    assert Ven(targets=targets).course(row, feeder=ROOT) == NOTHING
    assert Ven(targets=targets).course(row, feeder=ROW)[0] == (0, 5e5)
    assert Ven(targets=targets).course(event(), feeder=ROW) == NOTHING, "without targets it is about the whole site"
    assert Ven(targets=targets, feeder=ROW).course(event(), feeder=ROW)[0] == (0, 5e5)
    assert Ven().course(event(targets=["granted"]))[0] == (0, 5e5), "who maps none takes what is shown to him"
    level = event(intervals=limits(2, kind="SIMPLE"), targets=["row"])
    assert Ven(targets=targets).course(level, feeder=ROW)[0] == (0, 50_000.0), "a share of this feeder's rating"


def test_targets_of_others_are_told_once_and_forgotten_if_they_were_ours() -> None:
    ven = Ven(targets={"group-1": ROOT})
    ven.read(event(targets=["group-1"]))
    moved = event(written_s=-30, targets=["theirs"])
    refusal, schedule, _ = ven.read(moved)
    assert refused([refusal])[0].code is RejectCode.UNKNOWN_FEEDER
    assert isinstance(schedule, ScheduleReceived)
    assert [each.ceiling for each in schedule.allocations if each.feeder == ROOT] == [MEANING.base]
    assert ven.read(moved) == [BEAT]


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ({"intervals": limits(-1)}, RejectCode.NOT_A_LIMIT, "0 or more"),
        ({"intervals": limits(float("inf"))}, RejectCode.NOT_A_LIMIT, "0 or more"),
        ({"intervals": limits(1e308), **units("MW")}, RejectCode.NOT_A_LIMIT, "must be numbers"),
        ({"intervals": [interval(0, ("IMPORT_CAPACITY_LIMIT", [True]))]}, RejectCode.NOT_A_LIMIT, ""),
        ({"intervals": [interval(0, ("IMPORT_CAPACITY_LIMIT", ["500"]))]}, RejectCode.NOT_A_LIMIT, ""),
        ({"intervals": [interval(0, ("IMPORT_CAPACITY_LIMIT", [None]))]}, RejectCode.NOT_A_LIMIT, ""),
        ({"intervals": [interval(0, ("IMPORT_CAPACITY_LIMIT", []))]}, RejectCode.MALFORMED, "values is empty"),
        ({"intervals": limits(4, kind="SIMPLE")}, RejectCode.NOT_A_LIMIT, "a level is 0, 1, 2 or 3"),
        ({"intervals": limits(1.5, kind="SIMPLE")}, RejectCode.NOT_A_LIMIT, "a level is"),
        (units("KVA"), RejectCode.MALFORMED, "are no watts"),
        (units("PERCENT"), RejectCode.MALFORMED, "are no watts"),
        ({"priority": -1}, RejectCode.MALFORMED, "priority"),
        ({"priority": 0.5}, RejectCode.MALFORMED, "priority"),
        ({"targets": "group-1"}, RejectCode.MALFORMED, "targets must be a list"),
        ({"targets": [{"type": "GROUP", "values": ["a"]}]}, RejectCode.MALFORMED, "targets"),
        ({"intervals": {}}, RejectCode.MALFORMED, "intervals must be a list"),
        ({"intervals": [7]}, RejectCode.MALFORMED, "an interval must be an object"),
        ({"intervals": limits(*[1.0] * 1_025)}, RejectCode.TOO_LARGE, "most is 1024"),
        (
            {"intervals": [interval(n, ("SIMPLE", [1] * 1_000)) for n in range(3)]},
            RejectCode.TOO_LARGE,
            "more than 2048 values",
        ),
        ({"intervalPeriod": None}, RejectCode.MALFORMED, "has no intervalPeriod"),
        ({"intervalPeriod": period("2026-11-20T12:00:00")}, RejectCode.MALFORMED, "with Z or an offset"),
        ({"intervalPeriod": period(0, "1 hour")}, RejectCode.MALFORMED, "must be a duration"),
        ({"intervalPeriod": period(0, "P" + "9" * 50 + "Y")}, RejectCode.MALFORMED, "must be a duration"),
        ({"intervalPeriod": period(0, "-PT1H")}, RejectCode.MALFORMED, "negative"),
        ({"intervalPeriod": period(0, randomizeStart="P9999Y")}, RejectCode.MALFORMED, "must have an end"),
        (
            {"intervalPeriod": period(0, "P9999Y"), "intervals": limits(1, 2)},
            RejectCode.MALFORMED,
            "nothing can follow it",
        ),
        ({"intervalPeriod": period(0, "PT1S"), "duration": "P9999Y"}, RejectCode.MALFORMED, "repeats itself every 1 s"),
        ({"createdDateTime": None, "modificationDateTime": None}, RejectCode.MALFORMED, "createdDateTime"),
        ({"modificationDateTime": "yesterday"}, RejectCode.MALFORMED, "modificationDateTime"),
        ({"programID": "a/b"}, RejectCode.MALFORMED, "programID"),
    ],
)
def test_an_event_that_cannot_be_taken_is_refused_whole_and_nothing_else_is(
    body: dict[str, Any], code: RejectCode, reason: str
) -> None:
    ven = Ven()
    refusal, schedule, beat = ven.read(event("good", intervals=limits(700)), event("bad", **body))
    (found,) = refused([refusal])
    assert (found.code, beat) == (code, BEAT), found.reason
    assert reason in found.reason
    assert found.reason.startswith("event bad")
    assert isinstance(schedule, ScheduleReceived)
    assert schedule.allocations[0].ceiling == Limit(7e5)
    assert ven.read(event("good", intervals=limits(700)), event("bad", **body)) == [BEAT], "told once"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PT0S", 0),
        ("PT1H30M", 5_400),
        ("P1D", 86_400),
        ("P2W", 14 * 86_400),
        ("P1Y", 365 * 86_400),
        ("P1M", 30 * 86_400),
        ("PT0.5S", 0.5),
        ("P1DT1H1M1S", 90_061),
        ("P9999Y", float("inf")),
        ("-PT5M", -300),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert duration_s({"d": text}, "d") == expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["PT1H", at_noon()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*event(), "priority", "targets", "duration", "payloadDescriptors", "reportDescriptors"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=3), st.lists(JSON, max_size=2))
def test_whatever_an_event_holds_either_it_is_taken_or_refused(
    changes: list[dict[str, Any]], programs: list[Any]
) -> None:
    """And the limit of the event beside it holds on."""
    bodies = [{**event(f"event-{number}"), **change, "id": f"e-{number}"} for number, change in enumerate(changes)]
    messages = Ven().read(event("steady", intervals=limits(1)), *bodies, programs=[PROGRAM, *programs])
    (schedule,) = [each for each in messages if isinstance(each, ScheduleReceived)]
    ceiling = schedule.allocations[0].ceiling
    assert isinstance(ceiling, Limit)
    assert ceiling.watts <= 1e3 or schedule.allocations[0].id.split("/")[3].startswith("e-"), "of a higher priority"
