"""What is said between parent and child in the native dialect (docs/grid/native.md): read strictly, written exactly.

The broker is a place where others may write too: whatever cannot be meant is no message at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from curtaild_drivers.broker.signing import Signer
from curtaild_drivers.contract import Seconds, Watts, watts_or_none

MOST_W = 1e12
_EMERGENCY = "emergency"
CLOCKS_APART = timedelta(seconds=300)
"""An allocation says that it has held for so long, so that a child whose clock lags does not wait for it to begin."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Where one child is spoken to, and speaks."""

    allocation: str
    heartbeat: str
    ack: str
    status: str

    @staticmethod
    def of(prefix: str, site: str) -> Topics:
        return Topics(*(f"{prefix}/{site}/{name}" for name in ("allocation", "heartbeat", "ack", "status")))


@dataclass(frozen=True, slots=True)
class Status:
    """How a child stands, W. `heard_at` is monotonic seconds. `is_live` is false for the copy that the broker keeps: it
    proves no more than that the child once said so. `is_waiting`: its fail-safe limit holds, for it does not know
    what we said, or no longer believes it. `least_w`, `most_w`: how far it can go. `source`: whose limit it is."""

    heard_at: Seconds
    is_live: bool
    offline_reason: str | None = None
    is_waiting: bool = False
    limit_w: Watts = 0.0
    power_w: Watts | None = None
    least_w: Watts = 0.0
    most_w: Watts = 0.0
    devices: int = 0
    source: str = ""

    @property
    def is_offline(self) -> bool:
        return self.offline_reason is not None


@dataclass(frozen=True, slots=True)
class Ack:
    id: str
    is_accepted: bool
    refusal: str


@dataclass(frozen=True, slots=True)
class Stated:
    """An allocation as it was stated. `limit_w` `None`: released. In an emergency the child may take more of its work
    than it lets a routine allocation take."""

    id: str
    issuer: str
    seq: int
    limit_w: Watts | None
    is_emergency: bool = False


def status_of(payload: bytes, heard_at: Seconds, is_live: bool) -> Status | None:
    """A status, or `None` for what is none.

    The child draws what its meter says, else what its devices say and all else behind them. While commands of its own
    are under way it counts as drawing all that it reserves: its readings may be older than its word.
    """
    body = _object(payload)
    if body is None:
        return None
    state = body.get("state")
    if state == "offline":
        return Status(heard_at, is_live, offline_reason=_text(body.get("reason")) or "it does not say why")
    limit_w, planned_w, auxiliary_w, up_w, down_w = (
        _watts(body.get(key)) for key in ("limit_w", "planned_w", "auxiliary_w", "flexible_up_w", "flexible_down_w")
    )
    measured_w, reserved_w = _watts(body.get("measured_w")), _watts(body.get("reserved_w"))
    if state not in ("starting", "failsafe", "limited", "unlimited") or limit_w is None:
        return None
    if planned_w is None or auxiliary_w is None or up_w is None or down_w is None:
        return None
    power_w = _watts(body.get("metered_w"))
    if power_w is None and measured_w is not None:
        power_w = measured_w + auxiliary_w
    if body.get("actuations_in_flight") != 0 and reserved_w is not None and power_w is not None:
        power_w = max(power_w, reserved_w + auxiliary_w)
    devices = body.get("devices")
    return Status(
        heard_at=heard_at,
        is_live=is_live,
        is_waiting=state in ("starting", "failsafe"),
        limit_w=limit_w,
        power_w=power_w,
        least_w=max(0.0, planned_w + auxiliary_w - down_w),
        most_w=planned_w + auxiliary_w + up_w,
        devices=devices if isinstance(devices, int) and not isinstance(devices, bool) else 0,
        source=_text(body.get("limit_source")),
    )


def ack_of(payload: bytes) -> Ack | None:
    """An answer to an allocation that says whether it was taken; its further stages say nothing new here."""
    body = _object(payload)
    if body is None or body.get("stage") not in ("accepted", "rejected"):
        return None
    refusal = f"{_text(body.get('code'))}: {_text(body.get('reason'))}"
    return Ack(_text(body.get("id")), body["stage"] == "accepted", refusal)


def stated_of(payload: bytes) -> Stated | None:
    """The allocation that the broker keeps for a child."""
    body = _object(payload)
    if body is None:
        return None
    issuer, seq, limit_w = body.get("issuer"), body.get("seq"), _watts(body.get("limit_w"))
    if not isinstance(issuer, str) or not isinstance(seq, int) or isinstance(seq, bool) or "limit_w" not in body:
        return None
    if limit_w is None and body["limit_w"] is not None:
        return None
    return Stated(_text(body.get("id")), issuer, seq, limit_w, body.get("class") == _EMERGENCY)


def allocation(stated: Stated, now: datetime) -> bytes:
    """Holds at once and without end: a child that loses us keeps it, or its fail-safe limit where that is lower."""
    return _json(
        {
            "id": stated.id,
            "seq": stated.seq,
            "issuer": stated.issuer,
            "issued_at": _moment(now),
            "limit_w": stated.limit_w,
            "valid_from": _moment(now - CLOCKS_APART),
            "valid_until": None,
            "class": _EMERGENCY if stated.is_emergency else "normal",
        }
    )


def heartbeat(seq: int, now: datetime) -> bytes:
    return _json({"at": _moment(now), "seq": seq})


def signed(message: bytes, topic: str, signer: Signer) -> bytes:
    """For `topic` and nowhere else: a JWS."""
    return signer.sign(_json({**json.loads(message), "aud": topic})).encode()


def _object(payload: bytes) -> Mapping[str, Any] | None:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _watts(value: object) -> Watts | None:
    return None if isinstance(value, str) else watts_or_none(value, MOST_W)


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
