"""Reads the native dialect `curtaild/v1` (docs/grid/native.md): bytes to grid messages. No I/O.

Whatever arrives, `decode` returns; it never raises. Wall time becomes monotonic time here, once, on receipt.
"""

from __future__ import annotations

from collections.abc import Mapping

from curtaild.clock import UnixSeconds
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
)
from curtaild.grid import fields
from curtaild.grid.fields import Rejection, malformed
from curtaild.grid.native import shapes
from curtaild.grid.native.topics import Context
from curtaild_drivers.contract import FeederId


def decode(topic: str, payload: bytes, retained: bool, context: Context) -> GridMessage | None:
    """What the grid said, or why it is not taken.

    `None` where nothing was said: a foreign topic; an empty payload, by which MQTT clears a retained message; a
    retained heartbeat, which proves that the broker is alive and nothing about the grid; a signed one heard before.
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
        if context.gate is None:
            body, has_literals = fields.parse_object(payload)
            signer = None
        else:
            (body, signer), has_literals = context.gate.open(payload, topic, context.clock.wall()), False
        message = _read(topic, body, retained, context, signer)
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


def _read(
    topic: str, body: Mapping[str, object], retained: bool, context: Context, signer: Issuer | None
) -> GridMessage | None:
    shapes.VERSION.of(body)
    if topic == context.topics.heartbeat:
        at, seq, wall = shapes.AT.of(body), shapes.SEQ.of(body), context.clock.wall()
        if context.gate is not None and signer is not None:
            is_new = context.gate.is_new_beat(signer, at, seq, wall, context.max_clock_skew_s)
            return HeartbeatReceived(at - wall) if is_new else None
        return HeartbeatReceived(at - wall)
    if topic == context.topics.schedule:
        return _schedule(body, retained, context)
    return AllocationReceived(_allocation(body, context), retained)


def _allocation(body: Mapping[str, object], context: Context) -> Allocation:
    allocation = _stated(body, context)
    if context.gate is not None:
        context.gate.judge(allocation)
    return allocation


def _stated(body: Mapping[str, object], context: Context) -> Allocation:
    shapes.VERSION.of(body)
    identity, seq, issuer = shapes.ID.of(body), shapes.SEQ.of(body), _issuer(body, context)
    ceiling = shapes.LIMIT.of(body)
    feeder = shapes.FEEDER.of(body)
    issued_at = shapes.ISSUED_AT.of(body)
    valid_from, valid_until = shapes.VALID_FROM.of(body), shapes.VALID_UNTIL.of(body)
    if valid_until is not None and valid_until <= valid_from:
        raise malformed("valid_until must be after valid_from")
    urgency, reach_by_s, ramp = shapes.CLASS.of(body), shapes.REACH_BY.of(body), shapes.RAMP.of(body)
    wall = context.clock.wall()
    _refuse_future(issued_at, wall, context)
    to_monotonic = context.clock.monotonic() - wall  # read once, so that all times of a message agree
    return Allocation(
        id=AllocationId(identity),
        seq=seq,
        issuer=issuer,
        feeder=context.root if feeder is None else FeederId(feeder),
        ceiling=ceiling,
        issued_at=issued_at + to_monotonic,
        valid_from=valid_from + to_monotonic,
        valid_until=None if valid_until is None else valid_until + to_monotonic,
        reach_by_s=reach_by_s,
        max_ramp_up_w_per_min=ramp,
        urgency=urgency,
    )


def _schedule(body: Mapping[str, object], retained: bool, context: Context) -> ScheduleReceived:
    """One bad item refuses the whole: half a schedule is a schedule nobody wrote."""
    issuer = _issuer(body, context)
    seq = shapes.SEQ.of(body)
    _refuse_future(shapes.ISSUED_AT.of(body), context.clock.wall(), context)
    items = shapes.ALLOCATIONS.of(body)
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
    return ScheduleReceived(issuer, tuple(allocations), retained, seq)


def _issuer(body: Mapping[str, object], context: Context) -> Issuer:
    issuer = Issuer(shapes.ISSUER.of(body))
    if issuer in context.signing_elsewhere:
        raise Rejection(RejectCode.UNAUTHORIZED, f"{fields.shown(issuer)} signs, and on another connection")
    return issuer


def _refuse_future(issued_at: UnixSeconds, wall: UnixSeconds, context: Context) -> None:
    """The past is fine (a retained message may be old); a message from the future means that a clock is wrong."""
    ahead_s = issued_at - wall
    if ahead_s > context.max_clock_skew_s:
        raise Rejection(RejectCode.CLOCK_SKEW, f"issued_at is {ahead_s:.0f} s ahead of the site's clock")
