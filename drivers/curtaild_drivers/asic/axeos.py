"""AxeOS, the firmware of Bitaxe and NerdAxe (HTTP port 80, no password): throttled by frequency at the voltage it is
set to, paused where its release can (2.14 on). Source: ESP-Miner's openapi.yaml and its pull request 1608.
"""

from __future__ import annotations

import time

from curtaild_drivers.asic.cgminer import Reply, hashrate, number, temperature, watts
from curtaild_drivers.asic.firmware import Access, off_point, unknown_draw
from curtaild_drivers.asic.http import WebServer, json_bytes, said
from curtaild_drivers.asic.wire import command_sent
from curtaild_drivers.contract import (
    OFF,
    BadReply,
    Capabilities,
    DriverError,
    Identity,
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
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = Support(
    firmware="axeos",
    device="Bitaxe and NerdAxe (AxeOS)",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it and set its frequency; the pause by us alone",
    reads_watts="yes",
    throttled_by="its own frequencies, at the voltage it is set to",
    stopped_by="pause, from release 2.14 on",
    auth="none",
    ports="80",
    sources=("ESP-Miner's openapi.yaml and its pull request 1608", "pyasic"),
)

_PAUSED_W: Watts = 3.0  # the controller, its display and its radio; assumed
_MOST_MHZ = 5_000.0
_RAMP_S: Seconds = 120.0


class AxeOS:
    """One Bitaxe or NerdAxe."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=10.0, settle_up_s=60.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._web = WebServer(access.host, access.settings.http_port)
        self._mhz: float | None = None
        self._highest_mhz = 0.0
        self._is_paused: bool | None = None
        self._can_pause: bool | None = None
        self._watts_per_mhz: float | None = None
        self._rate_per_mhz: float | None = None
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        info = await self._ask("info", until)
        asic = await self._ask("asic", until)
        named = asic.get("deviceModel") or info.get("ASICModel") or self._access.model
        return Identity(
            make="Bitaxe",
            model=str(named),
            firmware="axeos",
            version=str(info.get("version") or ""),
            serial=str(info.get("macAddr") or ""),
            rated_w=self._access.rated_w,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at, writes = time.monotonic(), self._writes
        info = await self._ask("info", until)
        mhz, rate, power_w = _mhz(info.get("frequency")), hashrate(info.get("hashRate"), 1e9), watts(info.get("power"))
        said_paused = info.get("miningPaused")
        if said_paused is not None:
            is_paused: bool | None = said_paused is True or said_paused == 1
            self._can_pause = True
        else:
            is_paused = None if self._can_pause or not info else False
            self._can_pause = self._can_pause or (None if not info else False)
        self._highest_mhz = max(self._highest_mhz, mhz or 0.0)
        if writes == self._writes:
            self._mhz, self._is_paused = mhz, is_paused
        uptime_s = number(info.get("uptimeSeconds"))
        state = _state(is_paused, rate, uptime_s)
        if mhz and rate and power_w and state is RunState.RUNNING:
            self._watts_per_mhz, self._rate_per_mhz = power_w / mhz, rate / mhz
        fault = info.get("power_fault")
        return Reading(
            taken_at,
            state,
            power_w=power_w,
            rate=rate,
            point_key=OFF if is_paused else _key(mhz) if mhz else None,
            temperature_c=temperature(info.get("temp")),
            fault=str(fault)[:200] if fault else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Its own frequencies up to the one it was found at or ships with, and off where it can pause; each draws in
        proportion, at the voltage it is set to, to what it draws now."""
        await self.read(until)
        asic = await self._ask("asic", until)
        offered = self._frequencies(asic)
        rating, default = self._access.rating(), _mhz(asic.get("defaultFrequency"))
        watts_per_mhz, rate_per_mhz = self._watts_per_mhz, self._rate_per_mhz
        if (watts_per_mhz is None or rate_per_mhz is None) and rating is not None and default:
            watts_per_mhz, rate_per_mhz = rating.power_w / default, rating.rate_hs / default
        if watts_per_mhz is None or rate_per_mhz is None or not offered:
            raise unknown_draw(self._access.model)
        working = [OperatingPoint(_key(mhz), mhz * watts_per_mhz, mhz * rate_per_mhz) for mhz in offered]
        off = (off_point(min(_PAUSED_W, working[0].draw_w / 2)),) if self._can_pause else ()
        return OperatingPoints((*off, *working))

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        is_off = point.key == OFF
        is_news = self._is_paused is None or (self._mhz is not None and _key(self._mhz) == point.key)
        if self._can_pause is None or (is_news and not is_off):
            await self.read(until)
        if is_off:
            if not self._can_pause:
                raise Unsupported("its release has no pause (it came with 2.14)")
            await self._command("POST", "/pause", until)
            return Outcome.ACKNOWLEDGED
        is_paused = self._is_paused is not False  # one that does not say is told to resume
        has_changed = self._mhz is None or _key(self._mhz) != point.key
        if has_changed:
            offered = {_key(mhz): mhz for mhz in self._frequencies(await self._ask("asic", until))}
            if point.key not in offered:
                raise Unsupported(f"it offers {', '.join(offered)}, not {point.key!r}")
            await self._command("PATCH", "", until, {"frequency": round(offered[point.key])})
        if not is_paused:
            return Outcome.ACKNOWLEDGED if has_changed else Outcome.ALREADY_THERE
        try:
            await self._command("POST", "/resume", until)
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given {point.key} paused, then not resumed: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        return None

    def _frequencies(self, asic: Reply) -> list[float]:
        """Whole frequencies in MHz that are safe at the present voltage: none above what has run there, or is
        shipped."""
        listed = asic.get("frequencyOptions")
        options = {_mhz(option) for option in listed} if isinstance(listed, list) else set()
        highest = max(self._highest_mhz, _mhz(asic.get("defaultFrequency")) or 0.0)
        if not highest:
            raise BadReply("it says neither its frequency nor its default")
        return sorted({mhz for mhz in (*options, self._mhz) if mhz and mhz <= highest})

    async def _ask(self, page: str, until: Seconds) -> Reply:
        return said(await self._web.request("GET", f"/api/system/{page}", until))

    async def _command(self, method: str, page: str, until: Seconds, change: Reply | None = None) -> None:
        """One command, checked by its HTTP status: it answers with nothing to read."""
        self._writes += 1
        self._mhz = self._is_paused = None  # whatever they were, they have to be asked
        with command_sent():
            answer = await self._web.request(
                method, f"/api/system{page}", until, body=json_bytes(change) if change else b""
            )
        if answer.status >= 500:
            raise OutcomeUnknown(f"{method} {page}: HTTP {answer.status} {answer.body[:120]!r}")
        if answer.status not in (200, 204):
            raise Refused(f"{method} {page}: HTTP {answer.status} {answer.body[:120]!r}")


def _mhz(claimed: object) -> float | None:
    mhz = number(claimed)
    return float(round(mhz)) if mhz is not None and 1 <= mhz <= _MOST_MHZ else None


def _key(mhz: float) -> str:
    return f"{mhz:.0f} MHz"


def _state(is_paused: bool | None, rate: float | None, uptime_s: float | None) -> RunState:
    if is_paused:
        return RunState.RUNNING if rate else RunState.ASLEEP  # told to pause and not obeying yet
    if rate:
        return RunState.RUNNING
    if is_paused is None or rate is None or uptime_s is None:
        return RunState.UNKNOWN
    return RunState.STARTING if uptime_s < _RAMP_S else RunState.IDLE
