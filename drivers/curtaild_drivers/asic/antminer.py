"""Stock Antminer (S19, S21 and their kin): cgminer's API on 4028 for readings, CGI with digest authentication on
port 80 for the mode. It measures no power. Its mode is one field of a configuration that can only be written whole,
pools included: a write from anything but a fresh, valid copy would lose them.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from curtaild_drivers.asic.cgminer import ask_json, description, first, hashrate, number, parse, question
from curtaild_drivers.asic.configuration import Configuration, refuse_hidden, to_the_letter, written_back
from curtaild_drivers.asic.digest import DigestClient
from curtaild_drivers.asic.firmware import Access, check_still, off_point, unknown_draw
from curtaild_drivers.asic.wire import Unanswered, command_sent
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
    firmware="antminer",
    device="Antminer, stock firmware (S19, S21 and their kin)",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, put it to sleep, woke it and found its pools kept; low mode by us alone",
    reads_watts="no; inferred from the mode that its hashrate proves",
    throttled_by="low mode",
    stopped_by="sleep mode",
    auth="digest, root / root as shipped",
    ports="4028 to read, 80 to command",
    quirks=(
        "Its mode is one field of a configuration that is written whole, pools included: nothing is written without "
        "a valid copy, no older than `recheck_s` (60 s). What a person saves on its page within that time before a "
        "shed is overwritten (the stock web pages' own requests; pyasic, backends/antminer.py).",
        "It reads as bitmain-work-mode and bitmain-freq-level, and is written as miner-mode and freq-level (pyasic, "
        "config/mining).",
        "One that was found in high mode (2) goes back to normal after a shed: nobody says what high draws (pyasic, "
        "config/mining).",
        "Asleep, it answers with an empty summary, which pyasic takes for mining (reported from real machines).",
        "A change of mode restarts the mining process; the API on 4028 is gone meanwhile (reported from real "
        "machines).",
    ),
    sources=("pyasic", "the stock web pages' own requests"),
)

NORMAL, LOW = "normal", "low"

_MODES = {NORMAL: 0, OFF: 1, LOW: 3}  # as pyasic and the stock web pages write it
_KEYS = {"0": NORMAL, "1": OFF, "2": "high", "3": LOW}
_SLEEP_W: Watts = 30.0
_LOW_DRAW, _LOW_RATE = 0.75, 0.82  # of normal; assumed, the daemon learns the truth
_RAMP_S: Seconds = 600.0
"""Few or no hashes this soon after the miner process began is starting, later it is not (3-10 min to full)."""
_FULL_SHARE = 0.9
"""The share of its rated hashes at which a young miner process has arrived."""
_RETRY_S: Seconds = 10.0
"""How long a configuration that could not be read is left alone by readings."""


class Antminer:
    """One stock Antminer."""

    capabilities = Capabilities(
        measures_power=False, throttles=True, stops=True, settle_down_s=60.0, settle_up_s=600.0, restarts=True
    )

    def __init__(self, access: Access) -> None:
        settings = access.settings
        self._access = access
        self._web = DigestClient(
            access.host, settings.http_port, settings.username or "root", access.password or "root"
        )
        self._configuration: Configuration | None = None
        self._asked_at: Seconds = float("-inf")
        self._ask_again_at: Seconds = float("-inf")
        self._fault: str | None = None
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        reply = await self._ask("version", until)
        version = first(reply, "VERSION")
        serial, model = "", str(version.get("Type") or self._access.model)
        try:
            system = await self._get("get_system_info", until)
        except DriverError:
            pass  # the web server may want another password; who it is was said on 4028
        else:
            serial = str(system.get("serinum") or "")
            model = str(system.get("minertype") or model)
        return Identity(
            make="Antminer",
            model=model.removeprefix("Antminer "),
            firmware="antminer",
            version=str(version.get("CompileTime") or ""),
            serial=serial,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        try:
            reply = await self._ask("summary", until)
        except Unanswered:
            raise
        except Unreachable:
            # The miner process is restarting (a mode change does that); the web server outlives it.
            try:
                mode, fault = _mode(await self._configuration_now(until)), None
            except (AuthFailed, BadReply) as error:
                mode, fault = None, str(error)
            return Reading(taken_at, RunState.STARTING, point_key=mode, fault=fault)
        summary = first(reply, "SUMMARY")
        rate = hashrate(summary.get("GHS 5s"), 1e9)  # "GHS av" goes on for long after the last hash
        mode, fault = await self._set_to(rate, until)
        state = self._state(rate, number(summary.get("Elapsed")), mode)
        return Reading(taken_at, state, rate=rate, point_key=mode, fault=fault)

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        rating = self._access.rating()
        if rating is None:
            raise unknown_draw(self._access.model)
        return OperatingPoints(
            (
                off_point(_SLEEP_W),
                OperatingPoint(LOW, rating.power_w * _LOW_DRAW, rating.rate_hs * _LOW_RATE),
                OperatingPoint(NORMAL, rating.power_w, rating.rate_hs),
            )
        )

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key not in _MODES:
            raise Unsupported(f"a stock Antminer knows {', '.join(_MODES)}, not {point.key!r}")
        configuration = self._configuration
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        if configuration is None or is_old or _mode(configuration) == point.key:
            configuration = await self._configuration_now(until)
            if _mode(configuration) == point.key:
                return Outcome.ALREADY_THERE
        return await self._write(_with_mode(configuration, _MODES[point.key]), until)

    async def close(self) -> None:
        return None

    async def _ask(self, command: str, until: Seconds) -> dict[str, Any]:
        reply = await ask_json(self._access.host, self._access.settings.rpc_port, question(command), until)
        check_still("antminer", description(reply))
        return reply

    async def _set_to(self, rate: float | None, until: Seconds) -> tuple[str | None, str | None]:
        """The mode the device says it is set to, and why it cannot be known. Asked anew after a write, after
        `recheck_s`, and whenever the hashrate contradicts what is remembered."""
        mode = _mode(self._configuration)
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        contradicts = (mode == OFF) == bool(rate)
        if self._configuration is not None and not is_old and not contradicts:
            return mode, None
        if time.monotonic() < self._ask_again_at:
            return None, self._fault
        try:
            return _mode(await self._configuration_now(until)), None
        except (AuthFailed, Unreachable, BadReply) as error:
            # A web server that hangs must not cost every reading its whole deadline.
            self._ask_again_at = time.monotonic() + _RETRY_S
            self._fault = f"configuration not readable: {error}"
            return None, self._fault

    def _state(self, rate: float | None, elapsed_s: float | None, mode: str | None) -> RunState:
        is_young = elapsed_s is not None and elapsed_s < _RAMP_S
        if rate:
            rating = self._access.rating()
            is_full = rating is None or rate > _FULL_SHARE * rating.rate_hs * (_LOW_RATE if mode == LOW else 1.0)
            return RunState.RUNNING if is_full or not is_young or mode == OFF else RunState.STARTING
        if mode == OFF:
            return RunState.ASLEEP
        if rate is None or elapsed_s is None:
            return RunState.UNKNOWN
        return RunState.STARTING if is_young else RunState.IDLE

    async def _configuration_now(self, until: Seconds) -> Configuration:
        writes = self._writes
        configuration = await self._get("get_miner_conf", until)
        if "pools" not in configuration:
            raise BadReply(f"not a miner's configuration: {', '.join(sorted(configuration))[:120]}")
        if writes == self._writes:  # otherwise it was asked before a write and is history
            self._configuration = configuration
            self._asked_at = time.monotonic()
        return configuration

    async def _get(self, page: str, until: Seconds) -> dict[str, Any]:
        return to_the_letter(page, await self._web.request("GET", f"/cgi-bin/{page}.cgi", until))

    async def _write(self, configuration: Configuration, until: Seconds) -> Outcome:
        _refuse_if_it_would_lose_pools(configuration)
        body = written_back(configuration)
        try:
            with command_sent():
                answer = await self._web.request("POST", "/cgi-bin/set_miner_conf.cgi", until, body)
                if answer.status >= 500:
                    raise OutcomeUnknown(f"HTTP {answer.status} to a configuration: it may have been taken")
                if answer.status != 200:
                    raise Refused(f"HTTP {answer.status} to a configuration")
                reply = parse(answer.body)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._forget()
            raise
        if reply.get("stats") != "success":
            raise Refused(f"configuration refused: {reply.get('code')} {reply.get('msg')}")
        self._forget()
        return Outcome.ACKNOWLEDGED

    def _forget(self) -> None:
        """What the device is set to must be asked before it is believed, or written back, again."""
        self._writes += 1
        self._configuration = None
        self._ask_again_at = float("-inf")


def _mode(configuration: Configuration | None) -> str | None:
    if configuration is None:
        return None
    stated = configuration.get("bitmain-work-mode", configuration.get("miner-mode"))
    if stated == "":
        return NORMAL  # a machine that was never set to anything else
    return None if stated is None else _KEYS.get(str(stated), f"mode {str(stated)[:16]}")


def _with_mode(configuration: Configuration, mode: int) -> Configuration:
    """The device's own configuration with another mode and nothing else changed. It *reads* as bitmain-work-mode and
    bitmain-freq-level, and is *written* as miner-mode and freq-level: both are sent, saying the same."""
    changed = {**configuration, "miner-mode": mode}
    if "bitmain-work-mode" in configuration:
        stated = configuration["bitmain-work-mode"]
        changed["bitmain-work-mode"] = str(mode) if isinstance(stated, str) else mode
    if "bitmain-freq-level" in configuration:
        changed.setdefault("freq-level", configuration["bitmain-freq-level"])
    return changed


def _refuse_if_it_would_lose_pools(configuration: Configuration) -> None:
    pools = configuration.get("pools")
    if not isinstance(pools, list) or not all(
        isinstance(pool, dict) and all(isinstance(pool.get(key), str) for key in ("url", "user", "pass"))
        for pool in pools
    ):
        raise Refused("its configuration has no readable pools; writing it back would wipe them")
    if not any(pool["url"] for pool in pools):
        raise Refused("its configuration names no pool; writing it back would make that permanent")
    refuse_hidden(pool["pass"] for pool in pools)
