"""One turn of everything: `step(site, inputs, now)`. Same site, same inputs, same `now`: same answer. Between two of
them `absorb` takes what devices say and decides nothing, so that a step has little to read.

The way of an allocation: `link.receive` takes it, `link.ceilings` turns it into watts per feeder, `reserve` and
`tallies` say what may be drawn, `room_of` what is over or free, `shed`, `dispatch` and `exchange` who moves, `_issue`
makes the commands, `compliance` tells the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from curtaild.core import conditions, dispatch, interlock
from curtaild.core.actuation import answered, changed
from curtaild.core.allocation import AllocationId, GridMessage
from curtaild.core.budget import keep_room, room_of
from curtaild.core.device import Actuation, Device, exact
from curtaild.core.events import (
    ActuationChanged,
    ActuationId,
    ActuationStage,
    DeficitChanged,
    Event,
    LimitChanged,
    MeterChanged,
)
from curtaild.core.exchange import exchange
from curtaild.core.feeders import FeederTree
from curtaild.core.inputs import DeviceNews, Inputs
from curtaild.core.limits import UNLIMITED, Limit, within
from curtaild.core.link import FAILSAFE
from curtaild.core.market import earns_too_little
from curtaild.core.observe import observe
from curtaild.core.reserve import reserve, review_at
from curtaild.core.room import MILLIWATT, Move, Room
from curtaild.core.shed import shed
from curtaild.core.site import Site
from curtaild.core.telling import tell, with_watts
from curtaild_drivers.contract import (
    DeviceId,
    FeederId,
    OperatingPoint,
    Seconds,
    Watts,
)

_RATING = (UNLIMITED, "rating")
RECOUNTED_AT_ONCE = 250
"""Devices counted anew between two cycles at a time: ten thousand that were just told something would be a stall."""


class Command(NamedTuple):
    """One actuation for the actuator. `shed_w` is what it frees (W, ≤ 0 for a raise): the largest goes first."""

    actuation: ActuationId
    device: DeviceId
    target: OperatingPoint
    is_raise: bool
    shed_w: Watts


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a cycle. `starts`: the feeders whose fans or pumps are to be started. `next_change_at`: when a
    ceiling may next change by itself, `None` if that is not known."""

    commands: list[Command]
    events: list[Event]
    next_change_at: Seconds | None
    starts: list[FeederId]


def hear(site: Site, messages: Sequence[GridMessage], now: Seconds) -> list[Event]:
    """Take what the grid said, before the `step` that follows it: what must be durable before it is answered can then
    be written while the step thinks."""
    return with_watts(site, [event for message in messages for event in site.link.receive(message, now)])


def step(site: Site, inputs: Inputs, now: Seconds, at_once: int | None = None) -> Decision:
    """Take what arrived, decide, tell. Raises nothing on any input the edges can produce.

    `at_once`: of a shed only so many commands are made here, the largest, so that they are on their way before
    `make_more` makes the others.
    """
    events = [event for message in inputs.grid for event in site.link.receive(message, now)]
    events += site.link.advance(now)
    events += _take_news(site, inputs, now)
    events += _take_feeders(site, inputs)
    events += _refresh_meters(site, now)
    events += _reserve(site, now)
    site.stirred |= site.tallies.refresh()
    events += _set_limits(site, now)
    commands, starts, issued = _dispatch(site, now, at_once)
    events += issued
    events += tell(site, now)
    site.unshown_feeders |= site.stirred
    site.stirred = set()
    site.stepped_at = now
    return Decision(commands, with_watts(site, events), site.link.next_change_at(now), starts)


def make_more(site: Site, now: Seconds, most: int) -> tuple[list[Command], list[Event]]:
    """The next of the commands that the last `step` decided on and did not make, and what follows from them."""
    moves, site.left_over = site.left_over[:most], site.left_over[most:]
    return _issue(site, moves, now)


def absorb(site: Site, news: DeviceNews, now: Seconds) -> list[Event]:
    """Take what devices said into the records and the sums. Who shall move, the next `step` says."""
    events = _take_news(site, news, now) + _recount(site, now, site.was_in_grace, RECOUNTED_AT_ONCE)
    counted = site.tallies.recount()
    keep_room(site, counted, now)
    site.unshown_feeders |= counted
    return events


# ---- what arrived ---------------------------------------------------------------------------------


