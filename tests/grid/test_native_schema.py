"""The published JSON Schema says what the code does: it judges random documents as the reader does, and takes all that
the site writes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curtaild.core.allocation import AllocationId, Issuer, MessageRejected, RejectCode
from curtaild.core.events import Ack, AckStage, BreachChanged, BreachId, BreachStage
from curtaild.core.limits import UNLIMITED
from curtaild.grid.native import (
    Context,
    Topics,
    decode,
    encode_ack,
    encode_breach,
    encode_last_will,
    encode_status,
    encode_stopped,
)
from curtaild.grid.native.schema import document
from grid.dsx import HandClock
from grid.rig import ROOT, a_feeder, a_status

jsonschema: Any = import_module("jsonschema")  # it ships no types
PUBLISHED = Path(__file__).parents[2] / "docs" / "grid" / "native.schema.json"
FORMATS = jsonschema.FormatChecker()
CLOCK = HandClock()
TOPICS = Topics("curtaild/v1", "thar-1")
CONTEXT = Context(TOPICS, ROOT, CLOCK, max_clock_skew_s=1e12, max_payload_bytes=1_000_000)
BEYOND_SCHEMAS = ("valid_until must be after", "the schedule's is", "NaN and Infinity are not JSON")


def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value.upper()).tzinfo is not None


FORMATS.checks("date-time", raises=ValueError)(_is_moment)


def judge(name: str) -> Any:
    schema = {**document(), "$ref": f"#/$defs/{name}"}
    return jsonschema.Draft202012Validator(schema, format_checker=FORMATS)


JUDGES = {name: judge(name) for name in ("allocation", "schedule", "heartbeat", "ack", "breach", "status")}


def test_the_published_file_is_what_the_code_says() -> None:
    assert json.loads(PUBLISHED.read_text()) == document(), (
        "run `python -m curtaild.grid.native.schema > docs/grid/native.schema.json`"
    )
    jsonschema.Draft202012Validator.check_schema(document())


def test_the_command_that_the_file_names_writes_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "curtaild.grid.native.schema"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (PUBLISHED.read_text(), "")


# ---- what the grid writes ---------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "id": "a",
    "seq": 1,
    "issuer": "npcc",
    "issued_at": "2026-11-20T11:59:30Z",
    "limit_w": 5,
    "valid_from": "2026-11-20T12:00:30Z",
    "valid_until": None,
    "feeder": None,
    "reach_by_s": 300,
    "max_ramp_up_w_per_min": None,
    "class": "normal",
    "at": "2026-11-20T12:00:00+05:00",
}
TEXTS = st.text(max_size=4) | st.sampled_from(["", "x" * 128, "x" * 129, "a//b", "a\n", "‮b", "🙂", "\ud800", "a b"])
MOMENTS = st.sampled_from(
    [
        "2026-11-20T12:00:00Z",
        "2026-11-20t12:00:00.123456789z",
        "2026-11-20T12:00:00.1-08:30",
        "2026-11-20T12:00:00Z\n",
        "2026-02-30T12:00:00Z",
        "2026-11-20T12:00:60Z",
        "2026-11-20T24:00:00Z",
        "2026-11-20T12:00:00+24:00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-23:59",
        "2026-11-20T12:00:00",
        "2026-11-20",
        "٢٠٢٦-11-20T12:00:00Z",
        "2026-11-20T12:00:00." + "1" * 30 + "Z",
    ]
)
NUMBERS = (
    st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(
        [-0.0, 0, 5.0, 5.5, 2**63 - 1, 2**63, float(2**63), 10**400, -(10**400), sys.float_info.max, 1e-320]
    )
    | st.just(int(sys.float_info.max) + 1)
)
OTHER = st.sampled_from([None, True, False, [], {}, [1], {"a": 1}, "normal", "emergency"])
ANYTHING = TEXTS | MOMENTS | NUMBERS | OTHER


def documents(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Good ones with a few keys changed or left out."""
    good = {key: GOOD[key] for key in keys}
    return st.builds(
        lambda changes, absent: {key: value for key, value in {**good, **changes}.items() if key not in absent},
        st.dictionaries(st.sampled_from([*keys, "colour"]), ANYTHING, max_size=3),
        st.sets(st.sampled_from(keys), max_size=1),
    )


