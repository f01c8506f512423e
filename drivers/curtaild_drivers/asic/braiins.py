"""Braiins OS (gRPC on port 50051): a power target in watts, and a pause, on one kept connection under a token. Source:
Braiins' public API (bos-plus-api, package braiins.bos.v1), whose field numbers are named below.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Coroutine
from typing import Any

from curtaild_drivers.asic.cgminer import hashrate, watts
from curtaild_drivers.asic.firmware import STANDBY_W, Access, off_point
from curtaild_drivers.asic.grpc import Answer, GrpcChannel
from curtaild_drivers.asic.protobuf import Message, nested, number
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
    Unreachable,
    Unsupported,
    Watts,
)
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = Support(
    firmware="braiins",
    device="Antminer under Braiins OS",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, paused it, woke it and set its power target",
    reads_watts="yes, as an estimate of the firmware",
    throttled_by="power target in whole watts, where its tuner runs by power",
    stopped_by="pause",
    auth="user and password, root / root as shipped",
    ports="50051",
    quirks=(
        "The old BOSMiner without the gRPC API is only watched (pyasic, backends/bosminer.py: its stop goes by SSH).",
        "How long it takes over a pause and a resume is set on the machine (quick ramping); that is read, waited "
        "for, and never set (bos-plus-api, 1.7.0).",
        "A power target ends a tuning by hashrate or by hand, so one that runs so is only paused (bos-plus-api, "
        "performance.proto).",
    ),
    sources=("Braiins' public API, bos-plus-api", "pyasic"),
)

LIMIT = "limit"
"""The key of the points that are held by a power target, in whole watts."""
NORMAL = "normal"
"""The key of the one working point of a machine whose tuner does not run by power."""

_OK, _PERMISSION_DENIED, _UNAUTHENTICATED = 0, 7, 16
_REFUSALS = {3, 5, 6, _PERMISSION_DENIED, 9, 11, 12}
"""gRPC's codes for a request that was understood and not carried out: argument, state, range, not implemented …"""
_NOT_STARTED, _NORMAL, _PAUSED, _SUSPENDED, _RESTRICTED = 1, 2, 3, 4, 5  # MinerStatus
_DISABLED, _TUNING = 1, 3  # TunerState
_SAVE_AND_APPLY = 2  # SaveAction
_HASH_PER_JOULE = 1e12 / 25.0  # where nobody knows the model
_RAMP_S: Seconds = 600.0
_SETTLE_DOWN_S: Seconds = 30.0
_SETTLE_UP_S: Seconds = 300.0
_AFTER_RAMP_S: Seconds = 20.0
"""What its measurement needs to follow; assumed."""
_LONGEST_RAMP_S = 3_600
_TOKEN_LASTS_S: Seconds = 3_540.0
"""An hour, less a minute."""
_TOKEN_USED = 0.8, 1.0
"""For how much of that: some share between these, lest the devices of a farm all need the next in the same second."""

_LOGIN = "/braiins.bos.v1.AuthenticationService/Login"
_STATS = "/braiins.bos.v1.MinerService/GetMinerStats"
_DETAILS = "/braiins.bos.v1.MinerService/GetMinerDetails"
_TUNER = "/braiins.bos.v1.PerformanceService/GetTunerState"
_TARGET = "/braiins.bos.v1.PerformanceService/SetPowerTarget"
_CONFIGURATION = "/braiins.bos.v1.ConfigurationService/GetMinerConfiguration"
_CONSTRAINTS = "/braiins.bos.v1.ConfigurationService/GetConstraints"
_PAUSE = "/braiins.bos.v1.ActionsService/PauseMining"
_RESUME = "/braiins.bos.v1.ActionsService/ResumeMining"


