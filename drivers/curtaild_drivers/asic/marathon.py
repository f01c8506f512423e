"""Antminers under MARA's firmware (HTTP port 80, JSON under /kaonsu/v1 with digest authentication): its mode and its
power target are fields of a configuration that is written whole, pools included. Sources: pyasic (web/marathon.py,
config/mining), asic-rs.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

from curtaild_drivers.asic.cgminer import hashrate, number, watts
from curtaild_drivers.asic.configuration import Configuration, refuse_hidden, to_the_letter, written_back
from curtaild_drivers.asic.digest import DigestClient
from curtaild_drivers.asic.firmware import STANDBY_W, Access, off_point, unknown_draw
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
)
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = Support(
    firmware="marathon",
    device="Marathon (MARA firmware on Antminers)",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, stopped it, woke it and set its power target",
    reads_watts="yes, as an estimate of the firmware",
    throttled_by="power target in whole watts, where it runs by one",
    stopped_by="sleep mode",
    auth="digest, root / root as shipped",
    ports="80",
    quirks=(
        "Its configuration is written whole, pools included: nothing is written without a fresh, valid copy, and "
        "each write is read back (pyasic, backends/marathon.py).",
        "While it sleeps it does not say which mode it slept in: who did not see it awake wakes it in Auto (pyasic, "
        "backends/marathon.py).",
    ),
    sources=("pyasic", "asic-rs"),
)

LIMIT = "limit"
"""The key of the points that are held by a power target, in whole watts."""
NORMAL = "normal"
"""The key of the one working point of a machine that does not run by a power target."""

_SLEEP, _AUTO, _BY_POWER = "Sleep", "Auto", "PowerTarget"
_LOWEST_SHARE = 0.5
"""How far under its rating a target is given; assumed, since the firmware names no least target."""
_HASH_PER_JOULE = 1e12 / 30.0  # where nobody knows the model
_RAMP_S: Seconds = 600.0
_RETRY_S: Seconds = 10.0
"""How long a configuration that could not be read is left alone by readings."""


class Marathon:
    """One Antminer under MARA's firmware."""

    capabilities = Capabilities(measures_power=True, throttles=True, stops=True, settle_down_s=60.0, settle_up_s=600.0)

    def __init__(self, access: Access) -> None:
        self._access = access
        settings = access.settings
        self._web = DigestClient(
            access.host, settings.http_port, settings.username or "root", access.password or "root"
        )
        self._configuration: Configuration | None = None
        self._asked_at: Seconds = float("-inf")
        self._ask_again_at: Seconds = float("-inf")
        self._awake_mode = _AUTO
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        overview = await self._ask("overview", until)
        model = str(overview.get("model") or self._access.model)
        rating = replace(self._access, model=model).rating()
        return Identity(
            make="Antminer",
            model=model.removeprefix("Antminer "),
            firmware="marathon",
            version=str(overview.get("version_firmware") or ""),
            serial=str(overview.get("mac") or ""),
            rated_w=rating.power_w if rating else None,
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        brief = await self._ask("brief", until)
        rate = hashrate(brief.get("hashrate_realtime"), 1e12)
        is_old = taken_at - self._asked_at > self._access.settings.recheck_s
        contradicts = (_mode(self._configuration) == _SLEEP) == bool(rate)
        if (self._configuration is None or is_old or contradicts) and taken_at >= self._ask_again_at:
            try:  # which also keeps one in hand, so that a shed is one command
                await self._configuration_now(until)
            except DriverError:  # the reading stands without it
                self._configuration, self._ask_again_at = None, time.monotonic() + _RETRY_S
        mode, target_w = _mode(self._configuration), self._target_w()
        key = None if mode is None else OFF if mode == _SLEEP else NORMAL if target_w is None else LIMIT
        return Reading(
            taken_at,
            _state(mode, rate, number(brief.get("elapsed"))),
            power_w=watts(brief.get("power_consumption_estimated")),
            rate=rate,
            point_key=key,
            limit_w=float(target_w) if target_w is not None and key == LIMIT else None,
        )

    async def operating_points(self, until: Seconds) -> OperatingPoints:
        """Off, and its rating, or what it is set to where that is higher; down from there every watt where it runs by
        a power target."""
        await self._configuration_now(until)
        rating, target_w = self._access.rating(), self._target_w()
        full_w = max(rating.power_w if rating else 0.0, float(target_w or 0))
        if not full_w:
            raise unknown_draw(self._access.model)
        per_w = rating.rate_hs / rating.power_w if rating else _HASH_PER_JOULE
        if target_w is None:
            return OperatingPoints((off_point(), OperatingPoint(NORMAL, full_w, full_w * per_w)))
        working = [OperatingPoint(LIMIT, full_w, full_w * per_w, divisible=True)]
        least_w = full_w * _LOWEST_SHARE
        if least_w > STANDBY_W:
            working.insert(0, OperatingPoint(LIMIT, least_w, least_w * per_w))
        return OperatingPoints((off_point(), *working), step_w=1.0)

    async def apply(self, point: OperatingPoint, until: Seconds) -> Outcome:
        if point.key not in (OFF, LIMIT, NORMAL):
            raise Unsupported(f"a Marathon knows {OFF}, {LIMIT} and {NORMAL}, not {point.key!r}")
        is_old = time.monotonic() - self._asked_at > self._access.settings.recheck_s
        configuration = self._configuration
        if configuration is None or is_old or self._changed(configuration, point) == configuration:
            configuration = await self._configuration_now(until)
        if not point.is_off and (point.key == LIMIT) is (self._target_w() is None):
            raise Unsupported(f"it {'does not run' if point.key == LIMIT else 'runs'} by a power target")
        changed = self._changed(configuration, point)
        if changed == configuration:
            return Outcome.ALREADY_THERE
        await self._write(configuration, changed, until)
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        return None

    def _changed(self, configuration: Configuration, point: OperatingPoint) -> Configuration:
        """The device's own configuration at that point, and nothing else changed."""
        mode = dict(configuration["mode"])
        mode["work-mode-selector"] = _SLEEP if point.is_off else self._awake_mode
        if point.key == LIMIT and isinstance(mode.get("concorde"), dict):
            mode["concorde"] = {**mode["concorde"], "power-target": math.floor(point.draw_w + 1e-6)}
        return {**configuration, "mode": mode}

    def _target_w(self) -> int | None:
        """What it runs by, or ran by before it slept; `None` where that is no power target, or nobody knows."""
        if self._configuration is None or self._awake_mode != _AUTO:
            return None
        concorde = self._configuration["mode"].get("concorde")
        if not isinstance(concorde, dict) or concorde.get("mode-select") != _BY_POWER:
            return None
        target_w = watts(_power_target(self._configuration))
        return int(target_w) if target_w is not None else None

    async def _configuration_now(self, until: Seconds) -> Configuration:
        writes = self._writes
        configuration = await self._ask("miner_config", until)
        mode = configuration.get("mode")
        if not isinstance(mode, dict) or not isinstance(mode.get("work-mode-selector"), str):
            raise BadReply("its configuration names no mode")
        if writes == self._writes:  # otherwise it was asked before a write and is history
            self._configuration, self._asked_at = configuration, time.monotonic()
            if mode["work-mode-selector"] != _SLEEP:
                self._awake_mode = mode["work-mode-selector"]
        return configuration

    async def _ask(self, page: str, until: Seconds) -> dict[str, Any]:
        return to_the_letter(page, await self._web.request("GET", f"/kaonsu/v1/{page}", until))

    async def _write(self, before: Configuration, changed: Configuration, until: Seconds) -> None:
        """One write, read back: nobody has said how it is answered when it is not taken."""
        _refuse_if_it_would_lose_pools(changed)
        body = written_back(changed)
        try:
            with command_sent():
                answer = await self._web.request("POST", "/kaonsu/v1/miner_config", until, body)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._forget()
            raise
        self._forget()
        if answer.status >= 500:
            raise OutcomeUnknown(f"HTTP {answer.status} to a configuration: it may have been taken")
        if answer.status != 200:
            raise Refused(f"HTTP {answer.status} to a configuration")
        try:
            taken = await self._configuration_now(until)
        except DriverError as error:
            raise OutcomeUnknown(f"written, and not read back: {error}") from error
        for asked in (_mode, _power_target):
            if asked(changed) != asked(before) and asked(taken) != asked(changed):
                raise Refused(f"it takes a configuration for {asked(changed)!r} and stays at {asked(taken)!r}")

    def _forget(self) -> None:
        """What the device is set to must be asked before it is believed, or written back, again."""
        self._writes += 1
        self._configuration = None
        self._ask_again_at = float("-inf")


def _power_target(configuration: Configuration | None) -> object:
    concorde = configuration["mode"].get("concorde") if configuration is not None else None
    return concorde.get("power-target") if isinstance(concorde, dict) else None


def _mode(configuration: Configuration | None) -> str | None:
    return None if configuration is None else str(configuration["mode"]["work-mode-selector"])


def _state(mode: str | None, rate: float | None, elapsed_s: float | None) -> RunState:
    if mode == _SLEEP:
        return RunState.RUNNING if rate else RunState.ASLEEP  # told to sleep and not obeying yet
    if rate:
        return RunState.RUNNING
    if mode is None or rate is None or elapsed_s is None:
        return RunState.UNKNOWN
    return RunState.STARTING if elapsed_s < _RAMP_S else RunState.IDLE


def _refuse_if_it_would_lose_pools(configuration: Configuration) -> None:
    pools = configuration.get("pools")
    if not isinstance(pools, list) or not any(isinstance(pool, dict) and pool.get("url") for pool in pools):
        raise Refused("its configuration names no pools; writing it back would make that permanent")
    refuse_hidden(pool.get("pass") for pool in pools if isinstance(pool, dict))
