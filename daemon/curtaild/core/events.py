"""What a cycle tells the world: each event goes to the ledger, some to the grid, some to the log and metrics.

All are plain data. `at` is monotonic seconds; `kind` names the event in ledger, log and metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, NewType, TypeAlias

from curtaild.core.allocation import Allocation, AllocationId, Issuer, RejectCode
from curtaild.core.limits import Ceiling
from curtaild_drivers.contract import DeviceId, FeederId, OperatingPoint, Seconds, Watts

ActuationId = NewType("ActuationId", str)
BreachId = NewType("BreachId", str)


class LinkPhase(Enum):
    """The grid link's state (EEBUS LPC's machine without its unsafe exit)."""

    STARTING = "starting"
    LIMITED = "limited"
    UNLIMITED = "unlimited"
    FAILSAFE = "failsafe"


class AckStage(Enum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    APPLYING = "applying"
    REACHED = "reached"
    SHORTFALL = "shortfall"
    ENDED = "ended"


class ActuationStage(Enum):
    """The life of one command: issued → answered → confirmed, refused, diverged or outcome unknown."""

    ISSUED = "issued"
    ANSWERED = "answered"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    DIVERGED = "diverged"
    OUTCOME_UNKNOWN = "outcome_unknown"
    CANCELLED = "cancelled"  # replaced by a newer command, sent or not


class Condition(Enum):
    """What is the matter with a device, told once at the start and once at the recovery."""

    UNREACHABLE = "unreachable"
    AUTH_FAILED = "auth_failed"
    BAD_REPLY = "bad_reply"
    STALE = "stale"
    DIVERGED = "diverged"
    REFUSED = "refused"
    DRIFTED = "drifted"

    __hash__ = object.__hash__  # Enum's own is written in Python, and every reading asks for it


class BreachStage(Enum):
    ACTIVE = "active"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Ack:
    """One stage in the life of one allocation, for the grid.

    `limit_w` is what the allocation asks (None: released), `applied_w` what the feeder's devices and auxiliary load
    are planned to draw, `metered_w` what its meter says (None: no fresh meter), `floor_w` the least reachable.
    """

    kind: ClassVar[str] = "ack"
    at: Seconds
    stage: AckStage
    allocation_id: AllocationId | None
    issuer: Issuer | None
    seq: int | None
    feeder: FeederId | None = None
    limit_w: Watts | None = None
    applied_w: Watts | None = None
    metered_w: Watts | None = None
    floor_w: Watts | None = None
    code: RejectCode | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AllocationTaken:
    """An allocation became part of the link's state. It must be durable before its `accepted` is sent."""

    kind: ClassVar[str] = "allocation"
    at: Seconds
    allocation: Allocation
    scheduled: bool


@dataclass(frozen=True, slots=True)
class LinkChanged:
    kind: ClassVar[str] = "link"
    at: Seconds
    before: LinkPhase
    after: LinkPhase
    reason: str


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The ceiling in force at a feeder moved; `source` is an allocation's id, "fail-safe" or "rating"."""

    kind: ClassVar[str] = "limit"
    at: Seconds
    feeder: FeederId
    before: Ceiling | None
    after: Ceiling
    source: str


class ActuationChanged(NamedTuple):
    """`rule` says why it was issued (the feeder and its deficit, or the headroom); `detail` what the device did.

    A tuple, alone among the events: a shed makes ten thousand in one cycle.
    """

    at: Seconds
    id: ActuationId
    device: DeviceId
    stage: ActuationStage
    before: OperatingPoint | None
    target: OperatingPoint
    is_raise: bool
    reserved_w: Watts
    power_w: Watts | None
    allocation_id: AllocationId | None
    rule: str
    detail: str = ""

    @property
    def kind(self) -> str:
        return "actuation"


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    kind: ClassVar[str] = "device"
    at: Seconds
    device: DeviceId
    condition: Condition
    begins: bool
    detail: str


@dataclass(frozen=True, slots=True)
class MeterChanged:
    kind: ClassVar[str] = "meter"
    at: Seconds
    feeder: FeederId
    is_fresh: bool
    detail: str


@dataclass(frozen=True, slots=True)
class InterlockChanged:
    """The fans or pumps of a feeder were seen to run, or to stand still."""

    kind: ClassVar[str] = "interlock"
    at: Seconds
    feeder: FeederId
    is_running: bool


@dataclass(frozen=True, slots=True)
class DeficitChanged:
    """What cannot be shed at a feeder though the limit asks for it (W); 0.0 when it is over. `spared_w` of it could be
    shed, but only in an emergency: devices at their flex draw it."""

    kind: ClassVar[str] = "deficit"
    at: Seconds
    feeder: FeederId
    deficit_w: Watts
    spared_w: Watts = 0.0


@dataclass(frozen=True, slots=True)
class BreachChanged:
    """The draw at a feeder is over its limit by `over_w`; one id from active over escalated to resolved."""

    kind: ClassVar[str] = "breach"
    at: Seconds
    id: BreachId
    feeder: FeederId
    stage: BreachStage
    limit_w: Watts
    over_w: Watts
    worst_over_w: Watts
    since: Seconds


Event: TypeAlias = (
    Ack
    | AllocationTaken
    | LinkChanged
    | LimitChanged
    | ActuationChanged
    | DeviceChanged
    | MeterChanged
    | InterlockChanged
    | DeficitChanged
    | BreachChanged
)
