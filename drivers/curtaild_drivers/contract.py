"""What the daemon and every driver agree on: value types, capabilities, errors. Standard library only.

A driver talks to the hardware and provides data, nothing more. It never retries a write, never judges
staleness, never sleeps, never logs per poll, and puts a deadline on every await.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, Protocol, TypeAlias

Watts: TypeAlias = float
"""Real power at the wall, in W. Unknown is `None`, never 0."""

Seconds: TypeAlias = float
"""A duration in s, or a moment on the monotonic clock (`time.monotonic()`)."""

DeviceId = NewType("DeviceId", str)
FeederId = NewType("FeederId", str)


class RunState(Enum):
    """What a device is doing, as far as its own answers prove it."""

    RUNNING = "running"
    IDLE = "idle"  # awake, but not at work: pool lost, no job
    STARTING = "starting"  # booting, restarting, tuning: its draw is about to change
    ASLEEP = "asleep"  # stopped on purpose: standby draw
    FAULT = "fault"  # says itself that it is broken
    UNKNOWN = "unknown"  # answers, but the answer proves nothing


OFF = "off"
"""The key of the operating point at which a device does no work. Every device that can stop offers it."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One draw a device can hold.

    `key` is the point's stable name on the device: "off", "normal", "low", a preset's name, or "limit" where the
    device takes a power limit in watts. `draw_w` is the wall power expected there (W, ≥ 0). `rate` is the
    throughput expected there (ASIC: H/s; GPU node: fraction of full, 0..1). `divisible` says that every draw
    between the next lower point and this one can be held as well, under this same key.
    """

    key: str
    draw_w: Watts
    rate: float
    divisible: bool = False

    @property
    def is_off(self) -> bool:
        return self.key == OFF


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """All points a device offers, by rising draw; `step_w` is the smallest step of its divisible ones (W)."""

    points: tuple[OperatingPoint, ...]
    step_w: Watts = 1.0
    lowest: OperatingPoint = field(init=False, repr=False, compare=False)
    highest: OperatingPoint = field(init=False, repr=False, compare=False)
    is_divisible: bool = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)  # asked ten thousand times a cycle, like the three above

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.points, self.step_w)))
        draws = [point.draw_w for point in self.points]
        if not draws or any(not math.isfinite(w) or w < 0 for w in draws) or sorted(set(draws)) != draws:
            raise ValueError(f"operating points must rise strictly in draw and be finite and ≥ 0: {draws}")
        object.__setattr__(self, "lowest", self.points[0])
        object.__setattr__(self, "highest", self.points[-1])
        object.__setattr__(self, "is_divisible", any(point.divisible for point in self.points))

    def __hash__(self) -> int:
        return self._hash


@dataclass(slots=True)
class Reading:
    """What a device reported, and when. A record that nobody changes; it is not `frozen` only because that would cost
    three times as much to make, sixty thousand times a minute where ten thousand devices are polled.

    `power_w` is wall power in watts, `None` where the firmware does not measure it (stock Antminer) or said
    nonsense (NaN, negative, absurd): never 0 for "unknown". `point_key` is the operating point the device itself says
    it is set to, `limit_w` the power limit it says it keeps; both `None` where it does not say.
    `taken_at` is monotonic seconds at the moment of *asking*, so that a reading can confirm only
    actuations issued before it.
    """

    taken_at: Seconds
    state: RunState
    power_w: Watts | None = None
    rate: float | None = None
    point_key: str | None = None
    limit_w: Watts | None = None
    temperature_c: float | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class MeterReading:
    """What a meter reported. `power_w` is real power drawn from the grid side (W; import positive), `energy_j` its
    running total where it keeps one. `taken_at` is monotonic seconds at the moment of asking."""

    taken_at: Seconds
    power_w: Watts | None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a device is; remembered on disk, so that it is asked once.

    `rated_w` is the most this model draws (W), `None` where nobody knows it.
    """

    make: str
    model: str
    firmware: str
    version: str = ""
    serial: str = ""
    rated_w: Watts | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a device can do, declared rather than discovered by failure.

    `settle_down_s` and `settle_up_s` are priors: how long after a command its draw has settled lower or higher.
    `falls_back_w` is the limit that the device takes by itself once it hears nothing from us (W); `None`: it stays as
    it is set. `restarts`: every change between points at which it works restarts it, and takes as long as a start.
    """

    measures_power: bool
    throttles: bool
    stops: bool
    settle_down_s: Seconds = 30.0
    settle_up_s: Seconds = 300.0
    falls_back_w: Watts | None = None
    restarts: bool = False


class Outcome(Enum):
    """How a device answered a command. It confirms nothing: only a later reading does."""

    ACKNOWLEDGED = "acknowledged"
    ALREADY_THERE = "already there"  # the device itself says it is set so; nothing was written


class Device(Protocol):
    """One ASIC miner, GPU node or downstream site, as a driver presents it. All calls raise `DriverError` only."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def identify(self) -> Identity:
        """Who are you. Slow is fine: asked once, remembered."""
        ...

    async def read(self) -> Reading:
        """The one hot call: a single command on the wire where the protocol allows."""
        ...

    async def operating_points(self) -> OperatingPoints:
        """What the device really offers (presets read from it, limits from its own constraints)."""
        ...

    async def apply(self, point: OperatingPoint) -> Outcome:
        """Bring the device to `point`; one attempt. For a divisible point any `draw_w` in its range is legal.

        Raises `Unreachable` and `AuthFailed` only if surely nothing was changed, `Refused` if the device said no,
        `OutcomeUnknown` whenever the command may have been taken.
        """
        ...

    async def close(self) -> None: ...


class TellsWords(ABC):
    """An ability beside `Device`: a command may end with more to tell than its `Outcome`, such as what the site's own
    programs printed."""

    @property
    @abstractmethod
    def last_words(self) -> str:
        """What the last `apply` brought beside its outcome, bounded and in one line, for the ledger; "" for nothing."""


class LearnsPoints(ABC):
    """An ability beside `Device`: what it offers becomes better known while it is read."""

    @property
    @abstractmethod
    def has_learned(self) -> bool:
        """Whether `operating_points` would say something else now than when it was last asked."""


class Meter(Protocol):
    """One power meter. All calls raise `DriverError` only."""

    async def read(self) -> MeterReading: ...

    async def close(self) -> None: ...


class Interlock(Protocol):
    """What must run before devices of a feeder may start: its fans or pumps. All calls raise `DriverError` only."""

    async def is_running(self) -> bool: ...

    async def start(self) -> None:
        """Start them; one attempt. Only `is_running` says whether they do."""
        ...

    async def close(self) -> None: ...


class DriverError(Exception):
    """Anything a driver may raise. The text is for the site's engineer: what the device did or said."""


class Unreachable(DriverError):
    """No connection, or no answer to something that changes nothing. Nothing was changed."""


class AuthFailed(DriverError):
    """The device rejected our credentials. Nothing was changed; a person must act."""


class Refused(DriverError):
    """The device understood and said no. Nothing was changed."""


class Unsupported(DriverError):
    """This device cannot do that. Nothing was sent."""


class OutcomeUnknown(DriverError):
    """A command was sent and its answer was lost, late or unreadable: it may have worked. Read back first."""


class BadReply(DriverError):
    """The device answered something that is not its protocol. For reads only."""


def watts_or_none(value: object, most: Watts) -> Watts | None:
    """A device's claim of watts, or `None` where it is absent, NaN, infinite, negative or above `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        watts = float(value)
    except (ValueError, OverflowError):  # JSON's integers know no bound, floats do
        return None
    return watts if math.isfinite(watts) and 0 <= watts <= most else None
