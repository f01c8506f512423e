"""Devices on paper for the core's tests: exact watts, obeying at once, on a tree of feeders, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
)
from curtaild.core.cycle import Command, Decision, step
from curtaild.core.device import Device, DeviceSpec
from curtaild.core.events import ActuationStage, Event
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.inputs import Answer, Described, Inputs, PollFailure
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.site import RaiseIntent, Site
from curtaild_drivers.contract import (
    OFF,
    DeviceId,
    FeederId,
    MeterReading,
    OperatingPoint,
    OperatingPoints,
    Reading,
    RunState,
    Seconds,
    Watts,
)

SITE, ROW_A, ROW_B = FeederId("site"), FeederId("row-a"), FeederId("row-b")
PLENTY_W = 1e6
EXACT = Policy(
    dead_band_fraction=0.0,
    margin_fraction=0.0,
    reading_error_fraction=0.0,
    restart_jitter_s=0.0,
    boot_grace_s=0.0,
    poll_slack_s=5.0,
    exchange_after_s=2.0,
    exchange_every_s=4.0,
)
"""No margins, no noise, no chance: what is left is the rule itself."""


def ladder(*steps: tuple[str, Watts, float]) -> OperatingPoints:
    """Operating points from (key, W, rate)."""
    return OperatingPoints(tuple(OperatingPoint(*step) for step in steps))


MODES = ladder((OFF, 30.0, 0.0), ("low", 1_500.0, 60.0), ("normal", 3_000.0, 100.0))
"""A miner with three modes: what it gains from off to low is worth more per watt than from low to normal."""

SLIDER = OperatingPoints(
    (
        OperatingPoint(OFF, 30.0, 0.0),
        OperatingPoint("limit", 1_000.0, 45.0),
        OperatingPoint("limit", 3_000.0, 100.0, divisible=True),
    ),
    step_w=10.0,
)
"""A miner that keeps any power limit from 1,000 to 3,000 W, by tens."""

SWITCH = ladder((OFF, 0.0, 0.0), ("on", 1_000.0, 100.0))
"""A miner that is on or off."""


def tree_of(*feeders: FeederSpec) -> FeederTree:
    return FeederTree(feeders or (FeederSpec(SITE, None, PLENTY_W),))


def two_rows(**site: Any) -> FeederTree:
    """A site with two rows under it."""
    return tree_of(
        FeederSpec(SITE, None, PLENTY_W, **site), FeederSpec(ROW_A, SITE, PLENTY_W), FeederSpec(ROW_B, SITE, PLENTY_W)
    )


def spec_of(name: str, points: OperatingPoints | None = MODES, feeder: FeederId = SITE, **more: Any) -> DeviceSpec:
    rated_w = more.pop("rated_w", points.highest.draw_w if points is not None else 3_000.0)
    return DeviceSpec(DeviceId(name), feeder, rated_w, points, **more)


def point_of(points: OperatingPoints, key: str, draw_w: Watts | None = None) -> OperatingPoint:
    """The highest point of that key, or that key at a draw."""
    named = [point for point in points.points if point.key == key][-1]
    return named if draw_w is None else OperatingPoint(key, draw_w, named.rate * draw_w / named.draw_w, True)


def reading_of(point: OperatingPoint, at: Seconds, power_w: Watts | None = None, **more: Any) -> Reading:
    """What an honest device set to `point` reports."""
    said: dict[str, Any] = {
        "state": RunState.ASLEEP if point.is_off else RunState.RUNNING,
        "power_w": power_w if power_w is not None else point.draw_w,
        "rate": point.rate,
        "point_key": point.key,
        "limit_w": point.draw_w if point.key == "limit" else None,
    }
    return Reading(at, **{**said, **more})


_orders = itertools.count()


def settled(spec: DeviceSpec, key: str, draw_w: Watts | None = None, at: Seconds = 0.0) -> Device:
    """A device that was told, has obeyed, and has been read."""
    assert spec.points is not None
    point = point_of(spec.points, key, draw_w)
    device = Device(spec, order=next(_orders))
    device.setpoint = point
    device.reading = reading_of(point, at)
    device.draw_w = device.reserved_w = device.planned_w = point.draw_w
    device.drawn_at = at
    return device


@dataclass
class PaperSite:
    """A site whose devices obey the moment they are told, unless they are in `deaf`; `silent` ones do not answer reads.
    `fans` are seen to run or to stand still; who is not in it is not seen.

    `tick` is one second: readings and meters of this second, answers to the commands of the last one, one step.
    """

    tree: FeederTree = field(default_factory=tree_of)
    specs: Iterable[DeviceSpec] = ()
    policy: Policy = EXACT
    failsafe_w: Watts = 0.0
    start: Seconds = 1_000.0
    auxiliary_w: Watts = 0.0
    intents: Iterable[RaiseIntent] = ()
    heartbeats: bool = True
    deaf: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    dead_meters: set[FeederId] = field(default_factory=set)
    fans: dict[FeederId, bool] = field(default_factory=dict)
    points: dict[DeviceId, OperatingPoint] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    commands: list[tuple[Seconds, Command]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.start
        self.specs = list(self.specs)
        link = Link(LinkPolicy(self.tree.root, frozenset(self.tree.specs), self.failsafe_w, 120.0, 30.0), self.now)
        self.site = Site(self.tree, self.specs, link, self.policy, self.now, "run", self.intents)
        for spec in self.specs:
            if spec.points is not None:
                self.points.setdefault(spec.id, spec.points.highest)
        self._seq = itertools.count(1)
        self._unanswered: list[Command] = []
        self._noise = itertools.count()

    def device(self, name: str) -> Device:
        return self.site.devices[DeviceId(name)]

    def watts(self, name: str) -> Watts:
        return self.points[DeviceId(name)].draw_w

    def states(
        self, limit_w: Watts | None, *, starts_in_s: Seconds = 0.0, lasts_s: Seconds | None = None, **more: Any
    ) -> Allocation:
        """What the grid says of a feeder (the site, unless told)."""
        seq = next(self._seq)
        begins = self.now + 1.0 + starts_in_s
        said: dict[str, Any] = {"issuer": Issuer("grid"), "feeder": self.tree.root, "issued_at": self.now, **more}
        return Allocation(
            id=AllocationId(f"a{seq}"),
            seq=seq,
            ceiling=Limit(limit_w) if limit_w is not None else UNLIMITED,
            valid_from=begins,
            valid_until=begins + lasts_s if lasts_s is not None else None,
            **said,
        )

    def tick(
        self,
        *said: Allocation | GridMessage,
        found: Iterable[Described] = (),
        failed: Iterable[PollFailure] = (),
        dt_s: Seconds = 1.0,
    ) -> Decision:
        self.now += dt_s
        grid: list[GridMessage] = [AllocationReceived(one) if isinstance(one, Allocation) else one for one in said]
        inputs = Inputs(
            grid=[HeartbeatReceived(), *grid] if self.heartbeats else grid,
            described=list(found),
            poll_failures=list(failed),
        )
        for command in self._unanswered:
            if command.device not in self.deaf:
                self.points[command.device] = command.target
            inputs.answers.append(
                Answer(command.device, command.actuation, ActuationStage.ANSWERED, self.now - 0.5 * dt_s)
            )
        inputs.readings += [(device, self.reading_at(point)) for device, point in self.points.items()
                            if device not in self.silent]  # fmt: skip
        for feeder in self.site.meters:
            if feeder not in self.dead_meters:
                inputs.meters.append((feeder, MeterReading(self.now, self.true_w(feeder), float(next(self._noise)))))
        inputs.interlocks += [(feeder, is_running, self.now) for feeder, is_running in self.fans.items()]
        decision = step(self.site, inputs, self.now)
        self._unanswered = list(decision.commands)
        self.commands += [(self.now, command) for command in decision.commands]
        self.events += decision.events
        return decision

    def reading_at(self, point: OperatingPoint) -> Reading:
        """What a device set to `point` says of itself."""
        return reading_of(point, self.now)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.tick()

    def true_w(self, feeder: FeederId | None = None) -> Watts:
        """What the feeder really draws: its devices and the auxiliary load, which hangs at the root."""
        top = feeder if feeder is not None else self.tree.root
        below = [d.spec.id for d in self.site.devices.values() if top in self.tree.paths[d.spec.feeder]]
        return sum(self.points[name].draw_w for name in below) + (self.auxiliary_w if top == self.tree.root else 0.0)

    def told(self, since: Seconds = 0.0) -> list[tuple[Seconds, str, str]]:
        """(seconds since the start, device, operating point) of every command."""
        return [(at - self.start, command.device, command.target.key) for at, command in self.commands if at >= since]


def described(spec: DeviceSpec) -> Described:
    """What a driver would find out about a device of this kind."""
    assert spec.points is not None
    return Described(
        spec.id,
        spec.points,
        spec.rated_w,
        spec.settle_down_s,
        spec.settle_up_s,
        spec.falls_back_w,
        restarts=spec.restarts,
    )
