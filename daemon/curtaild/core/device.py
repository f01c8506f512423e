"""One device as the daemon knows it: what it offers, what it last said, what it was told, what was learned of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeAlias

from curtaild.core import hull
from curtaild.core.allocation import AllocationId
from curtaild.core.events import ActuationId, ActuationStage, Condition
from curtaild_drivers.contract import (
    DeviceId,
    FeederId,
    OperatingPoint,
    OperatingPoints,
    Reading,
    RunState,
    Seconds,
    Watts,
)

Earning: TypeAlias = tuple[int, float, float]
"""What a step earns, as something to sort by. First 0, or 1 + the emergency order of a device that stands at its flex
and is shed past it by a firm limit only; then priority, or −1 where the site gives a price; then money per
watt-hour, or where it gives no price, rate per watt."""

Step: TypeAlias = tuple[Earning, OperatingPoint]
"""A step of a device along its hull: what it earns, and where it leads."""


@dataclass(slots=True)
class Steps:
    """The next steps by present draw, those up by the price of energy too, as far as they were asked for: one record
    for all devices of a kind."""

    down: dict[Watts, Step | None] = field(default_factory=dict)
    up: dict[tuple[Watts, float | None], Step | None] = field(default_factory=dict)


LEARNED_SAMPLES = 3
"""Readings that must agree before the table is no longer asked."""

MOST_WEIGHED = 20
"""So many readings' mean is followed: older ones fade."""

LEAST_SPREAD = 0.005
"""Of a point's draw: no unit is known better than its sensor."""

_STARTING, _STALE = RunState.STARTING, Condition.STALE  # found in a tenth of the time that an enum takes
_SILENCE = frozenset({Condition.UNREACHABLE, Condition.STALE})

HAIR = 0.002
"""Of a point's draw: what is learned moves less than this by noise alone."""

SPARES = 0.97
"""Who draws less than this of a limit does not need all of it; who draws more has an error of its own."""

