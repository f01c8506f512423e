"""The plant that stands in for a site: an emulated miner or GPU node per device of the site file, on its feeders, with
its meters.

A site file says where a miner is and which driver speaks to it, seldom what it is. What it does not say is assumed, and
every assumption is kept to be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import curtaild_config as config
from curtaild import translate
from curtaild.core.feeders import FeederTree
from curtaild.rehearse.nodes import ORDINARY as ORDINARY_NODE
from curtaild.rehearse.nodes import MixedPlant, NodeKind, node_kind
from curtaild.rehearse.play import Capacity
from curtaild.rehearse.troubles import Troubles
from curtaild.rehearse.ways import find_ways
from curtaild.rehearse.worth import Worth
from curtaild_config.problems import suggest
from curtaild_drivers.asic import AsicSettings
from curtaild_drivers.contract import DeviceId, FeederId, Seconds, Watts
from curtaild_emulator import MODELS, NODE_MODELS, DeviceModel, PlantDevice, PlantFeeder, PlantNode

LOSSES = 0.01
"""Of all that the root carries: fans that follow the load and a transformer's losses. The daemon must find it out."""
ORDINARY = "whatsminer-m50"
"""What a miner is taken for where the file says nothing of it: it is throttled by percents, as most are."""
NODE_DRIVERS = frozenset({"nvml", "amdsmi", "redfish"})
_NEAR = 1.25


