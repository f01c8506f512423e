"""Whatsminer with API v2 (btminer, port 4028): readings in clear, commands under an AES token. Throttled by
set_power_pct, which acts within a second and is forgotten at a restart; adjust_power_limit would restart the miner.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import cache
from typing import Any

from curtaild_drivers.asic.btminer_token import Token
from curtaild_drivers.asic.cgminer import (
    MinerStopped,
    Reply,
    ask_json,
    description,
    first,
    hashrate,
    json_bytes,
    number,
    status,
    temperature,
    watts,
)
from curtaild_drivers.asic.firmware import Access, check_still
from curtaild_drivers.asic.whatsminer import Whatsminer
from curtaild_drivers.asic.wire import command_sent
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DriverError,
    Identity,
    OutcomeUnknown,
    Reading,
    Refused,
    Seconds,
)
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = Support(
    firmware="whatsminer-v2",
    device="Whatsminer, API v2",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, stopped it, woke it and set its power limit; percent by us alone",
    reads_watts="yes",
    throttled_by="power limit in whole percents",
    stopped_by="power_off",
    auth="password, admin as shipped; the write API must be switched on",
    ports="4028",
    quirks=(
        "The percent is forgotten at a restart, so a start is told it again (MicroBT's API document, set_power_pct).",
        "A token lasts about half an hour, and the seventeenth within that is refused with code 136 (MicroBT's API "
        "document, get_token).",
        "Some close the connection without an answer to power_off, and some stop answering while off (MicroBT's API "
        "document, respbefore; pyasic, rpc/btminer.py).",
    ),
    sources=("MicroBT's API document 2.0", "pyasic"),
)

_GOT_TOKEN, _PERMISSION_DENIED, _NO_MORE_TOKENS = 134, 45, 136
_NOT_UNDERSTOOD = {23, 135, 137}
"""invalid JSON, token check, base64: what a command under a stale token or from a wrong password is answered with."""


class WhatsminerV2(Whatsminer):
    """One Whatsminer that speaks API v2."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self._password = access.password or "admin"
        self._token: Token | None = None
        self._login_again_at: Seconds = float("-inf")
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        version = (await self._ask("get_version", until)).get("Msg")
        details = first(await self._ask("devdetails", until), "DEVDETAILS")
        if not isinstance(version, dict):
            raise BadReply("get_version: no fw_ver in the answer")
        model = str(details.get("Model") or self._access.model)
        try:
            info = (await self._ask("get_miner_info", until)).get("Msg")
        except DriverError:
            info = None  # older ones do not have it; who it is was said above
        return Identity(
            make="WhatsMiner",
            model=model,
            firmware="whatsminer-v2",
            version=str(version.get("fw_ver") or ""),
            serial=str(info.get("mac") or "") if isinstance(info, dict) else "",
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        try:
            summary = first(await self._ask("summary", until), "SUMMARY")
        except MinerStopped:
            summary = {}
        self._power_limit_w = watts(summary.get("Power Limit")) or self._power_limit_w
        rate = hashrate(summary.get("HS RT", summary.get("MHS 1m")), 1e6)
        await self._ask_again_where_it_may_be_news(rate, until)
        await self._warm_up(until)
        return self._reading(
            taken_at,
            rate,
            power_w=watts(summary.get("Power")),
            is_tuned=summary.get("Upfreq Complete"),
            elapsed_s=number(summary.get("Elapsed")),
            temperature_c=temperature(summary.get("Chip Temp Avg", summary.get("Temperature"))),
        )

    async def close(self) -> None:
        self._token = None

    async def _switch(self, is_on: bool, until: Seconds) -> None:
        self._is_off = None  # whatever it was, it has to be asked
        if is_on:
            await self._command(until, "power_on")
        else:
            await self._command(until, "power_off", respbefore="true")

    async def _throttle(self, percent: int, until: Seconds) -> None:
        await self._command(until, "set_power_pct", percent=str(percent))

    async def _ask(self, command: str, until: Seconds) -> Reply:
        settings = self._access.settings
        reply = await ask_json(self._access.host, settings.rpc_port, _question(command), until)
        check_still("whatsminer-v2", description(reply))
        return reply

    async def _ask_what_it_is_set_to(self, until: Seconds) -> None:
        """`status` says whether the miner was switched off, and on newer firmware the percent it keeps to."""
        writes = self._writes
        message = (await self._ask("status", until)).get("Msg")
        if not isinstance(message, dict):
            raise BadReply("status: no message in the answer")
        said = message.get("mineroff", message.get("btmineroff"))  # the latter up to API 1.4
        if writes == self._writes:
            self._is_off = None if said is None else str(said).lower() == "true"
            self._percent = number(message.get("power_pct"))
            self._power_limit_w = watts(message.get("power_limit_set")) or self._power_limit_w
            self._asked_at = time.monotonic()

    async def _command(self, until: Seconds, command: str, **parameters: str) -> None:
        """One command, checked. A token that the device no longer knows is a refusal, so one new login is tried."""
        self._writes += 1
        self._asked_at = float("-inf")
        token, is_fresh = self._token, False
        if token is None or not token.is_good:
            token, is_fresh = await self._login(until), True
        ok, code, words = await self._send(token, command, parameters, until)
        if not ok and code in _NOT_UNDERSTOOD and not is_fresh:
            token, is_fresh = await self._login(until), True
            ok, code, words = await self._send(token, command, parameters, until)
        if ok:
            return
        if code == _PERMISSION_DENIED or "can't access write cmd" in words:
            raise AuthFailed(f"{command}: its write API is switched off ({words})")
        if code in _NOT_UNDERSTOOD:
            self._token = None
            raise AuthFailed(f"{command}: it does not accept the password ({words})")
        raise Refused(f"{command}: {words} (code {code})")

    async def _send(
        self, token: Token, command: str, parameters: dict[str, str], until: Seconds
    ) -> tuple[bool, int | None, str]:
        settings = self._access.settings
        try:
            with command_sent():
                sealed = token.sealed(command, **parameters)
                reply = token.opened(await ask_json(self._access.host, settings.rpc_port, json_bytes(sealed), until))
                verdict = status(reply)
                if not verdict[0] and verdict[1] is None:
                    raise BadReply(f"neither yes nor no: {_shown(reply)}")
        except (OutcomeUnknown, asyncio.CancelledError):
            self._token = None  # a wiped or rebooting device knows it no more
            raise
        return verdict

    async def _warm_up(self, until: Seconds) -> None:
        """Keeps a token in hand, so that a shed is one command and not two and two md5-crypts (0.7 ms of CPU each
        device). A device that gives none is left alone for a while."""
        has_one = self._token is not None and time.monotonic() < self._token.renew_at
        if has_one or time.monotonic() < self._login_again_at:
            return
        self._login_again_at = time.monotonic() + self._access.settings.recheck_s
        with suppress(DriverError):
            await self._login(until)

    async def _login(self, until: Seconds) -> Token:
        reply = await self._ask("get_token", until)
        _, code, words = status(reply)
        if code == _NO_MORE_TOKENS or "over max" in words:
            raise Refused(f"it has no token left to give ({words}); they expire within 30 min")
        if code not in (None, _GOT_TOKEN, 131):
            raise Refused(f"get_token: {words} (code {code})")
        self._token = Token.made_from(reply.get("Msg"), self._password)
        return self._token


@cache
def _question(command: str) -> bytes:
    return json_bytes({"cmd": command})


def _shown(reply: dict[str, Any]) -> str:
    return str(reply)[:120]
