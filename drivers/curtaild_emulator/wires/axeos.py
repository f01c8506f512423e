"""AxeOS, the firmware of Bitaxes and NerdAxes: JSON over HTTP, a frequency instead of a power limit.

Paths and fields are those of ESP-Miner's own API, and of its offspring's (ESP-Miner-NerdQAxePlus). Settings they do not
know are ignored, as the real ones do.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Pool, Unit, Wire
from curtaild_emulator.wires.web import page, reply, reply_json

_ASIC = "BM1370"
_SMALL_CORES = 2040
_CORE_MV = 1150
_FAN_PERCENT = 72
_INPUT_MV = 5000.0
_VERSION = "v2.13.1"


class AxeosUnit(Unit):
    """A Bitaxe."""

    speaks = frozenset({Wire.HTTP})
    default_mhz: ClassVar[int] = 525

    __slots__ = ("core_mv", "fan_is_automatic", "fan_percent")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self.core_mv = _CORE_MV
        self.fan_is_automatic = True
        self.fan_percent = _FAN_PERCENT

    def settings(self) -> dict[str, object]:
        fan = (self.fan_is_automatic, self.fan_percent)
        return super().settings() | {"fan": fan, "core_mv": self.core_mv}

    def http(self, request: HttpRequest) -> Answer | None:
        asked = (request.method, request.path)
        if asked == ("GET", "/"):
            return reply(request, 200, page("AxeOS"))
        if asked == ("GET", "/api/system/info"):
            return reply_json(request, self._info())
        if asked == ("GET", "/api/system/asic"):
            return reply_json(request, self._asic())
        if asked == ("PATCH", "/api/system"):
            return self._patch(request)
        if asked == ("POST", "/api/system/pause"):
            self.miner.sleep(self.now())
            return reply_json(request, {"message": "Mining paused"}, effect=Effect.STOP)
        if asked == ("POST", "/api/system/resume"):
            self.miner.wake(self.now())
            return reply_json(request, {"message": "Mining resumed"}, effect=Effect.COMMAND)
        if asked == ("POST", "/api/system/restart"):
            self.miner.reboot(self.now())
            return reply_json(request, {"message": "System will restart shortly."}, effect=Effect.COMMAND)
        return reply(request, 404, page("404"))

    def _patch(self, request: HttpRequest) -> Answer:
        said = request.json()
        if said is None:
            return reply(request, 400, b"Wrong API input")
        frequency = said.get("frequency", int(self.miner.setting.preset))
        whole = not isinstance(frequency, bool) and isinstance(frequency, (int, float)) and math.isfinite(frequency)
        if not whole or self.miner.model.preset_w(str(int(frequency))) is None:
            return reply(request, 400, b"Wrong API input")
        self._take_the_rest(said)
        if str(int(frequency)) != self.miner.setting.preset:
            self.miner.set_preset(str(int(frequency)), self.now())
        return reply(request, 200, effect=Effect.COMMAND)

    def _take_the_rest(self, said: dict[str, Any]) -> None:
        """Of its other settings those whose loss would hurt; what is not sent is kept."""
        pool = self.pools[0]
        url = f"stratum+tcp://{said['stratumURL']}:3333" if "stratumURL" in said else pool.url
        user, password = str(said.get("stratumUser", pool.user)), str(said.get("stratumPassword", pool.password))
        self.pools[0] = Pool(url, user, password)
        self.core_mv = said.get("coreVoltage", self.core_mv)
        self.fan_is_automatic = bool(said.get("autofanspeed", self.fan_is_automatic))
        self.fan_percent = said.get("fanspeed", self.fan_percent)

    def _asic(self) -> dict[str, Any]:
        return {
            "ASICModel": _ASIC,
            "deviceModel": self.miner.model.wire_name,
            "swarmColor": "green",
            "asicCount": 1,
            "defaultFrequency": self.default_mhz,
            "frequencyOptions": [int(preset.key) for preset in self.miner.model.presets],
            "defaultVoltage": _CORE_MV,
            "voltageOptions": [1000, 1060, 1100, 1150, 1200, 1250],
        }

    def _info(self) -> dict[str, Any]:
        if self.summary_is_empty:
            return {}
        miner = self.miner
        watts = math.nan if miner.has(Fault.NAN_POWER) else round(miner.measured_w(), 2)
        rate_ghs = round(miner.measured_hs() / 1e9, 2)
        megahertz = int(miner.setting.preset)
        host, _, port = self.pools[0].url.removeprefix("stratum+tcp://").partition(":")
        told: dict[str, Any] = {
            "power": watts,
            "voltage": _INPUT_MV,
            "current": round(watts / _INPUT_MV * 1e6, 1),
            "temp": 58.3,
            "vrTemp": 61,
            "maxPower": 40,
            "nominalVoltage": 5,
            "hashRate": rate_ghs,
            "hashRate_1m": rate_ghs,
            "expectedHashrate": _SMALL_CORES * megahertz / 1000,
            "bestDiff": 1234,
            "isPSRAMAvailable": 1,
            "freeHeap": 200_000,
            "coreVoltage": self.core_mv,
            "coreVoltageActual": self.core_mv - 6,
            "frequency": megahertz,
            "actualFrequency": 0 if self.is_asleep else megahertz,
            "miningPaused": miner.setting.asleep,
            "ssid": "farm",
            "macAddr": self.mac.upper(),
            "hostname": "bitaxe",
            "ipv4": self.address,
            "wifiStatus": "Connected!",
            "sharesAccepted": 120,
            "sharesRejected": 1,
            "uptimeSeconds": self.elapsed_s,
            "smallCoreCount": _SMALL_CORES,
            "ASICModel": _ASIC,
            "asicCount": 1,
            "stratumURL": host,
            "stratumPort": int(port or 0),
            "stratumUser": self.pools[0].user,
            "version": _VERSION,
            "axeOSVersion": _VERSION,
            "boardVersion": "602",
            "overheat_mode": 0,
            "autofanspeed": int(self.fan_is_automatic),
            "fanspeed": 0 if self.is_asleep else self.fan_percent,
            "fanrpm": 0 if self.is_asleep else 4800,
        }
        if self.keys_have_vanished:
            for key in ("power", "current", "frequency", "miningPaused"):
                del told[key]
        return told


class NerdAxeUnit(AxeosUnit):
    """A NerdAxe: no pause but a shutdown, which only a restart ends; one-time passwords where somebody wants them."""

    default_mhz = 600

    __slots__ = ()

    def http(self, request: HttpRequest) -> Answer | None:
        asked = (request.method, request.path)
        is_change = asked in (("PATCH", "/api/system"), ("POST", "/api/system/restart"))
        if is_change and self.miner.has(Fault.WRONG_PASSWORD):
            return reply(request, 401, b"OTP/Session required")
        if asked == ("POST", "/api/system/shutdown"):
            self.miner.sleep(self.now())
            return reply(request, 200, b"System will shutdown shortly.", effect=Effect.STOP)
        if asked == ("POST", "/api/system/restart"):
            if self.miner.setting.asleep:
                self.miner.wake(self.now())
            else:
                self.miner.reboot(self.now())
            return reply(request, 200, b"System will restart shortly.", effect=Effect.COMMAND)
        if asked in (("POST", "/api/system/pause"), ("POST", "/api/system/resume")):
            return reply(request, 404, b"Nothing matches the given URI")
        return super().http(request)

    def _patch(self, request: HttpRequest) -> Answer:
        """What is not of the type it looks for, it passes over, and answers success."""
        said = request.json()
        if said is None:
            return reply(request, 400, b"Invalid JSON")
        frequency = said.get("frequency")
        if type(frequency) is int and self.miner.model.preset_w(str(frequency)) is not None:
            self.miner.set_preset(str(frequency), self.now())
        self._take_the_rest(said)
        return reply(request, 200, effect=Effect.COMMAND)

    def _info(self) -> dict[str, Any]:
        told = super()._info()
        if told:
            told.pop("miningPaused", None)
            told |= {"deviceModel": self.miner.model.wire_name, "asicCount": 4, "defaultFrequency": self.default_mhz}
            told |= {"otp": self.miner.has(Fault.WRONG_PASSWORD), "shutdown": self.miner.setting.asleep}
        if self.keys_have_vanished:
            del told["shutdown"]
        return told
