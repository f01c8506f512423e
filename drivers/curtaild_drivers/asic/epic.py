"""ePIC PowerPlay (HTTP on port 4028): one summary tells all; commands carry the password. It is throttled in watts
where its tuner runs by power (supplies that measure), otherwise only stopped. Sources: ePIC's API.md and dashboard,
pyasic, asic-rs.
"""

from __future__ import annotations

import math
import time

from curtaild_drivers.asic.cgminer import Reply, hashrate, json_bytes, number, parse, watts
from curtaild_drivers.asic.firmware import STANDBY_W, Access, off_point, unknown_draw
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
    firmware="epic",
    device="Antminer under ePIC PowerPlay",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, stopped it and woke it; the power target by us alone",
    reads_watts="yes",
    throttled_by="power target in whole watts, where its tuner runs by power",
    stopped_by="stop",
    auth="password, letmein as shipped",
    ports="4028, HTTP",
    quirks=(
        "It refuses with HTTP status 200 and says so in the body (ePIC's API.md).",
        "Its tuner's settings are written together, and what is left out is reset: they are sent back as they were "
        "read (asic-rs, pull request 210).",
        "A power target leaves its thermal throttle one step of room (ePIC's dashboard).",
    ),
    sources=("ePIC's API.md", "pyasic", "asic-rs"),
)

LIMIT = "limit"
"""The key of the points that are held by a power target, in whole watts."""
NORMAL = "normal"
"""The key of the one working point of a machine whose tuner does not run by power."""

_POWER_TUNE = "PowerTune"
_IDLING = "Idling"
_MINING = "Mining"
_LOWEST_SHARE = 0.5
"""How far under its rating a power target is given where it names no least; assumed."""
_RAMP_S: Seconds = 600.0


class Epic:
    """One miner under ePIC's firmware."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=30.0, settle_up_s=300.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._web = WebServer(access.host, access.settings.rpc_port)
        self._tuner: Reply | None = None
        self._asked_at: Seconds = float("-inf")
        self._is_asleep: bool | None = None
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        summary = await self._ask("summary", until)
        able = await self._ask("capabilities", until)
        board = _part(able, "Control Board Version")
        return Identity(
            make="Antminer",
            model=str(able.get("Model") or self._access.model).removeprefix("Antminer "),
            firmware="epic",
            version=str(summary.get("Software") or ""),
            serial=str(board.get("cpuSerial") or "") or await self._mac(until),
            rated_w=self._access.rated_w,
        )

    async def _mac(self, until: Seconds) -> str:
        """Its network address stands in for a serial; empty where it does not say."""
        try:
            network = await self._ask("network", until)
        except DriverError:
            return ""
        return str(_part(network, "dhcp").get("mac_address") or _part(network, "static").get("mac_address") or "")

    async def read(self, until: Seconds) -> Reading:
        taken_at, writes = time.monotonic(), self._writes
        summary = await self._ask("summary", until)
        condition = _part(summary, "Status")
        stated = condition.get("Operating State")
        tuner = _power_tuner(summary)
        is_asleep = stated == _IDLING if isinstance(stated, str) else None
        if writes == self._writes:
            self._tuner, self._is_asleep, self._asked_at = tuner, is_asleep, taken_at
        rate = _rate(summary)
        target_w = _target_w(tuner)
        error = condition.get("Last Error")
        return Reading(
            taken_at,
            _state(stated, rate, number(_part(summary, "Session").get("Uptime"))),
            power_w=watts(_part(summary, "Power Supply Stats").get("Input Power")),
            rate=rate,
            point_key=OFF if is_asleep else None if is_asleep is None else LIMIT if tuner else NORMAL,
            limit_w=float(target_w) if target_w is not None and not is_asleep else None,
            fault=str(error)[:200] if error else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Off, then every watt from the least power target that it names to its rating, or to what it is set to where
        that is higher."""
        await self.read(until)
        rating, target_w = self._access.rating(), _target_w(self._tuner)
        full_w = max(rating.power_w if rating else 0.0, float(target_w or 0))
        if not full_w:
            raise unknown_draw(self._access.model)
        per_w = rating.rate_hs / rating.power_w if rating else _HASH_PER_JOULE
        if self._tuner is None:
            return OperatingPoints((off_point(), OperatingPoint(NORMAL, full_w, full_w * per_w)))
        bounds_w = _bounds_w(await self._ask("capabilities", until))
        full_w = min(full_w, bounds_w[1]) if bounds_w else full_w
        least_w = max(bounds_w[0] if bounds_w else full_w * _LOWEST_SHARE, _least_above_throttle_w(self._tuner))
        working = [OperatingPoint(LIMIT, full_w, full_w * per_w, divisible=True)]
        if STANDBY_W < least_w < full_w:
            working.insert(0, OperatingPoint(LIMIT, least_w, least_w * per_w))
        return OperatingPoints((off_point(), *working), step_w=1.0)

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            await self._command("miner", "Stop", until)
            return Outcome.ACKNOWLEDGED
        if point.key not in (LIMIT, NORMAL):
            raise Unsupported(f"ePIC knows {OFF}, {LIMIT} and {NORMAL}, not {point.key!r}")
        target_w = math.floor(point.draw_w + 1e-6)
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        if is_old or self._is_asleep is not False or _target_w(self._tuner) in (None, target_w):
            await self.read(until)
        is_asleep, tuner = self._is_asleep is not False, self._tuner  # one that does not say is told to start
        if point.key == LIMIT and tuner is None and self._is_asleep is not None:
            raise Unsupported("its tuner does not run by power")
        if point.key == NORMAL and tuner is not None:
            raise Unsupported("its tuner runs by power")
        has_changed = tuner is not None and _target_w(tuner) != target_w
        if tuner is not None and has_changed:
            # All of it is written at once: what is left out would be reset.
            kept = {"min_throttle": tuner.get("Min Throttle Target"), "throttle_step": tuner.get("Throttle Step")}
            stated = {name: value for name, value in kept.items() if value is not None}
            await self._command("perpetualtune/algo", {"algo": _POWER_TUNE, "target": target_w, **stated}, until)
        if not is_asleep:
            return Outcome.ACKNOWLEDGED if has_changed else Outcome.ALREADY_THERE
        try:
            await self._command("miner", "Autostart", until)
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given {target_w} W idling, then not started: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        return None

    async def _ask(self, page: str, until: Seconds) -> Reply:
        reply = said(await self._web.request("GET", f"/{page}", until))
        if reply.get("result") is False:
            raise BadReply(f"{page}: {str(reply.get('error'))[:120]}")
        return reply

    async def _command(self, page: str, parameter: object, until: Seconds) -> None:
        """One command, checked."""
        self._writes += 1
        self._tuner = self._is_asleep = None  # whatever they were, they have to be asked
        body = json_bytes({"param": parameter, "password": self._access.password or "letmein"})
        with command_sent():
            answer = await self._web.request("POST", f"/{page}", until, body=body)
            if answer.status in (401, 403):
                raise AuthFailed(f"{page}: it does not accept the password")
            if answer.status >= 500:
                raise OutcomeUnknown(f"{page}: HTTP {answer.status} {answer.body[:120]!r}")
            if answer.status != 200:
                raise Refused(f"{page}: HTTP {answer.status} {answer.body[:120]!r}")
            reply = parse(answer.body)
            if not isinstance(reply.get("result"), bool):
                raise BadReply(f"neither yes nor no: {str(reply)[:120]}")
        if reply["result"]:
            return
        words = str(reply.get("error"))[:120]
        if "password" in words.lower():
            raise AuthFailed(f"{page}: {words}")
        raise Refused(f"{page}: {words}")


