"""VNish (port 80, JSON under /api/v1): readings in clear, everything else under a token that a password unlocks. It is
brought down by presets that it has tuned on this very machine, some changes of which restart it, or from release 1.3.3
by a throttle under the one it is set to, which acts within seconds. Sources: VNish's OpenAPI document (1.2.6 to 1.3.4)
and asic-rs 289, which measured the throttle on an S19 Pro Hydro; pyasic; hass-miner 7.
"""

from __future__ import annotations

import asyncio
import math
import re
import time

from curtaild_drivers.asic.cgminer import Reply, hashrate, json_bytes, parse, temperature, watts
from curtaild_drivers.asic.firmware import Access, check_still, off_point, unknown_draw
from curtaild_drivers.asic.http import Response, WebServer, said
from curtaild_drivers.asic.vnish_presets import LIMIT, PERCENTS, percent, presets, throttled
from curtaild_drivers.asic.wire import command_sent
from curtaild_drivers.contract import (
    OFF,
    AuthFailed,
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
    firmware="vnish",
    device="Antminer under VNish",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, stopped it, woke it and chose a preset by its name",
    reads_watts="yes",
    throttled_by="the presets tuned on the machine; from 1.3.3 a throttle in percent under the preset",
    stopped_by="mining stop",
    auth="password, admin as shipped",
    ports="80",
    quirks=(
        "A preset that was never tuned on this machine would first tune for hours: only tuned ones are offered "
        "(VNish's OpenAPI document, autotune/presets).",
        "Not every change of preset wants a restart, as a real machine's log shows: it is restarted where its answer "
        "asks for that (hass-miner 7).",
        "A change of preset is answered the same whether it was taken or not: it is read back (pyasic, web/vnish.py).",
        "Sent with the overclock block that was read before, a preset overwrites what was tuned: its name alone is "
        "sent (pyasic, web/vnish.py).",
    ),
    sources=("VNish's OpenAPI document, 1.2.6 to 1.3.4", "asic-rs", "hass-miner", "pyasic"),
)

_ASLEEP = ("stopped", "paused")
_STOPPING = "shutting-down"
_STARTING = ("initializing", "starting", "restarting", "auto-tuning", "auto_tuning")
_FAILED = ("failure", "failed", "broken")
_SCHEMES = ("Bearer ", "")
"""How a token is shown: as the OpenAPI document says, or bare, as pyasic does with older releases."""
_THROTTLE = "mining/throttle"
_RAMP_S: Seconds = 600.0


