"""Auradine (HTTP port 8080, JSON in cgminer's manner under a token): a power target, and a sleep that keeps it. Its
cgminer API on 4028 tells the hashrate in clear. Sources: pyasic, asic-rs and the answers recorded there.
"""

from __future__ import annotations

import asyncio
import math
import re
import time

from curtaild_drivers.asic.cgminer import (
    Reply,
    ask_json,
    description,
    first,
    hashrate,
    json_bytes,
    number,
    parse,
    question,
    status,
    watts,
)
from curtaild_drivers.asic.firmware import STANDBY_W, Access, check_still, off_point, unknown_draw
from curtaild_drivers.asic.http import Response, WebServer, said
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
    firmware="auradine",
    device="Auradine Teraflux (FluxOS)",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, put it to sleep, woke it and set its power target",
    reads_watts="yes",
    throttled_by="power target in whole watts",
    stopped_by="sleep",
    auth="password, admin as shipped",
    ports="8080 to command, 4028 for the hashrate",
    quirks=(
        "Its eco mode draws nobody says how much less, and turbo how much more: it is put back into eco where it was "
        "found so, and turbo is never chosen (pyasic, config/mining).",
        "It refuses a token that has ended by HTTP 401 or in words with HTTP 200 (pyasic, web/auradine.py).",
    ),
    sources=("pyasic", "asic-rs and the answers recorded there"),
)

LIMIT = "limit"
"""The key of the points that are held by a power target, in whole watts."""
MODES = ("normal", "eco")
"""The modes that draw no more than its rating: "normal", in which it is shipped, and "eco", of which nobody says how
much less. What "turbo" draws nobody says at all, so it is never chosen."""

_LOWEST_SHARE = 0.5
"""How far under its rating a target is given; assumed, since the firmware names no least target."""
_RAMP_S: Seconds = 600.0
_STALE_TOKEN = re.compile(r"token|session|expired|unauthorized", re.IGNORECASE)


