"""Whatsminer API 3 on port 4433: length-prefixed JSON on a kept connection, commands signed with salted SHA-256.

Frames, fields and codes follow MicroBT's API 3 document. Port 4028 still answers the old readable commands.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from curtaild_drivers.contract import RunState
from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.btminer import BOARDS, INVALID_COMMAND, BtminerUnit
from curtaild_emulator.wires.exchange import Exchange
from curtaild_emulator.wires.unit import Answer, Effect, Unit, Wire
from curtaild_emulator.wires.whatsminer_v2 import whole_number

_OK, _FAIL, _INVALID_COMMAND, _INVALID_JSON, _NO_PERMISSION = 0, -1, -2, -3, -4
_BEFORE_POWER_PERCENT = "3.0.1"  # its release notes give the field to 3.0.3
_LONGEST_FRAME = 64 * 1024
_ACCOUNTS = ("super", "user1", "user2", "user3")


class WhatsminerV3Unit(BtminerUnit):
    """A Whatsminer with API 3.0."""

    speaks = frozenset({Wire.RPC, Wire.WHATSMINER_V3})
    __slots__ = ()

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        told = self.tell(str(request.get("command", request.get("cmd", ""))))
        return told or self.message(INVALID_COMMAND, "invalid cmd", ok=False)

    @property
    def salt(self) -> str:
        return hashlib.sha256(self.address.encode()).hexdigest()[:8]

    def framed(self, request: dict[str, Any]) -> Answer:
        """Answer one frame."""
        command = str(request.get("cmd", ""))[:64]
        param = request.get("param")
        read = _READS.get(command)
        if read is not None:
            told = read(self, param)
            return self.say(command, _OK, told) if told is not None else self.say(command, _INVALID_JSON, "error")
        do = _COMMANDS.get(command)
        if do is None:
            return self.say(command, _INVALID_COMMAND, "invalid command")
        if not self._is_signed(command, request):
            return self.say(command, _NO_PERMISSION, "no permission")
        if not do(self, param):
            return self.say(command, _FAIL, "fail")
        effect = Effect.STOP if (command, param) == ("set.miner.service", "stop") else Effect.COMMAND
        return self.say(command, _OK, "ok")._replace(effect=effect)

    def say(self, command: str, code: int, message: object) -> Answer:
        body = json.dumps({"code": code, "when": self.wall_s(), "msg": message, "desc": command}).encode()
        return Answer(len(body).to_bytes(4, "little") + body, closes=False)

    def _is_signed(self, command: str, request: dict[str, Any]) -> bool:
        stamp, claimed = request.get("ts"), request.get("token")
        if request.get("account") not in _ACCOUNTS or self.miner.has(Fault.WRONG_PASSWORD):
            return False
        if isinstance(stamp, bool) or not isinstance(stamp, int) or not isinstance(claimed, str):
            return False
        digest = hashlib.sha256(f"{command}{self.password}{self.salt}{stamp}".encode()).digest()
        return hmac.compare_digest(base64.b64encode(digest)[:8], claimed.encode())

    # --- reading ---------------------------------------------------------------------------------

    def _device_info(self, param: object) -> dict[str, Any] | None:
        setting = self.miner.setting
        sections: dict[str, Any] = {
            "network": {
                "ip": self.address,
                "proto": "dhcp",
                "netmask": "255.0.0.0",
                "dns": "",
                "mac": self.mac.upper(),
                "gateway": "",
                "hostname": "WhatsMiner",
            },
            "miner": {
                "working": "false" if setting.asleep else "true",
                "type": self.miner.model.wire_name,
                "hash-board": "K30",
                "cointype": "BTC/BCH/BSV",
                "pool-strategy": "FAILOVER",
                "fast-boot": "disable",
                "board-num": str(BOARDS),
                **{f"pcbsn{n}": f"EMU{self.miner.id}B{n}" for n in range(BOARDS)},
                "miner-sn": f"EMU{self.miner.id}",
                "power-limit-set": str(self.limit_w),
                "web-pool": 1,
            },
            "system": {
                "api": self.api_version,
                "platform": "H616",
                "fwversion": self.firmware_version,
                "control-board-version": "CB6V10",
                "btrom": "1",
                "apiswitch": "1",
                "ledstatus": "manual" if self.is_blinking else "auto",
            },
            "power": {"type": "P564B", "mode": setting.preset, "vin": 220.5, "pin": self.watts(), "fanspeed": 6112},
            "salt": self.salt,
            "error-code": [],
        }
        if self.keys_have_vanished:
            del sections["miner"]["working"], sections["miner"]["power-limit-set"], sections["power"]["pin"]
        if param is None:
            return sections
        return {str(param): sections[str(param)]} if isinstance(param, str) and param in sections else None

    def _miner_status(self, param: object) -> dict[str, Any] | None:
        if not isinstance(param, str):
            return {}
        told: dict[str, Any] = {}
        for part in param.split("+")[:8]:
            tell = _STATUS_PARTS.get(part)
            if tell is None:
                return None
            told[part] = tell(self)
        return told

    def _status_summary(self) -> dict[str, Any]:
        if self.summary_is_empty:
            return {}
        rate_ths = round(self.miner.measured_hs() / 1e12, 3)
        watts = self.watts()
        row: dict[str, Any] = {
            "elapsed": self.elapsed_s,
            "bootup-time": self.elapsed_s,
            "freq-avg": 0 if self.is_asleep else 646,
            "target-freq": 646,
            "factory-hash": self.factory_ths,
            "hash-average": rate_ths,
            "hash-1min": rate_ths,
            "hash-15min": rate_ths,
            "hash-realtime": rate_ths,
            "power-rate": round(watts / rate_ths, 3) if rate_ths and watts == watts else 0.0,
            "power-5min": watts,
            "power-realtime": watts,
            "environment-temperature": 30.0,
            "board-temperature": [70.0] * BOARDS,
            "chip-temp-min": 65.0,
            "chip-temp-avg": 75.0,
            "chip-temp-max": 85.0,
            "power-limit": self.limit_w,
            "up-freq-finish": int(self.miner.state is RunState.RUNNING),
            "fan-speed-in": self.fan_rpm,
            "fan-speed-out": self.fan_rpm,
        }
        if self.keys_have_vanished:
            for key in ("power-rate", "power-5min", "power-realtime", "power-limit"):
                del row[key]
        return row

    def _status_pools(self) -> list[dict[str, Any]]:
        return [
            {
                "id": n,
                "url": pool.url,
                "status": "alive" if pool.url else "dead",
                "account": pool.user,
                "stratum-active": n == 0 and not self.is_asleep,
                "reject-rate": 0.1,
            }
            for n, pool in enumerate(self.pools)
        ]

    def _status_edevs(self) -> list[dict[str, Any]]:
        share_ths = round(self.miner.measured_hs() / 1e12 / BOARDS, 3)
        return [
            {
                "id": n,
                "slot": n,
                "hash-average": share_ths,
                "factory-hash": self.factory_ths / BOARDS,
                "freq": 646,
                "effective-chips": 215,
                "chip-temp-min": 65.0,
                "chip-temp-avg": 75.0,
                "chip-temp-max": 85.0,
            }
            for n in range(BOARDS)
        ]

    def _miner_setting(self, param: object) -> dict[str, Any]:
        setting = self.miner.setting
        told: dict[str, Any] = {"power-mode": setting.preset, "power-limit": self.limit_w, "upfreq-speed": 0}
        if self.api_version != _BEFORE_POWER_PERCENT:
            told |= {
                "fast-boot": "disable",
                "target-freq": 0,
                "fast-mining": "disable",
                "power": round(setting.limit_w * setting.percent / 100.0),
                "power-percent": 0 if setting.percent == 100.0 else round(setting.percent),
            }
        return told

    # --- commands: each says whether it was done -------------------------------------------------

    def _service(self, param: object) -> bool:
        now = self.now()
        if param == "stop":
            self.miner.sleep(now)
        elif param == "start":
            self.miner.wake(now)
        elif param == "restart":
            self.miner.reboot(now)
        return param in ("stop", "start", "restart", "enable", "disable")

    def _power_percent(self, param: object) -> bool:
        """Only while it is awake; kept until the next restart."""
        if not isinstance(param, dict) or param.get("mode") not in ("fast", "normal"):
            return False
        percent = param.get("percent")
        if isinstance(percent, int) and self.miner.has(Fault.NUMERIC_PERCENT_REFUSED):
            return False
        value = whole_number(percent)
        if value is None or not 0 <= value <= 100 or self.miner.setting.asleep:
            return False
        self.miner.set_percent(value, self.now())
        return True

    def _power_limit(self, param: object) -> bool:
        value = whole_number(param)
        if value is None or not 0 <= value <= 99_999:
            return False
        self.miner.set_limit(value, self.now())
        return True

    def _power_mode(self, param: object) -> bool:
        if param not in ("low", "normal", "high"):
            return False
        self.miner.set_preset("low" if param == "low" else "normal", self.now())
        return True

    def _reboot(self, param: object) -> bool:
        self.miner.reboot(self.now())
        return True

    def _led(self, param: object) -> bool:
        self.is_blinking = param != "auto"
        return True


class FramedExchange(Exchange):
    """One connection to port 4433. Four little-endian bytes of length go before each message."""

    wire = Wire.WHATSMINER_V3

    def pump(self, unit: Unit) -> None:
        assert isinstance(unit, WhatsminerV3Unit)
        while self.buffer.startswith(b"\0\0\0\0"):
            self.buffer = self.buffer[4:]  # a heartbeat
        if len(self.buffer) < 4:
            return
        length = int.from_bytes(self.buffer[:4], "little")
        if length > _LONGEST_FRAME:
            self.buffer = b""
            self.answer(None)
            return
        if len(self.buffer) < 4 + length:
            return
        text, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            request = None
        if isinstance(request, dict):
            self.answer(unit.framed(request))
        else:
            self.answer(unit.say("", _INVALID_JSON, "invalid json"))


_READS: dict[str, Callable[[WhatsminerV3Unit, object], object]] = {
    "get.device.info": WhatsminerV3Unit._device_info,
    "get.miner.status": WhatsminerV3Unit._miner_status,
    "get.miner.setting": WhatsminerV3Unit._miner_setting,
}

_STATUS_PARTS: dict[str, Callable[[WhatsminerV3Unit], object]] = {
    "summary": WhatsminerV3Unit._status_summary,
    "pools": WhatsminerV3Unit._status_pools,
    "edevs": WhatsminerV3Unit._status_edevs,
}

_COMMANDS: dict[str, Callable[[WhatsminerV3Unit, object], bool]] = {
    "set.miner.service": WhatsminerV3Unit._service,
    "set.miner.power_percent": WhatsminerV3Unit._power_percent,
    "set.miner.power_limit": WhatsminerV3Unit._power_limit,
    "set.miner.power_mode": WhatsminerV3Unit._power_mode,
    "set.system.reboot": WhatsminerV3Unit._reboot,
    "set.system.led": WhatsminerV3Unit._led,
}
