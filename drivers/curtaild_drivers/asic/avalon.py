"""Avalon (port 4028): cgminer's API as text, since it ignores commands sent as JSON. Three levels, and a soft stop that
is due at a moment of the miner's own clock. Sources: Canaan's avalon10-docs and its page on the Avalon Q.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TypeAlias

from curtaild_drivers.asic.cgminer import has_ended, hashrate, number, temperature, watts
from curtaild_drivers.asic.firmware import Access, check_still, off_point, unknown_draw
from curtaild_drivers.asic.wire import ask, command_sent
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
    firmware="avalon",
    device="Avalon, Canaan's firmware",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, stopped it, woke it and set its work level, in JSON; in text, which real "
    "ones want, by us alone",
    reads_watts="yes",
    throttled_by="work level or work mode",
    stopped_by="soft switch",
    auth="none",
    ports="4028",
    quirks=(
        "It drops commands sent as JSON (Canaan's avalon10-docs).",
        "Its soft switch is due at a moment of its own clock, which may be wrong: that clock is read first (Canaan's "
        "avalon10-docs, softoff).",
    ),
    sources=("Canaan's avalon10-docs", "pyasic"),
)

LEVELS = ("low", "normal", "high")
"""The levels by their numbers 0 to 2."""
_LEVERS = {
    "workmode": ("WORKMODE", ((0.50, 0.60), (0.84, 0.90), (1.0, 1.0))),
    "worklevel": ("WORKLEVEL", ((0.70, 0.76), (0.85, 0.89), (1.0, 1.0))),
}
"""What sets the level, by the option's name: the field that says it, and each level's draw and hashrate as shares of
the highest one's. The home series has work modes (and an idle WORKLEVEL beside them; measured on an Avalon Q), the
rack series work levels (assumed); the daemon learns the truth."""
_SLEEP_W: Watts = 20.0
_SUPPLY_EFFICIENCY = 0.95
"""Older firmware gives the supply's output only; assumed."""
_LEAD_S = 5
"""A stop or start must be due in the future; this much is what Canaan's own examples use."""
_RAMP_S: Seconds = 300.0

Fields: TypeAlias = Mapping[str, str]
_FIELD = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z][A-Za-z0-9_]*)\[([^\[\]]{0,400})\]")


class Avalon:
    """One Avalon with Canaan's firmware."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=30.0, settle_up_s=300.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lever: str | None = None
        self._level: str | None = None
        self._is_asleep: bool | None = None
        self._clock_ahead_s: float | None = None
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        version = await self._ask("version", until)
        model = _said(version, "PROD") or self._access.model
        rating = replace(self._access, model=model).rating()
        return Identity(
            make="Avalon",
            model=model,
            firmware="avalon",
            version=_said(version, "LVERSION") or _said(version, "VERSION") or _said(version, "CGMiner") or "",
            serial=_said(version, "DNA") or _said(version, "MAC") or "",
            rated_w=rating.power_w if rating else None,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at, writes = time.monotonic(), self._writes
        stats = _fields(await self._ask("estats", until))
        work = (stats.get("SYSTEMSTATU") or "").partition(",")[0].removeprefix("Work:").strip().lower()
        rate = _rate(stats, work)
        self._lever = next((lever for lever, (key, _) in _LEVERS.items() if stats.get(key)), self._lever)
        level = _level(stats.get(_LEVERS[self._lever][0])) if self._lever else None
        if writes == self._writes:
            self._is_asleep = work == "in idle" if work else None
            self._level = level
        return Reading(
            taken_at,
            _state(work, rate, number(stats.get("Elapsed"))),
            power_w=_power_w(stats),
            rate=rate,
            point_key=OFF if work == "in idle" else level,
            temperature_c=temperature(stats.get("TMax")),
            fault="it says that it is in fault" if work == "in fault" else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        rating = self._access.rating()
        if rating is None:
            raise unknown_draw(self._access.model)
        _, shares = _LEVERS[await self._known_lever(until)]
        levels = zip(LEVELS, shares, strict=True)
        return OperatingPoints(
            (
                off_point(_SLEEP_W),
                *(OperatingPoint(name, rating.power_w * draw, rating.rate_hs * rate) for name, (draw, rate) in levels),
            )
        )

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            if self._clock_ahead_s is None:
                await self.read(until)
            await self._set(f"softoff,1:{self._due()}", until)
            return Outcome.ACKNOWLEDGED
        if point.key not in LEVELS:
            raise Unsupported(f"an Avalon knows {OFF}, {', '.join(LEVELS)}, not {point.key!r}")
        if self._is_asleep is None or self._level in (None, point.key):
            await self.read(until)
        is_asleep = self._is_asleep is not False  # one that does not say is told to start
        has_changed = self._level != point.key
        if not is_asleep and not has_changed:
            return Outcome.ALREADY_THERE
        if has_changed:
            await self._set(f"{await self._known_lever(until)},set,{LEVELS.index(point.key)}", until)
        if not is_asleep:
            return Outcome.ACKNOWLEDGED
        try:
            await self._set(f"softon,1:{self._due()}", until)
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given level {point.key!r} asleep, then not woken: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        return None

    async def _known_lever(self, until: Seconds) -> str:
        if self._lever is None:
            await self.read(until)
        if self._lever is None:
            raise BadReply("it says neither its work mode nor its work level")
        return self._lever

    def _due(self) -> int:
        """A moment of the miner's own clock, which may be years off until it has found a time server."""
        return int(time.time() + (self._clock_ahead_s or 0.0)) + _LEAD_S

    async def _ask(self, command: str, until: Seconds) -> str:
        settings = self._access.settings
        raw = await ask(self._access.host, settings.rpc_port, command.encode(), until, has_ended)
        reply = raw.replace(b"\0", b"").decode("utf-8", "replace")
        _, _, description = _status(reply)
        check_still("avalon", description)
        when = number(_said(reply, "When"))
        if when is not None and 0 < when < 1e11:
            self._clock_ahead_s = when - time.time()
        return reply

    async def _set(self, what: str, until: Seconds) -> None:
        """One command, checked."""
        self._writes += 1
        self._level = self._is_asleep = None  # whatever they were, they have to be asked
        try:
            with command_sent():
                verdict, words, _ = _status(await self._ask(f"ascset|0,{what}", until))
        except asyncio.CancelledError:
            self._clock_ahead_s = None
            raise
        if verdict in ("E", "F"):
            raise Refused(f"{what}: {words}")
        # A stop or start is answered as information; without the word it has told something instead of doing it.
        if verdict != "S" and not (verdict == "I" and "success" in words.lower()):
            raise OutcomeUnknown(f"{what}: neither yes nor no: {words}")


