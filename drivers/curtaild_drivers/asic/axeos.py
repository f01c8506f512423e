"""AxeOS, the firmware of Bitaxe and NerdAxe (HTTP port 80, no password): throttled by frequency at the voltage it is
set to; stopped by a pause on a Bitaxe (release 2.14 on), by a shutdown on a NerdAxe, which a restart ends. Sources:
ESP-Miner's openapi.yaml and its pull request 1608; ESP-Miner-NerdQAxePlus, http_server/handler_*.cpp.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from curtaild_drivers.asic.cgminer import Reply, hashrate, json_bytes, number, temperature, watts
from curtaild_drivers.asic.firmware import Access, off_point, unknown_draw
from curtaild_drivers.asic.http import WebServer, said
from curtaild_drivers.asic.wire import command_sent
from curtaild_drivers.contract import (
    OFF,
    AuthFailed,
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
    proven="pyasic identified a Bitaxe, read it and set its frequency; its pause, and a NerdAxe, by us alone",
    reads_watts="yes",
    throttled_by="its own frequencies, at the voltage it is set to",
    stopped_by="Bitaxe: pause, from release 2.14 on; NerdAxe: shutdown, where its release tells of it",
    auth="none; a NerdAxe that wants one-time passwords is only watched",
    ports="80",
    quirks=(
        "A frequency above what has run there, or is shipped, is never set: at the present voltage it may not be "
        "stable (ESP-Miner's openapi.yaml offers it all the same).",
        "A NerdAxe comes back from its shutdown by a restart: it is away meanwhile (ESP-Miner-NerdQAxePlus, "
        "handler_shutdown.cpp).",
        "Older NerdAxe releases tell the hashrate of ten minutes for that of now, and have no list of frequencies "
        "(ESP-Miner-NerdQAxePlus, handler_system.cpp).",
        "With one-time passwords switched on, a NerdAxe locks its settings for minutes after a few wrong attempts: "
        "it is told nothing then (ESP-Miner-NerdQAxePlus, handler_otp.cpp).",
    ),
    sources=("ESP-Miner's openapi.yaml and its pull request 1608", "ESP-Miner-NerdQAxePlus", "pyasic"),
)

_PAUSED_W: Watts = 3.0  # the controller, its display and its radio; assumed
_MOST_MHZ = 5_000.0
_RAMP_S: Seconds = 120.0


@dataclass(frozen=True, slots=True)
class _Stop:
    """How one is stopped and started: the key that says whether it is, and the pages of the two commands."""

    told_by: str
    stop: str
    start: str


_NO_SUCH_PAGE = (302, 404, 405)
"""How an older NerdAxe answers for a page it lacks; 302 leads to its front page."""
_STOPS = (_Stop("miningPaused", "/pause", "/resume"), _Stop("shutdown", "/shutdown", "/restart"))


class AxeOS:
    """One Bitaxe or NerdAxe."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._web = WebServer(access.host, access.settings.http_port)
        self._mhz: float | None = None
        self._highest_mhz = 0.0
        self._default_mhz: float | None = None
        self._is_paused: bool | None = None
        self._stop: _Stop | None = None
        self._was_read = False
        self._is_locked = False
        self._offered: Reply = {}
        self._watts_per_mhz: float | None = None
        self._rate_per_mhz: float | None = None
        self._writes = 0

    @property
    def capabilities(self) -> Capabilities:
        """A release that turned out to have neither pause nor shutdown does not stop."""
        stops = self._stop is not None or not self._was_read
        return Capabilities(measures_power=True, throttles=True, stops=stops, settle_down_s=10.0, settle_up_s=60.0)

    async def describe(self, until: Seconds) -> Identity:
        info = await self._ask("info", until)
        asic = await self._offer(until)
        model = str(asic.get("deviceModel") or info.get("deviceModel") or info.get("ASICModel") or self._access.model)
        return Identity(
            make="NerdAxe" if model.startswith("Nerd") else "Bitaxe",
            model=model,
            firmware="axeos",
            version=str(info.get("version") or ""),
            serial=str(info.get("macAddr") or ""),
            rated_w=self._access.rated_w,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at, writes = time.monotonic(), self._writes
        info = await self._ask("info", until)
        mhz, rate, power_w = _mhz(info.get("frequency")), hashrate(info.get("hashRate"), 1e9), watts(info.get("power"))
        is_paused = self._learn_stop(info, rate)
        self._is_locked = info.get("otp") in (True, 1)
        self._default_mhz = _mhz(info.get("defaultFrequency")) or self._default_mhz
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

    def _learn_stop(self, info: Reply, rate: float | None) -> bool | None:
        """Whether it is stopped, as it says; `None` where it has said so before, does not now, and does not hash."""
        if not info:
            return None
        self._was_read = True
        told = next((stop for stop in _STOPS if stop.told_by in info), None)
        if told is None:
            return None if self._stop is not None and not rate else False
        self._stop = told
        return info[told.told_by] in (True, 1)

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Its own frequencies up to the one it was found at or ships with, and off where it can pause; each draws in
        proportion, at the voltage it is set to, to what it draws now."""
        await self.read(until)
        await self._offer(until)
        offered = self._frequencies()
        rating, default = self._access.rating(), self._default_mhz
        watts_per_mhz, rate_per_mhz = self._watts_per_mhz, self._rate_per_mhz
        if (watts_per_mhz is None or rate_per_mhz is None) and rating is not None and default:
            watts_per_mhz, rate_per_mhz = rating.power_w / default, rating.rate_hs / default
        if watts_per_mhz is None or rate_per_mhz is None or not offered:
            raise unknown_draw(self._access.model)
        working = [OperatingPoint(_key(mhz), mhz * watts_per_mhz, mhz * rate_per_mhz) for mhz in offered]
        off = (off_point(min(_PAUSED_W, working[0].draw_w / 2)),) if self._stop is not None else ()
        return OperatingPoints((*off, *working))

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        is_off = point.key == OFF
        is_news = self._is_paused is None or (self._mhz is not None and _key(self._mhz) == point.key)
        if not self._was_read or (is_news and not is_off):
            await self.read(until)
        if self._is_locked:
            raise AuthFailed("nothing was sent: it wants a one-time password for every change")
        if is_off:
            if self._stop is None:
                raise Unsupported("its release has neither a pause (from 2.14) nor, as a NerdAxe, a shutdown")
            await self._command("POST", self._stop.stop, until)
            return Outcome.ACKNOWLEDGED
        is_paused = self._is_paused is not False  # one that does not say is told to start
        has_changed = self._mhz is None or _key(self._mhz) != point.key
        if has_changed:
            # A whole number: a NerdAxe drops any other and answers success.
            await self._command("PATCH", "", until, {"frequency": round(await self._mhz_of(point.key, until))})
        if not is_paused or self._stop is None:
            return Outcome.ACKNOWLEDGED if has_changed else Outcome.ALREADY_THERE
        try:
            await self._command("POST", self._stop.start, until)
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given {point.key} stopped, then not started: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        return None

    async def _mhz_of(self, key: str, until: Seconds) -> float:
        """The frequency of that name, in MHz. Raises `Unsupported` where it is none that it offers."""
        offered = {_key(mhz): mhz for mhz in self._frequencies()} if self._offered else {}
        if key not in offered:
            await self._offer(until)
            offered = {_key(mhz): mhz for mhz in self._frequencies()}
        if key not in offered:
            raise Unsupported(f"it offers {', '.join(offered)}, not {key!r}")
        return offered[key]

    def _frequencies(self) -> list[float]:
        """Whole frequencies in MHz that are safe at the present voltage: none above what has run there, which it can
        be put back to, or is shipped. Raises `BadReply` where it says neither."""
        listed = self._offered.get("frequencyOptions")
        options = {_mhz(option) for option in listed} if isinstance(listed, list) else set()
        highest = max(self._highest_mhz, self._default_mhz or 0.0)
        if not highest:
            raise BadReply("it says neither its frequency nor its default")
        return sorted({mhz for mhz in (*options, self._default_mhz, self._highest_mhz) if mhz and mhz <= highest})

    async def _offer(self, until: Seconds) -> Reply:
        """What it says of its chip, which a shed can go by later; nothing where its release has no such page."""
        answer = await self._web.request("GET", "/api/system/asic", until)
        self._offered = {} if answer.status in _NO_SUCH_PAGE else said(answer)
        self._default_mhz = _mhz(self._offered.get("defaultFrequency")) or self._default_mhz
        return self._offered

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
        if answer.status in (401, 403):
            raise AuthFailed(f"{method} {page}: it lets nobody in from here: {answer.body[:120]!r}")
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