UNIT_SPREAD = 1.15
"""Units of one model differ by this much from its table, ambient temperature included."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What the site file and the driver say of a device. `points` is `None` until the device was asked.

    `priority` 0..100, higher is kept longer. `price_per_rate_h` is what one unit of rate earns in an hour
    (money per H/s·h), `None` where the site gives no price. `falls_back_w`: the limit it takes by itself in silence.
    `flex` 0..1 is how much of its highest rate a routine limit may take, `None` all of it; a firm one (a rating, an
    emergency, the fail-safe) takes more, first where `emergency_order` 0..100 is low. `restarts`: every change between
    points at which it works restarts it.
    """

    id: DeviceId
    feeder: FeederId
    rated_w: Watts
    points: OperatingPoints | None = None
    priority: int = 50
    price_per_rate_h: float | None = None
    stale_after_s: Seconds = 60.0
    min_on_s: Seconds = 0.0
    min_off_s: Seconds = 60.0
    settle_down_s: Seconds = 30.0
    settle_up_s: Seconds = 300.0
    flex: float | None = None
    emergency_order: int = 50
    falls_back_w: Watts | None = None
    restarts: bool = False
    tolerance_w: Watts = field(init=False, repr=False, compare=False)
    """How close to a point's draw counts as being there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance_w", max(50.0, 0.03 * self.rated_w))


@dataclass(slots=True)
class DrawRatio:
    """How much of a point's nominal draw a device really takes: a running mean with its spread.

    `upper` is the edge to reserve: two spreads above the mean; the table's word until three readings agree on better.
    `middle` is the mean from which it was found: both follow what is learned by more than a hair's breadth only, so
    that most readings leave what is reserved as it is. `at_w`: at which of the point's nominal draws (W): a power limit
    has many.
    """

    mean: float = 1.0
    variance: float = 0.0
    samples: int = 0
    at_w: Watts = 0.0
    upper: float = field(init=False)
    middle: float = field(init=False)

    def __post_init__(self) -> None:
        edge = self._edge()
        self.upper = edge if self.samples >= LEARNED_SAMPLES else max(1.0, edge)
        self.middle = self.mean

    def _edge(self) -> float:
        return self.mean + max(2 * math.sqrt(self.variance), LEAST_SPREAD)

    def observe(self, ratio: float) -> bool:
        """Learn from a reading; whether it moved the edge or the middle."""
        samples = self.samples = self.samples + 1
        weight = 1.0 / samples if samples < MOST_WEIGHED else 1.0 / MOST_WEIGHED
        error = ratio - self.mean
        mean = self.mean = self.mean + weight * error
        self.variance = (1 - weight) * (self.variance + weight * error * error) if samples > 1 else 0.0
        is_as_before = -HAIR <= mean - self.middle <= HAIR and -HAIR <= self._edge() - self.upper <= HAIR
        if is_as_before and samples > LEARNED_SAMPLES:
            return False
        self.__post_init__()
        return True


@dataclass(slots=True)
class Actuation:
    """One command on its way. `answered_at` is when the driver's call ended, however it ended; a reading asked before
    that proves nothing about the command. `replaces_unsettled`: the command before it had not settled."""

    id: ActuationId
    target: OperatingPoint
    before: OperatingPoint | None
    is_raise: bool
    issued_at: Seconds
    reserved_before_w: Watts
    rule: str
    allocation_id: AllocationId | None
    replaces_unsettled: bool = False
    stage: ActuationStage = ActuationStage.ISSUED
    answered_at: Seconds | None = None


@dataclass(slots=True)
class Share:
    """What one device adds to its feeder's sums, or such a sum (W, whole numbers of 1/1024). `measured_w`: its draw by
    its own word; `in_doubt_w`: how far that leaves the sum open; `never_heard_w`: reserved by who is given up and never
    said what it draws; `erring_w`: reserved on a word that may be off: the error of who measures nothing is in its draw
    already, and a rating is none; `flying_w`: reserved by devices that a command is under way to, as far as no meter
    has seen them draw it. `edge_w`: how much of what is planned is there for a unit's
    own spread, which adds up to less over many; `edge_w2` its square. `spared_w`: what only a firm limit may take.
    `lowest_w`, `highest_w`: the least and the most it could be told to draw; `allowed_w`: what it may."""

    reserved_w: Watts = 0.0
    planned_w: Watts = 0.0
    measured_w: Watts = 0.0
    in_doubt_w: Watts = 0.0
    never_heard_w: Watts = 0.0
    erring_w: Watts = 0.0
    flying_w: Watts = 0.0
    edge_w: Watts = 0.0
    edge_w2: float = 0.0
    spared_w: Watts = 0.0
    lowest_w: Watts = 0.0
    highest_w: Watts = 0.0
    allowed_w: Watts = 0.0
    settled_at: Seconds = -math.inf
    is_flying: bool = False
    is_stale: bool = False
    can_fall: bool = False
    can_rise: bool = False

    @staticmethod
    def of(device: Device) -> Share:
        """As the device stands now."""
        spec, actuation, setpoint, draw_w = device.spec, device.actuation, device.setpoint, device.draw_w
        erring_w = reserved_w = device.reserved_w
        never_heard_w = 0.0
        if draw_w is not None:
            in_doubt_w = device.in_doubt_w(draw_w)
            reading = device.reading
            if reading is not None and reading.power_w is None and device.drawn_at == reading.taken_at:
                erring_w = 0.0 if actuation is None else reserved_w
        elif device.conditions:
            draw_w = erring_w = 0.0
            never_heard_w = reserved_w
            in_doubt_w = device.in_doubt_w(draw_w) - reserved_w  # given up, it leaves nothing open
        else:
            draw_w = reserved_w
            in_doubt_w = device.in_doubt_w(draw_w)
        headed_for, flying_w = setpoint, 0.0
        if actuation is not None:
            headed_for, flying_w = actuation.target, device.unseen_w()
        edge_w = 0.0 if setpoint is None or actuation is not None else device.edge_w(setpoint)
        points = spec.points
        if points is None:
            lowest_w = highest_w = allowed_w = exact(spec.rated_w)
            spared_w = 0.0
            can_fall = can_rise = False
        else:
            lowest, highest = points.lowest, points.highest
            lowest_w, highest_w = device.upper_w(lowest), device.upper_w(highest)
            spared_w = 0.0 if spec.flex is None else device.spared_w(headed_for or highest) - lowest_w
            allowed_w = highest_w
            if headed_for is not None and headed_for is not highest:
                allowed_w = min(highest_w, device.upper_w(headed_for))
            can_fall = headed_for is None or headed_for.draw_w > lowest.draw_w
            can_rise = actuation is None and setpoint is not None and setpoint.draw_w < highest.draw_w
        return Share(
            reserved_w,
            device.planned_w,
            exact(draw_w),
            in_doubt_w,
            never_heard_w,
            erring_w,
            flying_w,
            edge_w,
            edge_w * edge_w,
            spared_w,
            lowest_w,
            highest_w,
            allowed_w,
            device.settled_at,
            actuation is not None,
            bool(device.conditions) and _STALE in device.conditions,
            can_fall,
            can_rise,
        )


def exact(watts: Watts) -> Watts:
    """Up to the next 1/1024 W: such numbers are added and taken away without rounding, so that sums stay true."""
    return math.ceil(watts * 1024.0) / 1024.0


RESTLESS = -1.0
"""The `Device.quiet_w` of those of whom any reading may change everything."""


@dataclass(slots=True, eq=False)
class Device:
    """The mutable record. `setpoint` is the last *confirmed* operating point; `None` means nobody knows."""

    spec: DeviceSpec
    reading: Reading | None = None
    draw_w: Watts | None = None
    """Best estimate from the last reading that proved a draw, taken at `drawn_at`."""
    drawn_at: Seconds | None = None
    recent_w: tuple[Watts, ...] = ()
    """The draws of the last three readings since the setpoint became unknown or its actuation was answered."""
    state_since: Seconds = 0.0
    """The first reading that said what the last one says it is doing."""
    setpoint: OperatingPoint | None = None
    settled_at: Seconds = 0.0
    """When its draw last changed by our doing or its own: a meter sample taken later has seen it."""
    actuation: Actuation | None = None
    learned: dict[str, DrawRatio] = field(default_factory=dict)
    reserved_w: Watts = 0.0
    planned_w: Watts = 0.0
    fixed_until: Seconds = 0.0
    """Dispatch leaves it alone until then: it refused, diverged or could not be reached."""
    failures: int = 0
    failed_polls: int = 0
    restore_after: Seconds = 0.0
    on_since: Seconds = 0.0
    slept_s: Seconds = 0.0
    asleep_since: Seconds | None = None
    sheds: int = 0
    conditions: set[Condition] = field(default_factory=set)
    order: int = 0
    """Its place in the site file: what decides where nothing else does."""
    share: Share = field(default_factory=Share)
    """What its feeder's sums count it with."""
    review_at: Seconds = math.inf
    """When it is looked at though nothing touched it."""
    seen_w: Watts = 0.0
    """What it was drawing, by its own word, when a meter's counted sample last saw it settled."""
    steps: Steps = field(default_factory=Steps)
    turn: float | None = None
    """Its turn to start, 0..1 of the jitter; drawn anew after each shed."""
    quiet_w: Watts = RESTLESS
    """A reading that repeats its last word and shows no more than this changes nothing but the draw it is counted with,
    unless it proves a command. Set by `reserve.reserve`, taken away by whatever touches it."""

    def __post_init__(self) -> None:
        self.reserved_w = self.planned_w = exact(self.spec.rated_w)

    @property
    def is_trusted(self) -> bool:
        """Whether a command to it may be counted on before telemetry confirms it, for planning only."""
        return not self.conditions

    @property
    def is_merely_silent(self) -> bool:
        """Whether nothing else is the matter with it: it may hear us though we do not hear it."""
        return bool(self.conditions) and self.conditions <= _SILENCE

    @property
    def is_draw_known(self) -> bool:
        """Whether its last reading proved a draw that stands still long enough to be compared with a meter."""
        reading = self.reading
        return (
            reading is not None
            and self.drawn_at == reading.taken_at
            and self.failed_polls == 0
            and reading.state is not _STARTING
            and (not self.conditions or _STALE not in self.conditions)
        )

    @property
    def in_flight(self) -> bool:
        return self.actuation is not None

    @property
    def is_watched(self) -> bool:
        """Whether it is worth reading every second: it moves, or nobody knows where it is set. A start that it says it
        is in takes minutes, and its reservation waits for the end of them."""
        actuation, reading = self.actuation, self.reading
        if actuation is None or reading is None:
            return actuation is not None or self.setpoint is None
        is_starting = reading.state is _STARTING and reading.taken_at >= actuation.issued_at
        return not (actuation.is_raise and is_starting)

    def quiet_until(self) -> Seconds:
        """How long time alone changes nothing of one at rest that goes on: until its last reading is stale."""
        if self.quiet_w == RESTLESS or self.actuation is not None or self.drawn_at is None:
            return -math.inf
        return self.drawn_at + self.spec.stale_after_s

    def in_doubt_w(self, draw_w: Watts) -> Watts:
        """How far its word that it draws `draw_w` leaves open what it does draw: by all that is reserved where that is
        not known, and by as much as a command under way may yet change."""
        doubt_w = 0.0 if self.is_draw_known else self.reserved_w
        if self.actuation is not None:
            doubt_w += abs(self.reserved_w - min(draw_w, self.actuation.target.draw_w))
        return exact(doubt_w)

    def unseen_w(self) -> Watts:
        """How much of its reservation a meter has not yet seen: what it rose by, or where it fell, how far at most its
        own error may have changed."""
        return min(self.reserved_w, abs(self.reserved_w - exact(self.seen_w)))

    def learned_at(self, point: OperatingPoint) -> DrawRatio | None:
        """What was learned at this very point. A power limit is a point of its own at each of its draws: it bounds what
        a GPU draws and does not set it, so that one at 70 % of a high limit may draw all of a lower one."""
        ratio = self.learned.get(point.key)
        return ratio if ratio is not None and abs(point.draw_w - ratio.at_w) <= self.spec.tolerance_w else None

    def upper_w(self, point: OperatingPoint) -> Watts:
        """The most the device is expected to draw at `point`, as learned for this very device. What drew less than one
        limit is not expected to draw less than another, but no more under a lower one."""
        ratio = self.learned.get(point.key)
        watts = point.draw_w
        if ratio is not None:
            watts *= ratio.upper
            if ratio.upper < SPARES and point.draw_w != ratio.at_w:
                watts = min(point.draw_w, max(watts, ratio.at_w * ratio.upper))
        return math.ceil(watts * 1024.0) / 1024.0  # `exact`, asked a hundred thousand times in a shed

    def edge_w(self, point: OperatingPoint) -> Watts:
        """How much of what it is counted with, settled at `point`, is there for the unit's spread: whole watts, so that
        sums of squares stay true too."""
        ratio = self.learned_at(point)
        if ratio is None or ratio.samples < LEARNED_SAMPLES or self.reserved_w > self.upper_w(point):
            return 0.0
        return float(math.floor(max(0.0, self.reserved_w - point.draw_w * ratio.middle)))

    def may_reach_w(self, point: OperatingPoint) -> Watts:
        """What a raise to `point` is counted with: what was learned at another draw may not hold there."""
        return max(point.draw_w, self.upper_w(point))

    def most_w(self, point: OperatingPoint) -> Watts:
        """The most that still passes for being at `point`: what it is said to draw, or more where that was learned;
        units differ before their own draw there is learned."""
        ratio = self.learned_at(point)
        is_learned = ratio is not None and ratio.samples >= LEARNED_SAMPLES
        upper_w = max(point.draw_w, self.upper_w(point))
        return upper_w * (1.0 if is_learned else UNIT_SPREAD) + self.spec.tolerance_w

    def flex_floor(self) -> OperatingPoint | None:
        """The lowest point at which it keeps what its flex leaves it; `None` where a routine limit may take all."""
        points, flex = self.spec.points, self.spec.flex
        return hull.flex_floor(points, flex) if points is not None and flex is not None else None

    def spared_w(self, headed_for: OperatingPoint) -> Watts:
        """What it draws at its flex or, where it is headed for less, there."""
        floor = self.flex_floor()
        return self.upper_w(headed_for if floor is None or headed_for.draw_w < floor.draw_w else floor)

    def likely_w(self, point: OperatingPoint) -> Watts:
        """What it most likely draws at `point`: as learned there, else as much more or less than its table as at the
        point where most was learned, for a unit's error is nearly one share of its draw."""
        ratio = self.learned.get(point.key)
        if ratio is None or ratio.samples < LEARNED_SAMPLES:
            ratio = max(self.learned.values(), key=attrgetter("samples"), default=None)
        if ratio is None or ratio.samples < LEARNED_SAMPLES or point.is_off:
            return point.draw_w
        if ratio.mean < SPARES:  # below what it drew there, all that a limit lets it
            return min(point.draw_w, max(point.draw_w * ratio.mean, ratio.at_w * ratio.mean))
        return point.draw_w * ratio.mean

    def headed_for(self) -> OperatingPoint | None:
        """Where it will be once what is in flight has settled."""
        return self.actuation.target if self.actuation is not None else self.setpoint


