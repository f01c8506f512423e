"""Reserved power, and the life of an actuation.

Watts leave a reservation only when a reading *asked after* the command shows them gone; unknown counts as worst.
"""

from __future__ import annotations

import math
from dataclasses import replace

from curtaild.core import hull
from curtaild.core.device import (
    LEARNED_SAMPLES,
    RESTLESS,
    Actuation,
    Device,
    DrawRatio,
    estimated_draw,
    exact,
    reported_point,
)
from curtaild.core.events import ActuationChanged, ActuationStage, Condition, DeviceChanged, Event
from curtaild.core.policy import Policy
from curtaild_drivers.contract import OperatingPoint, Reading, RunState, Seconds, Watts

STEADY_READINGS = 3
STILL_FRACTION = 0.02  # a miner at work wanders by about one per cent
SLOWEST_FALL_S = 60.0  # stock Antminers reach standby 10–60 s after they say that they sleep
LONGEST_BACK_OFF_S = 600.0
ABSURD = 10.0  # times its rating: no miner draws that, whatever a driver let through
# Asked at every reading: a name of the module is found in a tenth of the time that an enum takes to find its member.
_ASLEEP, _RUNNING, _STARTING = RunState.ASLEEP, RunState.RUNNING, RunState.STARTING
_POLL_CONDITIONS = (Condition.UNREACHABLE, Condition.AUTH_FAILED, Condition.BAD_REPLY)


# ---- what telemetry proves ------------------------------------------------------------------------


def observe(device: Device, reading: Reading, now: Seconds, policy: Policy) -> list[Event]:
    """Take one reading into the record. Where `device.quiet_w` stands, only its draw has to be counted anew."""
    if device.quiet_w != RESTLESS:
        if _goes_on(device, reading, policy):
            return _go_on(device, reading, now, policy)
        device.quiet_w = RESTLESS
    if device.reading is not None and reading.taken_at < device.reading.taken_at:
        return []  # overtaken on the way: it would prove the past
    events: list[Event] = []
    if device.conditions:
        events = [end for condition in _POLL_CONDITIONS for end in end_condition(device, condition, now)]
    device.failed_polls = 0
    if device.reading is None or device.reading.state is not reading.state:
        device.state_since = reading.taken_at
    draw_w = reading.power_w
    if draw_w is not None and not 0.0 <= draw_w <= ABSURD * device.spec.rated_w:
        reading = replace(reading, power_w=None)  # NaN, negative and absurd ones are unknown, never zero
        draw_w = None
    device.reading = reading
    if draw_w is None:
        draw_w = estimated_draw(device, reading, policy.reading_error_fraction)
    if draw_w is not None:
        device.draw_w, device.drawn_at = draw_w, reading.taken_at
        device.recent_w = (*device.recent_w[1 - STEADY_READINGS :], draw_w)
        if device.conditions:
            events += end_condition(device, Condition.STALE, now)
    if device.actuation is not None:
        events += _judge_actuation(device, device.actuation, reading, now, policy)
    elif device.setpoint is None:
        _infer_setpoint(device, reading)
        if device.setpoint is not None:
            events += end_condition(device, Condition.DRIFTED, now)
    else:
        events += _watch_setpoint(device, device.setpoint, reading, now)
    return events


def _goes_on(device: Device, reading: Reading, policy: Policy) -> bool:
    """Whether one says what it said last, and draws no more than is reserved whatever it draws: so it is nearly
    always."""
    last, power_w = device.reading, reading.power_w
    if last is None or reading.taken_at < last.taken_at or reading.state is not last.state:
        return False
    if reading.limit_w != last.limit_w or reading.point_key != last.point_key:
        return False
    if power_w is None:
        return last.power_w is None and device.draw_w == estimated_draw(device, reading, policy.reading_error_fraction)
    return last.power_w is not None and 0.0 <= power_w <= device.quiet_w


def _go_on(device: Device, reading: Reading, now: Seconds, policy: Policy) -> list[Event]:
    """Add such a reading to the record; it may still prove that a command has arrived, or what the device draws."""
    power_w, setpoint, actuation = reading.power_w, device.setpoint, device.actuation
    draw_w = power_w if power_w is not None else device.draw_w
    device.reading, device.drawn_at, device.draw_w = reading, reading.taken_at, draw_w
    if draw_w is not None:
        recent = device.recent_w
        device.recent_w = (recent[1], recent[2], draw_w) if len(recent) == STEADY_READINGS else (*recent, draw_w)
    if actuation is not None:
        events = _judge_actuation(device, actuation, reading, now, policy)
        if device.actuation is None:
            device.quiet_w = RESTLESS
        return events
    if power_w is not None and setpoint is not None and setpoint.draw_w > 0:
        is_news = _learn(device, setpoint, power_w / setpoint.draw_w)
        device.quiet_w = RESTLESS if is_news else device.quiet_w
    return []


