"""LuxOS: the cgminer API, enlarged by sessions, profiles and curtailment. No password, but one session at a time."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Any

from curtaild_drivers.contract import RunState, Seconds
from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.cgminer import INVALID_COMMAND, Rows, encode, joined, pool_list, status
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Unit, Wire
from curtaild_emulator.wires.web import page, reply

_BY = "LUXminer 2024.9.18.161542"
_BOARDS = 3
_SESSION_LIFE_S = 60.0
_INVALID_SESSION = 402
_SESSION_TAKEN = 401
_INVALID_PARAMETER = 403


class LuxosUnit(Unit):
    """A miner under LuxOS with its session, of which it keeps one, and its thermal management."""

    speaks = frozenset({Wire.RPC, Wire.HTTP})

    __slots__ = ("_session", "_session_until", "atm_is_on")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._session = ""
        self._session_until: Seconds = 0.0
        self.atm_is_on = False

    def settings(self) -> dict[str, object]:
        return super().settings() | {"thermal_management": self.atm_is_on}

    def http(self, request: HttpRequest) -> Answer | None:
        return reply(request, 200, page("Luxor Firmware"))

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        command = str(request.get("command", ""))
        words = [word.strip() for word in str(request.get("parameter", "")).split(",")]
        if "+" in command:
            return joined(self, command)
        if command in _READS:
            return self._tell(_READS[command](self))
        if command == "logon":
            return self._logon()
        do = _COMMANDS.get(command)
        if do is None:
            return self._refuse(INVALID_COMMAND, f"Invalid command: {command[:40]!r}")
        if not self._session_is(words[0]):
            return self._refuse(_INVALID_SESSION, "Invalid session id")
        return do(self, words[1:])

    # --- sessions --------------------------------------------------------------------------------

    def _live_session(self) -> str:
        return self._session if self.board.wall_clock() < self._session_until else ""

    def _session_is(self, claimed: str) -> bool:
        live = self._live_session()
        if not live or claimed != live:
            return False
        self._session_until = self.board.wall_clock() + _SESSION_LIFE_S
        return True

    def _logon(self) -> Answer:
        if self.miner.has(Fault.WRONG_PASSWORD):
            return self._refuse(_SESSION_TAKEN, "Access denied")
        if self._live_session():
            return self._refuse(_SESSION_TAKEN, "Another session is active")
        self._session = secrets.token_urlsafe(6)
        self._session_until = self.board.wall_clock() + _SESSION_LIFE_S
        return self._tell((316, "Session created", "SESSION", [{"SessionID": self._session}]))

    def _logoff(self, words: list[str]) -> Answer:
        self._session = ""
        return self._done(317, "Session terminated")

    def _show_session(self) -> Rows:
        shown = "" if self.miner.has(Fault.WRONG_PASSWORD) else self._live_session()
        return 318, "Session information", "SESSION", [{"SessionID": shown}]

    # --- commands --------------------------------------------------------------------------------

    def _curtail(self, words: list[str]) -> Answer:
        verb = words[0].lower() if words else ""
        if verb == "sleep":
            self.miner.sleep(self.now())
            return self._done(341, "Miner entering sleep mode", Effect.STOP)
        if verb == "wakeup":
            self.miner.wake(self.now())
            return self._done(342, "Miner leaving sleep mode")
        return self._refuse(_INVALID_PARAMETER, "curtail takes sleep or wakeup")

    def _profileset(self, words: list[str]) -> Answer:
        name = words[0] if words else ""
        if self.atm_is_on:
            return self._refuse(_INVALID_PARAMETER, "ATM is enabled")
        if self.miner.model.preset_w(name) is None:
            return self._refuse(_INVALID_PARAMETER, f"Unknown profile: {name[:40]!r}")
        self.miner.set_preset(name, self.now())
        return self._tell((327, "Profile set", "PROFILE", [{"Profile": name}]), Effect.COMMAND)

    def _atmset(self, words: list[str]) -> Answer:
        for word in words:
            key, _, value = word.partition("=")
            if key == "enabled":
                self.atm_is_on = value == "true"
        return self._done(340, "Advanced Thermal Management configuration updated")

    def _reboot(self, words: list[str]) -> Answer:
        self.miner.reboot(self.now())
        return self._done(319, "Rebooting")

    def _ledset(self, words: list[str]) -> Answer:
        self.is_blinking = words[-1:] == ["blink"]
        return self._done(320, "LED set")

    # --- reading ---------------------------------------------------------------------------------

    def _version(self) -> Rows:
        row = {"API": "3.7", "CompileTime": "Wed Sep 18 2024", "LUXminer": _BY[9:], "Miner": _BY[9:]}
        return 22, "LUXminer versions", "VERSION", [row | {"Type": self.miner.model.wire_name}]

    def _summary(self) -> Rows:
        if self.summary_is_empty:
            return 11, "Summary", "SUMMARY", []
        rate_ghs = round(self.miner.measured_hs() / 1e9, 2)
        row: dict[str, Any] = {"Elapsed": self.elapsed_s, "Accepted": 1000, "Rejected": 1, "Hardware Errors": 0}
        if not self.keys_have_vanished:
            row |= {"GHS 5s": rate_ghs, "GHS 1m": rate_ghs, "GHS 5m": rate_ghs, "GHS 30m": rate_ghs, "GHS av": rate_ghs}
        return 11, "Summary", "SUMMARY", [row]

    def _power(self) -> Rows:
        watts: float = round(self.miner.measured_w())
        if self.miner.has(Fault.NAN_POWER):
            watts = math.nan
        row = {"PSU": True} if self.keys_have_vanished else {"PSU": True, "Watts": watts}
        return 322, "Power", "POWER", [row]

    def _config(self) -> Rows:
        setting = self.miner.setting
        row: dict[str, Any] = {
            "ASC Count": _BOARDS,
            "ControlBoardType": "BeagleBone",
            "CurtailMode": "Sleep" if setting.asleep else "None",
            "DHCP": True,
            "Hostname": "luxos",
            "IPAddr": self.address,
            "IsAtmEnabled": self.atm_is_on,
            "IsPowerSupplyOn": not self.is_asleep,
            "IsTuning": False,
            "MACAddr": self.mac,
            "Model": self.miner.model.wire_name,
            "Profile": setting.preset,
            "RedLed": "blink" if self.is_blinking else "off",
            "SerialNumber": f"EMU{self.miner.id}",
            "SystemStatus": {RunState.ASLEEP: "Curtailed", RunState.STARTING: "Ramping"}.get(
                self.miner.state, "Working"
            ),
        }
        if self.keys_have_vanished:
            del row["CurtailMode"], row["Profile"]
        return 33, "LUXminer config", "CONFIG", [row]

    def _profiles(self) -> Rows:
        presets = self.miner.model.presets
        rows = [
            {
                "Profile Name": preset.key,
                "Step": str(number - len(presets) + 1),
                "Frequency": int(preset.key.removesuffix("MHz")),
                "Hashrate": round(self.miner.model.rate_hs(preset.draw_w) / 1e12, 1),
                "Watts": round(preset.draw_w),
                "Voltage": round(12.0 + 0.3 * number, 2),
                "IsTuned": True,
                "IsDynamic": False,
            }
            for number, preset in enumerate(presets)
        ]
        return 326, "Profiles", "PROFILES", rows

    def _profileget(self) -> Rows:
        return 328, "Profile", "PROFILE", [{"Profile": self.miner.setting.preset}]

    def _stats(self) -> Rows:
        if self.summary_is_empty:
            return 70, "LUXminer stats", "STATS", []
        rate_ghs = self.miner.measured_hs() / 1e9
        row: dict[str, Any] = {
            "STATS": 0,
            "Elapsed": self.elapsed_s,
            "total_rateideal": self.miner.model.rated_hs / 1e9,
            "rate_unit": "GH",
        }
        for n in range(1, _BOARDS + 1):
            row |= {
                f"chain_rate{n}": f"{rate_ghs / _BOARDS:.2f}",
                f"chain_acn{n}": 76,
                f"temp_chip{n}": "65-65-70-70",
                f"temp_pcb{n}": "55-55-60-60",
            }
        return 70, "LUXminer stats", "STATS", [{"Type": self.miner.model.wire_name}, row]

    def _devs(self) -> Rows:
        share_mhs = self.miner.measured_hs() / 1e6 / _BOARDS
        is_ramping = self.miner.state is RunState.STARTING
        rows = [
            {"ASC": n, "Board": n, "Status": "Alive", "MHS 5s": share_mhs, "IsRamping": is_ramping, "Temperature": 60}
            for n in range(_BOARDS)
        ]
        return 9, "ASCs", "DEVS", rows

    def _devdetails(self) -> Rows:
        rows = [{"DEVDETAILS": n, "Name": "LUX", "ID": n, "Driver": "luxminer"} for n in range(_BOARDS)]
        return 69, "Device details", "DEVDETAILS", rows

    def _pools(self) -> Rows:
        return 7, "Pools", "POOLS", pool_list(self)

    def _groups(self) -> Rows:
        return 311, "Groups", "GROUPS", [{"GROUP": 0, "Name": "default", "Quota": 1, "Strategy": "Failover"}]

    def _fans(self) -> Rows:
        return 202, "Fans", "FANS", [{"FAN": n, "ID": n, "RPM": 5400, "Speed": 80} for n in range(4)]

    def _temps(self) -> Rows:
        return 201, "Temps", "TEMPS", [{"TEMP": n, "ID": n, "Board": 60.0, "Chip": 70.0} for n in range(_BOARDS)]

    def _tempctrl(self) -> Rows:
        row = {"Mode": "Automatic", "Target": 65, "Hot": 75, "Dangerous": 80}
        return 200, "Temperature control", "TEMPCTRL", [row]

    def _limits(self) -> Rows:
        presets = self.miner.model.presets
        row = {"MinProfile": presets[0].key, "MaxProfile": presets[-1].key, "FrequencyMax": 800, "FrequencyMin": 50}
        return 330, "Limits", "LIMITS", [row]

    def _atm(self) -> Rows:
        row = {"Enabled": self.atm_is_on, "StartupMinutes": 15, "PostRampMinutes": 10, "TempWindow": 5}
        return 339, "ATM configuration values", "ATM", [row]

    def _asccount(self) -> Rows:
        return 104, "ASC count", "ASCS", [{"Count": _BOARDS}]

    # --- answering -------------------------------------------------------------------------------

    def _tell(self, rows: Rows, effect: Effect = Effect.READ) -> Answer:
        code, message, key, table = rows
        return Answer(encode({"STATUS": [status(self, code, message, by=_BY)], key: table, "id": 1}), effect)

    def _done(self, code: int, message: str, effect: Effect = Effect.COMMAND) -> Answer:
        return Answer(encode({"STATUS": [status(self, code, message, by=_BY)], "id": 1}), effect)

    def _refuse(self, code: int, message: str) -> Answer:
        return Answer(encode({"STATUS": [status(self, code, message, ok=False, by=_BY)], "id": 1}))


_READS: dict[str, Callable[[LuxosUnit], Rows]] = {
    "session": LuxosUnit._show_session,
    "version": LuxosUnit._version,
    "summary": LuxosUnit._summary,
    "power": LuxosUnit._power,
    "config": LuxosUnit._config,
    "profiles": LuxosUnit._profiles,
    "profileget": LuxosUnit._profileget,
    "stats": LuxosUnit._stats,
    "devs": LuxosUnit._devs,
    "devdetails": LuxosUnit._devdetails,
    "pools": LuxosUnit._pools,
    "groups": LuxosUnit._groups,
    "fans": LuxosUnit._fans,
    "temps": LuxosUnit._temps,
    "tempctrl": LuxosUnit._tempctrl,
    "limits": LuxosUnit._limits,
    "atm": LuxosUnit._atm,
    "asccount": LuxosUnit._asccount,
}

_COMMANDS: dict[str, Callable[[LuxosUnit, list[str]], Answer]] = {
    "logoff": LuxosUnit._logoff,
    "curtail": LuxosUnit._curtail,
    "profileset": LuxosUnit._profileset,
    "atmset": LuxosUnit._atmset,
    "rebootdevice": LuxosUnit._reboot,
    "resetminer": LuxosUnit._reboot,
    "ledset": LuxosUnit._ledset,
}
