"""MARA's firmware on an Antminer: JSON under /kaonsu/v1 behind the digest of the web server that it keeps.

Paths and fields are those the field's own clients use (pyasic, asic-rs). Its configuration is read and written whole:
what is not sent is lost. It runs by a power target ("concorde"), at a fixed frequency, or as shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.digest import Digest
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Pool, Unit, Wire
from curtaild_emulator.wires.web import page, reply, reply_json

_REALM = "antMiner Configuration"
_USER = "root"
_SLEEP, _AUTO = "Sleep", "Auto"
_AWAKE = (_AUTO, "Fixed", "Stock")
_BY_POWER = "PowerTarget"
_BOARDS = 3


class MarathonUnit(Unit):
    """An Antminer under MARA's firmware with its configuration."""

    speaks = frozenset({Wire.HTTP})

    __slots__ = ("_digest", "awake_mode", "concorde_mode", "fan_percent")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._digest = Digest(_REALM, _USER, board.nonce_secret)
        self.awake_mode = _AUTO
        self.concorde_mode = _BY_POWER
        self.fan_percent = 100

    def settings(self) -> dict[str, object]:
        modes = (self.awake_mode, self.concorde_mode)
        return super().settings() | {"modes": modes, "fan_percent": self.fan_percent}

    def http(self, request: HttpRequest) -> Answer | None:
        if self.miner.has(Fault.WRONG_PASSWORD) or not self._digest.is_authorised(request, self.password):
            return reply(request, 401, page("401"), header=self._digest.challenge())
        if request.path == "/":
            return reply(request, 200, page("Miner"))
        name = request.path.removeprefix("/kaonsu/v1/")
        if name == "miner_config" and request.method == "GET" and self.miner.strikes(Fault.SETTINGS_UNREADABLE):
            return reply(request, 500, page("500"))
        if request.method == "GET" and name in _TOLD:
            return reply_json(request, _TOLD[name](self))
        do = _COMMANDS.get(name) if request.method == "POST" else None
        said = request.json()
        if do is None or said is None:
            return reply(request, 404 if do is None else 400, page("refused"))
        effect = do(self, said)
        return reply(request, 400, page("400")) if effect is None else reply_json(request, said, effect=effect)

    # --- commands: each says what it did, `None` where it refuses ----------------------------------

    def _configure(self, said: dict[str, Any]) -> Effect | None:
        mode = said.get("mode")
        selected = mode.get("work-mode-selector") if isinstance(mode, dict) else None
        if not isinstance(mode, dict) or selected not in (_SLEEP, *_AWAKE):
            return None
        concorde = mode.get("concorde")
        concorde = concorde if isinstance(concorde, dict) else {}
        chosen, target_w = concorde.get("mode-select"), concorde.get("power-target")
        lowest_w, full_w = self.miner.model.lowest_limit_w, self.miner.model.rated_w
        assert lowest_w is not None
        if chosen == _BY_POWER and not (isinstance(target_w, int) and lowest_w <= target_w <= full_w):
            return None
        self._replace(said)
        self.concorde_mode = str(chosen)
        now = self.now()
        if chosen == _BY_POWER and target_w != self.miner.setting.limit_w:
            self.miner.set_limit(float(target_w or 0), now)
        if selected == _SLEEP:
            self.miner.sleep(now)
            return Effect.STOP
        self.awake_mode = str(selected)
        if self.miner.setting.asleep:
            self.miner.wake(now)
        return Effect.COMMAND

    def _replace(self, said: dict[str, Any]) -> None:
        pools = said.get("pools")
        sent = [pool for pool in pools if isinstance(pool, dict)] if isinstance(pools, list) else []
        sent += [{}] * 3
        self.pools = [Pool(*(str(pool.get(key, "")) for key in ("url", "user", "pass"))) for pool in sent[:3]]
        fan = said.get("fan")
        self.fan_percent = fan.get("percent", 100) if isinstance(fan, dict) else 100

    def _locate(self, said: dict[str, Any]) -> Effect:
        self.is_blinking = said.get("blinking") is True
        return Effect.COMMAND

    def _maintain(self, said: dict[str, Any]) -> Effect | None:
        if said.get("type") not in ("reboot", "reload"):
            return None
        self.miner.reboot(self.now())
        return Effect.COMMAND

    # --- reading ---------------------------------------------------------------------------------

    def _brief(self) -> dict[str, Any]:
        if self.summary_is_empty:
            return {}
        watts = math.nan if self.miner.has(Fault.NAN_POWER) else round(self.miner.measured_w())
        told = {
            "status": "Stopped" if self.is_asleep else "Mining",
            "elapsed": self.elapsed_s,
            "hashrate_realtime": round(self.miner.measured_hs() / 1e12, 2),
            "hashrate_average": round(self.miner.measured_hs() / 1e12, 2),
            "hashrate_ideal": round(self.miner.model.rated_hs / 1e9, 2),
            "power_consumption_estimated": watts,
        }
        if self.keys_have_vanished:
            del told["status"], told["power_consumption_estimated"]
        return told

    def _overview(self) -> dict[str, Any]:
        return {"mac": self.mac, "model": self.miner.model.wire_name, "version_firmware": "1.0.3"}

    def _config(self) -> dict[str, Any]:
        setting = self.miner.setting
        concorde = {
            "mode-select": self.concorde_mode,
            "mode-select-available": ["Hashrate", _BY_POWER],
            "hash-target": round(self.miner.model.rated_hs / 1e12),
            "power-target": round(setting.limit_w),
        }
        selected = _SLEEP if setting.asleep else self.awake_mode
        fixed = {"frequency": "485", "voltage": 1360}
        return {
            "mode": {"work-mode-selector": selected, "concorde": concorde, "fixed": fixed},
            "pools": [{"url": pool.url, "user": pool.user, "pass": pool.password} for pool in self.pools],
            "fan": {"mode": "Manual", "percent": self.fan_percent},
        }

    def _hashboards(self) -> dict[str, Any]:
        rate_ghs = self.miner.measured_hs() / 1e9 / _BOARDS
        boards = [
            {
                "index": n,
                "hashrate_average": rate_ghs,
                "temperature_pcb": [55, 57],
                "temperature_chip": [66, 68],
                "asic_num": 126,
                "serial_number": f"EMU{self.miner.id}B{n}",
            }
            for n in range(_BOARDS)
        ]
        return {"hashboards": boards}

    def _pools(self) -> list[dict[str, Any]]:
        return [
            {"index": n, "url": pool.url, "user": pool.user, "status": "Alive", "priority": n, "accepted": 1000}
            for n, pool in enumerate(self.pools)
        ]


_TOLD: dict[str, Callable[[MarathonUnit], object]] = {
    "brief": MarathonUnit._brief,
    "overview": MarathonUnit._overview,
    "miner_config": MarathonUnit._config,
    "hashboards": MarathonUnit._hashboards,
    "pools": MarathonUnit._pools,
    "fans": lambda unit: {"fans": [{"current_speed": 5400 * unit.fan_percent // 100}] * 4},
    "network_config": lambda unit: {"hostname": "antminer", "ip": unit.address},
    "locate_miner": lambda unit: {"blinking": unit.is_blinking},
}

_COMMANDS: dict[str, Callable[[MarathonUnit, dict[str, Any]], Effect | None]] = {
    "miner_config": MarathonUnit._configure,
    "locate_miner": MarathonUnit._locate,
    "maintenance": MarathonUnit._maintain,
}
