"""The native dialect `curtaild/v1` (docs/grid/native.md): bytes to grid messages, events to bytes. No I/O.

Whatever arrives, `decode` returns; it never raises. Wall time becomes monotonic time here, once, on receipt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curtaild.clock import Clock, UnixSeconds, to_unix
from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
    MessageRejected,
    RejectCode,
    ScheduleReceived,
    Urgency,
)
from curtaild.core.events import Ack, BreachChanged
from curtaild.core.limits import Ceiling, Limit
from curtaild.core.status import FeederStatus, SiteStatus
from curtaild.grid import fields
from curtaild.grid.fields import Rejection, malformed
from curtaild_drivers.contract import FeederId, Seconds, Watts

MAX_SCHEDULED = 256
"""Most allocations in one schedule."""

SCHEDULE_PAYLOADS = 8
"""A schedule may be this many times longer than an allocation: 256 items of 512 bytes at the default of 16 KiB."""

MAX_FEEDERS_IN_STATUS = 256
"""Feeders listed in a status, root first, so that a huge site still fits a broker's message size limit."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The six topics of one site. Raises `ValueError` where prefix or site would make a wildcard or another level."""

    prefix: str
    site: str

    def __post_init__(self) -> None:
        if not self.site or set(self.site) & set("/+#\0") or not self.prefix or set(self.prefix) & set("+#\0"):
            raise ValueError(f"not usable in an MQTT topic: prefix {self.prefix!r}, site {self.site!r}")

    @property
    def allocation(self) -> str:
        return f"{self.prefix}/{self.site}/allocation"

    @property
    def schedule(self) -> str:
        return f"{self.prefix}/{self.site}/schedule"

    @property
    def heartbeat(self) -> str:
        return f"{self.prefix}/{self.site}/heartbeat"

    @property
    def ack(self) -> str:
        return f"{self.prefix}/{self.site}/ack"

    @property
    def status(self) -> str:
        return f"{self.prefix}/{self.site}/status"

    @property
    def breach(self) -> str:
        return f"{self.prefix}/{self.site}/breach"


@dataclass(frozen=True, slots=True)
class Context:
    """What decoding needs beside the bytes. `feeder: null` in a message means `root`."""

    topics: Topics
    root: FeederId
    clock: Clock
    max_clock_skew_s: Seconds
    max_payload_bytes: int

    def bound(self, topic: str) -> int:
        """The longest payload taken on `topic`, in bytes."""
        return self.max_payload_bytes * (SCHEDULE_PAYLOADS if topic == self.topics.schedule else 1)


def decode(topic: str, payload: bytes, retained: bool, context: Context) -> GridMessage | None:
    """What the grid said, or why it is not taken.

    `None` where nothing was said: a foreign topic; an empty payload, by which MQTT clears a retained message; a
    retained heartbeat, which proves that the broker is alive and nothing about the grid.
    """
    topics = context.topics
    if topic not in (topics.allocation, topics.schedule, topics.heartbeat) or not payload:
        return None
    if topic == topics.heartbeat and retained:
        return None
    body: Mapping[str, object] = {}
    try:
        if len(payload) > context.bound(topic):
            raise Rejection(RejectCode.TOO_LARGE, f"longer than {context.bound(topic)} bytes")
        body, has_literals = fields.parse_object(payload)
        message = _read(topic, body, retained, context)
        if has_literals:
            raise malformed("NaN and Infinity are not JSON")
    except Rejection as rejection:
        subject = body if rejection.subject is None else rejection.subject
        named, issued = fields.readable_text(subject, "id"), fields.readable_text(subject, "issuer")
        return MessageRejected(
            code=rejection.code,
            reason=rejection.reason,
            allocation_id=None if named is None else AllocationId(named),
            seq=fields.readable_sequence(subject, "seq"),
            issuer=None if issued is None else Issuer(issued),
            retained=retained,
        )
    return message


def _read(topic: str, body: Mapping[str, object], retained: bool, context: Context) -> GridMessage:
    if topic == context.topics.heartbeat:
        fields.moment(body, "at")
        fields.sequence(body, "seq")
        return HeartbeatReceived()
    if topic == context.topics.schedule:
        return _schedule(body, retained, context)
    return AllocationReceived(_allocation(body, context), retained)


def _allocation(body: Mapping[str, object], context: Context) -> Allocation:
    identity, seq, issuer = fields.text(body, "id"), fields.sequence(body, "seq"), fields.text(body, "issuer")
    ceiling = fields.ceiling(body, "limit_w")
    feeder = fields.text_or_none(body, "feeder")
    issued_at = fields.moment(body, "issued_at")
    valid_from, valid_until = fields.moment(body, "valid_from"), fields.moment_or_none(body, "valid_until")
    if valid_until is not None and valid_until <= valid_from:
        raise malformed("valid_until must be after valid_from")
    urgency = body.get("class", Urgency.NORMAL.value)
    if not isinstance(urgency, str) or urgency not in {each.value for each in Urgency}:
        raise malformed(f"class must be normal or emergency, got {fields.shown(urgency)}")
    reach_by_s = fields.amount_or_none(body, "reach_by_s")
    ramp = fields.amount_or_none(body, "max_ramp_up_w_per_min")
    wall = context.clock.wall()
    _refuse_future(issued_at, wall, context)
    to_monotonic = context.clock.monotonic() - wall  # read once, so that all times of a message agree
    return Allocation(
        id=AllocationId(identity),
        seq=seq,
        issuer=Issuer(issuer),
        feeder=context.root if feeder is None else FeederId(feeder),
        ceiling=ceiling,
        issued_at=issued_at + to_monotonic,
        valid_from=valid_from + to_monotonic,
        valid_until=None if valid_until is None else valid_until + to_monotonic,
        reach_by_s=reach_by_s,
        max_ramp_up_w_per_min=ramp,
        urgency=Urgency(urgency),
    )


def _schedule(body: Mapping[str, object], retained: bool, context: Context) -> ScheduleReceived:
    """One bad item refuses the whole: half a schedule is a schedule nobody wrote."""
    issuer = fields.text(body, "issuer")
    seq = fields.sequence(body, "seq")
    _refuse_future(fields.moment(body, "issued_at"), context.clock.wall(), context)
    items = fields.required(body, "allocations")
    if not isinstance(items, list):
        raise malformed(f"allocations must be a list, got {fields.shown(items)}")
    if len(items) > MAX_SCHEDULED:
        raise Rejection(RejectCode.TOO_LARGE, f"{len(items)} allocations in one schedule, most is {MAX_SCHEDULED}")
    allocations = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise malformed(f"allocations[{index}] must be an object, got {fields.shown(item)}")
        try:
            allocation = _allocation(item, context)
            if allocation.issuer != issuer:
                raise malformed(
                    f"issuer is {fields.shown(allocation.issuer)}, the schedule's is {fields.shown(issuer)}"
                )
        except Rejection as rejection:
            raise Rejection(rejection.code, f"allocations[{index}]: {rejection.reason}", item) from None
        allocations.append(allocation)
    return ScheduleReceived(Issuer(issuer), tuple(allocations), retained, seq)


def _refuse_future(issued_at: UnixSeconds, wall: UnixSeconds, context: Context) -> None:
    """The past is fine (a retained message may be old); a message from the future means that a clock is wrong."""
    ahead_s = issued_at - wall
    if ahead_s > context.max_clock_skew_s:
        raise Rejection(RejectCode.CLOCK_SKEW, f"issued_at is {ahead_s:.0f} s ahead of the site's clock")


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


def encode_status(status: SiteStatus, clock: Clock) -> bytes:
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
