"""Writes the native dialect: what the site says, and, for the operator's side, what the grid says. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curtaild.clock import Clock, UnixSeconds, to_unix
from curtaild.core.allocation import Issuer, Urgency
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.limits import Ceiling, Limit
from curtaild.core.status import FeederStatus, SiteStatus
from curtaild.grid import fields
from curtaild.grid.keys import Signer
from curtaild_drivers.contract import Seconds, Watts

MAX_FEEDERS_IN_STATUS = 256
"""Feeders listed in a status, root first, so that a huge site still fits a broker's message size limit."""


def encode_ack(ack: Ack, clock: Clock) -> bytes:
    return _json(
        {
            "at": fields.timestamp(to_unix(clock, ack.at)),
            "stage": ack.stage.value,
            "id": ack.allocation_id,
            "seq": ack.seq,
            "issuer": ack.issuer,
            "feeder": ack.feeder,
            "limit_w": _watts(ack.limit_w),
            "applied_w": _watts(ack.applied_w),
            "metered_w": _watts(ack.metered_w),
            "floor_w": _watts(ack.floor_w),
            "code": None if ack.code is None else ack.code.value,
            "reason": ack.reason,
        }
    )


def encode_breach(breach: BreachChanged, clock: Clock) -> bytes:
    return _json(
        {
            "at": fields.timestamp(to_unix(clock, breach.at)),
            "id": breach.id,
            "stage": breach.stage.value,
            "since": fields.timestamp(to_unix(clock, breach.since)),
            "feeder": breach.feeder,
            "limit_w": _watts(breach.limit_w),
            "over_w": _watts(breach.over_w),
            "worst_over_w": _watts(breach.worst_over_w),
        }
    )


def encode_status(status: SiteStatus, clock: Clock, limit_issuer: Issuer | None = None) -> bytes:
    """`limit_issuer`: who stated the allocation that limits the site, if anybody did."""
    site, change_at = status.site, status.next_limit_change_at
    return _json(
        {
            "at": fields.timestamp(to_unix(clock, status.at)),
            "state": status.phase.value,
            "reason": status.phase_reason,
            "allocation_id": status.allocation_id,
            "heartbeat_age_s": None if status.heartbeat_age_s is None else round(status.heartbeat_age_s, 1),
            "next_limit_change_at": None if change_at is None else fields.timestamp(to_unix(clock, change_at)),
            **_limits(site),
            "limit_source": site.limit_source,
            "limit_issuer": limit_issuer,
            "rating_w": _watts(site.rating_w),
            "measured_w": _watts(site.measured_w),
            "reserved_w": _watts(site.reserved_w),
            "auxiliary_w": _watts(site.auxiliary_w),
            "curtailed_w": _watts(site.curtailed_w),
            "devices": site.devices,
            "flexible_up_w": _watts(status.flexible_up_w),
            "flexible_down_w": _watts(status.flexible_down_w),
            "actuations_in_flight": status.actuations_in_flight,
            "feeders": [
                {"id": feeder.id, "parent": feeder.parent, **_limits(feeder)}
                for feeder in status.feeders[:MAX_FEEDERS_IN_STATUS]
            ],
        }
    )


def encode_last_will() -> bytes:
    """What the broker publishes for the site when the connection breaks; written at connect, so it knows no time."""
    return _json({"at": None, "state": "offline", "reason": "connection lost"})


def encode_stopped(clock: Clock) -> bytes:
    """The status of a daemon that was stopped on purpose. Devices stay at their last setpoints."""
    return _json({"at": fields.timestamp(clock.wall()), "state": "offline", "reason": "stopped"})


@dataclass(frozen=True, slots=True)
class GridAllocation:
    """An allocation as the grid's side writes it: wall time; `feeder` `None` means the site, `limit_w` `None` releases,
    `valid_until` `None` does not expire."""

    id: str
    seq: int
    issuer: str
    issued_at: UnixSeconds
    limit_w: Watts | None
    valid_from: UnixSeconds
    valid_until: UnixSeconds | None
    feeder: str | None = None
    reach_by_s: Seconds | None = None
    max_ramp_up_w_per_min: float | None = None
    urgency: Urgency = Urgency.NORMAL


def encode_allocation(allocation: GridAllocation) -> bytes:
    return _json(_wire(allocation))


def encode_schedule(issuer: str, seq: int, issued_at: UnixSeconds, allocations: Sequence[GridAllocation]) -> bytes:
    return _json(
        {
            "issuer": issuer,
            "seq": seq,
            "issued_at": fields.timestamp(issued_at),
            "allocations": [_wire(allocation) for allocation in allocations],
        }
    )


def encode_heartbeat(at: UnixSeconds, seq: int) -> bytes:
    return _json({"at": fields.timestamp(at), "seq": seq})


def signed(message: bytes, topic: str, signer: Signer) -> bytes:
    """What the grid's side says, for `topic` and nowhere else: a JWS."""
    return signer.sign(_json({**json.loads(message), "aud": topic})).encode()


def _wire(allocation: GridAllocation) -> dict[str, object]:
    until = allocation.valid_until
    return {
        "id": allocation.id,
        "seq": allocation.seq,
        "issuer": allocation.issuer,
        "issued_at": fields.timestamp(allocation.issued_at),
        "limit_w": allocation.limit_w,
        "valid_from": fields.timestamp(allocation.valid_from),
        "valid_until": None if until is None else fields.timestamp(until),
        "feeder": allocation.feeder,
        "reach_by_s": allocation.reach_by_s,
        "max_ramp_up_w_per_min": allocation.max_ramp_up_w_per_min,
        "class": allocation.urgency.value,
    }


def _limits(feeder: FeederStatus) -> dict[str, object]:
    """`limit_w` has the rating counted; `ceiling_w` is null where nobody limits the feeder."""
    return {
        "ceiling_w": _ceiling(feeder.ceiling),
        "limit_w": _watts(feeder.limit_w),
        "metered_w": _watts(feeder.metered_w) if feeder.meter_is_fresh else None,
        "planned_w": _watts(feeder.planned_w),
        "deficit_w": _watts(feeder.deficit_w),
    }


def _ceiling(ceiling: Ceiling) -> float | None:
    return _watts(ceiling.watts) if isinstance(ceiling, Limit) else None


def _watts(watts: Watts | None) -> float | None:
    """To a tenth of a watt; what is not finite is unknown, and JSON has no word for it but null."""
    return round(watts, 1) if watts is not None and math.isfinite(watts) else None


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
