"""What every policy to compare with has: the grid's words, the last readings, commands that go the way ours go.

Rivals hear the same telemetry at the same rhythm as the core, and their commands reach the same devices as fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from curtaild.core.allocation import Allocation, AllocationReceived, ScheduleReceived
from curtaild.core.cycle import Command
from curtaild.core.events import ActuationId
from curtaild.core.hull import point_at
from curtaild.core.inputs import Inputs
from curtaild.core.limits import within
from curtaild.rehearse.emulated import Emulated
from curtaild_drivers.contract import DeviceId, OperatingPoint, OperatingPoints, Seconds, Watts


class Rival(ABC):
    """One policy. `decide` is asked each second and says what it wants changed."""

    def __init__(self, emulated: Emulated) -> None:
        self.root = emulated.tree.root
        self.rating_w = emulated.tree.specs[self.root].rating_w
        self.points: Mapping[DeviceId, OperatingPoints] = {
            device.id: emulated.models[device.id].operating_points() for device in emulated.devices
        }
        self.priority = {device.id: device.priority for device in emulated.devices}
        self.setpoint: dict[DeviceId, OperatingPoint] = {name: points.highest for name, points in self.points.items()}
        self.drawn_w: dict[DeviceId, Watts] = {name: points.highest.draw_w for name, points in self.points.items()}
        self.metered_w: Watts | None = None
        self.limit_w = self.rating_w
        self._allocations: dict[str, Allocation] = {}
        self._issued = 0

    @abstractmethod
    def decide(self, now: Seconds) -> Mapping[DeviceId, OperatingPoint]:
        """The setpoints to change at `now`."""

    def cycle(self, inputs: Inputs, now: Seconds) -> Sequence[Command]:
        for message in inputs.grid:
            if isinstance(message, AllocationReceived):
                self._allocations[message.allocation.id] = message.allocation
            elif isinstance(message, ScheduleReceived):
                self._allocations |= {allocation.id: allocation for allocation in message.allocations}
        for device, reading in inputs.readings:
            if reading.power_w is not None:
                self.drawn_w[device] = reading.power_w
        for feeder, sample in inputs.meters:
            if feeder == self.root and sample.power_w is not None:
                self.metered_w = sample.power_w
        self.limit_w = self._limit_now(now)
        wanted = self.decide(now)
        return [self._command(device, point) for device, point in wanted.items() if point != self.setpoint[device]]

    def is_watched(self, device: DeviceId) -> bool:
        return False

    def at_most(self, device: DeviceId, watts: Watts) -> OperatingPoint:
        """The highest point of a device at or under `watts`; its lowest where none is."""
        return point_at(self.points[device], watts)

    def _limit_now(self, now: Seconds) -> Watts:
        valid = [held for held in self._allocations.values() if held.feeder == self.root and held.covers(now)]
        if not valid:
            return self.rating_w
        newest = max(valid, key=lambda held: held.seq)
        self._allocations = {
            name: held for name, held in self._allocations.items() if held.seq >= newest.seq or held.valid_from > now
        }
        return within(newest.ceiling, self.rating_w)

    def _command(self, device: DeviceId, point: OperatingPoint) -> Command:
        self._issued += 1
        before_w = self.setpoint[device].draw_w
        self.setpoint[device] = point
        is_raise = point.draw_w > before_w
        return Command(ActuationId(f"r{self._issued}"), device, point, is_raise, before_w - point.draw_w)