_HASH_PER_JOULE = 1e12 / 25.0  # where nobody knows the model


def _part(reply: Reply, key: str) -> Reply:
    part = reply.get(key)
    return part if isinstance(part, dict) else {}


def _power_tuner(summary: Reply) -> Reply | None:
    """What the tuner is set to where it runs by power; `None` where it runs by hashrate, or not at all."""
    tuner = _part(summary, "PerpetualTune")
    found = _part(tuner, "Algorithm").get(_POWER_TUNE)
    return found if tuner.get("Running") is True and isinstance(found, dict) and watts(found.get("Target")) else None


def _target_w(tuner: Reply | None) -> int | None:
    target_w = watts(tuner.get("Target")) if tuner is not None else None
    return int(target_w) if target_w is not None else None


def _bounds_w(able: Reply) -> tuple[Watts, Watts] | None:
    """The least and the most power target that its tuner takes, as its capabilities name them for each algorithm."""
    listed = able.get("PerpetualTune")
    for tuner in listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ():
        if isinstance(tuner, dict) and tuner.get("algorithm") == _POWER_TUNE:
            least_w, most_w = watts(tuner.get("min")), watts(tuner.get("max"))
            return (least_w, most_w) if least_w and most_w and least_w <= most_w else None
    return None


def _least_above_throttle_w(tuner: Reply) -> Watts:
    """A target leaves its thermal throttle one step of room (ePIC's dashboard keeps to that)."""
    floor_w = watts(tuner.get("Min Throttle Target"))
    return floor_w + (watts(tuner.get("Throttle Step")) or 0.0) if floor_w is not None else 0.0


def _rate(summary: Reply) -> float | None:
    """The sum over the boards, each of which says its hashrate first and its share of the ideal second."""
    boards = summary.get("HBs")
    if not isinstance(boards, list):
        return None
    total = 0.0
    for board in boards:
        stated = board.get("Hashrate") if isinstance(board, dict) else None
        rate = hashrate(stated[0] if isinstance(stated, list) and stated else stated, 1e6)
        if rate is None:
            return None
        total += rate
    return total


def _state(stated: object, rate: float | None, uptime_s: float | None) -> RunState:
    if stated == _IDLING:
        return RunState.RUNNING if rate else RunState.ASLEEP  # told to stop and not obeying yet
    if not isinstance(stated, str):
        return RunState.UNKNOWN
    if stated != _MINING:
        return RunState.STARTING  # initializing, adjusting clock and voltage, …
    if rate:
        return RunState.RUNNING
    if rate is None or uptime_s is None:
        return RunState.UNKNOWN
    return RunState.STARTING if uptime_s < _RAMP_S else RunState.IDLE