class Auradine:
    """One Teraflux under FluxOS."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=30.0, settle_up_s=300.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._web = WebServer(access.host, access.settings.auradine_port)
        self._token: str | None = None
        self._mode: str | None = None
        self._found_in: str | None = None
        self._target_w: int | None = None
        self._is_asleep: bool | None = None
        self._asked_at: Seconds = float("-inf")
        self._ask_again_at: Seconds = float("-inf")
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        report = first(await self._ask("ipreport", until), "IPReport")
        return Identity(
            make="Auradine",
            model=str(report.get("model") or self._access.model),
            firmware="auradine",
            version=str(report.get("version") or ""),
            serial=str(report.get("SerialNo") or report.get("mac") or ""),
            rated_w=self._access.rated_w,
        )

    async def read(self, until: Seconds) -> Reading:
        """The supply's watts and the hashrate, asked side by side; what it is set to only where that may be news."""
        taken_at = time.monotonic()
        asked = [asyncio.ensure_future(self._ask("psu", until)), asyncio.ensure_future(self._summary(until))]
        try:
            psu, summary = await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()
        rate = hashrate(summary.get("MHS 5s"), 1e6)
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        contradicts = self._is_asleep is None or self._is_asleep == bool(rate)
        if (is_old or contradicts) and time.monotonic() >= self._ask_again_at:
            try:
                await self._learn_mode(until)
            except DriverError:  # the reading stands without it
                self._ask_again_at = time.monotonic() + self._access.settings.recheck_s
        return Reading(
            taken_at,
            self._state(rate, number(summary.get("Elapsed"))),
            power_w=_with_unit(first(psu, "PSU").get("PowerIn")),
            rate=rate,
            point_key=OFF if self._is_asleep else self._mode,
            limit_w=float(self._target_w) if self._target_w is not None and not self._is_asleep else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Off, then every watt up to the rating, or to what it is set to where that is higher; and the mode it was
        found in, so that it can be put back into it."""
        await self._learn_mode(until)
        rating = self._access.rating()
        full_w = max(rating.power_w if rating else 0.0, float(self._target_w or 0))
        if not full_w:
            raise unknown_draw(self._access.model)
        per_w = rating.rate_hs / rating.power_w if rating else _HASH_PER_JOULE
        least_w, most_w = full_w * _LOWEST_SHARE, full_w - 1.0 if self._found_in else full_w
        working = [OperatingPoint(LIMIT, most_w, most_w * per_w, divisible=True)]
        if least_w > STANDBY_W:
            working.insert(0, OperatingPoint(LIMIT, least_w, least_w * per_w))
        if self._found_in:
            working.append(OperatingPoint(self._found_in, full_w, full_w * per_w))
        return OperatingPoints((off_point(), *working), step_w=1.0)

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            await self._command({"sleep": "on"}, until)
            return Outcome.ACKNOWLEDGED
        if point.key not in (LIMIT, *MODES):
            raise Unsupported(f"an Auradine knows {OFF}, {LIMIT}, {' and '.join(MODES)}, not {point.key!r}")
        target_w = math.floor(point.draw_w + 1e-6) if point.key == LIMIT else None
        if self._is_asleep is None or (self._mode, self._target_w) == (point.key, target_w):
            await self._learn_mode(until)
        is_asleep = self._is_asleep is not False
        has_changed = (self._mode, self._target_w) != (point.key, target_w)
        if has_changed and target_w is None:
            await self._command({"mode": point.key}, until)
        elif has_changed:
            await self._command({"mode": "custom", "tune": "power", "power": target_w}, until)
        if not is_asleep:
            return Outcome.ACKNOWLEDGED if has_changed else Outcome.ALREADY_THERE
        try:
            await self._command({"sleep": "off"}, until)
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given {point.key} {point.draw_w:.0f} W asleep, then not woken: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        self._token = None

    async def _summary(self, until: Seconds) -> Reply:
        reply = await ask_json(self._access.host, self._access.settings.rpc_port, question("summary"), until)
        check_still("auradine", description(reply))
        return first(reply, "SUMMARY")

    async def _learn_mode(self, until: Seconds) -> None:
        writes = self._writes
        mode = first(await self._ask("mode", until), "Mode")
        if writes != self._writes:
            return  # it was asked before a write and is history
        named, sleep = mode.get("Mode"), str(mode.get("Sleep")).lower()
        target_w = watts(mode.get("Power"))
        is_by_power = named == "custom" and target_w is not None
        self._mode = LIMIT if is_by_power else named if isinstance(named, str) and named else None
        self._found_in = self._mode if self._mode in MODES else self._found_in
        self._target_w = int(target_w) if is_by_power and target_w is not None else None
        self._is_asleep = {"on": True, "true": True, "off": False, "false": False}.get(sleep)
        self._asked_at = time.monotonic()

    def _state(self, rate: float | None, elapsed_s: float | None) -> RunState:
        if self._is_asleep:
            return RunState.RUNNING if rate else RunState.ASLEEP  # told to sleep and not obeying yet
        if rate:
            return RunState.RUNNING
        if rate is None or elapsed_s is None or self._is_asleep is None:
            return RunState.UNKNOWN
        return RunState.STARTING if elapsed_s < _RAMP_S else RunState.IDLE

    async def _ask(self, page: str, until: Seconds) -> Reply:
        reply = said(await self._privileged("GET", page, until))
        ok, code, words = status(reply)
        if not ok:
            raise BadReply(f"{page}: {words} (code {code})")
        return reply

    async def _command(self, change: Reply, until: Seconds) -> None:
        """One change of mode, checked. A token that has ended is a refusal, so one new one is asked for."""
        self._writes += 1
        self._mode = self._target_w = self._is_asleep = None  # whatever they were, they have to be asked
        self._ask_again_at = float("-inf")
        answer = await self._privileged("POST", "mode", until, json_bytes({"command": "mode", **change}))
        if answer.status >= 500:
            raise OutcomeUnknown(f"mode: HTTP {answer.status} {answer.body[:120]!r}")
        if answer.status != 200:
            raise Refused(f"mode: HTTP {answer.status} {answer.body[:120]!r}")
        with command_sent():
            reply = parse(answer.body)
            if not isinstance(reply.get("STATUS"), (list, str)):
                raise BadReply(f"neither yes nor no: {str(reply)[:120]}")
        ok, code, words = status(reply)
        if not ok:
            raise Refused(f"mode: {words} (code {code})")

    async def _privileged(self, method: str, page: str, until: Seconds, body: bytes = b"") -> Response:
        if self._token is not None:
            answer = await self._send(method, page, until, body)
            if not _wants_token(answer):
                return answer
        await self._new_token(until)
        answer = await self._send(method, page, until, body)
        if _wants_token(answer):
            self._token = None
            raise AuthFailed(f"{page}: it does not accept the token it has just given")
        return answer

    async def _new_token(self, until: Seconds) -> None:
        self._token = None
        user = self._access.settings.username or "admin"
        login = {"command": "token", "user": user, "password": self._access.password or "admin"}
        answer = await self._web.request("POST", "/token", until, body=json_bytes(login))
        if answer.status in (400, 401, 403):
            raise AuthFailed("it does not accept the user and the password")
        token = first(said(answer), "Token").get("Token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,4096}", token):
            raise AuthFailed("it gives no token for the user and the password")
        self._token = token

    async def _send(self, method: str, page: str, until: Seconds, body: bytes) -> Response:
        headers = {"Token": self._token} if self._token is not None else {}
        if method == "GET":
            return await self._web.request("GET", f"/{page}", until, headers)
        try:
            with command_sent():
                return await self._web.request(method, f"/{page}", until, headers, body)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._token = None  # a device that reboots knows it no more
            raise


_HASH_PER_JOULE = 1e12 / 18.0  # where the table knows no better: a Teraflux AT2880


def _wants_token(answer: Response) -> bool:
    """Whether a request was turned away for its token: by its HTTP status, or by the words of a refusal."""
    if answer.status == 401:
        return True
    if answer.status != 200:
        return False
    try:
        ok, _, words = status(parse(answer.body))
    except BadReply:
        return False
    return not ok and _STALE_TOKEN.search(words) is not None


def _with_unit(claimed: object) -> Watts | None:
    """Watts from "3412.50W"."""
    return watts(claimed.strip().removesuffix("W")) if isinstance(claimed, str) else watts(claimed)
