"""What the grid states, and what else it may say. Times are monotonic seconds: the edge translates from wall time
once, on receipt, so that a later jump of the wall clock neither ends nor prolongs a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, TypeAlias

from curtaild.core.limits import Ceiling
from curtaild_drivers.contract import FeederId, Seconds

AllocationId = NewType("AllocationId", str)
Issuer = NewType("Issuer", str)


class Urgency(Enum):
    NORMAL = "normal"
    EMERGENCY = "emergency"


@dataclass(frozen=True, slots=True)
class Allocation:
    """A ceiling for one feeder, valid in [`valid_from`, `valid_until`); `None` there does not expire.

    `seq` rises per issuer. `reach_by_s` counts from `valid_from`. `max_ramp_up_w_per_min` bounds how fast
    the draw may rise afterwards.
    """

    id: AllocationId
    seq: int
    issuer: Issuer
    feeder: FeederId
    ceiling: Ceiling
    issued_at: Seconds
    valid_from: Seconds
    valid_until: Seconds | None
    reach_by_s: Seconds | None = None
    max_ramp_up_w_per_min: float | None = None
    urgency: Urgency = Urgency.NORMAL

    def covers(self, moment: Seconds) -> bool:
        return self.valid_from <= moment and (self.valid_until is None or moment < self.valid_until)


class RejectCode(Enum):
    """Why a message of the grid was not taken (`docs/grid/native.md`)."""

    MALFORMED = "MALFORMED"
    UNKNOWN_FEEDER = "UNKNOWN_FEEDER"
    STALE_SEQ = "STALE_SEQ"
    EXPIRED = "EXPIRED"
    CLOCK_SKEW = "CLOCK_SKEW"
    NOT_A_LIMIT = "NOT_A_LIMIT"
    UNAUTHORIZED = "UNAUTHORIZED"
    TOO_LARGE = "TOO_LARGE"


@dataclass(frozen=True, slots=True)
class AllocationReceived:
    """One allocation. `retained` marks a copy kept by the broker: it is state, not proof that the grid is alive."""

    allocation: Allocation
    retained: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleReceived:
    """The whole list of an issuer's coming allocations; it replaces the list before it.

    `seq` is the list's own and tells a lagging copy from a new list; `None` where the dialect has none: then the
    highest of its allocations stands for it.
    """

    issuer: Issuer
    allocations: tuple[Allocation, ...]
    retained: bool = False
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The grid's side is alive. `ahead_s`: how far its clock is ahead of ours, where it told the time; for people."""

    ahead_s: Seconds | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MessageRejected:
    """Something arrived that the edge could not take. The limit in force stays; it still counts as contact.

    `allocation_id`, `seq` and `issuer` are what could be read of it, for the answer.
    """

    code: RejectCode
    reason: str
    allocation_id: AllocationId | None = None
    seq: int | None = None
    issuer: Issuer | None = None
    retained: bool = False


GridMessage: TypeAlias = AllocationReceived | ScheduleReceived | HeartbeatReceived | MessageRejected