class VNish:
    """One miner under VNish."""

    # Not `restarts`: only some changes of preset do, and the throttle never.
    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=60.0, settle_up_s=600.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._web = WebServer(access.host, access.settings.http_port)
        self._token: str | None = None
        self._scheme = _SCHEMES[0]
        self._preset: str | None = None
        self._asked_at: Seconds = float("-inf")
        self._ask_again_at: Seconds = float("-inf")
        self._is_asleep: bool | None = None
        self._can_throttle = False
        self._percent: int | None = None
        self._tuned: frozenset[str] = frozenset()
        self._drawn_at: dict[str, Watts] = {}
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        info = said(await self._send("GET", "info", until))
        check_still("vnish", str(info.get("fw_name") or ""))
        system = _part(info, "system")
        serial = str(info.get("serial") or "").removeprefix("N/A")
        points = await self.operating_points(until)
        return Identity(
            make="Antminer",
            model=str(info.get("miner") or self._access.model).removeprefix("Antminer "),
            firmware="vnish",
            version=str(info.get("fw_version") or ""),
            serial=serial or str(_part(system, "network_status").get("mac") or ""),
            rated_w=self._access.rated_w or points.highest.draw_w,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        miner = await self._look(until)
        condition = _part(miner, "miner_status")
        stated = str(condition.get("miner_state") or "")
        rate = hashrate(miner.get("hr_realtime"), 1e9)
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        if (self._preset is None or is_old) and time.monotonic() >= self._ask_again_at:
            try:  # which also keeps a token in hand, so that a shed is one command
                await self._preset_now(until)
            except DriverError:  # the reading stands without it
                self._ask_again_at = time.monotonic() + self._access.settings.recheck_s
        is_off = stated in (*_ASLEEP, _STOPPING)
        is_throttled = self._percent is not None and self._percent < 100
        return Reading(
            taken_at,
            _state(stated, rate, condition.get("miner_state_time")),
            # "power_usage" says the same in 1.2, and W per TH in 1.3
            power_w=watts(miner.get("power_consumption", miner.get("power_usage"))),
            rate=rate,
            point_key=OFF if is_off else LIMIT if is_throttled else self._preset,
            limit_w=self._limit_w() if is_throttled and not is_off else None,
            temperature_c=temperature(_part(miner, "chip_temp").get("max")),
            fault=str(condition.get("description") or stated)[:200] if stated in _FAILED else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Off, the presets it has tuned (any other would first tune for hours), and what it is set to now. Where it
        throttles, that stands in for the presets under the present one."""
        current = await self._preset_now(until)
        await self._look(until)
        answer = await self._privileged("GET", "autotune/presets", until)
        listed = presets(answer, current, self._access.rating())
        self._tuned = frozenset(preset.name for preset in listed if preset.is_tuned)
        offered = [preset.point for preset in listed if preset.point and (preset.is_tuned or preset.name == current)]
        self._drawn_at = {point.key: point.draw_w for point in offered}
        best: dict[Watts, OperatingPoint] = {}
        for point in offered:
            if point.draw_w not in best or point.key == current:
                best[point.draw_w] = point
        if not best:
            raise unknown_draw(self._access.model)
        present_w = self._drawn_at.get(current or "")
        if present_w is None or not self._can_throttle:
            return OperatingPoints((off_point(), *(best[draw_w] for draw_w in sorted(best))))
        working = [best[draw_w] for draw_w in sorted(best) if draw_w >= present_w]
        return OperatingPoints((off_point(), *throttled(working[0]), *working), step_w=present_w / 100)

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            await self._command("mining/stop", until)
            return Outcome.ACKNOWLEDGED
        if point.key == LIMIT:
            return await self._throttle(await self._percent_for(point.draw_w, until), until)
        if self._preset is None or self._preset == point.key:
            await self._preset_now(until)
        has_changed = point.key != self._preset
        if self._is_asleep is None or (self._can_throttle and self._percent is None):
            await self._look(until)
        is_asleep, is_throttled = self._is_asleep is True, self._can_throttle and self._percent != 100
        if not (has_changed or is_asleep or is_throttled):
            return Outcome.ALREADY_THERE
        must_restart = has_changed and await self._set_preset(point.key, until)
        sent = [f"preset {point.key!r}"] if has_changed else []
        for path, is_due in (
            ("start", is_asleep),
            ("restart", must_restart and not is_asleep),
            ("throttle", is_throttled),
        ):
            if not is_due:
                continue
            try:
                await self._command(f"mining/{path}", until, {"percent": 100} if path == "throttle" else None)
            except DriverError as error:
                if not sent:
                    raise
                raise OutcomeUnknown(f"given {' and '.join(sent)}, then {path}: {error}") from error
            sent.append(path)
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        self._token = None

    def _limit_w(self) -> Watts | None:
        """What the throttle comes to; `None` while nobody knows what the preset draws."""
        present_w = self._drawn_at.get(self._preset or "")
        return present_w * self._percent / 100 if present_w is not None and self._percent is not None else None

    async def _percent_for(self, draw_w: Watts, until: Seconds) -> int:
        """The whole percent that keeps the draw at or under `draw_w`: all of a preset that draws less. Raises
        `Unsupported` where there is none."""
        if self._drawn_at.get(self._preset or "") is None:
            await self.operating_points(until)
        present_w = self._drawn_at.get(self._preset or "")
        if not self._can_throttle or present_w is None:
            raise Unsupported("it does not say that it can throttle (from release 1.3.3), or nobody knows its preset")
        wanted = min(math.floor(draw_w / present_w * 100 + 1e-6), 100)
        if wanted not in PERCENTS:
            raise Unsupported(f"{draw_w:.0f} W is {wanted} % of its preset; it throttles to 20 % and more")
        return wanted

    async def _throttle(self, wanted: int, until: Seconds) -> Outcome:
        if self._is_asleep is None or self._percent in (None, wanted):
            await self._look(until)
        if not self._is_asleep:
            if self._percent == wanted:
                return Outcome.ALREADY_THERE
            await self._command(_THROTTLE, until, {"percent": wanted})
            return Outcome.ACKNOWLEDGED
        # Whether a start forgets the throttle nobody says, so it is said after it; full power is minutes away.
        await self._command("mining/start", until)
        try:
            await self._command(_THROTTLE, until, {"percent": wanted})
        except DriverError as error:
            raise OutcomeUnknown(f"woken, and not throttled to {wanted} %: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def _set_preset(self, name: str, until: Seconds) -> bool:
        """Sends the preset's name and nothing else: with an overclock block that was read before, the device would
        overwrite what it has tuned. Whether the mining process must be restarted for it."""
        if name not in self._tuned:
            await self.operating_points(until)
        if name not in self._tuned:
            raise Unsupported(f"it has no tuned preset {name!r}; it has {', '.join(sorted(self._tuned)) or 'none'}")
        reply = await self._command("settings", until, {"miner": {"overclock": {"preset": name}}})
        # It answers the same whether it took the preset or not (pyasic, web/vnish.py).
        try:
            taken = await self._preset_now(until)
        except DriverError as error:
            raise OutcomeUnknown(f"given preset {name!r}, then: {error}") from error
        if taken not in (name, None):
            raise Refused(f"it says yes to preset {name!r} and stays at {taken!r}")
        return reply.get("restart_required") is True

    async def _look(self, until: Seconds) -> Reply:
        """Its summary, and what follows from it for the next command."""
        writes = self._writes
        miner = await self._summary(until)
        condition = _part(miner, "miner_status")
        stated = str(condition.get("miner_state") or "")
        stated_percent = percent(condition.get("throttled"))
        if self._access.settings.vnish_lever == "throttle":
            self._can_throttle = self._can_throttle or stated_percent is not None
        if writes == self._writes:
            self._is_asleep = stated in _ASLEEP if stated else None
            self._percent = stated_percent if self._can_throttle else None
        return miner

    async def _summary(self, until: Seconds) -> Reply:
        answer = await self._send("GET", "summary", until)
        if answer.status == 401:  # some releases want a token for it as well
            answer = await self._privileged("GET", "summary", until)
        miner = said(answer).get("miner")
        if not isinstance(miner, dict):  # its document allows that while the mining process is not there
            return {"miner_status": said(await self._send("GET", "status", until))}
        check_still("vnish", str(miner.get("miner_type") or ""))
        return miner

    async def _preset_now(self, until: Seconds) -> str | None:
        writes = self._writes
        settings = said(await self._privileged("GET", "settings", until))
        named = _part(_part(settings, "miner"), "overclock").get("preset")
        preset = named if isinstance(named, str) and named else None
        if writes == self._writes:
            self._preset, self._asked_at = preset, time.monotonic()
        return preset

    async def _command(self, path: str, until: Seconds, body: Reply | None = None) -> Reply:
        """One command, checked. A token that the device no longer knows is a refusal, so one new one is asked for."""
        self._writes += 1
        self._is_asleep = self._percent = None  # whatever they were, they have to be asked
        self._preset = self._preset if path == _THROTTLE else None
        self._ask_again_at = float("-inf")
        answer = await self._privileged("POST", path, until, json_bytes(body) if body else b"")
        if answer.status >= 500:
            raise OutcomeUnknown(f"{path}: HTTP {answer.status} {answer.body[:120]!r}")
        if answer.status not in (200, 204):
            raise Refused(f"{path}: HTTP {answer.status} {answer.body[:120]!r}")
        if not answer.body.strip():
            return {}  # how it says yes to a command
        with command_sent():
            reply = parse(answer.body)
        if reply.get("err") or reply.get("success") is False:
            raise Refused(f"{path}: {str(reply.get('err'))[:120]}")
        return reply

    async def _privileged(self, method: str, path: str, until: Seconds, body: bytes = b"") -> Response:
        if self._token is not None:
            answer = await self._send(method, path, until, body)
            if answer.status != 401:
                return answer
        await self._unlock(until)
        for scheme in _SCHEMES:
            self._scheme = scheme
            answer = await self._send(method, path, until, body)
            if answer.status != 401:
                return answer
        self._token = None
        raise AuthFailed(f"{path}: it does not accept the token it has just given")

    async def _unlock(self, until: Seconds) -> None:
        self._token = None
        question = json_bytes({"pw": self._access.password or "admin"})
        answer = await self._web.request("POST", "/api/v1/unlock", until, body=question)
        if answer.status in (400, 401, 403):
            raise AuthFailed("it does not accept the password")
        token = said(answer).get("token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,4096}", token):
            raise AuthFailed("it gives no token for the password")
        self._token = token

    async def _send(self, method: str, path: str, until: Seconds, body: bytes = b"") -> Response:
        headers = {"Authorization": self._scheme + self._token} if self._token is not None else {}
        if method == "GET":
            return await self._web.request("GET", f"/api/v1/{path}", until, headers)
        try:
            with command_sent():
                return await self._web.request(method, f"/api/v1/{path}", until, headers, body)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._token = None  # a device that reboots knows it no more
            raise


def _state(stated: str, rate: float | None, since_s: object) -> RunState:
    if stated in _FAILED:
        return RunState.FAULT
    if stated in _ASLEEP:
        return RunState.RUNNING if rate else RunState.ASLEEP  # told to stop and not obeying yet
    if stated in _STARTING:
        return RunState.STARTING
    if rate:
        return RunState.RUNNING
    if stated == "mining" and rate is not None:
        is_young = isinstance(since_s, (int, float)) and since_s < _RAMP_S
        return RunState.STARTING if is_young else RunState.IDLE
    return RunState.STARTING if stated == _STOPPING else RunState.UNKNOWN


def _part(reply: Reply, key: str) -> Reply:
    part = reply.get(key)
    return part if isinstance(part, dict) else {}
