"""The native dialect's messages, key by key: how each is read and what its JSON Schema says, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import RejectCode, Urgency
from curtaild.core.events import AckStage, BreachStage, LinkPhase
from curtaild.core.limits import Ceiling
from curtaild.grid import fields
from curtaild.grid.dialect import NAMESPACE_MARK
from curtaild.grid.fields import Rejection

Value = TypeVar("Value")
Schema = Mapping[str, Any]

MAX_SCHEDULED = 256
"""Most allocations in one schedule."""
VERSION_SPOKEN = 1


@dataclass(frozen=True, slots=True)
class Key(Generic[Value]):
    """One key of a message of the grid. `read` returns its value or raises `Rejection`; `schema` says the same."""

    name: str
    read: Callable[[Mapping[str, object], str], Value]
    schema: Schema
    is_required: bool = True

    def of(self, body: Mapping[str, object]) -> Value:
        return self.read(body, self.name)


def _issuer(body: Mapping[str, object], key: str) -> str:
    """The mark is other dialects': nobody supersedes, by taking such a name, what was stated there."""
    issuer = fields.text(body, key)
    if NAMESPACE_MARK in issuer:
        raise Rejection(RejectCode.UNAUTHORIZED, f"{key} may not hold {NAMESPACE_MARK}: such names are other dialects'")
    return issuer


def _urgency(body: Mapping[str, object], key: str) -> Urgency:
    word = body.get(key, Urgency.NORMAL.value)
    if not isinstance(word, str) or word not in _words(Urgency):
        raise fields.malformed(f"{key} must be normal or emergency, got {fields.shown(word)}")
    return Urgency(word)


def _version(body: Mapping[str, object], key: str) -> int:
    if key in body and fields.readable_sequence(body, key) != VERSION_SPOKEN:
        raise fields.malformed(f"{key} {fields.shown(body[key])} is not spoken here, {VERSION_SPOKEN} is")
    return VERSION_SPOKEN


def _list(body: Mapping[str, object], key: str) -> list[object]:
    items = fields.required(body, key)
    if not isinstance(items, list):
        raise fields.malformed(f"{key} must be a list, got {fields.shown(items)}")
    if len(items) > MAX_SCHEDULED:
        raise Rejection(RejectCode.TOO_LARGE, f"{len(items)} {key} in one schedule, most is {MAX_SCHEDULED}")
    return items


def _words(words: type[Enum]) -> list[str]:
    return [word.value for word in words]


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": fields.MAX_TEXT,
    "not": {"pattern": f"[{fields.UNPRINTABLE}]"},
}
_ISSUER: Schema = {**_TEXT, "not": {"pattern": f"[{fields.UNPRINTABLE}]|{NAMESPACE_MARK}"}}
_MOMENT: Schema = {
    "type": "string",
    "format": "date-time",
    "maxLength": fields.MAX_MOMENT_TEXT,
    "pattern": f"^{fields.RFC3339}(?![\\s\\S])",
}
_SEQ: Schema = {"type": "integer", "minimum": 0, "maximum": fields.MAX_SEQ}
_AMOUNT: Schema = {"type": "number", "minimum": 0, "maximum": fields.MOST_AMOUNT}

# ---- what the grid writes ---------------------------------------------------------------------

ID: Key[str] = Key("id", fields.text, _TEXT)
SEQ: Key[int] = Key("seq", fields.sequence, _SEQ)
ISSUER: Key[str] = Key("issuer", _issuer, _ISSUER)
ISSUED_AT: Key[UnixSeconds] = Key("issued_at", fields.moment, _MOMENT)
LIMIT: Key[Ceiling] = Key("limit_w", fields.ceiling, _or_null(_AMOUNT))
VALID_FROM: Key[UnixSeconds] = Key("valid_from", fields.moment, _MOMENT)
VALID_UNTIL: Key[UnixSeconds | None] = Key("valid_until", fields.moment_or_none, _or_null(_MOMENT))
FEEDER: Key[str | None] = Key("feeder", fields.text_or_none, _or_null(_TEXT), is_required=False)
REACH_BY: Key[float | None] = Key("reach_by_s", fields.amount_or_none, _or_null(_AMOUNT), is_required=False)
RAMP: Key[float | None] = Key("max_ramp_up_w_per_min", fields.amount_or_none, _or_null(_AMOUNT), is_required=False)
CLASS: Key[Urgency] = Key("class", _urgency, {"enum": _words(Urgency)}, is_required=False)
ALLOCATIONS: Key[list[object]] = Key(
    "allocations", _list, {"type": "array", "maxItems": MAX_SCHEDULED, "items": {"$ref": "#/$defs/allocation"}}
)
AT: Key[UnixSeconds] = Key("at", fields.moment, _MOMENT)

VERSION: Key[int] = Key("version", _version, {"const": VERSION_SPOKEN}, is_required=False)

ALLOCATION = (ID, SEQ, ISSUER, ISSUED_AT, LIMIT, VALID_FROM, VALID_UNTIL, FEEDER, REACH_BY, RAMP, CLASS, VERSION)
SCHEDULE = (ISSUER, SEQ, ISSUED_AT, ALLOCATIONS, VERSION)
HEARTBEAT = (AT, SEQ, VERSION)

# ---- what the site writes: every key always, no other -----------------------------------------

_WATTS: Schema = {"type": ["number", "null"]}
_WORDS: Schema = {"type": ["string", "null"]}
_LIMITS: Mapping[str, Schema] = dict.fromkeys(("ceiling_w", "limit_w", "metered_w", "planned_w", "deficit_w"), _WATTS)

ACK: Mapping[str, Schema] = {
    "at": _MOMENT,
    "stage": {"enum": _words(AckStage)},
    "id": _WORDS,
    "seq": {"type": ["integer", "null"]},
    "issuer": _WORDS,
    "feeder": _WORDS,
    **dict.fromkeys(("limit_w", "applied_w", "metered_w", "floor_w"), _WATTS),
    "code": {"enum": [*_words(RejectCode), None]},
    "reason": _WORDS,
}
BREACH: Mapping[str, Schema] = {
    "at": _MOMENT,
    "id": {"type": "string"},
    "stage": {"enum": _words(BreachStage)},
    "since": _MOMENT,
    "feeder": {"type": "string"},
    **dict.fromkeys(("limit_w", "over_w", "worst_over_w"), _WATTS),
}
STATUS: Mapping[str, Schema] = {
    "at": _MOMENT,
    "state": {"enum": _words(LinkPhase)},
    "reason": {"type": "string"},
    "allocation_id": _WORDS,
    "heartbeat_age_s": {"type": ["number", "null"]},
    "next_limit_change_at": _or_null(_MOMENT),
    **_LIMITS,
    "limit_source": {"type": "string"},
    "limit_issuer": _WORDS,
    **dict.fromkeys(("rating_w", "measured_w", "reserved_w", "auxiliary_w", "curtailed_w"), _WATTS),
    "devices": {"type": "integer"},
    **dict.fromkeys(("flexible_up_w", "flexible_down_w"), _WATTS),
    "actuations_in_flight": {"type": "integer"},
    "feeders": {"type": "array", "items": {"$ref": "#/$defs/feeder"}},
}
FEEDER_STATUS: Mapping[str, Schema] = {"id": {"type": "string"}, "parent": _WORDS, **_LIMITS}
OFFLINE: Mapping[str, Schema] = {"at": _or_null(_MOMENT), "state": {"const": "offline"}, "reason": {"type": "string"}}
