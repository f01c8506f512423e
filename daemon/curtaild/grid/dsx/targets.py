"""Load targets: what an ISV may ask of feeds, and the book of those that hold or are to come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import AllocationId, Issuer, RejectCode
from curtaild.core.events import Ack, AckStage
from curtaild.grid import fields
from curtaild.grid.dsx.envelope import Trace
from curtaild.grid.fields import Rejection, malformed
from curtaild_drivers.contract import Watts

WATTS: Mapping[str, float] = {"watt": 1.0, "kilowatt": 1e3, "megawatt": 1e6}
MAX_TARGETS = 64
MAX_TAGS = 256
MOST_KEPT = 1024
"""Targets in the book: as many as the core holds allocations."""


@dataclass(frozen=True, slots=True)
class Request:
    """One item of `targets` as the ISV wrote it: W, wall time. `tags` empty: every feed; `limit_w` `None` lifts."""

    tags: tuple[str, ...]
    limit_w: Watts | None
    start: UnixSeconds | None
    end: UnixSeconds | None
    is_best_effort: bool


@dataclass(slots=True)
class Target:
    """A request at one feed. It is in force in `pieces`, as allocations; it is over when none of them is left."""

    tag: str
    issuer: Issuer
    limit_w: Watts
    start: UnixSeconds
    end: UnixSeconds | None
    stated_start: UnixSeconds | None
    is_best_effort: bool
    correlation_id: str
    trace: Trace | None
    pieces: set[AllocationId] = field(default_factory=set)
    begun: set[AllocationId] = field(default_factory=set)


def read_requests(body: Mapping[str, object]) -> list[Request]:
    """The signed data of `grid.loadtarget.set.v1`. Raises `Rejection`; one bad target refuses the whole message."""
    items = _list(body, "targets", MAX_TARGETS)
    if not items:
        raise malformed("targets is empty")
    requests = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise malformed(f"targets[{index}] must be an object, got {fields.shown(item)}")
        try:
            requests.append(_request(item))
        except Rejection as refusal:
            raise Rejection(refusal.code, f"targets[{index}]: {refusal.reason}") from None
    return requests


def _request(item: Mapping[str, object]) -> Request:
    interval = _object(item, "interval")
    start, end = (fields.moment(interval, key) if key in interval else None for key in ("start_time", "end_time"))
    if start is not None and end is not None and end <= start:
        raise malformed("end_time must be after start_time")
    tags: list[object] = _list(item, "feed_tags", MAX_TAGS) if "feed_tags" in item else []
    strategy = _object(item, "strategy") if "strategy" in item else {}
    best_effort = strategy.get("best_effort", False)
    if not isinstance(best_effort, bool):
        raise malformed("best_effort must be true or false")
    return Request(tuple(map(_tag, tags)), _limit_w(item), start, end, best_effort)


def _limit_w(item: Mapping[str, object]) -> Watts | None:
    """0 is a limit like any other: the specification's schema has it, though its prose says otherwise."""
    if fields.required(item, "load_constraint") is None:
        return None
    constraint = _object(item, "load_constraint")
    unit = fields.text(constraint, "unit")
    if unit not in WATTS:
        raise malformed(f"unit must be one of {', '.join(WATTS)}, got {fields.shown(unit)}")
    amount = fields.required(constraint, "value")
    try:
        value = fields.amount_or_none(constraint, "value")
    except Rejection as refusal:
        raise Rejection(RejectCode.NOT_A_LIMIT, refusal.reason) from None
    if value is None or value * WATTS[unit] == float("inf"):
        raise Rejection(RejectCode.NOT_A_LIMIT, f"value must be a number, got {fields.shown(amount)}")
    return value * WATTS[unit]


def _tag(value: object) -> str:
    return fields.text({"feed_tags": value}, "feed_tags")


def _object(body: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = fields.required(body, key)
    if not isinstance(value, dict):
        raise malformed(f"{key} must be an object, got {fields.shown(value)}")
    return value


def _list(body: Mapping[str, object], key: str, most: int) -> list[object]:
    value = fields.required(body, key)
    if not isinstance(value, list):
        raise malformed(f"{key} must be a list, got {fields.shown(value)}")
    if len(value) > most:
        raise Rejection(RejectCode.TOO_LARGE, f"{len(value)} {key}, most is {most}")
    return value


class TargetBook:
    """What has been asked of each feed and is not over; follows the core's answers. It outlives a reload."""

    def __init__(self) -> None:
        self._targets: list[Target] = []
        self._by_piece: dict[AllocationId, Target] = {}

    def add(self, target: Target) -> None:
        self._targets.append(target)
        self._by_piece.update(dict.fromkeys(target.pieces, target))
        while len(self._targets) > MOST_KEPT:
            self._drop(self._targets[0])

    def follow(self, ack: Ack) -> Target | None:
        """The target that `ack` is about."""
        target = self._by_piece.get(ack.allocation_id) if ack.allocation_id is not None else None
        if target is None or ack.allocation_id is None:
            return None
        if ack.stage in (AckStage.ENDED, AckStage.REJECTED):
            target.pieces.discard(ack.allocation_id)
            target.begun.discard(ack.allocation_id)
            del self._by_piece[ack.allocation_id]
            if not target.pieces:
                self._targets.remove(target)
        elif ack.stage is not AckStage.ACCEPTED:
            target.begun.add(ack.allocation_id)
        return target

    def at(self, tag: str) -> list[Target]:
        """The feed's targets, in the order they came."""
        return [target for target in self._targets if target.tag == tag]

    def active(self, tag: str) -> Target | None:
        """The one that is enforced: the newest of those begun per issuer, of those the strictest."""
        newest: dict[Issuer, Target] = {target.issuer: target for target in self.at(tag) if target.begun}
        return min(newest.values(), key=lambda target: target.limit_w, default=None)

    def enforced(self, tag: str) -> list[Target]:
        """The newest of those begun, one per issuer."""
        return list({target.issuer: target for target in self.at(tag) if target.begun}.values())

    def _drop(self, target: Target) -> None:
        self._targets.remove(target)
        for piece in target.pieces:
            self._by_piece.pop(piece, None)


def windows(
    request: Request, start: UnixSeconds, issuer: Issuer, coming: Sequence[Target]
) -> Iterator[tuple[UnixSeconds, UnixSeconds | None]]:
    """When `request` holds. One without an end gives way to stricter targets of the same issuer that are still to come:
    "until replaced" must not strike out a restriction that was announced. One with an end replaces what it covers."""
    if request.end is not None:
        yield start, request.end
        return
    for other in sorted(coming, key=lambda target: target.start):
        is_stricter = request.limit_w is None or other.limit_w < request.limit_w
        if other.issuer != issuer or not is_stricter or other.start <= start:
            continue
        yield start, other.start
        if other.end is None:
            return
        start = max(start, other.end)
    yield start, None