def _take_news(site: Site, news: DeviceNews, now: Seconds) -> list[Event]:
    events: list[Event] = []
    devices, policy, touch, heard = site.devices, site.policy, site.roster.touch, site.roster.heard
    for found in news.described:
        device = devices.get(found.device)
        if device is not None:
            spec = replace(
                device.spec,
                points=found.points,
                rated_w=max(found.rated_w if found.rated_w is not None else 0.0, found.points.highest.draw_w),
                settle_down_s=found.settle_down_s,
                settle_up_s=found.settle_up_s,
                falls_back_w=found.falls_back_w,
                restarts=found.restarts,
            )
            site.respec(device, spec)
    for answer in news.answers:
        device = devices.get(answer.device)
        if device is not None and device.actuation is not None and device.actuation.id == answer.actuation:
            events += answered(device, answer.stage, answer.at, answer.detail)
            touch(device)
    for device_id, reading in news.readings:
        device = devices.get(device_id)
        if device is not None:
            events += observe(device, reading, now, policy)
            heard(device)
    site.unshown_feeders |= site.tallies.count_draws()
    for failure in news.poll_failures:
        device = devices.get(failure.device)
        if device is not None:
            events += conditions.poll_failed(device, failure.condition, now, failure.detail)
            touch(device)
    return events


def _take_feeders(site: Site, inputs: Inputs) -> list[Event]:
    events: list[Event] = []
    for feeder, is_running, seen_at in inputs.interlocks:
        known = site.interlocks.get(feeder)
        if known is not None:
            events += known.observe(feeder, is_running, seen_at)
    for feeder, meter_reading in inputs.meters:
        meter = site.meters.get(feeder)
        if meter is not None:
            meter.observe(meter_reading)
    return events


def _refresh_meters(site: Site, now: Seconds) -> list[Event]:
    """A stale meter is no meter."""
    events: list[Event] = []
    for feeder, meter in site.meters.items():
        if meter.refresh(now):
            age_s = meter.age_s(now)
            detail = (
                ""
                if meter.is_fresh
                else f"last sample {age_s:.0f} s ago, last new value {now - meter.changed_at:.0f} s"
            )
            events.append(MeterChanged(now, feeder, meter.is_fresh, detail))
    return events


def _witness(site: Site) -> dict[FeederId, bool]:
    """Of the feeders that have a fresh meter, whether it shows the limit kept; a limited one without proves nothing."""
    witness = {
        feeder: meter.smoothed_w <= site.limit_w(feeder) for feeder, meter in site.meters.items() if meter.is_fresh
    }
    for feeder in site.spoken_for:
        if feeder not in witness and isinstance(site.limits.get(feeder, (UNLIMITED, ""))[0], Limit):
            witness[feeder] = False
    return witness


def _agrees(tree: FeederTree, witness: Mapping[FeederId, bool], feeder: FeederId) -> bool:
    """Whether meters show every limit at the feeder and above it kept, and there is one that does."""
    said = [witness[above] for above in tree.paths[feeder] if above in witness]
    return bool(said) and all(said)


# ---- what may be drawn ----------------------------------------------------------------------------


def _reserve(site: Site, now: Seconds) -> list[Event]:
    """Bring the reservations of all up to `now` whom an input, a meter or time has changed."""
    roster = site.roster
    witness = _witness(site)
    if witness != site.witness:
        changed = [feeder for feeder, _ in witness.items() ^ site.witness.items()]
        site.witness = witness
        for feeder in {below for above in changed for below in site.tree.below[above]}:
            members, agrees = roster.members[feeder], _agrees(site.tree, witness, feeder)
            if agrees is not members.meter_agrees:
                members.meter_agrees = agrees
                roster.touch_all(members.flying)
                roster.touch_all(members.stale)
    grace = site.is_in_grace(now)
    if grace or site.was_in_grace:
        roster.touch_all(site.devices.values())
    site.was_in_grace = grace
    return _recount(site, now, grace)


def _recount(site: Site, now: Seconds, grace: bool, most: int | None = None) -> list[Event]:
    """Those who were touched, `most` of them at a time, and those whose time has come."""
    roster, policy = site.roster, site.policy
    events: list[Event] = []
    for device in roster.take_touched(now, most):
        events += reserve(device, now, policy, roster.members[device.spec.feeder].meter_agrees)
        if grace and device.actuation is None and device.setpoint is None:
            device.planned_w = exact(device.draw_w) if device.draw_w is not None else 0.0
        roster.count(device, review_at(device, now, policy), earns_too_little(device, policy))
    return events


