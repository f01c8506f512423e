"""The CloudEvents 1.0.2 envelope of DSX Flex in structured JSON: read strictly, written in full."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import RejectCode
from curtaild.grid import fields
from curtaild.grid.fields import Rejection, malformed

SPEC_VERSION = "1.0.2"
_SOURCE = re.compile(r"//grid/v1/(isv|dsx-flex-agent|infra)/[^/]+")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class EventType(Enum):
    """`subject` of each is the second word."""

    LOAD_TARGET_SET = "grid.loadtarget.set.v1"
    POWER_STATE = "grid.powerstate.status.v1"
    BREACH_ALERT = "grid.powerbreach.alert.v1"
    BREACH_ENFORCEMENT = "grid.powerbreach.enforcement.v1"

    @property
    def subject(self) -> str:
        return self.value.split(".")[1]


@dataclass(frozen=True, slots=True)
class Trace:
    """W3C Trace Context: `traceparent` as it came, and what vendors added to it."""

    parent: str
    state: str | None = None

    def next_span(self) -> Trace:
        """A step of our own in the same trace."""
        version, trace_id, _, flags = self.parent.split("-")
        return Trace(f"{version}-{trace_id}-{secrets.token_hex(8)}-{flags}", self.state)


def new_trace() -> Trace:
    return Trace(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01")


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `token` is its `data`, a JWS."""

    id: str
    source: str
    type: EventType
    time: UnixSeconds
    trace: Trace
    correlation_id: str | None
    token: str


def read_event(body: Mapping[str, object], expected: EventType, source: str) -> Event:
    """The envelope in `body`. Raises `Rejection`: `MALFORMED`, or `UNAUTHORIZED` where it comes from another than the
    `source` whose topic it is on, or is not signed."""
    if body.get("specversion") != SPEC_VERSION:
        raise malformed(f"specversion must be {SPEC_VERSION}, got {fields.shown(body.get('specversion'))}")
    if body.get("type") != expected.value:
        raise malformed(f"type must be {expected.value}, got {fields.shown(body.get('type'))}")
    if body.get("datacontenttype") != "application/json":
        raise malformed("datacontenttype must be application/json")
    fields.text(body, "subject")
    token = fields.required(body, "data")
    if not isinstance(token, str):
        raise Rejection(RejectCode.UNAUTHORIZED, "data is not signed")
    if not _JWS.fullmatch(token):
        raise malformed("data is no JWS in compact serialization")
    named = fields.text(body, "source")
    if not _SOURCE.fullmatch(named):
        raise malformed(f"source is {fields.shown(named)}")
    if named != source:
        raise Rejection(RejectCode.UNAUTHORIZED, f"source {fields.shown(named)} is on the topic of {source}")
    return Event(
        id=_uuid(body, "id"),
        source=named,
        type=expected,
        time=fields.moment(body, "time"),
        trace=_trace(body),
        correlation_id=None if body.get("correlationid") is None else _uuid(body, "correlationid"),
        token=token,
    )


def write_event(event: Event) -> bytes:
    body: dict[str, object] = {
        "specversion": SPEC_VERSION,
        "id": event.id,
        "source": event.source,
        "type": event.type.value,
        "time": fields.timestamp(event.time),
        "datacontenttype": "application/json",
        "subject": event.type.subject,
        "traceparent": event.trace.parent,
    }
    if event.trace.state is not None:
        body["tracestate"] = event.trace.state
    if event.correlation_id is not None:
        body["correlationid"] = event.correlation_id
    body["data"] = event.token
    return json.dumps(body, separators=(",", ":")).encode()


def new_id() -> str:
    return str(uuid.uuid4())


def _uuid(body: Mapping[str, object], key: str) -> str:
    value = fields.text(body, key)
    if not _UUID.fullmatch(value):
        raise malformed(f"{key} must be a UUID, got {fields.shown(value)}")
    return value


def _trace(body: Mapping[str, object]) -> Trace:
    parent = fields.text(body, "traceparent")
    if not _TRACEPARENT.fullmatch(parent):
        raise malformed(f"traceparent is {fields.shown(parent)}")
    state = body.get("tracestate")
    if state is not None and (not isinstance(state, str) or len(state) > 512 or not state.isprintable()):
        raise malformed("tracestate must be printable text of at most 512 characters")
    return Trace(parent, state)
