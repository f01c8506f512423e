"""What a reading proves: where a device is set, what it draws there, and whether a command has arrived."""

from __future__ import annotations

from dataclasses import replace

from curtaild.core import conditions, hull
from curtaild.core.actuation import judge
from curtaild.core.device import RESTLESS, Device, DrawRatio, estimated_draw, reported_point
from curtaild.core.events import Condition, Event
from curtaild.core.policy import Policy
from curtaild.core.signs import STEADY_READINGS, is_at_work, is_falling_asleep, is_steady, repeats
from curtaild_drivers.contract import OperatingPoint, Reading, RunState, Seconds

STILL_FRACTION = 0.02  # a miner at work wanders by about one per cent
ABSURD = 10.0  # times its rating: no miner draws that, whatever a driver let through
_STARTING = RunState.STARTING


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
        events = [end for condition in conditions.OF_POLLS for end in conditions.end(device, condition, now)]
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
            events += conditions.end(device, Condition.STALE, now)
    if device.actuation is not None:
        events += judge(device, device.actuation, reading, now, policy)
    elif device.setpoint is None:
        _infer_setpoint(device, reading)
        if device.setpoint is not None:
            events += conditions.end(device, Condition.DRIFTED, now)
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
        events = judge(device, actuation, reading, now, policy)
        if device.actuation is None:
            device.quiet_w = RESTLESS
        return events
    if power_w is None or setpoint is None or setpoint.draw_w <= 0:
        return []
    if _learn(device, setpoint, power_w / setpoint.draw_w):
        device.quiet_w = RESTLESS
    return []


def _infer_setpoint(device: Device, reading: Reading) -> None:
    """Nobody knows where it is set: believe the device's own word, else a steady draw."""
    if device.draw_w is None or reading.state is _STARTING or is_falling_asleep(device, reading):
        return
    said = reported_point(device, reading)
    points = device.spec.points
    is_plausible = said is not None and device.draw_w <= device.most_w(said)
    if not is_plausible and is_steady(device) and points is not None:
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


def _watch_setpoint(device: Device, setpoint: OperatingPoint, reading: Reading, now: Seconds) -> list[Event]:
    """Settled: learn its draw there, or notice that it left by itself."""
    if reading.power_w is not None and reading.power_w > device.most_w(setpoint):
        device.setpoint = None
        device.recent_w = (reading.power_w,)
        device.settled_at = reading.taken_at
        detail = (
            f"draws {reading.power_w:.0f} W at {setpoint.key}, where {device.upper_w(setpoint):.0f} W were expected"
        )
        return conditions.begin(device, Condition.DRIFTED, now, detail)
    said = None if repeats(setpoint, reading) else reported_point(device, reading)
    if said is not None and _has_left(device, setpoint, said, reading):
        device.setpoint = None
        device.recent_w = ()
        device.settled_at = reading.taken_at
        detail = f"was set to {setpoint.key} ({setpoint.draw_w:.0f} W), says {said.key} ({said.draw_w:.0f} W)"
        return conditions.begin(device, Condition.DRIFTED, now, detail)
    if reading.power_w is not None and is_at_work(setpoint, reading) and setpoint.draw_w > 0:
        _learn(device, setpoint, reading.power_w / setpoint.draw_w)
    return []


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


def _has_left(device: Device, setpoint: OperatingPoint, said: OperatingPoint, reading: Reading) -> bool:
    """Whether the device's own word is no longer the setpoint: somebody else's command, or a restart that forgot a
    temporary limit. A higher word is believed even while it starts; a lower one not where its draw belies it, or a
    device that says yes and does not obey would come and go for ever."""
    if said.draw_w > setpoint.draw_w + device.spec.tolerance_w:
        return True
    if device.draw_w is not None and device.draw_w > device.most_w(said):
        return False
    return said.key != setpoint.key and reading.state is not _STARTING
