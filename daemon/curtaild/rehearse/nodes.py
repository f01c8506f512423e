"""GPU nodes in a rehearsal: what a group's settings make of one, and a plant that answers for miners and nodes alike.

A node's operating points are the driver's own, from the site file's curve and watts; its physics are the emulator's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import curtaild_config as config
from curtaild_drivers.contract import (
    OFF,
    Capabilities,
    DeviceId,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    Reading,
    RunState,
    Seconds,
    Watts,
)
from curtaild_drivers.gpu.curve import BASE_FRACTION, LIMIT, Curve, node_points, throughput
from curtaild_drivers.gpu.redfish.settings import RedfishSettings
from curtaild_drivers.gpu.settings import NodeSettings
from curtaild_emulator import GpuNodeModel, Plant, PlantDevice, PlantFeeder, PlantNode
from curtaild_emulator.gpu_node import Power

ORDINARY = "hgx-h100"
"""What a GPU node is taken for where the file says nothing of it."""
CAP_BITES_S = 20.0
"""How long a BMC's limit takes to hold: up to 40 s are reported."""
LOCAL_CAP_BITES_S = 2.0
LEAST_SHARE = 0.5
"""How far under its most a node is limited, where nobody names a least."""


@dataclass(frozen=True, slots=True)
class NodeKind:
    """One kind of GPU node: as `DeviceModel` is for miners. `bites_s`: how long its limit takes to hold."""

    name: str
    rated_w: Watts
    model: GpuNodeModel
    curve: Curve
    base_w: Watts
    points: OperatingPoints
    bites_s: Seconds

    def operating_points(self) -> OperatingPoints:
        """What its driver would offer."""
        return self.points

    def capabilities(self) -> Capabilities:
        stops = self.points.lowest.is_off
        down_s = self.model.shutdown_s + self.bites_s if stops else 2 * self.bites_s
        up_s = self.model.boot_s + self.bites_s if stops else 2 * self.bites_s
        return Capabilities(measures_power=True, throttles=True, stops=stops, settle_down_s=down_s, settle_up_s=up_s)

    def rate(self, draw_w: Watts) -> float:
        """The share of full throughput that its work keeps at a draw: what it asks for itself is all of it."""
        asked_w = self.model.busy_share * (self.rated_w - self.base_w)
        return throughput(self.curve, min(1.0, max(0.0, draw_w - self.base_w) / asked_w))


def node_kind(device: config.DeviceSpec, model: GpuNodeModel) -> NodeKind | None:
    """What a group of GPU nodes is taken for, scaled to its `rated_w`; `None` if the device is no GPU node."""
    settings = device.settings
    if not isinstance(settings, RedfishSettings | NodeSettings):
        return None
    rated_w = device.rated_w or model.max_w
    base_w = settings.base_w if settings.base_w is not None else BASE_FRACTION * rated_w
    off_w: Watts | None = None
    if isinstance(settings, RedfishSettings):
        least_w = settings.least_w or LEAST_SHARE * rated_w
        off_w = settings.off_w if settings.power_off != "never" else None
    else:
        least_w = base_w + settings.gpu_factor * model.gpus * (settings.least_gpu_w or model.gpu_min_w)
        off_w = settings.off.draw_w if settings.off is not None else None
    each_w = (rated_w - base_w) / model.overhead / model.gpus
    least_each_w = max(0.0, least_w - base_w) / model.overhead / model.gpus
    scaled = replace(
        model,
        base_w=base_w,
        gpu_max_w=each_w,
        gpu_default_w=each_w,
        gpu_min_w=least_each_w,
        gpu_idle_w=min(model.gpu_idle_w, least_each_w),
        standby_w=off_w if off_w is not None else model.standby_w,
    )
    points = node_points(least_w, rated_w, base_w, off_w, settings.curve)
    bites_s = CAP_BITES_S if isinstance(settings, RedfishSettings) else LOCAL_CAP_BITES_S
    return NodeKind(model.name, rated_w, scaled, settings.curve, base_w, points, bites_s)


class MixedPlant(Plant):
    """A plant whose GPU nodes answer as its miners do: by their drivers' points and errors."""

    def __init__(
        self,
        devices: Sequence[PlantDevice],
        feeders: Sequence[PlantFeeder],
        seed: int,
        nodes: Sequence[PlantNode],
        kinds: Mapping[DeviceId, NodeKind],
    ) -> None:
        super().__init__(devices, feeders, seed, nodes=nodes)
        self._kinds = kinds

    @property
    def all_ids(self) -> tuple[DeviceId, ...]:
        """Miners and nodes."""
        return (*self.device_ids, *self.node_ids)

    def take_moved(self) -> list[DeviceId]:
        """Whose draw or rate may have changed since this was last asked: nodes always."""
        return [*(DeviceId(miner.id) for miner in self.take_moved_miners()), *self.node_ids]

    def true_rate(self, device_id: DeviceId) -> float:
        """What a device truly gets done: H/s, or a node's share of its full throughput."""
        kind = self._kinds.get(device_id)
        if kind is None:
            return self.miner(device_id).rate_hs
        node = self.node(device_id)
        return kind.rate(node.power_w) if node.state is RunState.RUNNING else 0.0

    def _read_node(self, device_id: str) -> Reading:
        kind = self._kinds[DeviceId(device_id)]
        node = self.node(device_id)
        is_off = node.power in (Power.OFF, Power.POWERING_OFF)
        limit_w = node.node_cap_w if node.node_cap_w is not None else kind.rated_w
        return Reading(
            taken_at=self.now,
            state=node.state,
            power_w=node.measured_w(),
            rate=self.true_rate(DeviceId(device_id)),
            point_key=OFF if is_off else LIMIT,
            limit_w=None if is_off else limit_w,
        )

    def apply(self, device_id: str, point: OperatingPoint, now: Seconds) -> Outcome:
        kind = self._kinds.get(DeviceId(device_id))
        if kind is None:
            return super().apply(device_id, point, now)
        self.advance(now)
        node = self.node(device_id)
        if point.is_off:
            node.shut_down(now)
            return Outcome.ACKNOWLEDGED
        if node.power is Power.OFF:
            node.switch_on(now)
        node.cap_node(point.draw_w, now, kind.bites_s)
        return Outcome.ACKNOWLEDGED
