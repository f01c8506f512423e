"""Why a device stands where it stands, when its turn to be shed comes, and whether it may rise: in sentences.

The order comes from `core.shed` itself, asked what it would do if everything had to go; nothing is decided here, and
nothing of the site is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from curtaild.core import dispatch
from curtaild.core.budget import free_room
from curtaild.core.device import Device, Earning
from curtaild.core.events import ActuationStage
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.market import fine_step_up, loses_money, step_down
from curtaild.core.room import MILLIWATT, Room
from curtaild.core.shed import UNREADABLE, shed
from curtaild.core.site import Site
from curtaild.narrate import watts
from curtaild_drivers.contract import DeviceId, FeederId, OperatingPoint, Seconds, Watts

ORDER_KEPT_S: Seconds = 2.0
DEVICES_PER_S = 1_000
"""The order of a fleet is kept for so long, and a second for so many of its devices: to find it costs about 10 µs for
each, which the event loop must not be made to spend often."""
NAMED_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Turn:
    """A device's place in the shed order below the root: 1 goes first. `target`: where its next step down leads, what
    that step earns, and what it frees (W); `ahead`: who goes just before it."""

    place: int
    of: int
    target: OperatingPoint
    earning: Earning
    frees_w: Watts
    ahead: tuple[DeviceId, ...]

    @property
    def is_past_flex(self) -> bool:
        """Whether only a rating, an emergency or the fail-safe takes this step."""
        return self.earning[0] > 0


@dataclass(frozen=True, slots=True)
class Why:
    """The answers about one device, each in sentences. `turn` is `None` where it is not in the order; `held_by` says
    what keeps it from rising, and is empty where nothing does."""

    device: DeviceId
    feeder: FeederId
    conditions: tuple[str, ...]
    turn: Turn | None
    stands: tuple[str, ...]
    sheds: tuple[str, ...]
    held_by: tuple[str, ...]


class Explanations:
    """Answers about the devices of the site that `site` gives, which may be another one after a reload."""

    def __init__(self, site: Callable[[], Site]) -> None:
        self._site = site
        self._places: Mapping[DeviceId, int] = {}
        self._order: list[DeviceId] = []
        self._ordered: tuple[Site, Seconds] | None = None

    def of(self, device_id: DeviceId, now: Seconds) -> Why | None:
        """What there is to say of a device, `None` if the site has none of that name."""
        site = self._site()
        device = site.devices.get(device_id)
        if device is None:
            return None
        self._find_order(site, now)
        turn = self._turn(device)
        return Why(
            device_id,
            device.spec.feeder,
            tuple(sorted(condition.value for condition in device.conditions)),
            turn,
            stands=tuple(_stands(device, now)),
            sheds=tuple(_sheds(site, device, turn, now)),
            held_by=tuple(_held_by(site, device, now)),
        )

    def _find_order(self, site: Site, now: Seconds) -> None:
        known = self._ordered
        kept_s = max(ORDER_KEPT_S, len(site.devices) / DEVICES_PER_S)
        if known is None or known[0] is not site or not 0 <= now - known[1] < kept_s:
            self._ordered = site, now
            self._order = shed_order(site, now)
            self._places = {name: number for number, name in enumerate(self._order)}

    def _turn(self, device: Device) -> Turn | None:
        place = self._places.get(device.spec.id)
        step = step_down(device, device.headed_for())
        if place is None or step is None:
            return None
        earning, target = step
        frees_w = max(0.0, device.planned_w - device.upper_w(target))
        ahead = tuple(self._order[max(0, place - NAMED_AHEAD) : place])
        return Turn(place + 1, len(self._order), target, earning, frees_w, ahead)


def shed_order(site: Site, now: Seconds) -> list[DeviceId]:
    """Who would be shed, one after another, if the whole site had to go: first what a routine limit takes, then what
    only a rating, an emergency or the fail-safe takes."""
    root = site.tree.root
    everything_w = site.tallies[root].total_planned_w + site.tree.specs[root].rating_w
    room = Room(over_w=dict.fromkeys(site.tree.specs, 0.0))
    room.over_w[root] = everything_w
    if site.has_flex:
        room.firm_over_w = dict(room.over_w)
    moves, _ = shed(site.roster.can_fall, site.tree, room, now, in_order=True)
    return [move.device for move in moves]


# ---- where it stands ------------------------------------------------------------------------------


def _stands(device: Device, now: Seconds) -> Iterator[str]:
    actuation, reading, setpoint = device.actuation, device.reading, device.setpoint
    if actuation is not None:
        before = f"from {_named(actuation.before)} " if actuation.before is not None else ""
        yield (
            f"It was told {_ago(now - actuation.issued_at)} ago to go {before}to {_named(actuation.target)}, because "
            f"{actuation.rule}"
            + (f" under allocation {actuation.allocation_id}" if actuation.allocation_id is not None else "")
            + f"; the command is {_STAGES.get(actuation.stage, actuation.stage.value)}."
        )
    elif setpoint is not None:
        yield f"It stands at {_named(setpoint)}, settled {_ago(now - device.settled_at)} ago."
    else:
        yield "Nobody knows where it is set: it is watched until its own word or a steady draw tells."
    if reading is None:
        yield f"It has not been read yet, and counts with its rating, {watts(device.reserved_w)}."
        return
    drawn = "reports no watts" if reading.power_w is None else f"reports {watts(reading.power_w)}"
    yield (
        f"It {drawn} and is {reading.state.value}, read {_ago(now - reading.taken_at)} ago; {watts(device.reserved_w)} "
        "are reserved for it" + (", the most it may draw until a reading shows otherwise." if device.in_flight else ".")
    )
    if reading.fault is not None:
        yield f"It says of itself: {reading.fault}."
    if device.conditions:
        named = ", ".join(sorted(condition.value for condition in device.conditions))
        rank = "once no other is left" if device.is_merely_silent else "last in a shed, and no watt of it is counted on"
        yield f"It is {named}: it is asked {rank}."


_STAGES = {
    ActuationStage.ISSUED: "not answered yet",
    ActuationStage.ANSWERED: "answered, and no reading has shown it yet",
    ActuationStage.OUTCOME_UNKNOWN: "of unknown outcome: both ends of it are reserved until a reading decides",
}


# ---- when it goes down ----------------------------------------------------------------------------


def _sheds(site: Site, device: Device, turn: Turn | None, now: Seconds) -> Iterator[str]:
    root = site.tree.root
    if turn is None:
        yield f"It is not in the shed order: {_no_turn(device, now)}."
        return
    frees = f", which frees about {watts(turn.frees_w)}" if not device.conditions else ""
    yield (
        f"It is number {turn.place} of {turn.of} to be shed if {root} is over its limit: its next step down is to "
        f"{_named(turn.target)}{frees}."
    )
    yield f"Steps that earn least go first; this one earns {_earning(device, turn.earning)}."
    if turn.is_past_flex:
        yield "It stands at its flex: only a rating, an emergency or the fail-safe takes it further."
    if now - device.on_since < device.spec.min_on_s:
        left_s = device.spec.min_on_s - (now - device.on_since)
        yield f"Its min-on lasts another {_ago(left_s)}: of those that earn the same, others go first."
    if turn.ahead:
        yield f"Just before it: {', '.join(turn.ahead)}."
    nearer = [feeder for feeder in site.tree.paths[device.spec.feeder] if feeder != root]
    if nearer:
        yield f"A shed for {' or '.join(nearer)} alone comes to it earlier, for fewer are asked there."


def _no_turn(device: Device, now: Seconds) -> str:
    points, headed_for = device.spec.points, device.headed_for()
    if points is None:
        return "its driver has not said yet what it offers"
    if headed_for is not None and headed_for.draw_w <= points.lowest.draw_w:
        return f"{_named(headed_for)} is as low as it goes"
    if now < device.fixed_until:
        return f"it refused or did not obey, and is left alone for another {_ago(device.fixed_until - now)}"
    if device.in_flight:
        return "a command to it is under way, and telling it again would help nobody before it is read"
    return "nothing lower is known of it"


def _earning(device: Device, earning: Earning) -> str:
    _, priority, per_watt = earning
    if device.spec.price_per_rate_h is not None:
        return f"{1_000.0 * per_watt:.4f} USD per kWh"
    rate = f"{per_watt / 1e9:.3g} TH/s per kW" if per_watt > 1e6 else f"{1_000.0 * per_watt:.3g} of its rate per kW"
    return f"priority {priority:g}, then {rate}"


# ---- whether it may go up -------------------------------------------------------------------------


def _held_by(site: Site, device: Device, now: Seconds) -> Iterator[str]:
    """Every rule that keeps it from rising: its own first, then the feeders', then the market's."""
    policy, points, setpoint, headed_for = site.policy, device.spec.points, device.setpoint, device.headed_for()
    if points is not None and headed_for is not None and headed_for.draw_w >= points.highest.draw_w:
        yield f"{_named(headed_for)} is as high as it goes"
        return
    own = list(_held_by_itself(site, device, now))
    yield from own
    over = [
        feeder for feeder in site.tree.specs if site.tallies[feeder].total_planned_w > site.limit_w(feeder) + MILLIWATT
    ]
    if over:
        yield f"{', '.join(over)} is over its limit: nothing rises while anything must be shed"
    root, room = site.tree.root, free_room(site, now)
    dead_band_w = policy.dead_band_w(site.limit_w(root))
    if room.free_w[root] <= dead_band_w:
        yield (
            f"{root} has {watts(max(0.0, room.free_w[root]))} free under {_limit(site, root)}, and nothing is raised "
            f"within the dead-band of {watts(dead_band_w)}"
        )
    if site.exchange is not None and device.spec.id not in site.exchange.raises:
        yield "an exchange for value is under way, and those rise first that it makes room for"
    if points is None or setpoint is None:
        return
    step = fine_step_up(device, setpoint)
    if step is None:
        return
    _, target = step
    if loses_money(device, setpoint, target, policy):
        yield f"its next step, to {_named(target)}, earns less than its energy costs"
    elif not over and room.free_w[root] > dead_band_w:
        yield from _held_by_room(site, device, target, room, now)


def _held_by_itself(site: Site, device: Device, now: Seconds) -> Iterator[str]:
    policy, setpoint = site.policy, device.setpoint
    if device.actuation is not None:
        yield "a command to it is under way"
    elif setpoint is None:
        yield "nobody knows where it is set"
    if device.spec.points is None:
        yield "its driver has not said yet what it offers"
    if now < device.fixed_until:
        yield f"it refused or did not obey, and is left alone for another {_ago(device.fixed_until - now)}"
    if now < device.restore_after:
        yield f"its min-off lasts another {_ago(device.restore_after - now)}"
    if device.draw_w is None:
        yield "no reading has shown yet what it draws"
    for condition in sorted(device.conditions & UNREADABLE, key=lambda each: each.value):
        yield f"it is {condition.value}: what cannot be read is not raised"
    if setpoint is not None and setpoint.is_off:
        for feeder in site.tree.paths[device.spec.feeder]:
            fans = site.interlocks.get(feeder)
            if fans is not None and not fans.allows(now):
                seen = {None: "were not seen yet", False: "stand still", True: "were last seen too long ago"}
                yield f"the fans of {feeder} {seen[fans.is_running]}"
    if site.room_since is not None and setpoint is not None and setpoint.is_off and device.actuation is None:
        may_rise = dispatch.may_rise(device, now, site.room_since, policy)
        turn_s = site.room_since + (device.turn or 0.0) * policy.restart_jitter_s - now
        if turn_s > 0 and not may_rise:
            yield f"starts are spread over {policy.restart_jitter_s:g} s, and its turn comes in {_ago(turn_s)}"


def _held_by_room(site: Site, device: Device, target: OperatingPoint, room: Room, now: Seconds) -> Iterator[str]:
    """Whether a feeder on its path, a ramp, or a lower limit to come has no room for the step."""
    if dispatch.give_back([device], site.tree, room, site.policy, 1, now, limited_at=site.limited_at):
        return
    path = site.tree.paths[device.spec.feeder]
    least_w, bottleneck = min((room.free_w[feeder], feeder) for feeder in path)
    soon = Room(free_w=room.free_w)
    if room.coming and dispatch.give_back([device], site.tree, soon, site.policy, 1, now, limited_at=site.limited_at):
        yield (
            f"a lower limit begins in {_ago(room.coming[0].at - now)}, and by then it could not be up at "
            f"{_named(target)} and down again"
        )
        return
    needs_w = max(0.0, device.may_reach_w(target) - device.reserved_w)
    ramp_w, limit_w = site.ramp_w.get(bottleneck, 0.0), site.limit_w(bottleneck)
    ramped = " on its ramp" if ramp_w < limit_w - MILLIWATT else ""
    yield (
        f"{bottleneck} has {watts(max(0.0, least_w))} free{ramped} under {_limit(site, bottleneck)}, and its step to "
        f"{_named(target)} may take {watts(needs_w)} and the error of what no meter has seen yet"
    )


def _limit(site: Site, feeder: FeederId) -> str:
    ceiling, source = site.limits.get(feeder, (UNLIMITED, "rating"))
    said = f" ({source})" if isinstance(ceiling, Limit) else " (its rating)"
    return f"{watts(site.limit_w(feeder))}{said}"


def _named(point: OperatingPoint) -> str:
    return f"{point.key} ({watts(point.draw_w)})"


def _ago(seconds: Seconds) -> str:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
