"""Auradine's FluxOS: the cgminer API on 4028 for mining figures, JSON with tokens on 8080 for the machine.

Commands and fields are those the field's own client uses; how long a token lives is an assumption. An answer's
STATUS says how it went, in cgminer's words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.cgminer import Rows, pool_list, status, told
from curtaild_emulator.wires.exchange import Exchange
from curtaild_emulator.wires.tokens import Tokens
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Unit, Wire
from curtaild_emulator.wires.web import page, pump_http, reply, reply_json

TOKEN_LIFE_S = 3600.0
_BY = "gcminer 1.7.4"
_BOARDS = 3
_USER = "admin"
_CUSTOM, _NORMAL = "custom", "normal"
_LED_NORMAL, _LED_LOCATE = 2, 3


class AuradineUnit(Unit):
    """A Teraflux with its mode: normal, eco, or custom watts."""

    speaks = frozenset({Wire.RPC, Wire.HTTP, Wire.AURADINE})

    __slots__ = ("_tokens",)

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._tokens = Tokens(TOKEN_LIFE_S)

    # --- HTTP ------------------------------------------------------------------------------------

    def http(self, request: HttpRequest) -> Answer | None:
        if request.wire is Wire.HTTP:
            return reply(request, 200, page("Miner UI"))
        name = request.path.removeprefix("/")
        if name == "token" and request.method == "POST":
            return self._token(request)
        now = self.board.wall_clock()
        if self.miner.has(Fault.WRONG_PASSWORD) or not self._tokens.is_live(request.headers.get("token", ""), now):
            return self._refuse(request, "Invalid or expired token", 401)
        if request.method == "GET" and name in _TOLD:
            key, tell = _TOLD[name]
            return reply_json(request, {"STATUS": [status(self, 0, name, by=_BY)], key: tell(self), "id": 1})
        said = request.json()
        do = _COMMANDS.get(name) if request.method == "POST" else None
        if do is None or said is None:
            return self._refuse(request, "Invalid command", 404 if do is None else 400)
        effect = do(self, said)
        if effect is None:
            return self._refuse(request, "Invalid parameter", 400)
        return reply_json(request, {"STATUS": [status(self, 0, f"{name} set", by=_BY)], "id": 1}, effect=effect)

    def _token(self, request: HttpRequest) -> Answer:
        said = request.json() or {}
        known = (said.get("user"), said.get("password")) == (_USER, self.password)
        if self.miner.has(Fault.WRONG_PASSWORD) or not known:
            return self._refuse(request, "Invalid user or password", 401)
        token = self._tokens.issue(self.board.wall_clock())
        return reply_json(request, {"STATUS": [status(self, 0, "token", by=_BY)], "Token": [{"Token": token}], "id": 1})

    def _refuse(self, request: HttpRequest, why: str, code: int) -> Answer:
        return reply_json(request, {"STATUS": [status(self, 1, why, ok=False, by=_BY)], "id": 1}, code)

    # --- commands: each says what it did, `None` where it refuses ----------------------------------

    def _set_mode(self, said: dict[str, Any]) -> Effect | None:
        if "sleep" in said:
            return self._set_sleep(said["sleep"])
        mode = said.get("mode")
        if mode == _CUSTOM:
            return self._set_watts(said.get("power")) if said.get("tune") == "power" else None
        if not isinstance(mode, str) or self.miner.model.preset_w(mode) is None:
            return None
        now = self.now()
        if self.miner.setting.limit_w != self.miner.model.rated_w:
            self.miner.set_limit(self.miner.model.rated_w, now)
        self.miner.set_preset(mode, now)
        return Effect.COMMAND

    def _set_sleep(self, word: object) -> Effect | None:
        if word == "on":
            self.miner.sleep(self.now())
            return Effect.STOP
        if word == "off":
            self.miner.wake(self.now())
            return Effect.COMMAND
        return None

    def _set_watts(self, watts: object) -> Effect | None:
        lowest_w = self.miner.model.lowest_limit_w
        assert lowest_w is not None
        if isinstance(watts, bool) or not isinstance(watts, int) or not lowest_w <= watts <= self.miner.model.rated_w:
            return None
        now = self.now()
        if self.miner.setting.preset != _NORMAL:
            self.miner.set_preset(_NORMAL, now)
        self.miner.set_limit(watts, now)
        return Effect.COMMAND

    def _set_led(self, said: dict[str, Any]) -> Effect | None:
        if not isinstance(said.get("code"), int):
            return None
        self.is_blinking = said["code"] == _LED_LOCATE
        return Effect.COMMAND

    def _restart(self, said: dict[str, Any]) -> Effect | None:
        self.miner.reboot(self.now())
        return Effect.COMMAND

    # --- reading by HTTP -------------------------------------------------------------------------

    def _mode(self) -> list[dict[str, Any]]:
        setting = self.miner.setting
        is_custom = setting.limit_w != self.miner.model.rated_w
        row: dict[str, Any] = {
            "Mode": _CUSTOM if is_custom else setting.preset,
            "Sleep": "on" if setting.asleep else "off",
            "Tune": "power" if is_custom else "ths",
            "Power": round(setting.limit_w),
        }
        if self.keys_have_vanished:
            row = {"Sleep": row["Sleep"]}
        return [row]

    def _psu(self) -> list[dict[str, Any]]:
        if self.summary_is_empty:
            return []
        watts = math.nan if self.miner.has(Fault.NAN_POWER) else round(self.miner.measured_w(), 2)
        row = {"PowerIn": f"{watts}W", "PowerOut": f"{watts * 0.95:.2f}W", "PoutMax": "3600W", "VIn": "230.00V"}
        return [{"PoutMax": "3600W"} if self.keys_have_vanished else row]

    def _ipreport(self) -> list[dict[str, Any]]:
        row = {
            "IP": self.address,
            "mac": self.mac,
            "hostname": "FluxOS",
            "version": "2025.3.1",
            "model": self.miner.model.wire_name,
            "SerialNo": f"EMU{self.miner.id}",
            "HBSerialNo": [f"EMU{self.miner.id}B{n}" for n in range(_BOARDS)],
        }
        return [row]

    def _fan(self) -> list[dict[str, Any]]:
        return [{"ID": n, "Speed": 600 if self.is_asleep else 5400, "Target": 60, "Max": 7000} for n in range(4)]

    def _led(self) -> list[dict[str, Any]]:
        return [{"Code": _LED_LOCATE if self.is_blinking else _LED_NORMAL, "LED1": 1, "LED2": 0, "Msg": ""}]

    def _pools(self) -> list[dict[str, Any]]:
        return pool_list(self)

    # --- RPC -------------------------------------------------------------------------------------

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        return told(self, request, _READS, _BY)

    def _version(self) -> Rows:
        return 22, "GCMiner versions", "VERSION", [{"GCMiner": "1.7.4", "API": "3.7"}]

    def _rates_mhs(self, share: float = 1.0) -> dict[str, Any]:
        rate_mhs = round(self.miner.measured_hs() * share / 1e6, 2)
        return {f"MHS {span}": rate_mhs for span in ("av", "5s", "1m", "5m", "15m")}

    def _summary(self) -> Rows:
        row = {"Elapsed": self.elapsed_s, **self._rates_mhs(), "Accepted": 1000, "Rejected": 1, "Hardware Errors": 0}
        return 11, "Summary", "SUMMARY", [] if self.summary_is_empty else [row]

    def _devs(self) -> Rows:
        rows = [
            {"ASC": n, "ID": n + 1, "Enabled": "Y", "Status": "Alive", "Temperature": 60.0}
            | self._rates_mhs(1 / _BOARDS)
            for n in range(_BOARDS)
        ]
        return 9, f"{_BOARDS} ASC(s)", "DEVS", [] if self.summary_is_empty else rows

    def _devdetails(self) -> Rows:
        rows = [
            {"DEVDETAILS": n, "Name": "FLUX", "ID": n + 1, "Driver": "gcminer", "Model": self.miner.model.wire_name}
            for n in range(_BOARDS)
        ]
        return 69, "Device Details", "DEVDETAILS", rows

    def _rpc_pools(self) -> Rows:
        return 7, f"{len(self.pools)} Pool(s)", "POOLS", pool_list(self)


class AuradineExchange(Exchange):
    """One HTTP/1.1 connection to port 8080."""

    wire = Wire.AURADINE

    def pump(self, unit: Unit) -> None:
        pump_http(self, unit)


_READS: dict[str, Callable[[AuradineUnit], Rows]] = {
    "version": AuradineUnit._version,
    "summary": AuradineUnit._summary,
    "devs": AuradineUnit._devs,
    "devdetails": AuradineUnit._devdetails,
    "pools": AuradineUnit._rpc_pools,
}

_TOLD: dict[str, tuple[str, Callable[[AuradineUnit], list[dict[str, Any]]]]] = {
    "mode": ("Mode", AuradineUnit._mode),
    "psu": ("PSU", AuradineUnit._psu),
    "ipreport": ("IPReport", AuradineUnit._ipreport),
    "fan": ("Fan", AuradineUnit._fan),
    "led": ("LED", AuradineUnit._led),
    "pools": ("POOLS", AuradineUnit._pools),
}

_COMMANDS: dict[str, Callable[[AuradineUnit, dict[str, Any]], Effect | None]] = {
    "mode": AuradineUnit._set_mode,
    "led": AuradineUnit._set_led,
    "restart": AuradineUnit._restart,
}