def estimated_draw(device: Device, reading: Reading, error_fraction: float) -> Watts | None:
    """What the reading proves of the draw: measured watts, else the draw of the state that its hashrate proves plus
    its uncertainty (stock Antminers measure no watts), else `None`."""
    if reading.power_w is not None:
        return reading.power_w
    points = device.spec.points
    if points is None:
        return None
    if reading.state is RunState.ASLEEP and points.lowest.is_off:
        return points.lowest.draw_w * (1 + error_fraction)
    if reading.state is not RunState.RUNNING or reading.rate is None or reading.rate <= 0:
        return None
    for point in points.points:
        if not point.is_off and point.rate >= 0.9 * reading.rate:
            return device.upper_w(point) * (1 + error_fraction)
    return max(points.highest.draw_w, device.spec.rated_w) * (1 + error_fraction)


def reported_point(device: Device, reading: Reading) -> OperatingPoint | None:
    """The operating point the device itself says it is set to, `None` where it does not say."""
    points = device.spec.points
    if points is None:
        return None
    if reading.state is RunState.ASLEEP and points.lowest.is_off:
        return points.lowest
    if reading.limit_w is not None and points.is_divisible:
        return hull.point_at(points, reading.limit_w + points.step_w / 2)
    named = [point for point in points.points if point.key == reading.point_key]
    return named[0] if len(named) == 1 and not named[0].divisible else None
