"""Whatsminer with API v3 (port 4433, firmware from 2024-11): JSON behind a 4-byte little-endian length, on a kept
connection, of which a device serves ten; commands carry a token salted per device and stamped with the time. Source:
apidoc.whatsminer.com, pyasic/rpc/btminer.py.
"""

from __future__ import annotations

import base64
import hashlib
import time
from contextlib import suppress
from functools import cache
from typing import Any

from curtaild_drivers.asic.cgminer import Reply, hashrate, json_bytes, number, parse, temperature, watts
from curtaild_drivers.asic.firmware import Access
from curtaild_drivers.asic.frames import FrameChannel
from curtaild_drivers.asic.whatsminer import Whatsminer
from curtaild_drivers.asic.wire import command_sent
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DriverError,
    Identity,
    Reading,
    Refused,
    Seconds,
)
from curtaild_drivers.maturity import Maturity, Support

SUPPORT = Support(
    firmware="whatsminer-v3",
    device="Whatsminer, API v3 (firmware from 2024-11)",
    maturity=Maturity.PEER,
    proven="pyasic identified it, read it, stopped it, woke it and set its power limit; percent by us alone",
    reads_watts="yes",
    throttled_by="power limit in whole percents",
    stopped_by="mining service stop",
    auth="account and password, super / super as shipped",
    ports="4433",
    quirks=(
        "Commands want the percent as text; as a number it is refused, against the documentation (reported from real "
        "machines).",
        "A percent set while it starts may be acknowledged and forgotten (apidoc.whatsminer.com, "
        "set.miner.power_percent).",
    ),
    sources=("apidoc.whatsminer.com", "pyasic"),
)

_OK, _NO_PERMISSION = 0, -4  # the others: -1 failed, -2 wrong command, -3 parameter missing


class WhatsminerV3(Whatsminer):
    """One Whatsminer that speaks API v3."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self._channel = FrameChannel(access.host, access.settings.v3_port)
        self._account = access.settings.username or "super"
        self._password = access.password or "super"
        self._salt: str | None = None
        self._writes = 0

    async def describe(self, until: Seconds) -> Identity:
        info = _object(await self._ask(until, "get.device.info"))
        miner, system = _object(info.get("miner")), _object(info.get("system"))
        if not miner:
            raise BadReply("get.device.info: no miner in the answer")
        return Identity(
            make="WhatsMiner",
            model=str(miner.get("type") or self._access.model),
            firmware="whatsminer-v3",
            version=str(system.get("fwversion") or ""),
            serial=str(miner.get("miner-sn") or ""),
        )

    async def read(self, until: Seconds) -> Reading:
        taken_at = time.monotonic()
        try:
            summary = _object(_object(await self._ask(until, "get.miner.status", "summary")).get("summary"))
        except Refused:
            summary = {}  # an idle miner refuses the view; whether it is off is asked below
        self._power_limit_w = watts(summary.get("power-limit")) or self._power_limit_w
        rate = hashrate(summary.get("hash-realtime"), 1e12)
        await self._ask_again_where_it_may_be_news(rate, until)
        return self._reading(
            taken_at,
            rate,
            power_w=watts(summary.get("power-realtime")),
            is_tuned=summary.get("up-freq-finish"),
            elapsed_s=number(summary.get("elapsed")),
            temperature_c=temperature(summary.get("chip-temp-avg")),
        )

    async def close(self) -> None:
        self._salt = None
        self._channel.hang_up()

    async def _switch(self, is_on: bool, until: Seconds) -> None:
        self._is_off = None  # whatever it was, it has to be asked
        await self._command(until, "set.miner.service", "start" if is_on else "stop")

    async def _throttle(self, percent: int, until: Seconds) -> None:
        # The firmware reads a string where its documentation says a number, and refuses the number.
        await self._command(until, "set.miner.power_percent", {"percent": str(percent), "mode": "fast"})

    async def _ask_what_it_is_set_to(self, until: Seconds) -> None:
        writes = self._writes
        miner = _object(_object(await self._ask(until, "get.device.info", "miner")).get("miner"))
        working = miner.get("working")
        try:
            setting = _object(await self._ask(until, "get.miner.setting"))
        except Refused:  # API 3.0.1 and older do not have it
            setting = {}
        if self._salt is None:  # in hand, it makes a shed one command
            with suppress(DriverError):
                await self._fetch_salt(until)
        if writes == self._writes:
            self._is_off = None if working is None else str(working).lower() != "true"
            percent = number(setting.get("power-percent"))
            self._percent = 100.0 if percent == 0 else percent  # 0: nobody has throttled it
            self._power_limit_w = watts(setting.get("power-limit")) or self._power_limit_w
            self._asked_at = time.monotonic()

    async def _ask(self, until: Seconds, command: str, param: str | None = None) -> object:
        """One question in clear; the answer's `msg`. Raises `Refused` if the device has none."""
        reply = await self._exchange(_question(command, param), until, is_harmless=True)
        code = reply.get("code")
        if code != _OK:
            if not isinstance(code, int):
                raise BadReply(f"{command}: no code in the answer; is this still an API v3?")
            raise Refused(f"{command}: {_words(reply)} (code {code})")
        return reply.get("msg")

    async def _command(self, until: Seconds, command: str, param: object) -> None:
        """One command, checked. A token made from an old salt is refused, so one new salt is tried."""
        self._writes += 1
        self._asked_at = float("-inf")
        salt, is_fresh = self._salt, False
        if salt is None:
            salt, is_fresh = await self._fetch_salt(until), True
        reply = await self._send(command, param, salt, until)
        if _blames_token(reply) and not is_fresh:
            salt = await self._fetch_salt(until)
            reply = await self._send(command, param, salt, until)
        code, words = reply.get("code"), _words(reply)
        if code == _OK:
            return
        if _blames_token(reply):
            self._salt = None
            raise AuthFailed(
                f"{command}: it does not accept account {self._account!r} and the password, or its write API is "
                f"switched off ({words})"
            )
        raise Refused(f"{command}: {words} (code {code})")

    async def _send(self, command: str, param: object, salt: str, until: Seconds) -> Reply:
        stamp = int(time.time())
        digest = hashlib.sha256(f"{command}{self._password}{salt}{stamp}".encode()).digest()
        token = base64.b64encode(digest).decode()[:8]
        told = json_bytes({"cmd": command, "param": param, "ts": stamp, "account": self._account, "token": token})
        with command_sent():
            reply = await self._exchange(told, until, is_harmless=False)
            if not isinstance(reply.get("code"), int):
                raise BadReply(f"neither yes nor no: {str(reply)[:120]}")
        return reply

    async def _fetch_salt(self, until: Seconds) -> str:
        salt = _object(await self._ask(until, "get.device.info", "salt")).get("salt")
        if not isinstance(salt, str) or not salt:
            raise BadReply("get.device.info: no salt in the answer")
        self._salt = salt
        return salt

    async def _exchange(self, question: bytes, until: Seconds, is_harmless: bool) -> Reply:
        return parse(await self._channel.ask(question, until, is_harmless))


@cache
def _question(command: str, param: str | None) -> bytes:
    return json_bytes({"cmd": command} if param is None else {"cmd": command, "param": param})


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(reply: Reply) -> str:
    words = reply.get("msg")
    return words[:200] if isinstance(words, str) else ""


def _blames_token(reply: Reply) -> bool:
    """-4 is the documented "no permission", of the token and of the write API alike; some say it in words."""
    code, words = reply.get("code"), _words(reply).lower()
    return code == _NO_PERMISSION or (code != _OK and ("token" in words or "password" in words))
