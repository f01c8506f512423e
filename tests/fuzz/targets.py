"""What is fuzzed: every decoder of bytes from the wire. Each target gets one input, alone, and must bear it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from curtaild.core.allocation import Allocation, HeartbeatReceived, Issuer
from curtaild.core.limits import Limit
from curtaild.grid.dsx.isv import LoadTarget
from curtaild.grid.maestroos import MaestroOSDialect, Switch
from curtaild.grid.native import Context, Gate, NativeDialect, Rights, Topics, gate_of, signed
from curtaild_drivers.asic.cgminer import parse
from curtaild_drivers.asic.http import _parsed
from curtaild_drivers.asic.protobuf import Message
from curtaild_drivers.contract import DriverError, FeederId
from curtaild_drivers.downstream import words
from fuzz.openadr import OPENADR
from fuzz.oracle import CLOCK, ROOT, Target, hear, said
from grid.dsx import NOON, TOPIC, Agent, at_noon, ec_signer, event, public

NPCC = Issuer("npcc")
TOPICS = Topics("curtaild/v1", "thar-1")
SAID = (TOPICS.allocation, TOPICS.schedule, TOPICS.heartbeat)


# ---- native -----------------------------------------------------------------------------------


def native(gate: Gate | None = None) -> NativeDialect:
    return NativeDialect(Context(TOPICS, ROOT, CLOCK, 60.0, 16_384, gate), beats=True)


ORDER: Mapping[str, Any] = {
    "id": "order-1",
    "seq": 7,
    "issuer": "npcc",
    "issued_at": at_noon(),
    "limit_w": 500.0,
    "valid_from": at_noon(),
    "valid_until": at_noon(3600.0),
    "feeder": "row-1",
    "reach_by_s": 300,
    "max_ramp_up_w_per_min": 1e6,
    "class": "emergency",
    "version": 1,
}
BODIES: tuple[tuple[int, Mapping[str, Any]], ...] = (
    (0, ORDER),
    (0, {**ORDER, "limit_w": None, "valid_until": None, "feeder": None}),
    (1, {"issuer": "npcc", "seq": 8, "issued_at": at_noon(), "allocations": [ORDER, {**ORDER, "id": "b", "seq": 9}]}),
    (2, {"at": at_noon(), "seq": 5}),
)
WORDS = [*ORDER, "allocations", "at", "aud", "null", "true", "1e999", "-0", "NaN", "2026-11-20T12:00:00Z", "\\ud800"]


@cache
def schema() -> Any:
    page = Path(__file__).parents[2] / "docs" / "grid" / "native.schema.json"
    return json.loads(page.read_text())


def is_well_formed(payload: bytes, name: str) -> bool:
    """By the published schema, read by another validator than ours."""

    def no_such_thing(literal: str) -> float:
        raise ValueError(literal)

    body = json.loads(payload, parse_constant=no_such_thing)
    validator: Any = import_module("jsonschema").Draft202012Validator
    document = schema()
    return bool(validator({"$ref": f"#/$defs/{name}", "$defs": document["$defs"]}).is_valid(body))


def bear_native(data: bytes) -> None:
    """The first byte says the topic, and whether the broker kept a copy."""
    topic, retained, payload = SAID[data[0] % 3], bool(data[0] & 4), data[1:]
    name = topic.rpartition("/")[2]
    hear(said(native(), topic, payload, retained), lambda allocation: is_well_formed(payload, name))


GATE_RIGHTS = {NPCC: Rights(feeders=frozenset({FeederId("row-1")}), lowest_limit_w=100.0)}


@cache
def genuine() -> Sequence[tuple[int, bytes]]:
    return [(at, signed(json.dumps(body).encode(), SAID[at], ec_signer("npcc-1"))) for at, body in BODIES]


def bear_signed(data: bytes) -> None:
    topic, payload = SAID[data[0] % 3], data[1:]
    known = {token.rpartition(b".")[0] for at, token in genuine() if SAID[at] == topic}
    gate = gate_of(GATE_RIGHTS, {NPCC: public(ec_signer("npcc-1"))})
    messages = said(native(gate), topic, payload, bool(data[0] & 4))
    assert HeartbeatReceived() not in messages or payload.rpartition(b".")[0] in known
    hear(messages, lambda allocation: payload.rpartition(b".")[0] in known and allocation.feeder == "row-1")


# ---- MaestroOS and DSX Flex -------------------------------------------------------------------


def bear_maestroos(data: bytes) -> None:
    switch = Switch(ROOT, Limit(600.0), silence_s=240.0, max_clock_skew_s=60.0)
    dialect = MaestroOSDialect("maestro", "maestro", switch, CLOCK)

    def may_state(allocation: Allocation) -> bool:
        target = json.loads(data)["target"]
        return target in (0, 100) and allocation.ceiling == Limit(600.0 if target else 0.0)

    hear(said(dialect, "maestro", data, retained=False), may_state)


TARGETS = (
    LoadTarget(500.0, ("main-a",)),
    LoadTarget(700.0, ("main-b",), NOON + 60.0, NOON + 600.0, is_best_effort=True),
    LoadTarget(None, ()),
)


@cache
def set_by_isv() -> Sequence[bytes]:
    return [event(*TARGETS), event(TARGETS[0], signer=ec_signer("acme-1"))]


def signing_input(payload: bytes) -> str:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return ""
    token = body.get("data") if isinstance(body, dict) else None
    return token.rpartition(".")[0] if isinstance(token, str) else ""


def bear_dsx_envelope(data: bytes) -> None:
    known = {signing_input(payload) for payload in set_by_isv()}
    hear(Agent().hear(data), lambda allocation: signing_input(data) in known)


def bear_dsx_targets(data: bytes) -> None:
    """What an ISV signs may be junk as well."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    token = ec_signer("acme-1").sign(text.encode())
    payload = json.dumps({**json.loads(set_by_isv()[0]), "data": token}).encode()
    hear(Agent().hear(payload, TOPIC), lambda allocation: isinstance(json.loads(text), dict))