class CannotEmulate(ValueError):
    """A site that cannot be rehearsed, said so that a person can mend it."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """What a group of devices was taken for, and why."""

    group: str
    count: int
    model: str
    because: str


@dataclass(frozen=True, slots=True)
class Emulated:
    """A site file and the plant that answers for it. `twin` is the same plant once more, untroubled: to be asked what
    the best of all dispatches would have drawn and earned."""

    site: config.Site
    devices: tuple[config.DeviceSpec, ...]
    tree: FeederTree
    plant: MixedPlant
    twin: MixedPlant
    models: Mapping[DeviceId, DeviceModel | NodeKind]
    assumed: tuple[Assumed, ...]
    capacity: Capacity

    @property
    def group_of(self) -> dict[DeviceId, str]:
        return {device.id: device.group for device in self.devices}

    @property
    def response_s(self) -> Seconds:
        """How long after a limit begins a draw above it is no breach, where its order does not say."""
        return translate.policy(self.site).response_s

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(assumed.group for assumed in self.assumed)


def emulate(site: config.Site, chosen: Mapping[str, str], troubles: Troubles, seed: int) -> Emulated:
    """Build the plant of `site`. `chosen` names a model of the emulator per group. Raises `CannotEmulate`."""
    tree = translate.feeder_tree(site)
    devices = site.expand_devices()
    if not devices:
        raise CannotEmulate("the site file lists no devices: there is nothing to rehearse")
    groups = {group.name: group for group in site.devices}
    for name, model in chosen.items():
        if name not in groups:
            raise CannotEmulate(f"no group {name!r} in the site file; {suggest(name, groups)}")
        known = NODE_MODELS if groups[name].driver in NODE_DRIVERS else MODELS
        if model not in known and model not in MODELS:
            raise CannotEmulate(f"group {name!r}: no emulated model {model!r}; {suggest(model, known)}")
    first = {device.group: device for device in reversed(devices)}
    taken = {name: _taken_for(first[name], chosen.get(name)) for name in groups}
    models = {device.id: taken[device.group][0] for device in devices}
    errors = troubles.sensor_errors([device.id for device in devices], seed)
    kinds: dict[DeviceId, NodeKind] = {}
    parts: list[PlantDevice] = []
    nodes: list[PlantNode] = []
    for device in devices:
        kind = models[device.id]
        if isinstance(kind, NodeKind):
            kinds[device.id] = kind
            nodes.append(PlantNode(device.id, kind.model, device.feeder))
        else:
            parts.append(PlantDevice(device.id, kind, device.feeder, frozenset(), errors.get(device.id)))
    feeders = [
        PlantFeeder(
            spec.id, spec.parent, spec.auxiliary_w, LOSSES if spec.id == tree.root else 0.0, troubles.meter_noise
        )
        for spec in tree.specs.values()
    ]
    plant, twin = (MixedPlant(parts, feeders, seed, nodes, kinds) for _ in range(2))
    assumed = tuple(
        Assumed(name, sum(device.group == name for device in devices), model.name, because)
        for name, (model, because) in taken.items()
    )
    floor_w = _carried_w(
        tree, devices, {device: model.operating_points().lowest.draw_w for device, model in models.items()}
    )
    emulated = Emulated(
        site, devices, tree, plant, twin, models, assumed, Capacity(plant.true_feeder_power_w(tree.root), floor_w)
    )
    return replace(emulated, capacity=Capacity(_demand_w(emulated), floor_w))


def _demand_w(emulated: Emulated) -> Watts:
    """What the site draws when nothing limits it: where energy has a price, less what earns less than its energy."""
    if Worth.of(emulated.site).energy_price_per_wh <= 0.0:
        return emulated.capacity.demand_w
    best = {device: max(ways, key=lambda way: way.earns_per_h).draw_w for device, ways in find_ways(emulated).items()}
    return _carried_w(emulated.tree, emulated.devices, best)


def _taken_for(device: config.DeviceSpec, chosen: str | None) -> tuple[DeviceModel | NodeKind, str]:
    """The model of one group, and why this one."""
    if chosen is not None and chosen in MODELS:
        return MODELS[chosen], "as told"
    kind = node_kind(device, NODE_MODELS[chosen or ORDINARY_NODE])
    if kind is not None:
        scaled = f"; its watts are those of rated_w = {kind.rated_w:.0f} W" if device.rated_w is not None else ""
        return kind, ("as told" if chosen is not None else "a GPU node; the site file does not say which") + scaled
    if not isinstance(device.settings, AsicSettings):
        names = ", ".join(sorted(MODELS))
        raise CannotEmulate(
            f"group {device.group!r}: devices of driver {device.driver!r} have no emulated counterpart of their own; "
            f"say what to take them for, as --model {device.group}={ORDINARY}. Known: {names}"
        )
    firmware = device.settings.firmware
    alike = [model for model in MODELS.values() if firmware is not None and model.firmware.value == firmware]
    because = f"its firmware is {firmware}" if alike else "the site file does not say what it is"
    if device.rated_w is None:
        return (alike[0] if alike else MODELS[ORDINARY]), because
    rated_w = device.rated_w
    nearest = min(alike or [MODELS[ORDINARY]], key=lambda model: abs(model.rated_w - rated_w))
    if 1 / _NEAR <= rated_w / nearest.rated_w <= _NEAR:
        return nearest, because
    return _scaled(nearest, rated_w), f"{because}; scaled to rated_w = {rated_w:.0f} W"


def _scaled(model: DeviceModel, rated_w: Watts) -> DeviceModel:
    """The same machine, larger or smaller."""
    scale = rated_w / model.rated_w
    return replace(
        model,
        rated_w=rated_w,
        rated_hs=model.rated_hs * scale,
        standby_w=model.standby_w * scale,
        boot_w=model.boot_w * scale,
        warm_w=model.warm_w * scale,
        lowest_limit_w=model.lowest_limit_w * scale if model.lowest_limit_w is not None else None,
        presets=tuple(
            replace(
                preset,
                draw_w=preset.draw_w * scale,
                tuned_hs=preset.tuned_hs * scale if preset.tuned_hs is not None else None,
            )
            for preset in model.presets
        ),
    )


def _carried_w(tree: FeederTree, devices: tuple[config.DeviceSpec, ...], draws_w: Mapping[DeviceId, Watts]) -> Watts:
    """What the root carries where the devices draw so much."""
    through_w: dict[FeederId, Watts] = dict.fromkeys(tree.specs, 0.0)
    for device in devices:
        through_w[device.feeder] += draws_w[device.id]
    for feeder in tree.bottom_up:
        spec = tree.specs[feeder]
        losses = LOSSES if spec.parent is None else 0.0
        through_w[feeder] = through_w[feeder] * (1 + losses) + spec.auxiliary_w
        if spec.parent is not None:
            through_w[spec.parent] += through_w[feeder]
    return through_w[tree.root]
