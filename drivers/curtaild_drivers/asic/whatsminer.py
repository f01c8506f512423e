"""What both Whatsminer APIs have in common: a power limit in watts, throttling by percent of it, a start that forgets
the percent, and what a reading says about them.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod

from curtaild_drivers.asic.firmware import STANDBY_W, Access, off_point, unknown_draw
from curtaild_drivers.contract import (
    OFF,
    Capabilities,
    DriverError,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Seconds,
    Unsupported,
    Watts,
)

LIMIT = "limit"
"""The key of all points at which the miner works: it takes a power limit, in whole percents."""

_RAMP_S: Seconds = 300.0


class Whatsminer(ABC):
    """One Whatsminer, whichever API it speaks: how it is asked and told is that API's."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=20.0, settle_up_s=300.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._power_limit_w: Watts | None = None
        self._percent: float | None = None
        self._is_off: bool | None = None
        self._asked_at: Seconds = float("-inf")

    @abstractmethod
    async def read(self, until: Seconds) -> Reading: ...

    @abstractmethod
    async def _ask_what_it_is_set_to(self, until: Seconds) -> None:
        """Learns whether it is off, the percent it keeps to and its power limit, as far as it says them."""

    @abstractmethod
    async def _switch(self, is_on: bool, until: Seconds) -> None:
        """One command; whether it is off has to be asked afterwards."""

    @abstractmethod
    async def _throttle(self, percent: int, until: Seconds) -> None:
        """One command."""

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        await self._learn_limit(until)
        return points(self._access, self._power_limit_w)

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            await self._switch(False, until)
            return Outcome.ACKNOWLEDGED
        if point.key != LIMIT:
            raise Unsupported(f"a Whatsminer knows {OFF} and {LIMIT}, not {point.key!r}")
        await self._learn_limit(until)
        percent = percent_for(self._access, point.draw_w, self._power_limit_w)
        if not self._is_off:
            try:
                await self._throttle(percent, until)
                return Outcome.ACKNOWLEDGED
            except Refused:
                if self._is_off is False:
                    raise
            # It does not say whether it is off, and refuses as one that is.
        # A start forgets the percent, so it can only be said after it; a start takes minutes to reach full power.
        await self._switch(True, until)
        if percent < 100:
            try:
                await self._throttle(percent, until)
            except DriverError as error:
                raise OutcomeUnknown(f"woken, and not throttled to {percent} %: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def _learn_limit(self, until: Seconds) -> None:
        if self._power_limit_w is None or self._is_off is None:
            await self.read(until)

    async def _ask_again_where_it_may_be_news(self, rate: float | None, until: Seconds) -> None:
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        if rate and not self._is_off and not is_old:
            return
        try:
            await self._ask_what_it_is_set_to(until)
        except DriverError:
            if not rate:
                raise
            self._asked_at = time.monotonic()  # the reading stands without it; asked again after a while

    def _reading(
        self,
        taken_at: Seconds,
        rate: float | None,
        power_w: Watts | None,
        is_tuned: object,
        elapsed_s: float | None,
        temperature_c: float | None,
    ) -> Reading:
        """`is_tuned` is what it says of its frequency search: 0 while it climbs."""
        is_asleep = bool(self._is_off) and not rate
        return Reading(
            taken_at,
            RunState.ASLEEP if is_asleep else state_at_work(self._is_off, rate, is_tuned, elapsed_s),
            power_w=power_w,
            rate=rate,
            point_key=point_key(self._is_off, rate),
            limit_w=None if is_asleep else limit_w(self._power_limit_w, self._percent),
            temperature_c=temperature_c,
        )


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
