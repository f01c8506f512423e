"""The native dialect on paper: what is taken, what is refused and by which code, what the site writes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild.core.allocation import (
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    MessageRejected,
    RejectCode,
    ScheduleReceived,
    Urgency,
)
from curtaild.core.events import AckStage, BreachChanged, BreachId, BreachStage, LinkPhase
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.native import (
    Context,
    GridAllocation,
    Topics,
    decode,
    encode_ack,
    encode_allocation,
    encode_breach,
    encode_heartbeat,
    encode_last_will,
    encode_schedule,
    encode_status,
    encode_stopped,
)
from grid.rig import ROOT, a_feeder, a_status, an_ack

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC).timestamp()
UPTIME = 5_000.0


class StoppedClock:
    """Noon on the wall, 5,000 s since boot."""

    def monotonic(self) -> float:
        return UPTIME

    def wall(self) -> float:
        return NOON


CLOCK = StoppedClock()
TOPICS = Topics("curtaild/v1", "thar-1")
CONTEXT = Context(TOPICS, ROOT, CLOCK, max_clock_skew_s=60.0, max_payload_bytes=16_384)

ORDER: dict[str, Any] = {
    "id": "01J9Z",
    "seq": 4182,
    "issuer": "npcc",
    "issued_at": "2026-11-20T11:59:30Z",
    "limit_w": 12_500_000,
    "valid_from": "2026-11-20T12:00:30Z",
    "valid_until": "2026-11-20T14:00:00Z",
    "feeder": None,
    "reach_by_s": 300,
    "max_ramp_up_w_per_min": 1_000_000,
    "class": "normal",
}
ABSENT = object()


def order(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**ORDER, **changes}.items() if value is not ABSENT}


def received(body: object, topic: str = TOPICS.allocation, retained: bool = False) -> GridMessage | None:
    return decode(topic, body if isinstance(body, bytes) else json.dumps(body).encode(), retained, CONTEXT)


def taken(**changes: Any) -> AllocationReceived:
    message = received(order(**changes))
    assert isinstance(message, AllocationReceived), message
    return message


def refused(body: object, topic: str = TOPICS.allocation) -> MessageRejected:
    message = received(body, topic)
    assert isinstance(message, MessageRejected), message
    return message


# ---- what is taken ----------------------------------------------------------------------------


def test_an_allocation_is_read_into_monotonic_time() -> None:
    allocation = taken().allocation
    assert (allocation.id, allocation.seq, allocation.issuer) == ("01J9Z", 4182, "npcc")
    assert allocation.feeder == ROOT
    assert allocation.ceiling == Limit(12_500_000.0)
    assert allocation.issued_at == UPTIME - 30
    assert allocation.valid_from == UPTIME + 30
    assert allocation.valid_until == UPTIME + 7_200
    assert (allocation.reach_by_s, allocation.max_ramp_up_w_per_min) == (300.0, 1_000_000.0)
    assert allocation.urgency is Urgency.NORMAL


def test_zero_null_and_absent_limits_are_three_things() -> None:
    assert taken(limit_w=0).allocation.ceiling == Limit(0.0)
    assert taken(limit_w=None).allocation.ceiling == UNLIMITED
    assert refused(order(limit_w=ABSENT)).code is RejectCode.MALFORMED


def test_minus_zero_is_zero() -> None:
    ceiling = taken(limit_w=-0.0).allocation.ceiling
    assert str(ceiling) == str(Limit(0.0))


def test_without_end_means_null_and_never_absent() -> None:
    assert taken(valid_until=None).allocation.valid_until is None
    assert refused(order(valid_until=ABSENT)).code is RejectCode.MALFORMED


def test_optional_fields_may_be_absent_and_unknown_ones_are_ignored() -> None:
    allocation = taken(
        feeder=ABSENT, reach_by_s=ABSENT, max_ramp_up_w_per_min=ABSENT, **{"class": ABSENT, "colour": ["green"]}
    ).allocation
    assert allocation.feeder == ROOT
    assert (allocation.reach_by_s, allocation.max_ramp_up_w_per_min) == (None, None)
    assert allocation.urgency is Urgency.NORMAL


def test_feeder_and_emergency_are_taken_as_written() -> None:
    allocation = taken(feeder="row-7", **{"class": "emergency"}).allocation
    assert allocation.feeder == "row-7"
    assert allocation.urgency is Urgency.EMERGENCY


def test_the_retained_flag_is_passed_on() -> None:
    message = received(order(), retained=True)
    assert isinstance(message, AllocationReceived)
    assert message.retained
    rejection = received({}, retained=True)
    assert isinstance(rejection, MessageRejected)
    assert rejection.retained


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-20T12:00:00Z",
        "2026-11-20t12:00:00z",
        "2026-11-20T12:00:00.000Z",
        "2026-11-20T12:00:00+00:00",
        "2026-11-20T17:00:00+05:00",
        "2026-11-20T03:30:00-08:30",
    ],
)
def test_a_timestamp_in_any_zone_is_the_same_moment(written: str) -> None:
    assert taken(valid_from=written).allocation.valid_from == UPTIME


def test_the_last_of_duplicate_keys_counts() -> None:
    payload = json.dumps(order()).encode()[:-1] + b',"limit_w":7}'
    message = received(payload)
    assert isinstance(message, AllocationReceived)
    assert message.allocation.ceiling == Limit(7.0)


def test_an_old_allocation_is_for_the_core_to_judge() -> None:
    old = taken(issued_at="2020-01-01T00:00:00Z", valid_from="2020-01-01T00:00:00Z", valid_until="2020-01-02T00:00:00Z")
    assert old.allocation.valid_until is not None
    assert old.allocation.valid_until < UPTIME


def test_a_heartbeat_counts_only_when_sent_live() -> None:
    beat = encode_heartbeat(NOON, 7)
    assert decode(TOPICS.heartbeat, beat, False, CONTEXT) == HeartbeatReceived()
    assert decode(TOPICS.heartbeat, beat, True, CONTEXT) is None


def test_foreign_topics_and_cleared_retained_messages_say_nothing() -> None:
    assert received(order(), "curtaild/v1/other/allocation") is None
    assert received(order(), TOPICS.status) is None
    assert received(b"") is None
    assert received(b"", TOPICS.schedule) is None


# ---- what is refused --------------------------------------------------------------------------

CASES: list[tuple[str, Any, RejectCode]] = [
    ("not UTF-8", b'{"id":"\xff"}', RejectCode.MALFORMED),
    ("UTF-16", json.dumps(ORDER).encode("utf-16"), RejectCode.MALFORMED),
    ("not JSON", b"limit=5", RejectCode.MALFORMED),
    ("cut short", json.dumps(ORDER).encode()[:-5], RejectCode.MALFORMED),
    ("a list", [ORDER], RejectCode.MALFORMED),
    ("a number", 5, RejectCode.MALFORMED),
    ("a depth bomb", b"[" * 16_000, RejectCode.MALFORMED),
    ("a depth bomb in a field", b'{"id":' * 2_000, RejectCode.MALFORMED),
    ("an integer without end", b'{"seq":' + b"9" * 10_000 + b"}", RejectCode.MALFORMED),
    ("no id", order(id=ABSENT), RejectCode.MALFORMED),
    ("no seq", order(seq=ABSENT), RejectCode.MALFORMED),
    ("no issuer", order(issuer=ABSENT), RejectCode.MALFORMED),
    ("no issued_at", order(issued_at=ABSENT), RejectCode.MALFORMED),
    ("no limit_w", order(limit_w=ABSENT), RejectCode.MALFORMED),
    ("no valid_from", order(valid_from=ABSENT), RejectCode.MALFORMED),
    ("no valid_until", order(valid_until=ABSENT), RejectCode.MALFORMED),
    ("empty id", order(id=""), RejectCode.MALFORMED),
    ("id too long", order(id="x" * 129), RejectCode.MALFORMED),
    ("id with a line break", order(id="a\nb"), RejectCode.MALFORMED),
    ("id with half a character", order(id="\ud800"), RejectCode.MALFORMED),
    ("id as a number", order(id=5), RejectCode.MALFORMED),
    ("seq as text", order(seq="4182"), RejectCode.MALFORMED),
    ("seq as a fraction", order(seq=4182.5), RejectCode.MALFORMED),
    ("issuer of another dialect", order(issuer="//grid/v1/isv/acme"), RejectCode.UNAUTHORIZED),
    ("seq as a bool", order(seq=True), RejectCode.MALFORMED),
    ("seq negative", order(seq=-1), RejectCode.MALFORMED),
    ("seq past 64 bits", order(seq=2**63), RejectCode.MALFORMED),
    ("issuer null", order(issuer=None), RejectCode.MALFORMED),
    ("feeder as a number", order(feeder=7), RejectCode.MALFORMED),
    ("feeder empty", order(feeder=""), RejectCode.MALFORMED),
    ("time without a zone", order(valid_from="2026-11-20T12:00:00"), RejectCode.MALFORMED),
    ("time as a number", order(valid_from=1_795_000_000), RejectCode.MALFORMED),
    ("a day only", order(valid_from="2026-11-20"), RejectCode.MALFORMED),
    ("the 30th of February", order(valid_from="2026-02-30T12:00:00Z"), RejectCode.MALFORMED),
    ("Arabic digits", order(valid_from="٢٠٢٦-11-20T12:00:00Z"), RejectCode.MALFORMED),
    ("until before from", order(valid_until="2026-11-20T12:00:29Z"), RejectCode.MALFORMED),
    ("until at from", order(valid_until=ORDER["valid_from"]), RejectCode.MALFORMED),
    ("reach_by_s negative", order(reach_by_s=-1), RejectCode.MALFORMED),
    ("reach_by_s a bool", order(reach_by_s=True), RejectCode.MALFORMED),
    ("reach_by_s NaN", order(reach_by_s=float("nan")), RejectCode.MALFORMED),
    ("ramp infinite", order(max_ramp_up_w_per_min=float("inf")), RejectCode.MALFORMED),
    ("NaN where nobody looks", order(colour=float("nan")), RejectCode.MALFORMED),
    ("unknown class", order(**{"class": "urgent"}), RejectCode.MALFORMED),
    ("class null", order(**{"class": None}), RejectCode.MALFORMED),
    ("class a list", order(**{"class": ["normal"]}), RejectCode.MALFORMED),
    ("limit negative", order(limit_w=-0.001), RejectCode.NOT_A_LIMIT),
    ("limit NaN", order(limit_w=float("nan")), RejectCode.NOT_A_LIMIT),
    ("limit infinite", order(limit_w=float("inf")), RejectCode.NOT_A_LIMIT),
    ("limit minus infinite", order(limit_w=float("-inf")), RejectCode.NOT_A_LIMIT),
    (
        "limit past all floats",
        json.dumps(order(limit_w=0)).replace(": 0,", ": 1e999,").encode(),
        RejectCode.NOT_A_LIMIT,
    ),
    ("limit of 400 digits", order(limit_w=10**400), RejectCode.NOT_A_LIMIT),
    ("limit a bool", order(limit_w=False), RejectCode.NOT_A_LIMIT),
    ("limit as text", order(limit_w="0"), RejectCode.NOT_A_LIMIT),
    ("limit a list", order(limit_w=[0]), RejectCode.NOT_A_LIMIT),
    ("from the future", order(issued_at="2026-11-20T12:01:01Z"), RejectCode.CLOCK_SKEW),
    ("too long", json.dumps(order(padding="x" * 16_384)).encode(), RejectCode.TOO_LARGE),
    ("too long and no JSON", b"\xff" * 16_385, RejectCode.TOO_LARGE),
]


@pytest.mark.parametrize(("body", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused_by_code(body: Any, code: RejectCode) -> None:
    rejection = refused(body)
    assert rejection.code is code, rejection.reason
    assert len(rejection.reason) < 200


def test_a_little_clock_skew_is_borne() -> None:
    assert taken(issued_at="2026-11-20T12:01:00Z").allocation.issued_at == UPTIME + 60


def test_a_refusal_names_what_could_be_read() -> None:
    rejection = refused(order(limit_w=-1))
    assert (rejection.allocation_id, rejection.seq, rejection.issuer) == ("01J9Z", 4182, "npcc")


def test_what_a_refusal_quotes_is_bounded_and_printable() -> None:
    rejection = refused(order(id="x" * 500, issuer="\x1b[2J", seq=2**70))
    assert rejection.allocation_id == "x" * 128
    assert (rejection.issuer, rejection.seq) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        {"at": "2026-11-20T12:00:00Z"},
        {"seq": 1},
        {"at": 5, "seq": 1},
        {"at": "2026-11-20T12:00:00Z", "seq": 1.5},
    ],
)
def test_a_malformed_heartbeat_is_no_heartbeat(body: Any) -> None:
    assert refused(body, TOPICS.heartbeat).code is RejectCode.MALFORMED


# ---- schedules --------------------------------------------------------------------------------


def schedule(*items: Any, **changes: Any) -> dict[str, Any]:
    return {"issuer": "npcc", "seq": 9, "issued_at": "2026-11-20T11:59:00Z", "allocations": list(items), **changes}


def test_a_schedule_is_taken_whole_and_in_order() -> None:
    message = received(schedule(order(id="a", seq=10), order(id="b", seq=11)), TOPICS.schedule, retained=True)
    assert isinstance(message, ScheduleReceived)
    assert message.issuer == "npcc"
    assert [allocation.id for allocation in message.allocations] == ["a", "b"]
    assert message.retained


def test_an_empty_schedule_clears() -> None:
    message = received(schedule(), TOPICS.schedule)
    assert isinstance(message, ScheduleReceived)
    assert (message.issuer, message.seq, message.allocations) == ("npcc", 9, ())


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        (schedule(order(id="good"), order(id="bad", limit_w=-1)), RejectCode.NOT_A_LIMIT, "bad"),
        (schedule(order(id="bad", valid_from="tomorrow")), RejectCode.MALFORMED, "bad"),
        (schedule(order(id="bad", issuer="someone-else")), RejectCode.MALFORMED, "bad"),
        (schedule(order(id="bad", issued_at="2027-01-01T00:00:00Z")), RejectCode.CLOCK_SKEW, "bad"),
        (schedule(issued_at="2027-01-01T00:00:00Z"), RejectCode.CLOCK_SKEW, None),
        (schedule("not an allocation"), RejectCode.MALFORMED, None),
        (schedule(allocations={}), RejectCode.MALFORMED, None),
        (schedule(seq=None), RejectCode.MALFORMED, None),
        (schedule(*[order()] * 257), RejectCode.TOO_LARGE, None),
        (schedule(padding="x" * 8 * 16_384), RejectCode.TOO_LARGE, None),
    ],
)
def test_one_bad_item_refuses_the_whole_schedule(body: Any, code: RejectCode, named: str | None) -> None:
    rejection = refused(body, TOPICS.schedule)
    assert (rejection.code, rejection.allocation_id) == (code, named), rejection.reason


def test_a_day_of_five_minute_blocks_less_a_few_fits() -> None:
    blocks = [
        GridAllocation(f"block-{n}", n, "npcc", NOON, 1e6, NOON + 300 * n, NOON + 300 * n + 300) for n in range(256)
    ]
    message = received(encode_schedule("npcc", 300, NOON, blocks), TOPICS.schedule)
    assert isinstance(message, ScheduleReceived)
    assert len(message.allocations) == 256


# ---- nothing that arrives raises --------------------------------------------------------------

ANY_TOPIC = st.sampled_from([TOPICS.allocation, TOPICS.schedule, TOPICS.heartbeat, TOPICS.status])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def is_message(message: object) -> bool:
    return message is None or isinstance(
        message, AllocationReceived | ScheduleReceived | HeartbeatReceived | MessageRejected
    )


@given(ANY_TOPIC, st.binary(max_size=2_000), st.booleans())
def test_arbitrary_bytes_never_raise(topic: str, payload: bytes, retained: bool) -> None:
    assert is_message(decode(topic, payload, retained, CONTEXT))


@given(st.dictionaries(st.sampled_from([*ORDER, "at", "allocations"]), ANY_JSON), ANY_TOPIC, st.booleans())
def test_wrong_values_never_raise(changes: dict[str, Any], topic: str, in_schedule: bool) -> None:
    item = {**ORDER, **changes}
    body = {**schedule(item), **changes} if in_schedule else item
    assert is_message(received(body, topic))


@given(st.data())
def test_damaged_bytes_never_raise(data: st.DataObject) -> None:
    payload = bytearray(json.dumps(schedule(order()) if data.draw(st.booleans()) else order()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert is_message(decode(data.draw(ANY_TOPIC), bytes(payload), False, CONTEXT))


@given(st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=4))
def test_no_limit_is_ever_made_of_anything_else(limit_w: Any) -> None:
    message = received(order(limit_w=limit_w))
    if isinstance(message, AllocationReceived):
        if limit_w is None:
            assert message.allocation.ceiling == UNLIMITED
        else:
            assert type(limit_w) in (int, float)
            assert message.allocation.ceiling == Limit(float(limit_w))
    else:
        assert isinstance(message, MessageRejected)
        assert message.code is RejectCode.NOT_A_LIMIT


# ---- what each side writes --------------------------------------------------------------------


def test_what_the_operator_writes_the_site_reads() -> None:
    written = GridAllocation("a-1", 5, "npcc", NOON, 3e6, NOON + 1.5, NOON + 60, "row-7", 10.0, 2e5, Urgency.EMERGENCY)
    message = decode(TOPICS.allocation, encode_allocation(written), False, CONTEXT)
    assert isinstance(message, AllocationReceived)
    allocation = message.allocation
    assert (allocation.id, allocation.seq, allocation.issuer, allocation.feeder) == ("a-1", 5, "npcc", "row-7")
    assert allocation.valid_from == UPTIME + 1.5
    assert allocation.valid_until == UPTIME + 60
    assert (allocation.reach_by_s, allocation.max_ramp_up_w_per_min) == (10.0, 2e5)
    assert allocation.urgency is Urgency.EMERGENCY


def test_an_ack_on_the_wire() -> None:
    ack = an_ack(1, AckStage.SHORTFALL)
    body = json.loads(encode_ack(ack, CLOCK))
    assert set(body) == {
        "at", "stage", "id", "seq", "issuer", "feeder", "limit_w", "applied_w", "metered_w", "floor_w", "code", "reason"
    }  # fmt: skip
    assert (body["stage"], body["id"], body["limit_w"], body["metered_w"]) == ("shortfall", "order-1", 1e6, None)


def test_a_breach_on_the_wire_is_dated_in_utc() -> None:
    breach = BreachChanged(UPTIME, BreachId("b-1"), ROOT, BreachStage.ESCALATED, 1e6, 5e3, 9e3, since=UPTIME - 61.5)
    assert json.loads(encode_breach(breach, CLOCK)) == {
        "at": "2026-11-20T12:00:00.000Z",
        "id": "b-1",
        "stage": "escalated",
        "since": "2026-11-20T11:58:58.500Z",
        "feeder": ROOT,
        "limit_w": 1e6,
        "over_w": 5e3,
        "worst_over_w": 9e3,
    }


def test_a_status_on_the_wire() -> None:
    body = json.loads(encode_status(a_status(), CLOCK))
    assert (body["state"], body["limit_w"], body["ceiling_w"]) == ("limited", 1e6, 1e6)
    assert body["metered_w"] == 990_000.0
    assert (body["flexible_up_w"], body["flexible_down_w"], body["deficit_w"]) == (500_000.0, 890_000.0, 0.0)
    assert [feeder["id"] for feeder in body["feeders"]] == [ROOT]


def test_a_status_shows_unlimited_stale_and_unknown_as_null() -> None:
    feeder = a_feeder()._replace(ceiling=UNLIMITED, meter_is_fresh=False, measured_w=float("nan"))
    status = replace(a_status(phase=LinkPhase.UNLIMITED), feeders=(feeder,))
    body = json.loads(encode_status(status, CLOCK))
    assert (body["ceiling_w"], body["metered_w"], body["measured_w"]) == (None, None, None)
    assert body["limit_w"] == 1e6


def test_offline_says_whether_it_was_meant() -> None:
    assert json.loads(encode_last_will())["reason"] == "connection lost"
    stopped = json.loads(encode_stopped(CLOCK))
    assert (stopped["state"], stopped["reason"], stopped["at"]) == ("offline", "stopped", "2026-11-20T12:00:00.000Z")


@pytest.mark.parametrize(("prefix", "site"), [("a/+", "x"), ("a", "x/y"), ("a", "#"), ("", "x"), ("a", "")])
def test_wildcards_and_levels_are_no_site(prefix: str, site: str) -> None:
    with pytest.raises(ValueError, match="not usable"):
        Topics(prefix, site)