class Braiins:
    """One miner under Braiins OS."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._channel = GrpcChannel(access.host, access.settings.braiins_port)
        self._token: str | None = None
        self._token_good_until: Seconds = float("-inf")
        self._logging_in = asyncio.Lock()
        self._target_w: int | None = None
        self._is_tuning = False
        self._tunes_by_power: bool | None = None
        self._ramp_down_s: Seconds = 0.0
        self._ramp_up_s: Seconds = 0.0
        self._asked_at: Seconds = float("-inf")
        self._is_paused: bool | None = None
        self._writes = 0

    @property
    def capabilities(self) -> Capabilities:
        """Its site may have set how long it takes over a pause and a resume (quick ramping, from API 1.7)."""
        return Capabilities(
            measures_power=True,
            throttles=True,
            stops=True,
            settle_down_s=max(_SETTLE_DOWN_S, self._ramp_down_s + _AFTER_RAMP_S),
            settle_up_s=max(_SETTLE_UP_S, self._ramp_up_s + _AFTER_RAMP_S),
        )

    async def describe(self, until: Seconds) -> Identity:
        details = await self._ask(_DETAILS, until)
        identity = details.message(2)
        points = await self.operating_points(until)
        model = identity.text(4) or identity.text(3) or self._access.model
        return Identity(
            make="Antminer" if "antminer" in model.lower() or not model else model.partition(" ")[0],
            model=model.removeprefix("Antminer "),
            firmware="braiins",
            version=details.message(5).text(1),
            serial=details.text(16) or details.text(7),
            rated_w=self._access.rated_w or points.highest.draw_w,
        )

    async def read(self, until: Seconds) -> Reading:
        """Two or three questions side by side on the one connection: a single round trip."""
        taken_at, writes = time.monotonic(), self._writes
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        questions = [self._ask(_STATS, until), self._ask(_DETAILS, until)]
        if self._target_w is None or self._is_tuning or is_old:
            questions.append(self._ask(_TUNER, until))
        stats, details, *tuner = await _all(*questions)
        if tuner:
            self._learn_target(tuner[0], writes)
        status = details.number(12)
        if writes == self._writes:
            self._is_paused = status == _PAUSED if status else None
        real = stats.message(2).message(1).message(1)
        rate = hashrate(real.double(1), 1e9) if stats.has(2) else None
        is_off = status == _PAUSED
        return Reading(
            taken_at,
            self._state(status, rate, details.number(10)),
            power_w=watts(stats.message(3).message(1).number(1)),
            rate=rate,
            point_key=OFF if is_off else self._point_key(),
            limit_w=float(self._target_w) if self._target_w is not None and not is_off else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Off, then every watt from the lowest power target it allows to its default, or to what it is set to where
        that is higher: more would be overclocking that nobody asked for. A machine that is tuned by hashrate or by
        hand is left so: a power target would end that."""
        writes = self._writes
        constraints, tuner = await _all(self._ask(_CONSTRAINTS, until), self._ask(_TUNER, until))
        await self._learn_ramps(until)
        allowed = constraints.message(1).message(1)
        default_w, least_w, most_w = (watts(allowed.message(field).number(1)) for field in (1, 2, 3))
        target_w = self._learn_target(tuner, writes)
        if least_w is None or most_w is None or least_w > most_w:
            raise BadReply("constraints: no range of power targets")
        full_w = max(min(max(default_w or 0.0, target_w or 0.0) or most_w, most_w), least_w)
        rating = self._access.rating()
        per_w = rating.rate_hs / rating.power_w if rating else _HASH_PER_JOULE
        if not _is_by_power(tuner):
            return OperatingPoints((off_point(), OperatingPoint(NORMAL, full_w, full_w * per_w)))
        working = [OperatingPoint(LIMIT, full_w, full_w * per_w, divisible=True)]
        if STANDBY_W < least_w < full_w:
            working.insert(0, OperatingPoint(LIMIT, least_w, least_w * per_w))
        return OperatingPoints((off_point(), *working), step_w=1.0)

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key == OFF:
            reply = await self._command(_PAUSE, b"", until)
            return Outcome.ALREADY_THERE if reply.number(1) else Outcome.ACKNOWLEDGED
        if point.key not in (LIMIT, NORMAL):
            raise Unsupported(f"Braiins OS knows {OFF}, {LIMIT} and {NORMAL}, not {point.key!r}")
        target_w = math.floor(point.draw_w + 1e-6) if point.key == LIMIT else None
        if self._is_paused is None or self._target_w in (None, target_w):
            self._target_w = None  # whatever is remembered, it is asked anew
            await self.read(until)
        if self._tunes_by_power is not None and self._tunes_by_power is not (point.key == LIMIT):
            raise Unsupported(f"its tuner {'runs' if self._tunes_by_power else 'does not run'} by power")
        is_paused = self._is_paused is not False  # one that does not say is told to resume
        has_changed = target_w is not None and self._target_w != target_w
        if has_changed and target_w is not None:
            await self._set_target(target_w, until)
        if not is_paused:
            return Outcome.ACKNOWLEDGED if has_changed else Outcome.ALREADY_THERE
        try:
            await self._command(_RESUME, b"", until)
        except DriverError as error:
            if not has_changed:
                raise
            raise OutcomeUnknown(f"given {target_w} W paused, then not resumed: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        self._token = None
        self._channel.hang_up()

    async def _set_target(self, target_w: int, until: Seconds) -> None:
        request = number(1, _SAVE_AND_APPLY) + nested(2, number(1, target_w))
        reply = await self._command(_TARGET, request, until)
        taken_w = reply.message(1).number(1)
        if taken_w != target_w:
            raise OutcomeUnknown(f"asked for {target_w} W, it took {taken_w} W")

    def _point_key(self) -> str | None:
        if self._tunes_by_power is False:
            return NORMAL
        return LIMIT if self._target_w is not None else None

    async def _learn_ramps(self, until: Seconds) -> None:
        try:
            boards = (await self._ask(_CONFIGURATION, until)).message(5)
        except BadReply:
            return  # a release that does not tell
        self._ramp_up_s, self._ramp_down_s = (
            float(boards.number(field)) if 0 < boards.number(field) <= _LONGEST_RAMP_S else 0.0 for field in (4, 5)
        )

    def _learn_target(self, tuner: Message, writes: int) -> Watts | None:
        target_w = watts(tuner.message(2).message(2).number(1))
        if writes == self._writes:  # otherwise it was asked before a write and is history
            self._target_w = int(target_w) if target_w is not None else None
            self._is_tuning = tuner.number(1) == _TUNING
            self._tunes_by_power = _is_by_power(tuner)
            self._asked_at = time.monotonic()
        return target_w

    def _state(self, status: int, rate: float | None, uptime_s: int) -> RunState:
        if status == _PAUSED:
            return RunState.RUNNING if rate else RunState.ASLEEP  # told to pause and not obeying yet
        if status == _NOT_STARTED:
            return RunState.STARTING
        if status == _SUSPENDED:
            return RunState.IDLE
        if status not in (_NORMAL, _RESTRICTED):
            return RunState.UNKNOWN
        if rate:
            return RunState.STARTING if self._is_tuning and uptime_s < _RAMP_S else RunState.RUNNING
        return RunState.UNKNOWN if rate is None else RunState.STARTING if uptime_s < _RAMP_S else RunState.IDLE

    async def _ask(self, path: str, until: Seconds) -> Message:
        answer = await self._privileged(path, b"", until)
        if answer.status != _OK:
            raise BadReply(f"{path.rpartition('/')[2]}: gRPC status {answer.status} {answer.words}")
        return Message(answer.message)

    async def _command(self, path: str, request: bytes, until: Seconds) -> Message:
        """One command, checked. A token that has ended is a refusal, so one new login is tried."""
        self._writes += 1
        self._target_w = self._is_paused = None  # whatever they were, they have to be asked
        name = path.rpartition("/")[2]
        answer = await self._privileged(path, request, until, is_command=True)
        if answer.status in _REFUSALS:
            raise Refused(f"{name}: {answer.words} (gRPC status {answer.status})")
        if answer.status != _OK:
            raise OutcomeUnknown(f"{name}: {answer.words} (gRPC status {answer.status})")
        with command_sent():
            return Message(answer.message)

    async def _privileged(self, path: str, request: bytes, until: Seconds, is_command: bool = False) -> Answer:
        used = self._token
        if used is not None and time.monotonic() < self._token_good_until:
            answer = await self._send(path, request, until, used, is_command)
            if answer.status != _UNAUTHENTICATED:
                return answer
        token = await self._login(used, until)
        answer = await self._send(path, request, until, token, is_command)
        if answer.status == _UNAUTHENTICATED:
            self._token = None
            raise AuthFailed(f"it does not accept the token it has just given: {answer.words}")
        return answer

    async def _send(self, path: str, request: bytes, until: Seconds, token: str, is_command: bool) -> Answer:
        if not is_command:
            return await self._channel.call(path, request, until, token)
        with command_sent():
            return await self._channel.call(path, request, until, token)

    async def _login(self, stale: str | None, until: Seconds) -> str:
        """A new token in place of `stale`; of several questions that find it stale at once, one logs in."""
        try:
            async with asyncio.timeout_at(until):
                await self._logging_in.acquire()
        except TimeoutError:
            raise Unreachable("its login did not end in time") from None
        try:
            if self._token is None or self._token == stale:
                self._token = None
                self._token, lasts_s = await self._new_token(until)
                self._token_good_until = time.monotonic() + lasts_s * random.uniform(*_TOKEN_USED)
            return self._token
        finally:
            self._logging_in.release()

    async def _new_token(self, until: Seconds) -> tuple[str, Seconds]:
        user, password = self._access.settings.username or "root", self._access.password or "root"
        request = nested(1, user.encode()) + nested(2, password.encode())
        answer = await self._channel.call(_LOGIN, request, until)
        if answer.status in (_UNAUTHENTICATED, _PERMISSION_DENIED):
            raise AuthFailed("it does not accept the user and the password")
        if answer.status != _OK:
            raise BadReply(f"Login: gRPC status {answer.status} {answer.words}")
        reply = Message(answer.message)
        token = answer.headers.get("authorization") or reply.text(1)
        if not re.fullmatch(r"[!-~]{1,4096}", token):
            raise AuthFailed("it gives no token for the password")
        return token, min(reply.number(2) or _TOKEN_LASTS_S, _TOKEN_LASTS_S)


def _is_by_power(tuner: Message) -> bool:
    """By its tuner's state: a target in watts, and neither one in hashes nor frequencies set by hand."""
    return not tuner.has(3) and tuner.number(1) != _DISABLED


async def _all(*questions: Coroutine[Any, Any, Message]) -> list[Message]:
    """Every answer; as soon as one question fails, the others are dropped."""
    asked = [asyncio.ensure_future(question) for question in questions]
    try:
        return await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