ALLOCATIONS = documents(*(key for key in GOOD if key != "at"))


def agree(name: str, topic: str, body: Any) -> None:
    message = decode(topic, json.dumps(body).encode(), False, CONTEXT)
    refusal = message if isinstance(message, MessageRejected) else None
    if refusal is not None and any(words in refusal.reason for words in BEYOND_SCHEMAS):
        return
    assert JUDGES[name].is_valid(body) == (refusal is None), (body, refusal)


@settings(max_examples=400, deadline=None)
@given(ALLOCATIONS)
@example({**GOOD, "id": "a\n"})
@example({**GOOD, "seq": 5.0})
@example({**GOOD, "limit_w": 10**400})
@example({**GOOD, "colour": float("inf")})
def test_schema_and_reader_judge_an_allocation_alike(body: dict[str, Any]) -> None:
    agree("allocation", TOPICS.allocation, body)


@settings(max_examples=100, deadline=None)
@given(st.lists(ALLOCATIONS, max_size=2) | OTHER, documents("issuer", "seq", "issued_at"))
def test_schema_and_reader_judge_a_schedule_alike(items: Any, head: dict[str, Any]) -> None:
    agree("schedule", TOPICS.schedule, {**head, "allocations": items})


@settings(max_examples=100, deadline=None)
@given(documents("at", "seq"))
def test_schema_and_reader_judge_a_heartbeat_alike(body: dict[str, Any]) -> None:
    agree("heartbeat", TOPICS.heartbeat, body)


def test_a_list_too_long_is_refused_by_both() -> None:
    order = {key: value for key, value in GOOD.items() if key != "at"}
    for count in (256, 257):
        items = [{**order, "id": str(number)} for number in range(count)]
        agree("schedule", TOPICS.schedule, {"issuer": "npcc", "seq": 1, "issued_at": GOOD["at"], "allocations": items})


# ---- what the site writes ---------------------------------------------------------------------

WATTS = st.none() | st.floats()


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(AckStage), st.none() | st.sampled_from(RejectCode), WATTS, WATTS)
def test_every_ack_fits(
    stage: AckStage, code: RejectCode | None, limit_w: float | None, metered_w: float | None
) -> None:
    name, issuer = (AllocationId("a"), Issuer("npcc")) if code is None else (None, None)
    ack = Ack(CLOCK.monotonic(), stage, name, issuer, 1, ROOT, limit_w, metered_w=metered_w, code=code, reason="why")
    JUDGES["ack"].validate(json.loads(encode_ack(ack, CLOCK)))


@pytest.mark.parametrize("stage", BreachStage)
def test_every_breach_fits(stage: BreachStage) -> None:
    breach = BreachChanged(1.0, BreachId("b"), ROOT, stage, 1.0, float("nan"), 1.0, 0.0)
    JUDGES["breach"].validate(json.loads(encode_breach(breach, CLOCK)))


@pytest.mark.parametrize("issuer", [None, Issuer("npcc")])
def test_every_status_fits(issuer: Issuer | None) -> None:
    feeder = a_feeder()._replace(ceiling=UNLIMITED, meter_is_fresh=False, measured_w=float("nan"))
    for status in (
        a_status(),
        replace(a_status(), feeders=(feeder,), next_limit_change_at=6_000.0, allocation_id=None),
    ):
        JUDGES["status"].validate(json.loads(encode_status(status, CLOCK, issuer)))
    for payload in (encode_last_will(), encode_stopped(CLOCK)):
        JUDGES["status"].validate(json.loads(payload))