def _set_limits(site: Site, now: Seconds) -> list[Event]:
    """The ceilings in force, and the ramp that follows them down at once and up slowly."""
    events: list[Event] = []
    stated, firm = site.link.ceilings(now), site.link.firm(now) if site.has_flex else {}
    dt_s, ramps = now - site.stepped_at, _ramps(site, now)
    speaks_for = tuple(dict.fromkeys((*stated, *firm, *ramps)))
    for feeder in dict.fromkeys((*site.spoken_for, *speaks_for)):
        rating_w = site.tree.specs[feeder].rating_w
        ceiling, source = said = stated.get(feeder, _RATING)
        before, held_w = site.limits.get(feeder), site.ramp_w.get(feeder, 0.0)
        is_plain = feeder not in ramps and not site.has_flex and site.firm_w.get(feeder) == rating_w
        if is_plain and before == said and held_w == site.limit_w_of[feeder]:
            continue  # of a thousand racks, nearly all are as they were
        if before is None or before[0] != ceiling:
            events.append(LimitChanged(now, feeder, before[0] if before is not None else None, ceiling, source))
            site.limited_at, site.exchange_at = now, now
        limit_w, firm_w = within(ceiling, rating_w), within(firm.get(feeder, UNLIMITED), rating_w)
        ramp_w = min(limit_w, _ramped_w(site, feeder, ramps[feeder], held_w, dt_s)) if feeder in ramps else limit_w
        if before != said or ramp_w != held_w or firm_w != site.firm_w.get(feeder):
            site.stirred.add(feeder)
            site.tallies.restated.add(feeder)
        site.limits[feeder], site.limit_w_of[feeder] = (ceiling, source), limit_w
        site.firm_w[feeder], site.ramp_w[feeder] = firm_w, ramp_w
    site.spoken_for = speaks_for
    return events


def _ramped_w(site: Site, feeder: FeederId, ramp_w_per_min: float, held_w: Watts, dt_s: Seconds) -> Watts:
    """Where the ramp has come to. It starts from what is drawn (after a restart too) and runs ahead of that by no more
    than a minute or the largest device: what waits for its min-off must not come back in one leap."""
    drawn_w = site.tallies[feeder].total_planned_w
    ahead_w = max(ramp_w_per_min, (1 + site.policy.reading_error_fraction) * site.slowest.rated_w)
    return max(drawn_w, min(held_w, drawn_w + ahead_w)) + ramp_w_per_min * dt_s / 60


def _ramps(site: Site, now: Seconds) -> dict[FeederId, float]:
    """How fast each feeder may rise (W/min): the site's own rule at the root, the allocation's at its feeder."""
    ramps: dict[FeederId, float] = {}
    if site.policy.ramp_up_w_per_min is not None:
        ramps[site.tree.root] = site.policy.ramp_up_w_per_min
    for allocation in site.link.in_force(now):
        if allocation.max_ramp_up_w_per_min is not None:
            known = ramps.get(allocation.feeder, math.inf)
            ramps[allocation.feeder] = min(known, allocation.max_ramp_up_w_per_min)
    return ramps


# ---- what shall be drawn --------------------------------------------------------------------------


def _dispatch(site: Site, now: Seconds, at_once: int | None) -> tuple[list[Command], list[FeederId], list[Event]]:
    """One kind of move in a cycle: what must fall; else what loses money; else what may rise; else an exchange. And the
    feeders whose fans are to be started."""
    room = room_of(site, now)
    starts: list[FeederId] = []
    moves, over_w = shed(site.roster.can_fall, site.tree, room, now)
    deficits = _note_deficits(site, over_w, now)
    elapsed_s = max(0.0, now - site.stepped_at)
    per_s = site.policy.max_starts_per_s
    site.starts_owed = min(max(1.0, per_s), site.starts_owed + elapsed_s * per_s)
    if room.free_w[site.tree.root] <= site.policy.dead_band_w(site.limit_w(site.tree.root)):
        site.room_since = None
    elif site.room_since is None:
        site.room_since = now
    if not moves:
        moves = dispatch.unprofitable(site.roster.losing, site.policy, now)
    if moves:
        site.exchange = None
    if not moves and site.room_since is not None and not _waits_for_falls(site, now):
        since, policy = site.room_since, site.policy
        below = site.roster.can_rise(site.tree, room.free_w)
        candidates = [device for device in below if dispatch.may_rise(device, now, since, policy)]
        wanted = site.exchange.raises if site.exchange is not None else None
        if wanted is not None:
            candidates = [device for device in candidates if device.spec.id in wanted]
        if site.interlocks:
            candidates, starts = interlock.admit(candidates, site.interlocks, site.tree, room, now)
        moves = dispatch.give_back(
            candidates, site.tree, room, policy, math.floor(site.starts_owed), now, wanted, site.limited_at
        )
        site.starts_owed -= len(moves)
        if wanted is not None:
            for move in moves:
                del wanted[move.device]
    if not moves:
        moves = _exchange(site, room, now)
    site.left_over = []
    if at_once is not None and len(moves) > at_once and not moves[0].is_raise:
        devices = site.devices
        moves = sorted(moves, key=lambda move: move.target.draw_w - devices[move.device].planned_w)
        moves, site.left_over = moves[:at_once], moves[at_once:]
    commands, issued = _issue(site, moves, now)
    return commands, starts, issued + deficits


