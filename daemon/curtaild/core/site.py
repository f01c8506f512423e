"""Everything the daemon knows of its site, changed by `cycle.step` alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from curtaild.core.auxiliary import MeteredFeeder
from curtaild.core.compliance import Compliance
from curtaild.core.device import Actuation, Device, DeviceSpec, Steps
from curtaild.core.events import ActuationId, ActuationStage
from curtaild.core.exchange import Exchange
from curtaild.core.feeders import FeederTree
from curtaild.core.interlock import Interlock
from curtaild.core.limits import UNLIMITED, Ceiling, within
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.room import Move, Room
from curtaild.core.roster import Roster
from curtaild.core.status import DeviceStatus, FeederStatus
from curtaild.core.tally import Tallies
from curtaild_drivers.contract import DeviceId, FeederId, OperatingPoint, OperatingPoints, Seconds, Watts


@dataclass(frozen=True, slots=True)
class RaiseIntent:
    """A raise that was written down before it was sent, by a run that ended before it was confirmed."""

    device: DeviceId
    target: OperatingPoint


@dataclass(frozen=True, slots=True)
class Slowest:
    """The longest settle times and the largest rating of any device."""

    down_s: Seconds
    up_s: Seconds
    rated_w: Watts


class Site:
    """Everything the daemon knows; changed by `step` alone. `epoch` names this run in actuation and breach ids.

    A site of a thousand racks costs no more than what happens in it: `stirred` are the feeders whose sums, limits or
    deficits changed in this cycle; only of those, and of what was absorbed before it, is the `room` found anew.
    `spoken_for`: those for which a limit, a firm limit or a ramp was stated. `witness`: what meters say of the limits.
    `unshown_feeders`: of whom the status was not read off since something happened. `left_over`: moves that the last
    cycle decided on and made no commands of yet.
    """

    def __init__(
        self,
        tree: FeederTree,
        devices: Iterable[DeviceSpec],
        link: Link,
        policy: Policy,
        now: Seconds,
        epoch: str,
        intents: Iterable[RaiseIntent] = (),
    ) -> None:
        self.tree = tree
        self.link = link
        self.policy = policy
        self.started_at = now
        self.stepped_at = now
        self.was_in_grace = True
        self.epoch = epoch
        self.devices = {spec.id: Device(spec) for spec in devices}
        self.meters: dict[FeederId, MeteredFeeder] = {}
        self.interlocks: dict[FeederId, Interlock] = {}
        self.compliance = Compliance(epoch)
        self.limits: dict[FeederId, tuple[Ceiling, str]] = {}
        self.limit_w_of: dict[FeederId, Watts] = {}
        self.firm_w: dict[FeederId, Watts] = {}
        self.ramp_w: dict[FeederId, Watts] = {}
        self.deficits: dict[FeederId, Watts] = {}
        self.over_since: dict[FeederId, Seconds] = {}
        self.shown: list[DeviceStatus] = []
        self._ladders: dict[OperatingPoints, OperatingPoints] = {}
        self._steps: dict[tuple[object, ...], Steps] = {}
        self._slowest: Slowest | None = None
        self._hang_up()
        self.actuations_issued = 0
        self.starts_owed = 0.0
        self.room_since: Seconds | None = None
        self.limited_at: Seconds = now
        self.exchange_at: Seconds = now
        self.exchange: Exchange | None = None
        self.shed_at: dict[FeederId, Seconds] = {}
        for intent in intents:
            self._resume(intent, now)

    def _resume(self, intent: RaiseIntent, now: Seconds) -> None:
        """After a crash a raise may or may not have been sent: its outcome is unknown."""
        device = self.devices.get(intent.device)
        if device is not None:
            device.actuation = Actuation(
                id=self.next_actuation_id(),
                target=intent.target,
                before=None,
                is_raise=True,
                issued_at=now,
                reserved_before_w=intent.target.draw_w,
                rule="found unconfirmed at start",
                allocation_id=None,
                stage=ActuationStage.OUTCOME_UNKNOWN,
                answered_at=now,
            )

    def reconfigure(
        self, tree: FeederTree, devices: Iterable[DeviceSpec], link_policy: LinkPolicy, policy: Policy
    ) -> None:
        """Take a new site file: what is known of devices, meters and the link that stay is kept."""
        self.tree, self.policy, self.link.policy = tree, policy, link_policy
        known = self.devices
        self.devices = {}
        for spec in devices:
            device = known.get(spec.id)
            if device is None:
                device = Device(spec)
            elif device.spec.points is None:
                device.spec = spec
            else:
                known_spec = device.spec
                device.spec = replace(
                    spec,
                    points=known_spec.points,
                    rated_w=max(spec.rated_w, known_spec.points.highest.draw_w if known_spec.points else 0.0),
                    settle_down_s=known_spec.settle_down_s,
                    settle_up_s=known_spec.settle_up_s,
                    falls_back_w=known_spec.falls_back_w,
                    restarts=known_spec.restarts,
                )
            self.devices[spec.id] = device
        self._hang_up()

    def _hang_up(self) -> None:
        """Put devices and meters on their feeders; forget feeders that are gone."""
        tree = self.tree
        self.roster = Roster(tree, self.devices.values())
        self._steps.clear()
        for device in self.devices.values():
            device.steps = self._steps_of(device.spec)
        self.has_flex = any(device.spec.flex is not None for device in self.devices.values())
        self._slowest = None
        self.shown.clear()
        known = self.meters
        self.meters = {}
        for feeder, spec in tree.specs.items():
            if spec.meter_stale_after_s is not None:
                meter = self.meters[feeder] = known.get(feeder) or MeteredFeeder(spec)
                meter.spec = spec
        self.over_since = {feeder: since for feeder, since in self.over_since.items() if feeder in self.meters}
        seen = self.interlocks
        self.interlocks = {}
        for feeder, spec in tree.specs.items():
            if spec.interlock is not None:
                interlock = self.interlocks[feeder] = seen.get(feeder) or Interlock(spec.interlock)
                interlock.spec = spec.interlock
        self.tallies = Tallies(tree, self.meters, self.roster, self.policy)
        self.stirred = set(tree.specs)
        self.unshown_feeders = set(tree.specs)
        self.spoken_for = tuple(tree.specs)
        self.left_over: list[Move] = []
        self.room = Room(over_w=dict.fromkeys(tree.specs, 0.0), free_w=dict.fromkeys(tree.specs, 0.0))
        self.witness: dict[FeederId, bool] = {}
        self.shown_feeders: dict[FeederId, FeederStatus] = {}
        self.limits = {feeder: limit for feeder, limit in self.limits.items() if feeder in tree.specs}
        self.limit_w_of = {
            feeder: within(self.limits.get(feeder, (UNLIMITED, ""))[0], spec.rating_w)
            for feeder, spec in tree.specs.items()
        }
        self.ramp_w = {feeder: ramp for feeder, ramp in self.ramp_w.items() if feeder in tree.specs}
        self.deficits = {feeder: self.deficits.get(feeder, 0.0) for feeder in tree.specs}

    def next_actuation_id(self) -> ActuationId:
        self.actuations_issued += 1
        return ActuationId(f"{self.epoch}-{self.actuations_issued}")

    def respec(self, device: Device, spec: DeviceSpec) -> None:
        """The device turned out to be another than was thought."""
        points = spec.points
        if points is not None:  # ten thousand devices of one model share one ladder
            spec = replace(spec, points=self._ladders.setdefault(points, points))
        device.spec = spec
        device.steps = self._steps_of(spec)
        self.roster.touch(device)
        self._slowest = None

    def _steps_of(self, spec: DeviceSpec) -> Steps:
        """The steps shared by all devices that offer the same and are worth the same."""
        restart_s = spec.settle_up_s if spec.restarts else None
        kind = (spec.points, spec.priority, spec.price_per_rate_h, spec.flex, spec.emergency_order, restart_s)
        return self._steps.setdefault(kind, Steps())

    @property
    def slowest(self) -> Slowest:
        if self._slowest is None:
            specs = [device.spec for device in self.devices.values()]
            self._slowest = Slowest(
                down_s=max((spec.settle_down_s for spec in specs), default=0.0),
                up_s=max((spec.settle_up_s for spec in specs), default=0.0),
                rated_w=max((spec.rated_w for spec in specs), default=0.0),
            )
        return self._slowest

    def is_in_grace(self, now: Seconds) -> bool:
        """At boot the first polls are given a moment before unknown devices count as drawing all they can."""
        return now - self.started_at < self.policy.boot_grace_s and any(
            (device.reading is None and device.failed_polls == 0) or device.setpoint is None
            for device in self.devices.values()
        )

    @property
    def is_at_rest(self) -> bool:
        """Whether no command is under way, not even one that the last cycle made."""
        return self.tallies[self.tree.root].in_flight == 0 and not self.roster.is_any_touched

    def limit_w(self, feeder: FeederId) -> Watts:
        """What may be drawn at the feeder: its ceiling or its rating (W)."""
        return self.limit_w_of[feeder]
