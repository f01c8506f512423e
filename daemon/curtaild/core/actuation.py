"""The life of an actuation, from its answer until a reading shows it done, or its time is over."""

from __future__ import annotations

from curtaild.core import conditions
from curtaild.core.device import LEARNED_SAMPLES, Actuation, Device, reported_point
from curtaild.core.events import ActuationChanged, ActuationStage, Condition, Event
from curtaild.core.policy import Policy
from curtaild.core.signs import SLOWEST_FALL_S, is_steady, may_still_fall
from curtaild_drivers.contract import Reading, RunState, Seconds

LONGEST_BACK_OFF_S = 600.0
_RUNNING, _STARTING = RunState.RUNNING, RunState.STARTING


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
        *conditions.begin(device, Condition.REFUSED, now, detail),
    ]


def judge(device: Device, actuation: Actuation, reading: Reading, now: Seconds, policy: Policy) -> list[Event]:
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
    if actuation.answered_at is not None and may_still_fall(device, reading, actuation.answered_at):
        return False
    if actuation.stage is ActuationStage.OUTCOME_UNKNOWN and said is None:
        return is_steady(device)
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
        events += conditions.end(device, condition, now)
    return events


def settle_by(device: Device, actuation: Actuation, policy: Policy) -> Seconds:
    """When a command must show: twice the settle time and a poll after its answer. A restart takes like a raise."""
    is_starting = device.reading is not None and device.reading.state is _STARTING
    settle_s = device.spec.settle_up_s if actuation.is_raise or is_starting else device.spec.settle_down_s
    since = actuation.answered_at if actuation.answered_at is not None else actuation.issued_at + settle_s
    return since + 2 * settle_s + policy.poll_slack_s


def fallen_by(device: Device, actuation: Actuation, policy: Policy) -> Seconds:
    """Until when a shed is believed to be on its way without any proof."""
    since = actuation.answered_at if actuation.answered_at is not None else actuation.issued_at
    return since + min(device.spec.settle_down_s, SLOWEST_FALL_S) + policy.poll_slack_s


def expire(device: Device, now: Seconds, policy: Policy) -> list[Event]:
    """A command whose time is over unseen has diverged; a raise that obeys but draws less is where it is."""
    actuation = device.actuation
    if actuation is None or now < settle_by(device, actuation, policy):
        return []
    reading = device.reading
    is_read_since = reading is not None and reading.taken_at >= actuation.issued_at
    if actuation.is_raise and reading is not None and is_read_since and is_steady(device):
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
        *conditions.begin(device, Condition.DIVERGED, now, detail),
    ]


def _back_off(device: Device, now: Seconds) -> None:
    device.failures += 1
    device.fixed_until = now + min(LONGEST_BACK_OFF_S, 5.0 * 2.0 ** min(device.failures, 10))


def changed(device: Device, actuation: Actuation, stage: ActuationStage, now: Seconds, detail: str) -> ActuationChanged:
    """The event that tells so."""
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
