"""The daemon's core against the emulated plant in virtual time: polls, commands and answers as the shell would do them.

What the shell does with sockets, this does with an event queue: reads come back late or never, one write is in
flight per device, a newer command replaces one not yet sent.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from curtaild.core.allocation import Allocation, AllocationId, AllocationReceived, HeartbeatReceived, Issuer, Urgency
from curtaild.core.cycle import Command, Decision, absorb, step
from curtaild.core.device import DeviceSpec
from curtaild.core.events import ActuationStage, Condition, Event
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.inputs import Answer, Inputs, PollFailure
from curtaild.core.inputs import Described as DescribedDevice
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.site import RaiseIntent, Site
from curtaild_drivers import contract
from curtaild_drivers.contract import DeviceId, DriverError, FeederId, Seconds, Watts
from curtaild_emulator import MeterFault, Plant, PlantFeeder

READ_DEADLINE_S = 3.0
WRITE_DEADLINE_S = 5.0


@dataclass(slots=True)
class VirtualSite:
    """One plant, one site, one clock. `tick` is one second of life."""

    plant: Plant
    feeders: list[PlantFeeder]
    feeder_of: dict[DeviceId, FeederId]
    failsafe_w: Watts
    ratings_w: dict[FeederId, Watts]
    policy: Policy = field(default_factory=Policy)
    poll_s: Seconds = 10.0
    stale_after_s: Seconds = 60.0
    min_off_s: Seconds = 30.0
    heartbeats: bool = True
    unmetered: frozenset[FeederId] = frozenset()
    flex: Mapping[DeviceId, float] = field(default_factory=dict)
    latency: Random = field(default_factory=lambda: Random(0))
    now: Seconds = 0.0
    events: list[Event] = field(default_factory=list)
    observers: list[Callable[[Decision], None]] = field(default_factory=list)
    site: Site = field(init=False)
    _inputs: Inputs = field(default_factory=Inputs)
    _due: list[tuple[Seconds, int, Callable[[], None]]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)
    _busy: set[DeviceId] = field(default_factory=set)
    _waiting: dict[DeviceId, Command] = field(default_factory=dict)
    _polled_at: dict[DeviceId, Seconds] = field(default_factory=dict)
    _reading: set[DeviceId] = field(default_factory=set)
    _intents: dict[DeviceId, RaiseIntent] = field(default_factory=dict)
    _seq: int = 0
    _boots: int = 0

    def __post_init__(self) -> None:
        self.boot()

    # ---- the daemon starts, dies, starts again ------------------------------------------------

    def boot(self) -> None:
        """A fresh process: what was in memory is gone, what was durable (the link's memory, raise intents) is not."""
        memory = self.site.link.memory if self._boots else None
        self._boots += 1
        self._inputs = Inputs()
        self._due.clear()
        self._busy.clear()
        self._waiting.clear()
        self._reading.clear()
        self._polled_at.clear()
        tree = FeederTree(
            FeederSpec(
                feeder.id,
                feeder.parent,
                self.ratings_w[feeder.id],
                feeder.auxiliary_w,
                None if feeder.id in self.unmetered else 10.0,
            )
            for feeder in self.feeders
        )
        link = Link(LinkPolicy(tree.root, frozenset(tree.specs), self.failsafe_w, 120.0, 30.0), self.now, memory)
        specs = [
            DeviceSpec(
                id=device,
                feeder=self.feeder_of[device],
                rated_w=self.plant.miner(device).model.rated_w * 1.1,
                stale_after_s=self.stale_after_s,
                min_off_s=self.min_off_s,
                flex=self.flex.get(device),
            )
            for device in self.plant.device_ids
        ]
        self.site = Site(tree, specs, link, self.policy, self.now, f"boot{self._boots}", self._intents.values())
        for device in self.plant.device_ids:
            capabilities = self.plant.capabilities(device)
            self._inputs.described.append(
                DescribedDevice(
                    device,
                    self.plant.operating_points(device),
                    self.plant.miner(device).model.rated_w * 1.1,
                    capabilities.settle_down_s,
                    capabilities.settle_up_s,
                )
            )

    # ---- the grid -----------------------------------------------------------------------------

    def allocate(
        self,
        limit_w: Watts | None,
        *,
        feeder: FeederId | None = None,
        starts_in_s: Seconds = 0.0,
        lasts_s: Seconds | None = None,
        ramp_w_per_min: float | None = None,
        reach_by_s: Seconds | None = None,
        urgency: Urgency = Urgency.NORMAL,
    ) -> Allocation:
        """The grid states a limit; delivered at the next tick."""
        self._seq += 1
        allocation = Allocation(
            id=AllocationId(f"a{self._seq}"),
            seq=self._seq,
            issuer=Issuer("grid"),
            feeder=feeder if feeder is not None else self.site.tree.root,
            ceiling=Limit(limit_w) if limit_w is not None else UNLIMITED,
            issued_at=self.now,
            valid_from=self.now + starts_in_s,
            valid_until=self.now + starts_in_s + lasts_s if lasts_s is not None else None,
            reach_by_s=reach_by_s,
            max_ramp_up_w_per_min=ramp_w_per_min,
            urgency=urgency,
        )
        self.deliver(allocation)
        return allocation

    def deliver(self, allocation: Allocation) -> None:
        """An allocation arrives (again, late, out of order: as the network likes)."""
        self._inputs.grid.append(AllocationReceived(allocation))

    # ---- one second of life -------------------------------------------------------------------

    def tick(self, dt_s: Seconds = 1.0) -> Decision:
        self.now += dt_s
        while self._due and self._due[0][0] <= self.now:
            due_at, _, action = heapq.heappop(self._due)
            self.plant.advance(due_at)
            action()
        self.plant.advance(self.now)
        if self.heartbeats:
            self._inputs.grid.append(HeartbeatReceived())
        self._poll()
        inputs, self._inputs = self._inputs, Inputs()
        if int(self.now) % 2:  # a busy loop hears devices before it decides
            self.events += absorb(self.site, inputs, self.now)
            inputs = Inputs(grid=inputs.grid, meters=inputs.meters, interlocks=inputs.interlocks)
        decision = step(self.site, inputs, self.now)
        self.events += decision.events
        for observer in self.observers:
            observer(decision)
        for command in decision.commands:
            self._queue(command)
        self._sync_intents()
        return decision

    def run(self, seconds: Seconds) -> None:
        for _ in range(int(seconds)):
            self.tick()

    def _sync_intents(self) -> None:
        """Raises are durable before they are sent, and until they are confirmed."""
        self._intents = {
            device.spec.id: RaiseIntent(device.spec.id, device.actuation.target)
            for device in self.site.devices.values()
            if device.actuation is not None and device.actuation.is_raise
        }

    def _at(self, moment: Seconds, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (moment, next(self._count), action))

    def _poll(self) -> None:
        for feeder in self.site.meters:
            if self.plant.meter_fault(feeder) is not MeterFault.DEAD:
                self._inputs.meters.append((feeder, self.plant.read_meter(feeder, self.now)))
        for device in self.site.devices.values():
            device_id = device.spec.id
            interval_s = 1.0 if device.is_watched else self.poll_s
            last = self._polled_at.get(device_id, -self.latency.uniform(0, self.poll_s))
            if device_id not in self._reading and self.now - last >= interval_s:
                self._polled_at[device_id] = self.now
                self._read(device_id)

    def _read(self, device: DeviceId) -> None:
        inputs = self._inputs
        try:
            reading = self.plant.read(device, self.now)
        except DriverError as error:
            self._reading.add(device)
            condition = Condition.BAD_REPLY if isinstance(error, contract.BadReply) else Condition.UNREACHABLE
            failure = PollFailure(device, condition, str(error))

            def fail() -> None:
                self._reading.discard(device)
                self._inputs.poll_failures.append(failure)

            self._at(self.now + READ_DEADLINE_S, fail)
        else:
            inputs.readings.append((device, reading))

    def _queue(self, command: Command) -> None:
        if command.device in self._busy:
            replaced = self._waiting.get(command.device)
            self._waiting[command.device] = command
            if replaced is not None:
                self._answer(replaced, ActuationStage.CANCELLED, "")
            return
        self._busy.add(command.device)
        self._at(self.now + self.latency.uniform(0.05, 0.3), lambda: self._send(command))

    def _send(self, command: Command) -> None:
        sent_at = self.plant.now
        stage, detail, took_s = ActuationStage.ANSWERED, "", 0.1
        try:
            self.plant.apply(command.device, command.target, sent_at)
        except contract.OutcomeUnknown as error:
            stage, detail, took_s = ActuationStage.OUTCOME_UNKNOWN, str(error), WRITE_DEADLINE_S
        except DriverError as error:
            stage, detail, took_s = ActuationStage.REFUSED, str(error), 2.0
        self._at(sent_at + took_s, lambda: self._finish(command, stage, detail))

    def _finish(self, command: Command, stage: ActuationStage, detail: str) -> None:
        self._answer(command, stage, detail)
        self._busy.discard(command.device)
        following = self._waiting.pop(command.device, None)
        if following is not None:
            self._queue(following)

    def _answer(self, command: Command, stage: ActuationStage, detail: str) -> None:
        self._inputs.answers.append(Answer(command.device, command.actuation, stage, self.plant.now, detail))

    # ---- the truth ----------------------------------------------------------------------------

    def true_w(self, feeder: FeederId | None = None) -> Watts:
        return self.plant.true_feeder_power_w(feeder if feeder is not None else self.site.tree.root)

    def floor_w(self, excused: Iterable[DeviceId] = ()) -> Watts:
        """The least the plant could be brought to with every device but the excused at its lowest point."""
        excused = set(excused)
        return sum(
            self.plant.true_power_w(device) if device in excused else self.plant.operating_points(device).lowest.draw_w
            for device in self.plant.device_ids
        )
