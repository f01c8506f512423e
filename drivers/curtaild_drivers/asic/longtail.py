"""Every other firmware, through pyasic: watched only. pyasic's answers are not trusted: it says True to an offline
miner, wakes one in another mode than it slept in, and never gives up waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from curtaild_drivers.asic.cgminer import hashrate, watts
from curtaild_drivers.asic.firmware import Access, unknown_draw
from curtaild_drivers.contract import (
    OFF,
    BadReply,
    Capabilities,
    Identity,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    Reading,
    RunState,
    Seconds,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = Support(
    firmware="",
    device="Hiveon, Goldshell, IceRiver, Innosilicon and what else pyasic knows",
    maturity=Maturity.EMULATED,
    proven="pyasic's answers, imitated: no firmware of their kind is emulated",
    reads_watts="where pyasic finds them",
    throttled_by="–",
    stopped_by="– (their stops do nothing, or are none)",
    auth="as pyasic asks for it",
    ports="pyasic's",
    quirks=(
        "pyasic says yes to a stop in the name of miners that are not there, and Hiveon's firmware ignores the "
        "configuration that its stop writes: none is told anything (pyasic 0.79, tried offline).",
    ),
    sources=("pyasic",),
)

NORMAL = "normal"

_MEASURE = frozenset({"HiveonModern", "ESPMiner"})
"""Those whose watts pyasic finds."""

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
        self._measures = bool(backends & _MEASURE)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(measures_power=self._measures, throttles=False, stops=False)

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
        return OperatingPoints((OperatingPoint(NORMAL, rating.power_w, rating.rate_hs),))

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        raise Unsupported(f"a miner under {self._firmware} can only be watched: it has no stop that works")

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