def _infer_setpoint(device: Device, reading: Reading) -> None:
    """Nobody knows where it is set: believe the device's own word, else a steady draw."""
    if device.draw_w is None or reading.state is _STARTING or _is_falling_asleep(device, reading):
        return
    said = reported_point(device, reading)
    points = device.spec.points
    is_plausible = said is not None and device.draw_w <= device.most_w(said)
    if not is_plausible and _is_steady(device) and points is not None:
        above = [point for point in points.points if point.draw_w + device.spec.tolerance_w >= device.draw_w]
        said = above[0] if above else points.highest
        if said.divisible:
            said = hull.point_at(points, max(device.recent_w) + points.step_w)
        if reading.power_w is not None and said.draw_w > 0:
            device.learned[said.key] = DrawRatio(
                mean=max(device.recent_w) / said.draw_w, samples=STEADY_READINGS, at_w=said.draw_w
            )
    elif not is_plausible:
        return
    device.setpoint = said
    device.settled_at = reading.taken_at


def _may_still_fall(device: Device, reading: Reading, since: Seconds) -> bool:
    """It says so, but measures nothing: its draw is given the time to follow."""
    return reading.power_w is None and reading.taken_at < since + min(device.spec.settle_down_s, SLOWEST_FALL_S)


def _is_falling_asleep(device: Device, reading: Reading) -> bool:
    return reading.state is _ASLEEP and _may_still_fall(device, reading, device.state_since)


def _is_steady(device: Device) -> bool:
    recent = device.recent_w
    return len(recent) == STEADY_READINGS and max(recent) - min(recent) <= device.spec.tolerance_w


def _watch_setpoint(device: Device, setpoint: OperatingPoint, reading: Reading, now: Seconds) -> list[Event]:
    """Settled: learn its draw there, or notice that it left by itself."""
    if reading.power_w is not None and reading.power_w > device.most_w(setpoint):
        device.setpoint = None
        device.recent_w = (reading.power_w,)
        device.settled_at = reading.taken_at
        detail = (
            f"draws {reading.power_w:.0f} W at {setpoint.key}, where {device.upper_w(setpoint):.0f} W were expected"
        )
        return begin_condition(device, Condition.DRIFTED, now, detail)
    said = None if _repeats(setpoint, reading) else reported_point(device, reading)
    if said is not None and _has_left(device, setpoint, said, reading):
        device.setpoint = None
        device.recent_w = ()
        device.settled_at = reading.taken_at
        detail = f"was set to {setpoint.key} ({setpoint.draw_w:.0f} W), says {said.key} ({said.draw_w:.0f} W)"
        return begin_condition(device, Condition.DRIFTED, now, detail)
    if reading.power_w is not None and _is_at_work(setpoint, reading) and setpoint.draw_w > 0:
        _learn(device, setpoint, reading.power_w / setpoint.draw_w)
    return []


def _is_at_work(setpoint: OperatingPoint, reading: Reading) -> bool:
    return reading.state is (_ASLEEP if setpoint.is_off else _RUNNING)


def _learn(device: Device, setpoint: OperatingPoint, ratio: float) -> bool:
    """What stands still says how much it draws there, what still falls or rises would teach a wrong draw. One reading
    above what was expected already says how much it may: else it would be brought back to where it was just shed from,
    and shed again. Whether that is news."""
    if not 0.3 < ratio < 1.5:
        return False
    known = device.learned.get(setpoint.key)
    if known is not None and known.at_w != setpoint.draw_w:
        known = device.learned_at(setpoint)
    recent = device.recent_w
    stands_still = len(recent) == STEADY_READINGS and (most := max(recent)) - min(recent) <= STILL_FRACTION * most
    if not stands_still and ratio <= (known.upper if known is not None else 1.0):
        return False
    if known is None:
        known = device.learned[setpoint.key] = DrawRatio(at_w=setpoint.draw_w)
    if stands_still:
        return known.observe(ratio)
    known.upper = ratio
    return True


def _repeats(setpoint: OperatingPoint, reading: Reading) -> bool:
    """Whether the device's own word is plainly the setpoint: so it is nearly always."""
    if setpoint.divisible:
        return reading.limit_w == setpoint.draw_w and reading.state is not _ASLEEP
    return reading.limit_w is None and reading.point_key == setpoint.key and reading.state is not _ASLEEP


def _has_left(device: Device, setpoint: OperatingPoint, said: OperatingPoint, reading: Reading) -> bool:
    """Whether the device's own word is no longer the setpoint: somebody else's command, or a restart that forgot a
    temporary limit. A higher word is believed even while it starts; a lower one not where its draw belies it, or a
    device that says yes and does not obey would come and go for ever."""
    if said.draw_w > setpoint.draw_w + device.spec.tolerance_w:
        return True
    if device.draw_w is not None and device.draw_w > device.most_w(said):
        return False
    return said.key != setpoint.key and reading.state is not _STARTING


