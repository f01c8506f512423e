"""The electrical truth of an emulated site: devices, feeders, meters. Pure and synchronous; time is an argument.

`read`, `apply` and `read_meter` answer as a driver would, in the contract's types and errors, so that the daemon's
thinking can be tried in virtual time. The wires of this package drive the same devices over real sockets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    Capabilities,
    DeviceId,
    FeederId,
    Identity,
    MeterReading,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Seconds,
    Unreachable,
    Unsupported,
    Watts,
)
from curtaild_emulator.faults import Fault, MeterFault
from curtaild_emulator.gpu_node import BmcFault, GpuNode, GpuNodeModel
from curtaild_emulator.miner import Miner
from curtaild_emulator.models import LIMIT, DeviceModel, Firmware
from curtaild_emulator.noise import Noise

_STALE_REFRESH_S = 60.0
_COMMANDED_BY_HTTP = frozenset(
    {Firmware.ANTMINER, Firmware.VNISH, Firmware.AXEOS, Firmware.EPIC, Firmware.AURADINE, Firmware.MARATHON}
)
_SILENT = (Fault.HANG, Fault.OFFLINE_SILENT, Fault.REFUSE_CONNECTION)


@dataclass(frozen=True, slots=True)
class PlantDevice:
    """One device to emulate: its id, model, the feeder it hangs on, and the faults it begins with. `sensor_error` is
    how far its own watts are off, as a fraction, for good; `None` draws it from what healthy units show."""

    id: DeviceId
    model: DeviceModel
    feeder: FeederId
    faults: frozenset[Fault] = frozenset()
    sensor_error: float | None = None


@dataclass(frozen=True, slots=True)
class PlantNode:
    """One GPU node to emulate: its id, model, the feeder it hangs on, and the faults it begins with."""

    id: DeviceId
    model: GpuNodeModel
    feeder: FeederId
    faults: frozenset[BmcFault] = frozenset()


@dataclass(frozen=True, slots=True)
class PlantFeeder:
    """One node of the site's tree.

    Beside what hangs on it it draws `auxiliary_w`, and `auxiliary_fraction` of all that flows through it (fans that
    follow load, transformer losses). `meter_noise` is the standard deviation of one sample as a fraction.
    """

    id: FeederId
    parent: FeederId | None = None
    auxiliary_w: Watts = 0.0
    auxiliary_fraction: float = 0.0
    meter_noise: float = 0.005


class Load(Protocol):
    """What hangs on a feeder and is emulated elsewhere, as a GPU host behind its own library is: called with times that
    never go back."""

    @property
    def power_w(self) -> Watts: ...
    def energy_j(self, now: Seconds) -> float: ...


class _InMotion:
    """The miners of a feeder that are changing, in the order in which they began: sums come out the same in every
    run. `is_new`: somebody has begun or ceased to since that was last noted."""

    __slots__ = ("_left", "_miners", "is_new")

    def __init__(self) -> None:
        self._miners: dict[Miner, None] = {}
        self._left: dict[Miner, None] = {}
        self.is_new = True

    def take_moved(self) -> list[Miner]:
        """Who has changed since this was last asked."""
        moved, self._left = [*self._miners, *self._left], {}
        return moved

    def __iter__(self) -> Iterator[Miner]:
        return iter(self._miners)

    def __contains__(self, miner: Miner) -> bool:
        return miner in self._miners

    def add(self, miner: Miner) -> None:
        self.is_new = True
        self._miners[miner] = None

    def discard(self, miner: Miner) -> None:
        self.is_new = True
        self._miners.pop(miner, None)
        self._left[miner] = None


@dataclass(slots=True)
class _Feeder:
    """`resting_w`, `resting_j`: what the miners that are not in motion draw, and the energy that they had drawn at time
    zero had they always drawn it: a meter need not ask each of them."""

    spec: PlantFeeder
    noise: Noise
    miners: list[Miner] = field(default_factory=list)
    in_motion: _InMotion = field(default_factory=_InMotion)
    resting_w: Watts = 0.0
    resting_j: float = 0.0
    nodes: list[GpuNode] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    children: list[_Feeder] = field(default_factory=list)
    fault: MeterFault | None = None
    held: tuple[Seconds, Watts, float] | None = None  # what a stale or frozen meter keeps: since when, W, J
    known_at: Seconds = -math.inf
    known_w: Watts = 0.0
    known_j: float = 0.0


class Plant:
    """Devices on a tree of feeders. The same seed and the same calls give the same answers, on any machine.

    Raises `ValueError` for feeders or devices that do not make a tree, `KeyError` for ids it does not have.
    """

    def __init__(
        self,
        devices: Sequence[PlantDevice],
        feeders: Sequence[PlantFeeder],
        seed: int,
        start: Seconds = 0.0,
        nodes: Sequence[PlantNode] = (),
    ) -> None:
        self._now = self._start = start
        self._moving_nodes: set[GpuNode] = set()
        self._feeders = {spec.id: _Feeder(spec, Noise(seed, f"meter {spec.id}")) for spec in feeders}
        if len(self._feeders) != len(feeders):
            raise ValueError("two feeders bear the same id")
        for feeder in self._feeders.values():
            self._hang_up(feeder)
        self._miners: dict[str, Miner] = {}
        for device in devices:
            if device.id in self._miners:
                raise ValueError(f"two devices bear the id {device.id!r}")
            if device.feeder not in self._feeders:
                raise ValueError(f"device {device.id!r} hangs on feeder {device.feeder!r}, which does not exist")
            feeder = self._feeders[device.feeder]
            miner = Miner(device.id, device.model, seed, start, feeder.in_motion, device.faults, device.sensor_error)
            self._miners[device.id] = miner
            feeder.miners.append(miner)
        self._nodes: dict[str, GpuNode] = {}
        for spec in nodes:
            if spec.id in self._nodes or spec.id in self._miners:
                raise ValueError(f"two devices bear the id {spec.id!r}")
            if spec.feeder not in self._feeders:
                raise ValueError(f"device {spec.id!r} hangs on feeder {spec.feeder!r}, which does not exist")
            node = GpuNode(spec.id, spec.model, seed, start, self._moving_nodes, spec.faults)
            self._nodes[spec.id] = node
            self._feeders[spec.feeder].nodes.append(node)

    def _hang_up(self, feeder: _Feeder) -> None:
        ancestor = feeder.spec.parent
        if ancestor is None:
            return
        if ancestor not in self._feeders:
            raise ValueError(f"feeder {feeder.spec.id!r} hangs on {ancestor!r}, which does not exist")
        self._feeders[ancestor].children.append(feeder)
        seen = {feeder.spec.id}
        while ancestor is not None:
            if ancestor in seen:
                raise ValueError(f"feeder {feeder.spec.id!r} hangs on itself")
            seen.add(ancestor)
            ancestor = self._feeders[ancestor].spec.parent if ancestor in self._feeders else None

    # --- truth -----------------------------------------------------------------------------------

    @property
    def now(self) -> Seconds:
        return self._now

    @property
    def device_ids(self) -> tuple[DeviceId, ...]:
        return tuple(DeviceId(name) for name in self._miners)

    @property
    def feeder_ids(self) -> tuple[FeederId, ...]:
        return tuple(self._feeders)

    def advance(self, now: Seconds) -> None:
        """Let time pass; only devices that are changing cost anything. A time already passed changes nothing."""
        if now > self._now:
            self._now = now
            for feeder in self._feeders.values():
                for miner in tuple(feeder.in_motion):
                    miner.advance(now)
            for node in tuple(self._moving_nodes):
                node.advance(now)

    def miner(self, device_id: str) -> Miner:
        """The device itself, for wires and for looking behind its answers. Advance it before telling it anything."""
        return self._miners[device_id]

    @property
    def node_ids(self) -> tuple[DeviceId, ...]:
        """The GPU nodes, which have BMCs instead of a firmware's points."""
        return tuple(DeviceId(name) for name in self._nodes)

    def node(self, node_id: str) -> GpuNode:
        """The GPU node itself, as `miner` for miners."""
        return self._nodes[node_id]

    def carry(self, feeder_id: str, load: Load) -> None:
        """Let a feeder carry a load of somebody else's. Raises `KeyError` for an unknown feeder."""
        self._feeders[FeederId(feeder_id)].loads.append(load)

    def true_power_w(self, device_id: str) -> Watts:
        """What a device really draws now."""
        node = self._nodes.get(device_id)
        return self._miners[device_id].power_w if node is None else node.power_w

    def take_moved_miners(self) -> list[Miner]:
        """The miners whose draw or state has changed since this was last asked, perhaps one of them twice."""
        return [miner for feeder in self._feeders.values() for miner in feeder.in_motion.take_moved()]

    def true_feeder_power_w(self, feeder_id: str) -> Watts:
        """What really flows into a feeder now: its devices, its children, and its own auxiliary load."""
        return self._flow_w(self._feeders[FeederId(feeder_id)])

    def true_feeder_energy_j(self, feeder_id: str) -> float:
        """What has flowed into a feeder since the plant began."""
        return self._flow_j(self._feeders[FeederId(feeder_id)])

    def _flow_w(self, feeder: _Feeder) -> Watts:
        if feeder.known_at != self._now:  # a command changes no draw at the instant it is given
            self._flow(feeder)
        return feeder.known_w

    def _flow_j(self, feeder: _Feeder) -> float:
        if feeder.known_at != self._now:
            self._flow(feeder)
        return feeder.known_j

    def _flow(self, feeder: _Feeder) -> None:
        """Add up what flows into it now, and has since the plant began."""
        self._note_resting(feeder)
        now, moving, others = self._now, feeder.in_motion, (*feeder.nodes, *feeder.loads)
        through_w, through_j = feeder.resting_w, feeder.resting_j + feeder.resting_w * now
        through_w += sum([miner.power_w for miner in moving])
        through_j += sum([miner.energy_j(now) for miner in moving])
        if others:
            through_w += sum([other.power_w for other in others])
            through_j += sum([other.energy_j(now) for other in others])
        for child in feeder.children:
            through_w += self._flow_w(child)
            through_j += self._flow_j(child)
        spec = feeder.spec
        feeder.known_w = through_w * (1.0 + spec.auxiliary_fraction) + spec.auxiliary_w
        feeder.known_j = through_j * (1.0 + spec.auxiliary_fraction) + spec.auxiliary_w * (now - self._start)
        feeder.known_at = now

    def _note_resting(self, feeder: _Feeder) -> None:
        moving = feeder.in_motion
        if moving.is_new:
            moving.is_new = False
            resting = [miner for miner in feeder.miners if miner not in moving]
            feeder.resting_w = sum(miner.power_w for miner in resting)
            feeder.resting_j = sum(miner.energy_j(self._now) for miner in resting) - feeder.resting_w * self._now

    # --- faults ----------------------------------------------------------------------------------

    def set_fault(self, device_id: str, fault: Fault, on: bool, probability: float = 1.0) -> None:
        """Switch a device's fault; `probability` (0, 1] is how often it strikes when it has the occasion."""
        self._miners[device_id].set_fault(fault, on, probability)

    def faults(self, device_id: str) -> frozenset[Fault]:
        return self._miners[device_id].faults

    def set_meter_fault(self, feeder_id: str, fault: MeterFault | None) -> None:
        """Give a feeder's meter a fault, or heal it with `None`."""
        feeder = self._feeders[FeederId(feeder_id)]
        feeder.fault = fault
        feeder.held = None

    def meter_fault(self, feeder_id: str) -> MeterFault | None:
        return self._feeders[FeederId(feeder_id)].fault

    # --- what a driver would see -----------------------------------------------------------------

    def identity(self, device_id: str) -> Identity:
        return self._miners[device_id].model.identity(serial=device_id)

    def capabilities(self, device_id: str) -> Capabilities:
        return self._miners[device_id].model.capabilities()

    def operating_points(self, device_id: str) -> OperatingPoints:
        """What the firmware offers at nominal figures; the unit itself draws a few percent beside them."""
        return self._miners[device_id].model.operating_points()

    def read(self, device_id: str, now: Seconds) -> Reading:
        """What a driver's `read` would return at `now`. Raises `Unreachable` and `BadReply` as faults dictate."""
        if now != self._now:  # forty devices are read at one time
            self.advance(now)
        miner = self._miners.get(device_id)
        if miner is None:
            return self._read_node(device_id)
        if miner.speaks_plainly:
            return miner.says(now)
        self._reach(miner)
        if miner.has(Fault.GARBAGE):
            raise BadReply(f"{device_id}: answered bytes that are not its protocol")
        if miner.state is RunState.ASLEEP and not self._answers_asleep(miner):
            return Reading(taken_at=now, state=RunState.UNKNOWN)
        reading = miner.says(now)
        return replace(reading, power_w=None) if miner.has(Fault.NAN_POWER) else reading

    def _read_node(self, device_id: str) -> Reading:
        """A GPU node speaks through its BMC only, unless a plant knows a driver's way to read it."""
        raise KeyError(device_id)

    def apply(self, device_id: str, point: OperatingPoint, now: Seconds) -> Outcome:
        """Bring a device towards `point` as a driver would; its draw then follows its physics.

        Raises what the faults dictate: `Unreachable` and `AuthFailed` (nothing changed), `Refused`,
        `OutcomeUnknown` (it may have worked), `Unsupported` for a point the device does not offer.
        """
        self.advance(now)
        miner = self._miners[device_id]
        self._offers(miner, point)
        if miner.strikes(Fault.HANG):
            raise OutcomeUnknown(f"{device_id}: took the command and never answered")
        self._reach(miner)
        if miner.has(Fault.WRONG_PASSWORD):
            raise AuthFailed(f"{device_id}: rejected the password")
        if miner.has(Fault.TOKEN_LIMIT) and miner.model.firmware is Firmware.WHATSMINER_V2:
            raise Refused(f"{device_id}: gives out no more tokens (Code 136)")
        if miner.has(Fault.HTTP_500) and miner.model.firmware in _COMMANDED_BY_HTTP:
            raise OutcomeUnknown(f"{device_id}: its web server answered with status 500")
        if self._says_it_is_there(miner, point):
            return Outcome.ALREADY_THERE
        self._obey(miner, point, now)
        if miner.strikes(Fault.HANG_WRITE_APPLIED) or miner.has(Fault.GARBAGE):
            raise OutcomeUnknown(f"{device_id}: the answer to the command was lost")
        if point.is_off and miner.strikes(Fault.CLOSE_AFTER_POWER_OFF):
            raise OutcomeUnknown(f"{device_id}: closed the connection instead of answering")
        return Outcome.ACKNOWLEDGED

    def read_meter(self, feeder_id: str, now: Seconds) -> MeterReading:
        """What a driver's meter `read` would return at `now`. Raises `Unreachable` when the meter is dead."""
        self.advance(now)
        feeder = self._feeders[FeederId(feeder_id)]
        if feeder.fault is MeterFault.DEAD:
            raise Unreachable(f"meter of {feeder_id}: no answer")
        power_w, energy_j = self.metered(feeder_id)
        known = math.isfinite(power_w) and power_w >= 0
        return MeterReading(taken_at=now, power_w=power_w if known else None, energy_j=energy_j)

    def metered(self, feeder_id: str) -> tuple[Watts, float]:
        """The raw registers of a feeder's meter now, noise and fault included: W (may be NaN, negative), and J."""
        feeder = self._feeders[FeederId(feeder_id)]
        if feeder.fault is MeterFault.STALE and feeder.held and self._now - feeder.held[0] >= _STALE_REFRESH_S:
            feeder.held = None
        if feeder.held is None:
            power_w = self._flow_w(feeder) * (1.0 + feeder.spec.meter_noise * feeder.noise.pair()[0])
            feeder.held = (self._now, power_w, self._flow_j(feeder))
        _, power_w, energy_j = feeder.held
        if feeder.fault not in (MeterFault.STALE, MeterFault.FROZEN):
            feeder.held = None
        if feeder.fault is MeterFault.NAN:
            power_w = math.nan
        elif feeder.fault is MeterFault.NEGATIVE:
            power_w = -power_w
        return power_w, energy_j

    # --- how commands and faults meet ------------------------------------------------------------

    @staticmethod
    def _reach(miner: Miner) -> None:
        if miner.has_any(_SILENT) and any(miner.strikes(fault) for fault in _SILENT):
            raise Unreachable(f"{miner.id}: no answer")
        if miner.is_booting and miner.has(Fault.API_GONE_WHILE_BOOTING):
            raise Unreachable(f"{miner.id}: connection refused while it boots")

    @staticmethod
    def _answers_asleep(miner: Miner) -> bool:
        if miner.has(Fault.KEYS_VANISH_AFTER_SLEEP):
            return False
        # an empty summary is how a stock Antminer says that it sleeps; from others it proves nothing
        return not miner.has(Fault.EMPTY_SUMMARY_ASLEEP) or Fault.EMPTY_SUMMARY_ASLEEP in miner.model.born_with

    @staticmethod
    def _offers(miner: Miner, point: OperatingPoint) -> None:
        model = miner.model
        offered = point.is_off or (
            model.preset_w(point.key) is not None if model.lowest_limit_w is None else point.key == LIMIT
        )
        if not offered or not math.isfinite(point.draw_w) or point.draw_w < 0:
            raise Unsupported(f"{miner.id}: {model.name} has no operating point {point.key!r} at {point.draw_w} W")

    @staticmethod
    def _percent(model: DeviceModel, limit_w: Watts) -> float:
        return max(1.0, min(100.0, math.floor(limit_w / model.limit_step_w + 1e-9)))

    def _says_it_is_there(self, miner: Miner, point: OperatingPoint) -> bool:
        if point.is_off or miner.setting.asleep or point.key != LIMIT:
            return miner.point_key == point.key
        if not miner.model.limit_is_percent:
            return miner.setting.limit_w == math.floor(point.draw_w)
        return miner.setting.percent == self._percent(miner.model, point.draw_w)

    def _obey(self, miner: Miner, point: OperatingPoint, now: Seconds) -> None:
        if point.is_off:
            miner.sleep(now)
            return
        if miner.setting.asleep:
            miner.wake(now)
        if point.key == LIMIT and not miner.model.limit_is_percent:
            miner.set_limit(math.floor(point.draw_w), now)
        elif point.key == LIMIT:
            miner.set_percent(self._percent(miner.model, point.draw_w), now)
        elif miner.setting.preset != point.key:
            miner.set_preset(point.key, now)
