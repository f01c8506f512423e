"""Every other firmware, through pyasic: watched, and stopped where the miner can be stopped. pyasic's answers are not
trusted: it says True to an offline miner, wakes one in another mode than it slept in, and never gives up waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from curtaild_drivers.asic.cgminer import hashrate, watts
from curtaild_drivers.asic.firmware import Access, off_point, unknown_draw
from curtaild_drivers.contract import (
    OFF,
    BadReply,
    Capabilities,
    Identity,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Seconds,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = (
    Support(
        firmware="marathon",
        device="Marathon (MARA firmware)",
        maturity=Maturity.EMULATED,
        proven="pyasic's answers, imitated: no firmware of its kind is emulated",
        reads_watts="no: pyasic loses them",
        throttled_by="–",
        stopped_by="stop, through pyasic",
        auth="as pyasic asks for it",
        ports="80",
        sources=("pyasic",),
    ),
    Support(
        firmware="",
        device="Hiveon, Goldshell, IceRiver, Innosilicon and what else pyasic knows",
        maturity=Maturity.EMULATED,
        proven="pyasic's answers, imitated: no firmware of their kind is emulated",
        reads_watts="where pyasic finds them",
        throttled_by="–",
        stopped_by="– (their stops do nothing, or are none)",
        auth="as pyasic asks for it",
        ports="pyasic's",
        quirks=("pyasic says yes to a stop in the name of miners that are not there: each is read first.",),
        sources=("pyasic",),
    ),
)

NORMAL = "normal"

_REAL_STOPS = frozenset({"MaraMiner"})
"""The pyasic backends whose miners can be stopped: Marathon's, by one field of a configuration that is written whole.
Not among them: Hiveon (a configuration that its firmware ignores, reported as success), the old Braiins OS (SSH), and
those without any stop."""
_SLEEP, _AWAKE = "Sleep", "Auto"  # Marathon's work-mode-selector, as pyasic writes it

_MEASURE = frozenset({"HiveonModern", "ESPMiner"})
"""Those whose watts pyasic finds (it loses Marathon's)."""

_ASKED = ("hashrate", "wattage", "is_mining")

T = TypeVar("T")


class PyasicMiner:
    """One miner as pyasic presents it. `miner` is an instance of a pyasic class, `firmware` our name for its type."""

    def __init__(self, access: Access, miner: Any, firmware: str) -> None:
        self._access = access
        self._miner = miner
        self._firmware = firmware
        settings = access.settings
        for name, key in (("rpc", "rpc_port"), ("web", "http_port")):
            interface = getattr(miner, name, None)
            if interface is None:
                continue
            if access.password is not None:
                interface.pwd = access.password
            if settings.username and hasattr(interface, "username"):
                interface.username = settings.username
            if key in settings.model_fields_set:  # otherwise pyasic knows each firmware's own
                interface.port = getattr(settings, key)
        backends = {base.__name__ for base in type(miner).__mro__}
        self._awake_mode = _AWAKE
        self._stops = bool(backends & _REAL_STOPS)
        self._measures = bool(backends & _MEASURE)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(measures_power=self._measures, throttles=False, stops=self._stops)

    async def describe(self, until: Seconds) -> Identity:
        rating = self._access.rating()
        return Identity(
            make=str(self._miner.make or ""),
            model=str(self._miner.raw_model or self._access.model),
            firmware=self._firmware,
            rated_w=rating.power_w if rating else None,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        try:
            data = await _in_time(self._miner.get_data(include=list(_ASKED)), until)
        except TimeoutError:
            raise Unreachable(f"{self._access.host} did not answer pyasic in time") from None
        except Exception as error:  # pyasic lets through whatever its parsers trip over
            said = f"pyasic: {type(error).__name__}: {error}"
            raise (Unreachable(said) if _is_of_the_network(error) else BadReply(said)) from error
        rate, power_w = _rate_hs(getattr(data, "hashrate", None)), watts(getattr(data, "wattage", None))
        is_mining = getattr(data, "is_mining", None)
        if rate is None and power_w is None:
            # An offline miner reads as "is mining" and nothing else.
            raise Unreachable(f"{self._access.host} told pyasic neither a hashrate nor watts")
        if rate:
            state, key = RunState.RUNNING, NORMAL
        elif is_mining is False:
            state, key = RunState.ASLEEP, OFF
        else:
            state, key = RunState.UNKNOWN, None
        return Reading(taken_at, state, power_w=power_w, rate=rate, point_key=key)

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        rating = self._access.rating()
        if rating is None:
            raise unknown_draw(self._access.model)
        normal = OperatingPoint(NORMAL, rating.power_w, rating.rate_hs)
        return OperatingPoints((off_point(), normal) if self._stops else (normal,))

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if not self._stops:
            raise Unsupported(f"a miner under {self._firmware} can only be watched: it has no stop that works")
        if point.key not in (OFF, NORMAL):
            raise Unsupported(f"a miner under {self._firmware} knows {OFF} and {NORMAL}, not {point.key!r}")
        configuration = await self._configuration(until)
        mode = configuration["mode"]
        present = mode["work-mode-selector"]
        if present != _SLEEP:
            self._awake_mode = present
        wanted = _SLEEP if point.is_off else self._awake_mode
        if present == wanted:
            return Outcome.ALREADY_THERE
        changed = {**configuration, "mode": {**mode, "work-mode-selector": wanted}}
        try:
            await _in_time(self._miner.web.set_miner_config(**changed), until)
        except Exception as error:  # pyasic raises the same whether the connection broke before or after the command
            raise OutcomeUnknown(f"pyasic: {type(error).__name__}: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def _configuration(self, until: Seconds) -> dict[str, Any]:
        """A Marathon's configuration as it stands, pools and all: what is missing here would be lost by a write."""
        try:
            configuration = await _in_time(self._miner.web.get_miner_config(), until)
        except Exception as error:
            said = f"nothing was sent, its configuration could not be read: {type(error).__name__}: {error}"
            is_gone = isinstance(error, TimeoutError) or _is_of_the_network(error)
            raise (Unreachable(said) if is_gone else BadReply(said)) from error
        mode = configuration.get("mode") if isinstance(configuration, dict) else None
        if not isinstance(mode, dict) or not isinstance(mode.get("work-mode-selector"), str):
            raise BadReply("its configuration names no mode")
        if not configuration.get("pools"):
            raise Refused("its configuration names no pools; writing it back would make that permanent")
        return dict(configuration)

    async def close(self) -> None:
        return None


async def _in_time(call: Awaitable[T], until: Seconds) -> T:
    async with asyncio.timeout_at(until):
        return await call


def _is_of_the_network(error: Exception) -> bool:
    """pyasic's APIError is all it says of a connection refused, lost or timed out."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or not kinds.isdisjoint({"APIError", "HTTPError"})


def _rate_hs(claimed: Any) -> float | None:
    if claimed is None:
        return None
    try:
        return hashrate(float(claimed.rate), float(int(claimed.unit)))
    except (AttributeError, TypeError, ValueError):
        return None