# ---- the life of an actuation ---------------------------------------------------------------------


def answered(device: Device, stage: ActuationStage, now: Seconds, detail: str) -> list[Event]:
    """The driver's call ended: answered, refused (surely nothing changed), cancelled (never sent) or unknown."""
    actuation = device.actuation
    if actuation is None:
        return []
    actuation.answered_at = now
    actuation.stage = stage
    device.recent_w = ()
    if stage not in (ActuationStage.REFUSED, ActuationStage.CANCELLED):
        return [changed(device, actuation, stage, now, detail)]
    device.actuation = None
    device.settled_at = now
    if actuation.replaces_unsettled:
        device.setpoint = None  # the command before this one may have been taken
    if stage is ActuationStage.CANCELLED:
        return [changed(device, actuation, stage, now, detail)]
    _back_off(device, now)
    return [
        changed(device, actuation, stage, now, detail),
        *begin_condition(device, Condition.REFUSED, now, detail),
    ]


def _judge_actuation(
    device: Device, actuation: Actuation, reading: Reading, now: Seconds, policy: Policy
) -> list[Event]:
    """What a reading says about the command in flight."""
    if actuation.answered_at is None or reading.taken_at < actuation.answered_at or device.draw_w is None:
        return []
    if device.drawn_at != reading.taken_at:
        return []
    arrived = _has_risen(device, actuation, reading) if actuation.is_raise else _has_fallen(device, actuation, reading)
    if arrived:
        return _confirm(device, actuation, reading, now)
    return expire(device, now, policy)


def _has_fallen(device: Device, actuation: Actuation, reading: Reading) -> bool:
    if device.draw_w is None or reading.state in (_STARTING, RunState.UNKNOWN):
        return False  # a restarting device draws little for a moment only
    if device.draw_w > device.most_w(actuation.target):
        return False
    is_near = reading.power_w is None or reading.power_w <= device.likely_w(actuation.target) + device.spec.tolerance_w
    if not is_near and not _had_its_time(device, actuation, reading):
        return False  # very likely still falling
    said = reported_point(device, reading)
    if said is not None and said.draw_w > actuation.target.draw_w + device.spec.tolerance_w:
        return False  # low by chance: its own setting says it may rise again
    if actuation.answered_at is not None and _may_still_fall(device, reading, actuation.answered_at):
        return False
    if actuation.stage is ActuationStage.OUTCOME_UNKNOWN and said is None:
        return _is_steady(device)
    return True


def _had_its_time(device: Device, actuation: Actuation, reading: Reading) -> bool:
    """Whether the reading was asked when all that the command does should have been done."""
    return actuation.answered_at is not None and reading.taken_at >= actuation.answered_at + device.spec.settle_down_s


def _has_risen(device: Device, actuation: Actuation, reading: Reading) -> bool:
    ratio = device.learned_at(actuation.target)
    expected_w = actuation.target.draw_w * (
        ratio.mean if ratio is not None and ratio.samples >= LEARNED_SAMPLES else 1.0
    )
    return (
        device.draw_w is not None
        and reading.state is _RUNNING
        and device.draw_w >= expected_w - device.spec.tolerance_w
    )


def _confirm(device: Device, actuation: Actuation, reading: Reading, now: Seconds) -> list[Event]:
    device.actuation = None
    device.setpoint = actuation.target
    device.settled_at = reading.taken_at
    device.failures = 0
    device.fixed_until = 0.0
    if actuation.target.is_off:
        device.asleep_since = now
    elif device.asleep_since is not None:
        device.slept_s += now - device.asleep_since
        device.asleep_since = None
        device.on_since = now
    events: list[Event] = [changed(device, actuation, ActuationStage.CONFIRMED, now, "")]
    for condition in (Condition.DIVERGED, Condition.REFUSED, Condition.DRIFTED):
        events += end_condition(device, condition, now)
    return events


def settle_by(device: Device, actuation: Actuation, policy: Policy) -> Seconds:
    """When a command must show: twice the settle time and a poll after its answer. A restart takes like a raise."""
    is_starting = device.reading is not None and device.reading.state is _STARTING
    settle_s = device.spec.settle_up_s if actuation.is_raise or is_starting else device.spec.settle_down_s
    since = actuation.answered_at if actuation.answered_at is not None else actuation.issued_at + settle_s
    return since + 2 * settle_s + policy.poll_slack_s


