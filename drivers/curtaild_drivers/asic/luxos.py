"""LuxOS (port 4028): cgminer's API with profiles, and with curtailment made for this very purpose. One joined command
tells all; writes need a session, of which the device has one. Source: docs.luxor.tech/firmware/api.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from curtaild_drivers.asic.cgminer import (
    Reply,
    ask_json,
    description,
    first,
    hashrate,
    inner,
    json_bytes,
    number,
    question,
    status,
    watts,
)
from curtaild_drivers.asic.firmware import Access, check_still, off_point
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
    firmware="luxos",
    device="Antminer under LuxOS",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, put it to sleep, woke it and chose a profile by watts",
    reads_watts="yes",
    throttled_by="the profiles on the machine",
    stopped_by="curtail sleep, about 25 W",
    auth="a session, without a password",
    ports="4028",
    quirks=(
        "It has one session for all its clients, and its maker asks them to open it only for what they have to change. "
        "So it is opened for a command, serves those of the next 50 s, and is given back when the daemon stops or "
        'reloads; a shed after a longer pause is two commands, unless the site says `luxos_session = "kept"` '
        "(docs.luxor.tech/firmware/api/sessions).",
        "Its sleep outlasts a reboot (docs.luxor.tech/firmware/api, curtail).",
    ),
    sources=("docs.luxor.tech/firmware/api", "pyasic"),
)

_SLEEP_W: Watts = 25.0  # Luxor's own figure
_SESSION_LASTS_S: Seconds = 50.0
"""A session ends 60 s after its last use."""
_RENEW_BEFORE_S: Seconds = 20.0
"""Readings come every ten seconds or so: one of them falls into this."""
_LOGOFF_DEADLINE_S: Seconds = 1.0
_RAMP_S: Seconds = 600.0
_STARTING_WORDS = ("init", "ramp", "start")
_TH = 1e12


class LuxOS:
    """One miner under LuxOS."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=5.0, settle_up_s=180.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session: str | None = None
        self._session_good_until: Seconds = float("-inf")
        self._profile: str | None = None
        self._drawn_at: dict[str, Watts] = {}
        self._is_asleep: bool | None = None

    async def describe(self, until: Seconds) -> Identity:
        version = first(await self._ask("version", until), "VERSION")
        config = first(await self._ask("config", until), "CONFIG")
        model = str(version.get("Type") or config.get("Model") or self._access.model)
        points = await self.operating_points(until)
        return Identity(
            make="Antminer",
            model=model.removeprefix("Antminer "),
            firmware="luxos",
            version=str(version.get("LUXminer") or version.get("Miner") or ""),
            serial=str(config.get("SerialNumber") or ""),
            rated_w=self._access.rated_w or points.highest.draw_w,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        reply = await self._ask("power+summary+config", until)
        power = first(inner(reply, "power"), "POWER")
        summary = first(inner(reply, "summary"), "SUMMARY")
        config = first(inner(reply, "config"), "CONFIG")
        check_still("luxos", description(inner(reply, "summary")))
        self._learn(config)
        if self._access.settings.luxos_session == "kept":
            await self._renew_session(until)
        rate = hashrate(summary.get("GHS 5s"), 1e9)
        return Reading(
            taken_at,
            self._state(config, rate, number(summary.get("Elapsed"))),
            power_w=watts(power.get("Watts")),
            rate=rate,
            point_key=OFF if self._is_asleep else self._profile,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Off and the device's profiles; where several draw the same, the one that hashes most."""
        reply = await self._ask("profiles", until)
        profiles = reply.get("PROFILES")
        best: dict[Watts, OperatingPoint] = {}
        for profile in profiles if isinstance(profiles, list) else ():
            point = _point(profile)
            if point is not None:
                self._drawn_at[point.key] = point.draw_w
            if point is not None and (point.draw_w not in best or point.rate > best[point.draw_w].rate):
                best[point.draw_w] = point
        if not best:
            raise BadReply("profiles: none with a name, watts and a hashrate")
        return OperatingPoints((off_point(_SLEEP_W), *(best[draw_w] for draw_w in sorted(best))))

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            await self._command(until, "curtail", "sleep", may_borrow=True)
            return Outcome.ACKNOWLEDGED
        if "," in point.key:
            raise Unsupported(f"LuxOS has no profile of the name {point.key!r}")
        if self._is_asleep is None or self._profile in (None, point.key):
            self._learn(first(await self._ask("config", until), "CONFIG"))
        if self._is_asleep is False and self._profile == point.key:
            return Outcome.ALREADY_THERE
        if not self._is_asleep:
            present_w = self._drawn_at.get(self._profile or "")
            is_shed = present_w is not None and point.draw_w < present_w
            await self._set_profile(until, point.key, may_borrow=is_shed)
            return Outcome.ACKNOWLEDGED
        # It wakes into the profile it slept in, so another one is chosen before it wakes.
        has_changed = point.key != self._profile
        if has_changed:
            await self._set_profile(until, point.key)
        try:
            await self._command(until, "curtail", "wakeup")
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given profile {point.key!r} asleep, then not woken: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        """Logs off: otherwise nobody, not even this daemon after a reload, could open a session for a minute."""
        session, self._session = self._session, None
        if session is not None and time.monotonic() < self._session_good_until:
            with suppress(DriverError):  # it ends by itself all the same
                await self._ask("logoff", asyncio.get_running_loop().time() + _LOGOFF_DEADLINE_S, session)

    async def _set_profile(self, until: Seconds, profile: str, may_borrow: bool = False) -> None:
        reply = await self._command(until, "profileset", profile, may_borrow)
        taken = first(reply, "PROFILE").get("Profile")
        if taken is not None and taken != profile:
            raise OutcomeUnknown(f"asked for profile {profile!r}, it took {taken!r}")

    async def _ask(self, command: str, until: Seconds, session: str | None = None) -> Reply:
        settings = self._access.settings
        asked = question(command) if session is None else json_bytes({"command": command, "parameter": session})
        reply = await ask_json(self._access.host, settings.rpc_port, asked, until)
        check_still("luxos", description(reply))
        return reply

    def _learn(self, config: Reply) -> None:
        mode, profile = config.get("CurtailMode"), config.get("Profile")
        if isinstance(mode, str):
            self._is_asleep = mode.lower().startswith("sleep")
        else:  # some lose the key while they sleep; with its supply off a miner does
            self._is_asleep = True if config.get("IsPowerSupplyOn") is False else None
        self._profile = profile if isinstance(profile, str) and profile else None

    def _state(self, config: Reply, rate: float | None, elapsed_s: float | None) -> RunState:
        if self._is_asleep:
            # Told to sleep and not obeying yet: its hashes, or a supply that is on, say so.
            is_obeying = not rate and config.get("IsPowerSupplyOn") is not True
            return RunState.ASLEEP if is_obeying else RunState.RUNNING
        if config.get("IsTuning") is True or str(config.get("SystemStatus")).lower().startswith(_STARTING_WORDS):
            return RunState.STARTING
        if rate:
            return RunState.RUNNING
        if rate is None or elapsed_s is None:
            return RunState.UNKNOWN
        return RunState.STARTING if elapsed_s < _RAMP_S else RunState.IDLE

    async def _command(self, until: Seconds, command: str, argument: str, may_borrow: bool = False) -> Reply:
        """One command under a session, which is kept where the answer was lost: the device still has it. One that has
        ended is a refusal, so one new one is opened. With
        `may_borrow` the session of another writer serves as well: a shed must not wait for a person at a screen, nor
        for the session of a daemon that was killed to end, all else must."""
        session, is_fresh = self._session, False
        if session is None or time.monotonic() > self._session_good_until:
            session, is_fresh = await self._open_session(until, may_borrow), True
        reply = await self._send(command, session, argument, until)
        ok, code, words = status(reply)
        if not ok and not is_fresh and "session" in words.lower():
            session = await self._open_session(until, may_borrow)
            reply = await self._send(command, session, argument, until)
            ok, code, words = status(reply)
        if not ok:
            self._session = None
            raise Refused(f"{command} {argument}: {words} (code {code})")
        return reply

    async def _send(self, command: str, session: str, argument: str, until: Seconds) -> Reply:
        settings = self._access.settings
        told = json_bytes({"command": command, "parameter": f"{session},{argument}"})
        self._is_asleep = None  # whatever it was, it has to be asked
        with command_sent():
            reply = await ask_json(self._access.host, settings.rpc_port, told, until)
            if not isinstance(reply.get("STATUS"), (list, str)):
                raise BadReply(f"neither yes nor no: {str(reply)[:120]}")
        self._session_good_until = time.monotonic() + _SESSION_LASTS_S
        return reply

    async def _renew_session(self, until: Seconds) -> None:
        """Nothing harmless lengthens a session, so one that will soon end is exchanged for a new one."""
        if self._session is not None and time.monotonic() < self._session_good_until - _RENEW_BEFORE_S:
            return
        with suppress(DriverError):  # the reading stands without it; another writer may have it
            if self._session is not None:
                await self._ask("logoff", until, self._session)
            await self._open_session(until, may_borrow=False)

    async def _open_session(self, until: Seconds, may_borrow: bool) -> str:
        self._session = None
        reply = await self._ask("logon", until)
        ok, _, words = status(reply)
        session = first(reply, "SESSION").get("SessionID")
        if not ok and may_borrow:
            session = first(await self._ask("session", until), "SESSION").get("SessionID")
            if isinstance(session, str) and session:
                return session
        if not ok:
            raise Refused(f"logon: {words}")  # its one session is another writer's
        if not isinstance(session, str) or not session:
            raise BadReply("logon: no SessionID in the answer")
        self._session, self._session_good_until = session, time.monotonic() + _SESSION_LASTS_S
        return session


def _point(profile: object) -> OperatingPoint | None:
    if not isinstance(profile, dict):
        return None
    name = profile.get("Profile Name")
    draw_w, rate = watts(profile.get("Watts")), hashrate(profile.get("Hashrate"), _TH)
    if not isinstance(name, str) or not name or name == OFF or draw_w is None or rate is None:
        return None
    return OperatingPoint(name, draw_w, rate) if draw_w > _SLEEP_W else None