# ---- sites below ------------------------------------------------------------------------------

BELOW = {
    "state": "limited",
    "limit_w": 4000.0,
    "limit_source": "parent-1",
    "metered_w": None,
    "measured_w": 3900.0,
    "reserved_w": 3950.0,
    "planned_w": 3950.0,
    "auxiliary_w": 10.0,
    "flexible_up_w": 4000.0,
    "flexible_down_w": 1500.0,
    "actuations_in_flight": 2,
    "devices": 1,
}
WORDS_BELOW = [*BELOW, "offline", "failsafe", "reason", "stage", "accepted", "rejected", "code", "seq", "issuer", "id"]


def bear_downstream(data: bytes) -> None:
    """What is said on the topics of a site below: whatever is believed of it are watts, and its range has two ends."""
    status = words.status_of(data, 0.0, is_live=True)
    if status is not None and not status.is_offline:
        assert 0.0 <= status.limit_w <= words.MOST_W
        assert 0.0 <= status.least_w <= status.most_w <= 3 * words.MOST_W
        assert status.power_w is None or 0.0 <= status.power_w <= 2 * words.MOST_W
    words.ack_of(data)
    stated = words.stated_of(data)
    assert stated is None or stated.limit_w is None or 0.0 <= stated.limit_w <= words.MOST_W


# ---- devices ----------------------------------------------------------------------------------


def bear_devices(data: bytes) -> None:
    """What miners answer: cgminer's JSON, HTTP, protocol buffers. A driver's own errors are what it may raise."""
    for read in (parse, _parsed, _whole):
        try:
            read(data)
        except DriverError:
            continue


def _whole(data: bytes) -> None:
    message = Message(data)
    for field in range(8):
        message.number(field), message.double(field), message.text(field)
        message.message(field).text(1)


CGMINER = b'{"STATUS":[{"STATUS":"S"}],"SUMMARY":[{"Elapsed":1,"GHS 5s":nan,}{"x":1}],"id":1}\0'
HTTP = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n'


def all_targets() -> dict[str, Target]:
    """By name."""
    bodies = [(at, json.dumps(body).encode()) for at, body in BODIES]
    event_words = ["specversion", "source", "type", "time", "data", "traceparent", "correlationid", "1.0.2"]
    target_words = ["targets", "interval", "start_time", "feed_tags", "load_constraint", "value", "unit", "megawatt"]
    inner = [b'{"targets":[]}', _signed_body(set_by_isv()[0])]
    return {
        "native": Target(bear_native, [bytes([at]) + body for at, body in bodies], WORDS),
        "signed": Target(bear_signed, [bytes([at]) + token for at, token in genuine()], ["eyJ", "."]),
        "maestroos": Target(
            bear_maestroos, [b'{"target":100,"timestamp":%d}' % NOON, b'{"target":0,"timestamp":0}'], ["target"]
        ),
        "dsx-envelope": Target(bear_dsx_envelope, set_by_isv(), event_words),
        "dsx-targets": Target(bear_dsx_targets, inner, target_words),
        **OPENADR,
        "downstream": Target(
            bear_downstream, [json.dumps(BELOW).encode(), b'{"state":"offline","reason":"stopped"}'], WORDS_BELOW
        ),
        "devices": Target(bear_devices, [CGMINER, HTTP, b"\x08\x96\x01\x12\x07testing\x19" + bytes(8)]),
    }


def _signed_body(payload: bytes) -> bytes:
    part = signing_input(payload).partition(".")[2]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
