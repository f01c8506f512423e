"""What btminer tells of a Whatsminer on port 4028, in every API version: summary, boards, status, versions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from curtaild_drivers.contract import RunState
from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.cgminer import joined, pool_list
from curtaild_emulator.wires.unit import Answer, Unit

COMMAND_OK = 131
COMMAND_ERROR = 132
INVALID_COMMAND = 14
PERMISSION_DENIED = 45
BOARDS = 3
_CHIPS = 117
_FIRMWARE_VERSIONS = {
    "2.0.5": "20230911.12.REL",
    "2.0.7": "20240924.14.REL",
    "3.0.1": "20250214.16.REL",
    "3.0.3": "20251120.17.REL",
}
_BEFORE_POWER_PCT = "2.0.5"
_PRESET_WORDS = {"low": "Low", "normal": "Normal"}


class BtminerUnit(Unit):
    """A Whatsminer's readable side. Subclasses add how they are commanded."""

    __slots__ = ()

    @property
    def api_version(self) -> str:
        return self.miner.model.api_version

    @property
    def firmware_version(self) -> str:
        return _FIRMWARE_VERSIONS[self.api_version]

    def tell(self, command: str) -> Answer | None:
        """Answer a readable command; `None` where there is none of that name."""
        if "+" in command:
            return joined(self, command)
        read = _READS.get(command)
        if read is not None:
            key, rows = read(self)
            return self.dumped({"STATUS": [{"STATUS": "S", "Msg": key.title()}], key: rows, "id": 1})
        message = _MESSAGES.get(command)
        return None if message is None else self.message(COMMAND_OK, message(self))

    def message(self, code: int, text: object, *, ok: bool = True) -> Answer:
        """An answer in btminer's own form."""
        return self.dumped(self.message_body(code, text, ok=ok))

    def message_body(self, code: int, text: object, *, ok: bool = True) -> dict[str, Any]:
        return {
            "STATUS": "S" if ok else "E",
            "When": self.wall_s(),
            "Code": code,
            "Msg": text,
            "Description": "btminer",
        }

    @staticmethod
    def dumped(answer: dict[str, Any]) -> Answer:
        return Answer(json.dumps(answer, separators=(",", ":")).encode())

    # --- what it measures ------------------------------------------------------------------------

    def watts(self) -> float:
        """Its own power sensor, whole watts; NaN under that fault."""
        return math.nan if self.miner.has(Fault.NAN_POWER) else round(self.miner.measured_w())

    @property
    def limit_w(self) -> int:
        return round(self.miner.setting.limit_w)

    @property
    def factory_ths(self) -> float:
        return self.miner.model.rated_hs / 1e12

    @property
    def fan_rpm(self) -> int:
        return 0 if self.is_asleep else 4900

    # --- readable commands -----------------------------------------------------------------------

    def _summary(self) -> tuple[str, list[dict[str, Any]]]:
        if self.summary_is_empty:
            return "SUMMARY", []
        rate_mhs = round(self.miner.measured_hs() / 1e6, 2)
        watts = self.watts()
        row: dict[str, Any] = {
            "Elapsed": self.elapsed_s,
            "MHS av": rate_mhs,
            "MHS 5s": rate_mhs,
            "MHS 1m": rate_mhs,
            "MHS 5m": rate_mhs,
            "MHS 15m": rate_mhs,
            "HS RT": rate_mhs,
            "Accepted": 1000,
            "Rejected": 1,
            "Total MH": 0,
            "Temperature": 70.0,
            "freq_avg": 0 if self.is_asleep else 646,
            "Fan Speed In": self.fan_rpm,
            "Fan Speed Out": self.fan_rpm,
            "Power": watts,
            "Power Rate": round(watts / max(rate_mhs / 1e6, 1e-3), 2) if rate_mhs and watts == watts else 0.0,
            "Pool Rejected%": 0.1,
            "Last getwork": 0,
            "Uptime": self.elapsed_s,
            "Hash Stable": self.miner.is_settled,
            "Target Freq": 646,
            "Target MHS": int(self.miner.model.rated_hs / 1e6),
            "Env Temp": 30.0,
            "Power Mode": _PRESET_WORDS[self.miner.setting.preset],
            "Factory GHS": int(self.factory_ths * 1000),
            "Power Limit": self.limit_w,
            "Chip Temp Min": 65.0,
            "Chip Temp Max": 85.0,
            "Chip Temp Avg": 75.0,
            "Power Fanspeed": 6000,
            "Upfreq Complete": int(self.miner.state is RunState.RUNNING),
            "Error Code Count": 0,
            "MAC": self.mac.upper(),
            "Firmware Version": f"'{self.firmware_version}'",
        }
        row |= self._power_pct()
        if self.keys_have_vanished:
            for key in ("Power", "Power Rate", "Power Mode", "Power Limit"):
                del row[key]
        return "SUMMARY", [row]

    def _devs(self) -> tuple[str, list[dict[str, Any]]]:
        share_mhs = round(self.miner.measured_hs() / 1e6 / BOARDS, 2)
        rows = [
            {
                "ASC": n,
                "Slot": n,
                "Enabled": "Y",
                "Status": "Alive",
                "Temperature": 70.0,
                "Chip Frequency": 646,
                "MHS av": share_mhs,
                "MHS 5s": share_mhs,
                "MHS 1m": share_mhs,
                "Factory GHS": int(self.factory_ths * 1000 / BOARDS),
                "Upfreq Complete": 1,
                "Effective Chips": _CHIPS,
                "PCB SN": f"EMU{self.miner.id}B{n}",
                "Chip Temp Min": 65.0,
                "Chip Temp Max": 85.0,
                "Chip Temp Avg": 75.0,
            }
            for n in range(BOARDS)
        ]
        return "DEVS", [] if self.summary_is_empty else rows

    def _devdetails(self) -> tuple[str, list[dict[str, Any]]]:
        rows = [
            {"DEVDETAILS": n, "Name": "SM", "ID": n, "Driver": "bitmicro", "Model": self.miner.model.wire_name}
            for n in range(BOARDS)
        ]
        return "DEVDETAILS", rows

    def _pools(self) -> tuple[str, list[dict[str, Any]]]:
        return "POOLS", pool_list(self)

    def _status(self) -> dict[str, str]:
        told = {
            "mineroff": "true" if self.miner.setting.asleep else "false",
            "mineroff_reason": "by whatsminer api" if self.miner.setting.asleep else "",
            "Firmware Version": f"'{self.firmware_version}'",
            "power_mode": _PRESET_WORDS[self.miner.setting.preset],
            "power_limit_set": str(self.limit_w),
            # of the target frequency, which nobody has changed: it says nothing of the power percentage
            "hash_percent": "" if self.api_version == _BEFORE_POWER_PCT else "0",
        }
        told |= {key: str(value) for key, value in self._power_pct().items()}
        if self.keys_have_vanished:
            del told["mineroff"], told["power_mode"], told["power_limit_set"]
        return told

    def _power_pct(self) -> dict[str, int]:
        """The temporary percentage, which older firmware takes and never shows."""
        if self.api_version == _BEFORE_POWER_PCT:
            return {}
        return {"power_pct": round(self.miner.setting.percent)}

    def _get_version(self) -> dict[str, str]:
        return {
            "api_ver": self.api_version,
            "fw_ver": self.firmware_version,
            "platform": "H616",
            "chip": "K88",
        }

    def _get_miner_info(self) -> dict[str, str]:
        return {
            "ip": self.address,
            "proto": "dhcp",
            "netmask": "255.0.0.0",
            "gateway": "",
            "dns": "",
            "hostname": "WhatsMiner",
            "mac": self.mac.upper(),
            "ledstat": "manual" if self.is_blinking else "auto",
            "minersn": f"EMU{self.miner.id}",
        }

    def _get_psu(self) -> dict[str, str]:
        watts = self.watts()
        return {
            "name": "P463B",
            "hw_version": "V01.00",
            "sw_version": "G12:V01.00",
            "model": "P463B",
            "iin": str(round(watts / 0.22)) if watts == watts else "",
            "vin": "22000",
            "fan_speed": "6000",
            "serial_no": f"EMU{self.miner.id}P",
        }

    def _get_error_code(self) -> dict[str, list[Any]]:
        return {"error_code": []}


def is_relayed(command: str) -> bool:
    """Is it a command that the mining process itself answers, rather than the API server before it."""
    return any(name in _READS for name in command.split("+"))


_READS: dict[str, Callable[[BtminerUnit], tuple[str, list[dict[str, Any]]]]] = {
    "summary": BtminerUnit._summary,
    "devs": BtminerUnit._devs,
    "edevs": BtminerUnit._devs,
    "devdetails": BtminerUnit._devdetails,
    "pools": BtminerUnit._pools,
}

_MESSAGES: dict[str, Callable[[BtminerUnit], object]] = {
    "status": BtminerUnit._status,
    "get_version": BtminerUnit._get_version,
    "get_miner_info": BtminerUnit._get_miner_info,
    "get_psu": BtminerUnit._get_psu,
    "get_error_code": BtminerUnit._get_error_code,
}
