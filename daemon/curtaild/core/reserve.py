"""Reserved power: the most that a device may be drawing.

Watts leave a reservation only when a reading *asked after* the command shows them gone; unknown counts as worst.
"""

from __future__ import annotations

import math

from curtaild.core import conditions
from curtaild.core.actuation import expire, fallen_by, settle_by
from curtaild.core.device import Actuation, Device, exact, reported_point
from curtaild.core.events import ActuationStage, Condition, Event
from curtaild.core.observe import ABSURD
from curtaild.core.policy import Policy
from curtaild.core.signs import is_at_work, is_falling_asleep, is_steady, repeats
from curtaild_drivers.contract import OperatingPoint, Reading, RunState, Seconds, Watts

_ASLEEP, _RUNNING, _STARTING = RunState.ASLEEP, RunState.RUNNING, RunState.STARTING


def reserve(device: Device, now: Seconds, policy: Policy, meter_agrees: bool) -> list[Event]:
    """Bring `reserved_w` and `planned_w` up to `now`: row by row of docs/control.md.

    `meter_agrees`: a fresh meter above shows its limit kept, so that a shed under way may take its time, and what a
    silent device might draw more is shed for only once the meter shows it.
    """
    setpoint, reading, drawn_at = device.setpoint, device.reading, device.drawn_at
    stale_s = device.spec.stale_after_s
    if (
        device.actuation is None
        and setpoint is not None
        and reading is not None
        and drawn_at is not None
        and device.draw_w is not None
        and now - drawn_at <= stale_s
        and reading.state is not _STARTING
    ):  # the first row of the table: settled, fresh, and nearly every device nearly always
        drawn_w, upper_w = exact(device.draw_w), device.upper_w(setpoint)
        device.reserved_w = device.planned_w = max(drawn_w, upper_w)
        if (drawn_w <= upper_w or reading.power_w is None) and _is_at_rest(device, setpoint, reading):
            device.quiet_w = min(upper_w, ABSURD * device.spec.rated_w)
        return []
    events: list[Event] = []
    if device.actuation is not None:
        events = expire(device, now, policy)
    proved_at = _proved_at(device)
    age_s = now - proved_at if proved_at is not None else None
    grown_w = 0.0
    if age_s is None:
        device.reserved_w = device.spec.rated_w
    elif age_s > stale_s:
        events += conditions.begin(device, Condition.STALE, now, f"no usable reading for {age_s:.0f} s")
        grown = min(1.0, (age_s - stale_s) / stale_s)
        known_w = _known_w(device)
        falls_back_w = device.spec.falls_back_w  # in silence it keeps what it was told last, or falls back to that
        unheard_w = falls_back_w if falls_back_w is not None else device.spec.rated_w
        grown_w = max(0.0, grown * (unheard_w - known_w))
        device.reserved_w = known_w + grown_w
    else:
        device.reserved_w = _known_w(device)
    device.reserved_w = device.planned_w = exact(device.reserved_w)
    if meter_agrees and grown_w > 0.0:
        device.planned_w = exact(device.reserved_w - grown_w)  # it is not given out, but nobody is shed for it either
    actuation = device.actuation
    if actuation is None:
        return events
    if _may_be_counted_on(device, actuation, now <= fallen_by(device, actuation, policy), meter_agrees):
        device.planned_w = min(device.reserved_w, device.upper_w(actuation.target))
    if grown_w == 0.0 and _is_under_way(device, actuation):
        device.quiet_w = min(device.reserved_w - 1 / 1024, ABSURD * device.spec.rated_w)
    return events


def _is_at_rest(device: Device, setpoint: OperatingPoint, reading: Reading) -> bool:
    """Whether its last reading says plainly that it does what it was told, and nothing else is the matter with it."""
    if device.conditions or device.failed_polls or device.drawn_at != reading.taken_at:
        return False
    return is_at_work(setpoint, reading) and (
        repeats(setpoint, reading) or reported_point(device, reading) in (None, setpoint)
    )


def _is_under_way(device: Device, actuation: Actuation) -> bool:
    """Whether its last reading says all that readings can say of what is reserved for one to which a command is on its
    way: that follows from the command, the device's own word and, where that is most, its draw."""
    reading = device.reading
    if reading is None or reading.power_w is None or device.draw_w is None or device.drawn_at != reading.taken_at:
        return False
    if device.conditions or device.failed_polls or exact(device.draw_w) >= device.reserved_w:
        return False
    return actuation.answered_at is None or reading.taken_at >= actuation.answered_at


def review_at(device: Device, now: Seconds, policy: Policy) -> Seconds:
    """When time alone will next change what `reserve` says of the device; `inf` if it never will."""
    proved_at, stale_s = _proved_at(device), device.spec.stale_after_s
    moment = math.inf
    if proved_at is not None and now <= proved_at + 2 * stale_s:
        moment = max(now, proved_at + stale_s)
    actuation = device.actuation
    if actuation is not None:
        moment = min(moment, settle_by(device, actuation, policy))
        believed_until = fallen_by(device, actuation, policy)
        if now <= believed_until:
            moment = min(moment, believed_until)
    return moment


def _proved_at(device: Device) -> Seconds | None:
    """When it last proved its draw; on its way the draw may be unknown, but the device is not."""
    if device.actuation is not None and device.reading is not None:
        return device.reading.taken_at
    return device.drawn_at


def _may_be_counted_on(device: Device, actuation: Actuation, has_time: bool, meter_agrees: bool) -> bool:
    """A shed under way to a device that behaves, as long as it `has_time`, or a meter shows that it matters not. To one
    that is merely silent as long as it has time, whatever came of the command: it may well restart."""
    if actuation.is_raise or actuation.stage is ActuationStage.REFUSED:
        return False
    if device.is_merely_silent:
        return has_time
    is_known = actuation.stage in (ActuationStage.ISSUED, ActuationStage.ANSWERED)
    return is_known and device.is_trusted and (has_time or meter_agrees)


def _known_w(device: Device) -> Watts:
    draw_w = device.draw_w if device.draw_w is not None else device.spec.rated_w
    actuation = device.actuation
    if actuation is not None:
        going_to_w = device.may_reach_w(actuation.target) if _may_rise(actuation) else 0.0
        return max(draw_w, actuation.reserved_before_w, going_to_w, _says_it_heads_for(device, actuation))
    if device.setpoint is not None:
        is_restarting = device.reading is not None and device.reading.state is _STARTING
        if is_restarting and device.reading is not None and reported_point(device, device.reading) is None:
            return max(draw_w, device.spec.rated_w)  # it may have forgotten what it was told
        return max(draw_w, device.upper_w(device.setpoint))
    reading = device.reading
    if reading is not None and reading.state in (_RUNNING, _ASLEEP) and is_steady(device):
        return max(draw_w, device.spec.rated_w) if is_falling_asleep(device, reading) else max(device.recent_w)
    return max(draw_w, device.spec.rated_w)


def _says_it_heads_for(device: Device, actuation: Actuation) -> Watts:
    """Its own word since the command was answered: a restart on the way may have made it forget the command."""
    reading = device.reading
    if reading is None or actuation.answered_at is None or reading.taken_at < actuation.answered_at:
        return 0.0
    said = reported_point(device, reading)
    return device.may_reach_w(said) if said is not None else 0.0


def _may_rise(actuation: Actuation) -> bool:
    return actuation.is_raise or actuation.stage is ActuationStage.OUTCOME_UNKNOWN