def expire(device: Device, now: Seconds, policy: Policy) -> list[Event]:
    """A command whose time is over unseen has diverged; a raise that obeys but draws less is where it is."""
    actuation = device.actuation
    if actuation is None or now < settle_by(device, actuation, policy):
        return []
    reading = device.reading
    is_read_since = reading is not None and reading.taken_at >= actuation.issued_at
    if actuation.is_raise and reading is not None and is_read_since and _is_steady(device):
        said = reported_point(device, reading)
        if said is not None and said.key == actuation.target.key and reading.state is _RUNNING:
            return _confirm(device, actuation, reading, now)
    device.actuation = None
    device.setpoint = None
    device.settled_at = now
    _back_off(device, now)
    drawn = f"{device.draw_w:.0f} W" if device.draw_w is not None else "an unknown draw"
    detail = f"told to go to {actuation.target.key} ({actuation.target.draw_w:.0f} W), shows {drawn}"
    return [
        changed(device, actuation, ActuationStage.DIVERGED, now, detail),
        *begin_condition(device, Condition.DIVERGED, now, detail),
    ]


def _back_off(device: Device, now: Seconds) -> None:
    device.failures += 1
    device.fixed_until = now + min(LONGEST_BACK_OFF_S, 5.0 * 2.0 ** min(device.failures, 10))


def changed(device: Device, actuation: Actuation, stage: ActuationStage, now: Seconds, detail: str) -> ActuationChanged:
    return ActuationChanged(
        now,
        actuation.id,
        device.spec.id,
        stage,
        actuation.before,
        actuation.target,
        actuation.is_raise,
        device.reserved_w,
        device.draw_w,
        actuation.allocation_id,
        actuation.rule,
        detail,
    )


# ---- the reservation ------------------------------------------------------------------------------


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
        events += begin_condition(device, Condition.STALE, now, f"no usable reading for {age_s:.0f} s")
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
    if _may_be_counted_on(device, actuation, now <= _fallen_by(device, actuation, policy), meter_agrees):
        device.planned_w = min(device.reserved_w, device.upper_w(actuation.target))
    if grown_w == 0.0 and _is_under_way(device, actuation):
        device.quiet_w = min(device.reserved_w - 1 / 1024, ABSURD * device.spec.rated_w)
    return events


def _is_at_rest(device: Device, setpoint: OperatingPoint, reading: Reading) -> bool:
    """Whether its last reading says plainly that it does what it was told, and nothing else is the matter with it."""
    if device.conditions or device.failed_polls or device.drawn_at != reading.taken_at:
        return False
    return _is_at_work(setpoint, reading) and (
        _repeats(setpoint, reading) or reported_point(device, reading) in (None, setpoint)
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
        fallen_by = _fallen_by(device, actuation, policy)
        if now <= fallen_by:
            moment = min(moment, fallen_by)
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
    if reading is not None and reading.state in (_RUNNING, _ASLEEP) and _is_steady(device):
        return max(draw_w, device.spec.rated_w) if _is_falling_asleep(device, reading) else max(device.recent_w)
    return max(draw_w, device.spec.rated_w)


def _says_it_heads_for(device: Device, actuation: Actuation) -> Watts:
    """Its own word since the command was answered: a restart on the way may have made it forget the command."""
    reading = device.reading
    if reading is None or actuation.answered_at is None or reading.taken_at < actuation.answered_at:
        return 0.0
    said = reported_point(device, reading)
    return device.may_reach_w(said) if said is not None else 0.0


def _fallen_by(device: Device, actuation: Actuation, policy: Policy) -> Seconds:
    """Until when a shed is believed to be on its way without any proof."""
    since = actuation.answered_at if actuation.answered_at is not None else actuation.issued_at
    return since + min(device.spec.settle_down_s, SLOWEST_FALL_S) + policy.poll_slack_s


def _may_rise(actuation: Actuation) -> bool:
    return actuation.is_raise or actuation.stage is ActuationStage.OUTCOME_UNKNOWN


# ---- conditions: once at the start, once at the recovery ------------------------------------------


def begin_condition(device: Device, condition: Condition, now: Seconds, detail: str) -> list[Event]:
    if condition in device.conditions:
        return []
    device.conditions.add(condition)
    return [DeviceChanged(now, device.spec.id, condition, begins=True, detail=detail)]


def end_condition(device: Device, condition: Condition, now: Seconds) -> list[Event]:
    if condition not in device.conditions:
        return []
    device.conditions.discard(condition)
    return [DeviceChanged(now, device.spec.id, condition, begins=False, detail="")]


def poll_failed(device: Device, condition: Condition, now: Seconds, detail: str) -> list[Event]:
    """A read failed. A single silence is the network's; two, or a clear word, are the device's."""
    device.failed_polls += 1
    if condition is Condition.UNREACHABLE and device.failed_polls < 2:
        return []
    return begin_condition(device, condition, now, detail)