def _exchange(site: Site, room: Room, now: Seconds) -> list[Move]:
    """At rest: make room for what earns more."""
    root, policy = site.tallies[site.tree.root], site.policy
    rested_at = max(root.last_move_at, site.limited_at) + policy.exchange_after_s
    is_at_rest = root.in_flight == 0 and site.exchange is None and not room.coming and max(room.over_w.values()) <= 0.0
    if not is_at_rest or now < rested_at or now < site.exchange_at:
        return []
    site.exchange_at = now + policy.exchange_every_s
    if not site.roster.may_any_rise:
        return []  # to look at ten thousand devices takes a fifth of a second
    site.exchange = exchange(site.devices.values(), site.tree, room, policy, now)
    return site.exchange.falls if site.exchange is not None else []


def _waits_for_falls(site: Site, now: Seconds) -> bool:
    """Whether what is falling makes room for others: freed bit by bit, it would go back to whom it was taken from."""
    under_way = site.exchange
    if under_way is None:
        return False
    under_way.is_down = under_way.is_down or site.tallies[site.tree.root].in_flight == 0
    if now >= under_way.until or not under_way.raises:
        site.exchange = None
        return False
    return not under_way.is_down


def _note_deficits(site: Site, over_w: dict[FeederId, Watts], now: Seconds) -> list[Event]:
    """What no command can shed any more, told when it begins, moves by a per cent, or ends. At boot it is not known
    before the devices are. What flex spares is spared from a routine limit alone."""
    events: list[Event] = []
    if site.was_in_grace:
        return events
    for feeder, left_w in over_w.items():
        before_w = site.deficits[feeder]
        if left_w <= 0.0 and before_w == 0.0:
            continue
        limit_w = site.limit_w(feeder)
        margin_w = site.policy.margin_w(limit_w)
        deficit_w = left_w - margin_w if left_w - margin_w > MILLIWATT else 0.0
        ended_or_began = (deficit_w == 0) != (before_w == 0)
        if ended_or_began or abs(deficit_w - before_w) > 0.01 * site.tree.specs[feeder].rating_w:
            site.deficits[feeder] = deficit_w
            site.stirred.add(feeder)
            site.tallies.restated.add(feeder)
            spared_w = min(deficit_w, site.tallies[feeder].spared_w, max(0.0, site.firm_w[feeder] - limit_w))
            events.append(DeficitChanged(now, feeder, deficit_w, spared_w))
    return events


def _issue(site: Site, moves: list[Move], now: Seconds) -> tuple[list[Command], list[Event]]:
    """Make the commands: the largest shed first."""
    commands: list[Command] = []
    events: list[Event] = []
    issued: list[Device] = []
    feeders_shed: set[FeederId] = set()
    behind = {feeder: _allocation_behind(site, feeder) for feeder in {move.feeder for move in moves}}
    devices, stage, epoch, number = site.devices, ActuationStage.ISSUED, site.epoch, site.actuations_issued
    for name, target, is_raise, rule, feeder in moves:  # a shed has ten thousand: nothing here that can be left out
        device = devices[name]
        earlier, before, reserved_w = device.actuation, device.setpoint, device.reserved_w
        if earlier is not None:
            events.append(changed(device, earlier, ActuationStage.CANCELLED, now, "replaced by a newer command"))
        number += 1
        actuation_id, allocation_id = ActuationId(f"{epoch}-{number}"), behind[feeder]
        device.actuation = Actuation(
            actuation_id, target, before, is_raise, now, reserved_w, rule, allocation_id, earlier is not None
        )
        device.recent_w = ()
        issued.append(device)
        if not is_raise:
            feeders_shed.add(device.spec.feeder)
            device.sheds += 1
            device.turn = None
            device.restore_after = now + device.spec.min_off_s if target.rate <= 0.0 else now  # suspended is off too
        events.append(
            ActuationChanged(
                now, actuation_id, name, stage, before, target, is_raise, reserved_w, device.draw_w, allocation_id, rule
            )
        )
        commands.append(Command(actuation_id, name, target, is_raise, device.planned_w - target.draw_w))
    site.actuations_issued = number
    site.roster.touch_all(issued)
    for feeder in feeders_shed:
        site.shed_at.update(dict.fromkeys(site.tree.paths[feeder], now))
    commands.sort(key=attrgetter("shed_w"), reverse=True)
    return commands, events


def _allocation_behind(site: Site, feeder: FeederId | None) -> AllocationId | None:
    """The allocation whose ceiling is in force at the feeder that a move was made for."""
    source = site.limits[feeder][1] if feeder is not None else FAILSAFE
    return AllocationId(source) if source not in (FAILSAFE, "rating") else None
