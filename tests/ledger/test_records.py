"""What a regulator reads: one core event, one JSON body, units in the keys and times in UTC."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import get_args

import pytest

from curtaild.core.allocation import Allocation, AllocationId, Issuer, RejectCode, Urgency
from curtaild.core.events import (
    Ack,
    AckStage,
    ActuationChanged,
    ActuationId,
    ActuationStage,
    AllocationTaken,
    BreachChanged,
    BreachId,
    BreachStage,
    Condition,
    DeficitChanged,
    DeviceChanged,
    Event,
    InterlockChanged,
    LimitChanged,
    LinkChanged,
    LinkPhase,
    MeterChanged,
)
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.ledger import GENESIS, LONGEST_TEXT, Json, Record, canonical, chain_hash, follow, record_of, rfc3339
from curtaild_drivers.contract import OFF, DeviceId, FeederId, OperatingPoint

NOON_UNIX = 1_795_176_000.0  # 2026-11-20T12:00:00Z
SITE = FeederId("site")


class Noon:
    """A clock that stands: monotonic 1,000 s is noon."""

    def monotonic(self) -> float:
        return 1_000.0

    def wall(self) -> float:
        return NOON_UNIX


ALLOCATION = Allocation(
    id=AllocationId("01J9"),
    seq=4182,
    issuer=Issuer("npcc"),
    feeder=SITE,
    ceiling=Limit(12_500_000.0),
    issued_at=970.0,
    valid_from=1_000.0,
    valid_until=8_200.5,
    reach_by_s=300.0,
    urgency=Urgency.EMERGENCY,
)

EVENTS: list[tuple[Event, dict[str, object]]] = [
    (
        AllocationTaken(1_000.0, ALLOCATION, scheduled=False),
        {
            "scheduled": False,
            "allocation": {
                "id": "01J9",
                "seq": 4182,
                "issuer": "npcc",
                "feeder": "site",
                "limit_w": 12_500_000.0,
                "issued_at": "2026-11-20T11:59:30.000Z",
                "valid_from": "2026-11-20T12:00:00.000Z",
                "valid_until": "2026-11-20T14:00:00.500Z",
                "reach_by_s": 300.0,
                "max_ramp_up_w_per_min": None,
                "urgency": "emergency",
            },
        },
    ),
    (
        Ack(1_000.0, AckStage.REJECTED, None, Issuer("npcc"), None, code=RejectCode.STALE_SEQ, reason="7 after 8"),
        {
            "stage": "rejected",
            "allocation_id": None,
            "issuer": "npcc",
            "seq": None,
            "feeder": None,
            "limit_w": None,
            "applied_w": None,
            "metered_w": None,
            "floor_w": None,
            "code": "STALE_SEQ",
            "reason": "7 after 8",
        },
    ),
    (
        LinkChanged(1_000.0, LinkPhase.LIMITED, LinkPhase.FAILSAFE, "no heartbeat for 120 s"),
        {"before": "limited", "after": "failsafe", "reason": "no heartbeat for 120 s"},
    ),
    (
        LimitChanged(1_000.0, SITE, None, Limit(0.0), "fail-safe"),
        {"feeder": "site", "before": None, "after": {"limit_w": 0.0}, "source": "fail-safe"},
    ),
    (
        LimitChanged(1_000.0, SITE, Limit(5.0), UNLIMITED, "01J9"),
        {"feeder": "site", "before": {"limit_w": 5.0}, "after": {"limit_w": None}, "source": "01J9"},
    ),
    (
        ActuationChanged(
            at=1_000.0,
            id=ActuationId("a-7"),
            device=DeviceId("row1-42"),
            stage=ActuationStage.OUTCOME_UNKNOWN,
            before=None,
            target=OperatingPoint(OFF, 25.0, 0.0),
            is_raise=False,
            reserved_w=3_400.0,
            power_w=math.nan,
            allocation_id=AllocationId("01J9"),
            rule="site: over by 120000 W",
            detail="no answer in 5 s",
        ),
        {
            "id": "a-7",
            "device": "row1-42",
            "stage": "outcome_unknown",
            "before": None,
            "target": {"key": "off", "draw_w": 25.0, "rate": 0.0, "divisible": False},
            "is_raise": False,
            "reserved_w": 3_400.0,
            "power_w": None,
            "allocation_id": "01J9",
            "rule": "site: over by 120000 W",
            "detail": "no answer in 5 s",
        },
    ),
    (
        DeviceChanged(1_000.0, DeviceId("row1-42"), Condition.DRIFTED, begins=True, detail="set to 3,000 W"),
        {"device": "row1-42", "condition": "drifted", "begins": True, "detail": "set to 3,000 W"},
    ),
    (
        MeterChanged(1_000.0, SITE, is_fresh=False, detail="silent"),
        {"feeder": "site", "is_fresh": False, "detail": "silent"},
    ),
    (InterlockChanged(1_000.0, SITE, True), {"feeder": "site", "is_running": True}),
    (DeficitChanged(1_000.0, SITE, 0.0), {"feeder": "site", "deficit_w": 0.0, "spared_w": 0.0}),
    (
        BreachChanged(1_000.0, BreachId("b-1"), SITE, BreachStage.ESCALATED, 5.0, 1.5, 2.5, since=940.25),
        {
            "id": "b-1",
            "feeder": "site",
            "stage": "escalated",
            "limit_w": 5.0,
            "over_w": 1.5,
            "worst_over_w": 2.5,
            "since": "2026-11-20T11:59:00.250Z",
        },
    ),
]


@pytest.mark.parametrize(("event", "body"), EVENTS, ids=lambda case: getattr(case, "kind", ""))
def test_an_event_becomes_a_readable_record(event: Event, body: dict[str, object]) -> None:
    record = record_of(event, Noon())
    assert (record.at_unix, record.kind) == (NOON_UNIX, event.kind)
    assert json.loads(canonical(record.body)) == body


def test_every_kind_of_event_is_in_the_table() -> None:
    assert {type(event) for event, _ in EVENTS} == set(get_args(Event))


def test_a_releasing_allocation_says_null_watts_and_null_end() -> None:
    released = dataclasses.replace(ALLOCATION, ceiling=UNLIMITED, valid_until=None)
    body = json.loads(canonical(record_of(AllocationTaken(1_000.0, released, True), Noon()).body))["allocation"]
    assert (body["limit_w"], body["valid_until"]) == (None, None)


@pytest.mark.parametrize(
    ("unix", "text"),
    [
        (NOON_UNIX + 0.0004, "2026-11-20T12:00:00.000Z"),
        (NOON_UNIX + 0.9996, "2026-11-20T12:00:01.000Z"),
        (1e300, "9999-12-31T23:59:59.000Z"),  # OpenADR's P9999Y: for ever
        (-1e300, "1970-01-01T00:00:00.000Z"),
        (math.inf, None),
        (math.nan, None),
    ],
)
def test_no_moment_is_beyond_writing(unix: float, text: str | None) -> None:
    assert rfc3339(unix) == text


@pytest.mark.parametrize("hostile", ["\ud800 half a character", "nul \x00 byte", "🦀" * 10, "x" * 1_000_000])
def test_whatever_a_device_says_can_be_written_and_stays_short(hostile: str) -> None:
    record = record_of(DeviceChanged(1_000.0, DeviceId("d"), Condition.BAD_REPLY, True, hostile), Noon())
    kept = json.loads(follow(GENESIS, record).body)["detail"]
    assert kept[: LONGEST_TEXT - 1] == hostile[: LONGEST_TEXT - 1]
    assert len(kept) <= LONGEST_TEXT


def test_one_body_has_one_spelling() -> None:
    one: dict[str, Json] = {"b": 1, "a": {"d": None, "c": [1.5, True]}}
    other: dict[str, Json] = {"a": {"c": [1.5, True], "d": None}, "b": 1}
    assert canonical(one) == canonical(other) == '{"a":{"c":[1.5,true],"d":null},"b":1}'


def test_neighbouring_fields_do_not_run_together() -> None:
    """`kind` "ab" with a body that starts "c" must not hash like `kind` "a" with a body that starts "bc"."""
    assert chain_hash(GENESIS.hash, 1, 0, "ab", "c{}") != chain_hash(GENESIS.hash, 1, 0, "a", "bc{}")


def test_a_body_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        follow(GENESIS, Record(0.0, "x", {"power_w": math.nan}))
