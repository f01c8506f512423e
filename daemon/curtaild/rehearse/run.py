"""Plays a play, the core (or a controller to compare it with) against the emulated plant; writes down what happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from curtaild import translate
from curtaild.core.cycle import Command, step
from curtaild.core.events import ActuationChanged, ActuationId, ActuationStage
from curtaild.core.inputs import Inputs
from curtaild.core.limits import UNLIMITED, Limit, within
from curtaild.core.link import Link
from curtaild.core.site import Site
from curtaild.rehearse.emulated import Emulated
from curtaild.rehearse.losses import Losses
from curtaild.rehearse.play import Order, Play
from curtaild.rehearse.shell import Controller, Shell
from curtaild.rehearse.trace import SLOT_S, Trace
from curtaild.rehearse.troubles import Troubles
from curtaild.rehearse.worth import Worth
from curtaild_drivers.contract import DeviceId, FeederId, Seconds, Watts
from curtaild_emulator import Fault

WARM_UP_S = 300.0
"""Before a play begins the daemon has run so long on a released site, and knows it."""
_NOTHING_LOST = 0.002
"""Share of what is allowed below which nobody asks where it went."""


class Core:
    """The daemon's own thinking, exactly: `core.cycle.step` on a `core.site.Site`, translated from the site file."""

    def __init__(self, emulated: Emulated) -> None:
        site = emulated.site
        link = Link(translate.link_policy(site, emulated.tree), 0.0)
        specs = translate.device_specs(site, emulated.devices, {})
        self.site = Site(emulated.tree, specs, link, translate.policy(site), 0.0, "rehearsal")
        self.outcomes: dict[ActuationStage, int] = {}
        self.falls_s: dict[DeviceId, Seconds] = {}
        self._shedding: dict[ActuationId, Seconds] = {}

    def cycle(self, inputs: Inputs, now: Seconds) -> Sequence[Command]:
        decision = step(self.site, inputs, now)
        for event in decision.events:
            if isinstance(event, ActuationChanged):
                self._follow(event)
        return decision.commands

    def _follow(self, event: ActuationChanged) -> None:
        self.outcomes[event.stage] = self.outcomes.get(event.stage, 0) + 1
        if event.is_raise or event.stage is ActuationStage.ANSWERED:
            return
        if event.stage is ActuationStage.ISSUED:
            self._shedding[event.id] = event.at
            return
        began_at = self._shedding.pop(event.id, None)
        if began_at is not None and event.stage in (ActuationStage.CONFIRMED, ActuationStage.DIVERGED):
            self.falls_s[event.device] = max(self.falls_s.get(event.device, 0.0), event.at - began_at)

    def is_watched(self, device: DeviceId) -> bool:
        return self.site.devices[device].is_watched

    def reserved_w(self) -> Watts:
        """What the root may be drawing as far as the core knows (W)."""
        return self.site.tallies[self.site.tree.root].total_reserved_w


@dataclass(slots=True)
class Rehearsal:
    """One play, played."""

    emulated: Emulated
    play: Play
    troubles: Troubles
    misdeeds: Mapping[DeviceId, Fault]
    trace: Trace
    moved: dict[DeviceId, int] = field(default_factory=dict)
    """How many commands each device was given."""
    outcomes: Mapping[ActuationStage, int] = field(default_factory=dict)
    falls_s: Mapping[DeviceId, Seconds] = field(default_factory=dict)
    """How long each device's slowest shed took until it was seen, or given up."""
    losses: Losses = field(default_factory=Losses)


def rehearse(
    emulated: Emulated,
    play: Play,
    troubles: Troubles,
    seed: int,
    controller: Controller | None = None,
    progress: Callable[[Seconds], None] = lambda _: None,
) -> Rehearsal:
    """Play `play` to its end. `progress` is told each minute how far it has come (s). The plant is used up by it."""
    core = controller or Core(emulated)
    misdeeds = troubles.spoil(emulated.plant, seed)
    shell = Shell(emulated, core, play.orders, WARM_UP_S, lambda now: troubles.is_lost(now - WARM_UP_S))
    while shell.now < WARM_UP_S:
        shell.tick()
    rehearsal = Rehearsal(emulated, play, troubles, misdeeds, Trace.of(emulated.tree.specs, emulated.groups))
    stated = StatedLimits(emulated, play.orders)
    recorder = _Recorder(emulated, rehearsal, core, stated)
    seconds = int(play.duration_s) // SLOT_S * SLOT_S
    for second in range(seconds):
        if second % 60 == 0:
            progress(float(second))
        # a limit that begins now is heard in the tick that ends now
        for command in shell.tick():
            rehearsal.trace.commands.append((float(second), command.is_raise))
            rehearsal.moved[command.device] = rehearsal.moved.get(command.device, 0) + 1
        recorder.note(second)
    progress(float(seconds))
    if isinstance(core, Core):
        rehearsal.outcomes, rehearsal.falls_s = core.outcomes, core.falls_s
    return rehearsal


