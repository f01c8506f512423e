"""What both Whatsminer APIs have in common: a power limit in watts, throttling by percent of it, and what a reading
says about them.
"""

from __future__ import annotations

import math

from curtaild_drivers.asic.firmware import STANDBY_W, Access, off_point, unknown_draw
from curtaild_drivers.contract import (
    OFF,
    Capabilities,
    OperatingPoint,
    OperatingPoints,
    RunState,
    Seconds,
    Unsupported,
    Watts,
)

LIMIT = "limit"
"""The key of all points at which the miner works: it takes a power limit, in whole percents."""

CAPABILITIES = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=20.0, settle_up_s=300.0)

_RAMP_S: Seconds = 300.0


def full_power_w(access: Access, power_limit_w: Watts | None) -> Watts:
    """What 100 % is, in W: the power limit the device keeps, else its rating. Raises `Unsupported` if neither is
    known."""
    rating = access.rating()
    full_w = power_limit_w or (rating.power_w if rating else None)
    if full_w is None:
        raise unknown_draw(access.model)
    return full_w


def points(access: Access, power_limit_w: Watts | None) -> OperatingPoints:
    """Off, then every whole percent from the lowest allowed to the full power limit."""
    full_w = full_power_w(access, power_limit_w)
    lowest_w = full_w * access.settings.lowest_power_percent / 100
    rating = access.rating()
    full_rate = rating.rate_hs * full_w / rating.power_w if rating else full_w * _HASH_PER_JOULE
    working = [OperatingPoint(LIMIT, full_w, full_rate, divisible=True)]
    if lowest_w > STANDBY_W:
        working.insert(0, OperatingPoint(LIMIT, lowest_w, full_rate * lowest_w / full_w))
    return OperatingPoints((off_point(), *working), step_w=full_w / 100)


_HASH_PER_JOULE = 1e12 / 25.0  # a typical M50/M60, where the table knows no better


def percent_for(access: Access, draw_w: Watts, power_limit_w: Watts | None) -> int:
    """The whole percent that keeps the draw at or under `draw_w`. Raises `Unsupported` outside the allowed range."""
    full_w = full_power_w(access, power_limit_w)
    percent = math.floor(draw_w / full_w * 100 + 1e-6)
    lowest = access.settings.lowest_power_percent
    if percent < lowest:
        raise Unsupported(f"{draw_w:.0f} W is under the {lowest} % of {full_w:.0f} W it may be throttled to")
    if percent > 100:
        raise Unsupported(f"{draw_w:.0f} W is over its power limit of {full_w:.0f} W")
    return percent


def limit_w(power_limit_w: Watts | None, percent: float | None) -> Watts | None:
    """The limit the device says it keeps. Without its word on the percent nobody knows: the power limit alone is not
    what a throttled machine keeps to."""
    if power_limit_w is None or percent is None or not 0 < percent <= 100:
        return None
    return power_limit_w * percent / 100


def point_key(is_off: bool | None, rate: float | None) -> str | None:
    """What the device says it is set to; hashes say "on" where it says nothing."""
    if is_off is None:
        return LIMIT if rate else None
    return OFF if is_off else LIMIT


def state_at_work(is_off: bool | None, rate: float | None, is_tuned: object, elapsed_s: float | None) -> RunState:
    """The state of a miner that is not asleep by its own word, or whose word is missing. `is_tuned` is what it says
    of its frequency search: 0 while it climbs."""
    if not rate and is_off is not False:
        return RunState.UNKNOWN
    if str(is_tuned) == "0":
        return RunState.STARTING
    if rate:
        return RunState.RUNNING
    if rate is None or elapsed_s is None:
        return RunState.UNKNOWN
    return RunState.STARTING if elapsed_s < _RAMP_S else RunState.IDLE
