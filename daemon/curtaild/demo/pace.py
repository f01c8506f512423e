"""How fast the demo goes: what must fit the play's length, in the farm and in the site file."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild_drivers.contract import Seconds

FEWEST_DEVICES, MOST_DEVICES = 14, 5000
DEFAULT_S, SHORTEST_S, LONGEST_S = 96.0, 24.0, 3600.0
"""In less than the shortest a step is over before a daemon that decides once a second can show what it does."""
SPEED_AT_DEFAULT = 35.0
"""Plant seconds per second: miners take minutes to wake, and each step is to settle."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Real seconds, and `speed`: plant seconds per real second."""

    speed: float
    heartbeat_s: Seconds
    heartbeat_timeout_s: Seconds
    failsafe_hold_s: Seconds


def pace(seconds: Seconds) -> Pace:
    """What fits a play of so many seconds."""
    scale = seconds / DEFAULT_S
    return Pace(
        speed=SPEED_AT_DEFAULT / scale,
        heartbeat_s=min(1.0, scale),
        heartbeat_timeout_s=max(2.0, round(4 * scale, 1)),
        failsafe_hold_s=max(1.0, round(3 * scale, 1)),
    )