def _said(reply: str, key: str) -> str | None:
    """A value of "KEY=value,KEY=value|": of the status, or of a short section behind it."""
    found = _value_of(key).search(reply, 0, 2_000)
    return found[1].strip() if found else None


@cache
def _value_of(key: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[,|]){key}=([^,|]*)")


def _status(reply: str) -> tuple[str, str, str]:
    """The verdict's letter, its words, and how the firmware names itself. Raises `BadReply` where there is none."""
    verdict = _said(reply, "STATUS")
    if verdict is None:
        raise BadReply(f"no status: {reply[:80]!r}")
    return verdict, (_said(reply, "Msg") or "")[:200], _said(reply, "Description") or ""


def _fields(stats: str) -> Fields:
    """Every "KEY[...]" in the statistics, of the first module where there are several. One pass: an answer is some
    kilobytes, and to search it for each key anew took 0.2 ms of a reading."""
    found: dict[str, str] = {}
    for field in _FIELD.finditer(stats):
        found.setdefault(field[1], field[2].strip())
    return found


def _level(claimed: str | None) -> str | None:
    return LEVELS[int(claimed)] if claimed in ("0", "1", "2") else None


def _power_w(stats: Fields) -> Watts | None:
    """At the wall: said plainly, or as the seventh value of the supply; the fifth is what the supply gives out."""
    plain = watts(stats.get("WALLPOWER"))
    if plain is not None:
        return plain
    values = (stats.get("PS") or "").split()
    if len(values) >= 7:
        return watts(values[6])
    output_w = watts(values[4]) if len(values) >= 5 else None
    return output_w / _SUPPLY_EFFICIENCY if output_w else None


def _rate(stats: Fields, work: str) -> float | None:
    """The hashrate of this moment. "GHSavg" goes on for long after the last hash; some firmware never fills GHSspd in,
    but says what each board does while it works."""
    now = hashrate(stats.get("GHSspd"), 1e9)
    if now or work != "in work":
        return now
    boards = [hashrate(board, 1e9) for board in (stats.get("MGHS") or "").split()]
    return sum(board or 0.0 for board in boards) if boards else now


def _state(work: str, rate: float | None, elapsed_s: float | None) -> RunState:
    if work == "in fault":
        return RunState.FAULT
    if work == "in idle":
        return RunState.RUNNING if rate else RunState.ASLEEP  # told to stop and not obeying yet
    if work == "in init":
        return RunState.STARTING
    if rate:
        return RunState.RUNNING
    if rate is None or elapsed_s is None or not work:
        return RunState.UNKNOWN
    return RunState.STARTING if elapsed_s < _RAMP_S else RunState.IDLE