class StatedLimits:
    """The ceilings that the grid states, by the play alone: what any controller is judged by."""

    def __init__(self, emulated: Emulated, orders: Sequence[Order]) -> None:
        root = emulated.tree.root
        self._ratings_w = {feeder: spec.rating_w for feeder, spec in emulated.tree.specs.items()}
        self._orders: dict[FeederId, list[Order]] = {feeder: [] for feeder in self._ratings_w}
        for order in orders:
            self._orders[order.feeder if order.feeder is not None else root].append(order)
        self._now: dict[FeederId, int] = dict.fromkeys(self._ratings_w, 0)
        self._known: dict[FeederId, tuple[Watts, Seconds]] = {}

    def at(self, feeder: FeederId, at_s: Seconds) -> Watts:
        """The limit at a moment; asked for moments that do not go back."""
        limit_w, until_s = self._known.get(feeder, (0.0, -math.inf))
        if at_s < until_s:
            return limit_w
        orders = self._orders[feeder]
        while self._now[feeder] < len(orders) and orders[self._now[feeder]].at_s <= at_s:
            self._now[feeder] += 1
        begun, coming = orders[: self._now[feeder]], orders[self._now[feeder] :]
        ends = [order.at_s + order.lasts_s for order in begun if order.lasts_s is not None]
        until_s = min([coming[0].at_s if coming else math.inf, *(end_s for end_s in ends if end_s > at_s)])
        for order in reversed(begun):
            if order.lasts_s is None or at_s < order.at_s + order.lasts_s:
                ceiling = Limit(order.limit_w) if order.limit_w is not None else UNLIMITED
                limit_w = within(ceiling, self._ratings_w[feeder])
                break
        else:
            limit_w = self._ratings_w[feeder]
        self._known[feeder] = limit_w, until_s
        return limit_w


class _Recorder:
    """Fills the trace."""

    def __init__(self, emulated: Emulated, rehearsal: Rehearsal, controller: Controller, stated: StatedLimits) -> None:
        trace = rehearsal.trace
        self._losses = rehearsal.losses
        self._demand_w = emulated.capacity.demand_w
        self._plant = emulated.plant
        self._root = emulated.tree.root
        self._feeders = tuple(emulated.tree.specs)
        self._trace = trace
        self._stated = stated
        self._core = controller if isinstance(controller, Core) else None
        self._group_of = emulated.group_of
        self._drawn_w = {device: self._plant.true_power_w(device) for device in self._plant.all_ids}
        members = {group: [one for one in self._drawn_w if self._group_of[one] == group] for group in trace.groups_w}
        self._groups_w = {group: {one: self._drawn_w[one] for one in members[group]} for group in members}
        self._rates = {group: {one: self._plant.true_rate(one) for one in members[group]} for group in members}
        self._worth = Worth.of(emulated.site)
        self._sums_w = dict.fromkeys(self._feeders, 0.0)
        self._least_w = dict.fromkeys(self._feeders, float("inf"))

    def note(self, second: int) -> None:
        plant, trace = self._plant, self._trace
        for feeder in self._feeders:
            true_w, limit_w = plant.true_feeder_power_w(feeder), self._stated.at(feeder, float(second))
            self._sums_w[feeder] += true_w
            self._least_w[feeder] = min(self._least_w[feeder], limit_w)
            if feeder == self._root:
                trace.true_w.append(true_w)
                trace.limit_w.append(limit_w)
        trace.metered_w.append(self._metered_w())
        trace.reserved_w.append(self._core.reserved_w() if self._core is not None else float("nan"))
        if second % SLOT_S == SLOT_S - 1:
            self._close_slot()

    def _metered_w(self) -> Watts:
        meter = self._core.site.meters.get(self._root) if self._core is not None else None
        return meter.power_w if meter is not None and meter.power_w is not None else float("nan")

    def _close_slot(self) -> None:
        for feeder in self._feeders:
            slots = self._trace.feeders[feeder]
            slots.true_w.append(self._sums_w[feeder] / SLOT_S)
            slots.limit_w.append(self._least_w[feeder])
            self._sums_w[feeder] = 0.0
            self._least_w[feeder] = float("inf")
        for device in self._plant.take_moved():
            group = self._group_of[device]
            self._drawn_w[device] = self._groups_w[group][device] = self._plant.true_power_w(device)
            self._rates[group][device] = self._plant.true_rate(device)
        earned = 0.0
        for group, drawn_w in self._groups_w.items():
            power_w = sum(drawn_w.values())
            self._trace.groups_w[group].append(power_w)
            earned += self._worth.per_h(group, sum(self._rates[group].values()), power_w)
        self._trace.earned_per_h.append(earned)
        allowed_w, true_w = min(self._trace.limit_w[-1], self._demand_w), self._trace.true_w[-1]
        if self._core is not None and allowed_w - true_w > _NOTHING_LOST * allowed_w:
            self._losses.count(self._core.site, self._drawn_w, allowed_w, true_w, SLOT_S)
