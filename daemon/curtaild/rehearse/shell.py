"""The daemon's shell in virtual time: polls at the poller's rhythm, commands as the actuator sends them, the grid.

What `poller` and `actuator` do with sockets, this does with a queue of moments: reads come back late or never, one
write is in flight per device, a newer command replaces one that was not sent yet.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    HeartbeatReceived,
    Issuer,
    ScheduleReceived,
)
from curtaild.core.cycle import Command
from curtaild.core.events import ActuationStage, Condition
from curtaild.core.inputs import Answer, Described, Inputs, PollFailure
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.outage import Outages
from curtaild.poller import FIRST_ROUND_S, IN_RHYTHM, LONGEST_PAUSE_S, WATCH_S
from curtaild.rehearse.emulated import Emulated
from curtaild.rehearse.play import Order
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DeviceId,
    DriverError,
    FeederId,
    OutcomeUnknown,
    Seconds,
    Unreachable,
)

TICK_S = 1.0
"""The daemon's cycle. What wakes it earlier (a confirmation) comes up to so much later here: never in its favour."""
LATENCY_S = 0.1
"""How long a device takes to answer a command: slow for a LAN, so as not to flatter."""
READ_DEADLINE_S = 5.0
WRITE_DEADLINE_S = 10.0
HEARTBEAT_EVERY_S = 30.0
GRID = Issuer("grid")


class Controller(Protocol):
    """What decides: the daemon's core, or something to compare it with."""

    def cycle(self, inputs: Inputs, now: Seconds) -> Sequence[Command]:
        """What arrived since the last cycle; the commands to send."""
        ...

    def is_watched(self, device: DeviceId) -> bool:
        """Whether the device is to be read every second."""
        ...


