"""What goes into a turn of the core: what the grid, the meters, the drivers and the devices said."""

from __future__ import annotations

from dataclasses import dataclass, field

from curtaild.core.allocation import GridMessage
from curtaild.core.events import ActuationId, ActuationStage, Condition
from curtaild_drivers.contract import DeviceId, FeederId, MeterReading, OperatingPoints, Reading, Seconds, Watts


@dataclass(frozen=True, slots=True)
class PollFailure:
    device: DeviceId
    condition: Condition
    detail: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How a driver's call ended at `at`; the stage is ANSWERED, REFUSED, OUTCOME_UNKNOWN or CANCELLED (never sent)."""

    device: DeviceId
    actuation: ActuationId
    stage: ActuationStage
    at: Seconds
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """What a driver found out about its device: the operating points it offers, the most it draws, and the limit
    that it falls back to by itself in silence (W). `restarts`: as in `Capabilities`."""

    device: DeviceId
    points: OperatingPoints
    rated_w: Watts | None
    settle_down_s: Seconds
    settle_up_s: Seconds
    falls_back_w: Watts | None = None
    restarts: bool = False


@dataclass(slots=True)
class DeviceNews:
    """What drivers and devices said."""

    described: list[Described] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    readings: list[tuple[DeviceId, Reading]] = field(default_factory=list)
    poll_failures: list[PollFailure] = field(default_factory=list)


@dataclass(slots=True)
class Inputs(DeviceNews):
    """All that arrived since the last cycle and was not absorbed."""

    grid: list[GridMessage] = field(default_factory=list)
    meters: list[tuple[FeederId, MeterReading]] = field(default_factory=list)
    interlocks: list[tuple[FeederId, bool, Seconds]] = field(default_factory=list)