class Shell:
    """One plant, one controller, one clock that `tick` moves on by a second."""

    def __init__(
        self,
        emulated: Emulated,
        controller: Controller,
        orders: Sequence[Order],
        begins_at: Seconds,
        is_lost: Callable[[Seconds], bool],
    ) -> None:
        self.now: Seconds = emulated.plant.now
        self.issued = 0
        self._plant = emulated.plant
        self._root = emulated.tree.root
        self._controller = controller
        self._concurrency = emulated.site.policy.write_concurrency
        self._is_lost = is_lost
        self._inputs = Inputs(described=[_described(emulated, device.id) for device in emulated.devices])
        self._poll_s = {device.id: device.poll_s for device in emulated.devices}
        self._meters = [(meter.feeder, meter.poll_s) for meter in emulated.site.meters()]
        self._interlocks = [feeder for feeder, spec in emulated.tree.specs.items() if spec.interlock is not None]
        self._meter_due = dict.fromkeys((feeder for feeder, _ in self._meters), 0.0)
        self._count = 0
        self._moments: list[tuple[Seconds, int, Callable[[Command, Seconds], None], Command]] = []
        self._busy: dict[DeviceId, Command | None] = {}
        self._next_tick = math.ceil(self.now / TICK_S) + 1
        self._due: defaultdict[int, list[tuple[Seconds, int, DeviceId]]] = defaultdict(list)
        self._round: dict[DeviceId, int] = dict.fromkeys(self._poll_s, 0)
        self._failures: dict[DeviceId, int] = dict.fromkeys(self._poll_s, 0)
        self._outages = Outages()
        self._late: list[tuple[Seconds, PollFailure]] = []
        self._to_tell = _messages(orders, begins_at, self._root)
        self._told = 0
        self._heartbeat_at = 0.0
        for device in self._poll_s:
            self._look_soon(device)

    def tick(self) -> Sequence[Command]:
        """One second of life; the commands it brought."""
        self.now += TICK_S
        now = self.now
        while self._moments and self._moments[0][0] <= now:
            at, _, act, command = heapq.heappop(self._moments)
            act(command, at)
        self._plant.advance(now)
        self._hear_the_grid(now)
        self._read_meters(now)
        self._read_interlocks(now)
        self._read_devices(now)
        inputs, self._inputs = self._inputs, Inputs()
        commands = self._controller.cycle(inputs, now)
        for place, command in enumerate(commands):
            self._submit(command, now + LATENCY_S * (place // self._concurrency))
        self.issued += len(commands)
        return commands

    # ---- the grid -----------------------------------------------------------------------------

    def _hear_the_grid(self, now: Seconds) -> None:
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_EVERY_S
            self._inputs.grid.append(HeartbeatReceived())
        while self._told < len(self._to_tell) and self._to_tell[self._told][0] <= now:
            self._inputs.grid.append(self._to_tell[self._told][1])
            self._told += 1

    # ---- telemetry ----------------------------------------------------------------------------

    def _read_meters(self, now: Seconds) -> None:
        for feeder, poll_s in self._meters:
            if now >= self._meter_due[feeder]:
                self._meter_due[feeder] = now + max(poll_s, TICK_S)
                if not self._is_lost(now):
                    self._inputs.meters.append((feeder, self._plant.read_meter(feeder, now)))

    def _read_interlocks(self, now: Seconds) -> None:
        """Fans and pumps run from the beginning, and nobody stops them."""
        if not self._is_lost(now):
            self._inputs.interlocks += [(feeder, True, now) for feeder in self._interlocks]

    def _read_devices(self, now: Seconds) -> None:
        while self._late and self._late[0][0] <= now:
            self._inputs.poll_failures.append(self._late.pop(0)[1])
        rounds, is_lost = self._round, self._is_lost(now)
        due = self._due.pop(self._next_tick, [])
        self._next_tick += 1
        due.sort()
        for _, round_, device in due:
            if round_ == rounds[device]:
                self._read(device, now, is_lost)

    def _read(self, device: DeviceId, now: Seconds, is_lost: bool) -> None:
        try:
            if is_lost:
                raise Unreachable("no answer")
            self._inputs.readings.append((device, self._plant.read(device, now)))
        except BadReply as error:
            self._inputs.poll_failures.append(PollFailure(device, Condition.BAD_REPLY, str(error)))
        except DriverError as error:
            self._failed(device, now, str(error))
            return
        if self._failures[device]:
            self._failures[device] = 0
            for other in self._outages.answered(device):
                self._look_soon(other)
        poll_s = self._poll_s[device]
        self._look_at(device, now + (min(poll_s, WATCH_S) if self._controller.is_watched(device) else poll_s))

    def _failed(self, device: DeviceId, now: Seconds, detail: str) -> None:
        failures, poll_s = self._failures[device] + 1, self._poll_s[device]
        self._failures[device] = failures
        self._late.append((now + READ_DEADLINE_S, PollFailure(device, Condition.UNREACHABLE, detail)))
        is_put_off = failures > IN_RHYTHM
        self._outages.failed(device, now, is_put_off)
        if is_put_off:
            poll_s = max(poll_s, min(LONGEST_PAUSE_S, poll_s * 2.0 ** min(failures - IN_RHYTHM, 8)))
        elif self._controller.is_watched(device):
            poll_s = min(poll_s, WATCH_S)
        self._look_at(device, now + max(poll_s, READ_DEADLINE_S))

    def _look_soon(self, device: DeviceId) -> None:
        self._look_at(device, self.now + zlib.crc32(device.encode()) / 2**32 * FIRST_ROUND_S)

    def _look_at(self, device: DeviceId, at: Seconds) -> None:
        """In the tick that ends then or next after it; instead of when it was to be read before."""
        self._round[device] = round_ = self._round[device] + 1
        tick = math.ceil(at / TICK_S)
        self._due[tick if tick > self._next_tick else self._next_tick].append((at, round_, device))

    # ---- commands -----------------------------------------------------------------------------

    def _at(self, moment: Seconds, act: Callable[[Command, Seconds], None], command: Command) -> None:
        self._count += 1
        heapq.heappush(self._moments, (moment, self._count, act, command))

    def _submit(self, command: Command, at: Seconds) -> None:
        if command.device in self._busy:
            replaced = self._busy[command.device]
            self._busy[command.device] = command
            if replaced is not None:
                self._answer(replaced, ActuationStage.CANCELLED, at, "not sent")
            return
        self._busy[command.device] = None
        self._at(at + LATENCY_S, self._write, command)
        self._look_at(command.device, at)

    def _write(self, command: Command, at: Seconds) -> None:
        stage, detail, took_s = ActuationStage.ANSWERED, "", 0.0
        try:
            self._plant.apply(command.device, command.target, at)
        except OutcomeUnknown as error:
            stage, detail, took_s = ActuationStage.OUTCOME_UNKNOWN, str(error), WRITE_DEADLINE_S
        except AuthFailed as error:
            stage, detail = ActuationStage.REFUSED, f"auth failed: {error}"
        except DriverError as error:
            stage, detail, took_s = ActuationStage.REFUSED, str(error), WRITE_DEADLINE_S / 2

        def finish(sent: Command, moment: Seconds) -> None:
            self._answer(sent, stage, moment, detail)
            self._look_at(sent.device, moment)
            following = self._busy.pop(sent.device)
            if following is not None:
                self._submit(following, moment)

        self._at(at + took_s, finish, command)

    def _answer(self, command: Command, stage: ActuationStage, at: Seconds, detail: str) -> None:
        self._inputs.answers.append(Answer(command.device, command.actuation, stage, at, detail))


def _described(emulated: Emulated, device: DeviceId) -> Described:
    """What its driver would find out."""
    model = emulated.models[device]
    capabilities = model.capabilities()
    return Described(
        device,
        model.operating_points(),
        model.rated_w,
        capabilities.settle_down_s,
        capabilities.settle_up_s,
        restarts=capabilities.restarts,
    )


def _messages(
    orders: Sequence[Order], begins_at: Seconds, root: FeederId
) -> list[tuple[Seconds, AllocationReceived | ScheduleReceived]]:
    """What the grid sends when: at once a release, then each order; those told in advance by the schedule's list."""
    released = Allocation(AllocationId("released"), 1, GRID, root, UNLIMITED, 0.0, 0.0, None)
    messages: list[tuple[Seconds, AllocationReceived | ScheduleReceived]] = [(0.0, AllocationReceived(released))]
    allocations = [(order, _allocation(order, number + 2, begins_at, root)) for number, order in enumerate(orders)]
    for order, allocation in allocations:
        told_at = max(0.0, begins_at + order.at_s - order.announced_s)
        if order.announced_s <= 0:
            messages.append((told_at, AllocationReceived(allocation)))
            continue
        listed = tuple(
            other
            for planned, other in allocations
            if planned.announced_s > 0
            and begins_at + planned.at_s - planned.announced_s <= told_at <= begins_at + planned.at_s
        )
        messages.append((told_at, ScheduleReceived(GRID, listed, seq=allocation.seq)))
    return sorted(messages, key=lambda message: message[0])


def _allocation(order: Order, seq: int, begins_at: Seconds, root: FeederId) -> Allocation:
    starts = begins_at + order.at_s
    return Allocation(
        id=AllocationId(f"order-{seq - 1}"),
        seq=seq,
        issuer=GRID,
        feeder=order.feeder if order.feeder is not None else root,
        ceiling=Limit(order.limit_w) if order.limit_w is not None else UNLIMITED,
        issued_at=max(0.0, starts - order.announced_s),
        valid_from=starts,
        valid_until=starts + order.lasts_s if order.lasts_s is not None else None,
        reach_by_s=order.reach_by_s,
        max_ramp_up_w_per_min=order.max_ramp_up_w_per_min,
        urgency=order.urgency,
    )
