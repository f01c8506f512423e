"""VNish: Bitmain's cgminer for reading, and JSON over HTTP for everything else. Draw is chosen from tuned presets.

Paths and fields are those of the firmware's own API pages (1.2.6, and the throttle of 1.3.3). Whoever reads needs no
token, whoever commands does; how long one lives is an assumption, and so is that a start forgets the throttle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from curtaild_drivers.contract import RunState
from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner, Stage
from curtaild_emulator.wires.bmminer import BOARDS, BmminerUnit
from curtaild_emulator.wires.tokens import Tokens
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Pool, Wire
from curtaild_emulator.wires.web import page, reply, reply_json

TOKEN_LIFE_S = 1800.0
_API = "/api/v1/"
_BEFORE_THROTTLE = "1.2.6"
_THROTTLES = range(20, 101)  # percent of the preset's power
_MOST_POOLS = 3
_STATES = {Stage.BOOT: "initializing", Stage.WARM: "starting", Stage.CLIMB: "auto-tuning"}


class VnishUnit(BmminerUnit):
    """An Antminer under VNish."""

    speaks = frozenset({Wire.RPC, Wire.HTTP})

    __slots__ = ("_tokens", "cooling", "globals", "modified_presets", "quiet_mode")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._tokens = Tokens(TOKEN_LIFE_S)
        self.cooling: object = {"mode": {"name": "auto", "param": 65}, "fan_min_count": 4, "fan_min_duty": 10}
        self.globals: object = {"freq": 545, "volt": 1320}
        self.quiet_mode: object = False
        self.modified_presets: set[str] = set()
        """Presets whose tuning somebody has overwritten by sending frequencies along with their name."""

    def settings(self) -> dict[str, object]:
        kept = {"cooling": self.cooling, "globals": self.globals, "quiet_mode": self.quiet_mode}
        return super().settings() | kept | {"modified_presets": tuple(self.modified_presets)}

    @property
    def can_throttle(self) -> bool:
        return self.miner.model.api_version != _BEFORE_THROTTLE

    @property
    def type_in_stats(self) -> str:
        return f"{self.miner.model.wire_name} (Vnish {self.miner.model.api_version})"

    # --- HTTP ------------------------------------------------------------------------------------

    def http(self, request: HttpRequest) -> Answer | None:
        if not request.path.startswith(_API):
            found = request.path in ("/", "/index.html")
            return reply(request, 200 if found else 404, page("AnthillOS"))
        name = request.path.removeprefix(_API)
        if name == "settings" and request.method == "GET" and self.miner.strikes(Fault.SETTINGS_UNREADABLE):
            return reply_json(request, {"err": "Internal error"}, 500)
        if request.method == "GET":
            tell = _READS.get(name)
            return reply_json(request, tell(self)) if tell else reply_json(request, {"err": "Not found"}, 404)
        if name == "unlock":
            return self._unlock(request)
        if name == "find-miner":
            self.is_blinking = not self.is_blinking
            return reply_json(request, {"on": self.is_blinking}, effect=Effect.COMMAND)
        do = _COMMANDS.get(name) if request.method == "POST" else None
        if do is None or (name == "mining/throttle" and not self.can_throttle):
            return reply_json(request, {"err": "Not found"}, 404)
        # some of its own tools send the bare token, its pages say Bearer
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.miner.has(Fault.WRONG_PASSWORD) or not self._tokens.is_live(token, self.board.wall_clock()):
            return reply_json(request, {"err": "Unauthorized"}, 401)
        return do(self, request)

    def _unlock(self, request: HttpRequest) -> Answer:
        said = request.json() or {}
        if self.miner.has(Fault.WRONG_PASSWORD) or said.get("pw") != self.password:
            return reply_json(request, {"err": "Wrong password"}, 403)
        return reply_json(request, {"token": self._tokens.issue(self.board.wall_clock())})

    # --- commands --------------------------------------------------------------------------------

    def _stop(self, request: HttpRequest) -> Answer:
        if self.miner.setting.asleep:
            return self._cgminer_error(request, "pause")
        self.miner.sleep(self.now())
        return reply(request, 200, effect=Effect.STOP)  # it confirms with an empty body

    def _start(self, request: HttpRequest) -> Answer:
        if not self.miner.setting.asleep:
            return self._cgminer_error(request, "resume")
        self.miner.wake(self.now())
        return reply(request, 200, effect=Effect.COMMAND)

    def _restart(self, request: HttpRequest) -> Answer:
        self.miner.reboot(self.now())
        return reply(request, 200, effect=Effect.COMMAND)

    def _throttle(self, request: HttpRequest) -> Answer:
        """A share of the preset's power, followed on the fly."""
        percent = (request.json() or {}).get("percent")
        if isinstance(percent, bool) or not isinstance(percent, int) or percent not in _THROTTLES:
            return reply_json(request, {"err": "Invalid throttle"}, 400)
        self.miner.set_percent(percent, self.now())
        return reply(request, 200, effect=Effect.COMMAND)

    @staticmethod
    def _cgminer_error(request: HttpRequest, mode: str) -> Answer:
        return reply_json(request, {"err": f"CGMiner err: Cgminer error failed-to-activate-{mode}-mode "}, 500)

    def _save(self, request: HttpRequest) -> Answer:
        """Take the settings that are sent and keep the others. Only presets of its own ladder are settings."""
        said = (request.json() or {}).get("miner")
        if not isinstance(said, dict):
            return reply_json(request, {"err": "Invalid settings"}, 400)
        overclock, pools = said.get("overclock"), said.get("pools")
        preset = overclock.get("preset") if isinstance(overclock, dict) else None
        if preset is not None and (not isinstance(preset, str) or self.miner.model.preset_w(preset) is None):
            return reply_json(request, {"err": f"Unknown preset {str(preset)[:40]!r}"}, 400)
        if preset is not None and isinstance(overclock, dict) and overclock.keys() & {"globals", "chains"}:
            self.modified_presets.add(str(preset))
            self.globals = overclock.get("globals", self.globals)
        self.cooling = said.get("cooling", self.cooling)
        misc = said.get("misc")
        self.quiet_mode = misc.get("quiet_mode") if isinstance(misc, dict) else self.quiet_mode
        if isinstance(pools, list):
            sent = [pool for pool in pools if isinstance(pool, dict)][:_MOST_POOLS]
            self.pools = [Pool(*(str(pool.get(key, "")) for key in ("url", "user", "pass"))) for pool in sent]
        if preset is not None and preset != self.miner.setting.preset:
            self.miner.set_preset(preset, self.now())
        return reply_json(request, {"restart_required": False, "reboot_required": False}, effect=Effect.COMMAND)

    # --- reading ---------------------------------------------------------------------------------

    @property
    def _state(self) -> str:
        miner = self.miner
        if miner.setting.asleep:
            return "stopped" if miner.is_settled else "shutting-down"
        if miner.state is RunState.RUNNING:
            return "mining"
        return _STATES.get(miner.stage, "initializing")

    def _status(self) -> dict[str, Any]:
        return {
            "miner_state": self._state,
            "miner_state_time": self.elapsed_s,
            "find_miner": self.is_blinking,
            "restart_required": False,
            "reboot_required": False,
            "unlocked": False,
        } | self._throttled()

    def _throttled(self) -> dict[str, int]:
        return {"throttled": round(self.miner.setting.percent)} if self.can_throttle else {}

    def _system(self) -> dict[str, Any]:
        return {
            "os": "GNU/Linux",
            "miner_name": "antminer",
            "mem_total": 233_712,
            "mem_free": 173_956,
            "network_status": {
                "mac": self.mac.upper(),
                "dhcp": True,
                "ip": self.address,
                "netmask": "255.0.0.0",
                "gateway": "",
                "dns": [],
                "hostname": "antminer",
            },
            "uptime": "6:00",
        }

    def _info(self) -> dict[str, Any]:
        model = self.miner.model
        return {
            "miner": model.wire_name,
            "model": model.model.lower().replace(" ", ""),
            "fw_name": "Vnish",
            "fw_version": self.miner.model.api_version,
            "platform": "xil",
            "install_type": "nand",
            "build_time": "2025-05-29 19:22:26+00:00",
            "algorithm": "sha256d",
            "hr_measure": "GH/s",
            "system": self._system(),
            "serial": f"EMU{self.miner.id}",
        }

    def _summary_of_all(self) -> dict[str, Any]:
        if self.summary_is_empty:
            return {}
        rate_ghs = round(self.miner.measured_hs() / 1e9, 2)
        watts: float = round(self.miner.measured_w())
        if self.miner.has(Fault.NAN_POWER):
            watts = math.nan
        told: dict[str, Any] = {
            "miner_status": {"miner_state": self._state, "miner_state_time": self.elapsed_s} | self._throttled(),
            "miner_type": self.type_in_stats,
            "hr_stock": self.miner.model.rated_hs / 1e9,
            "average_hashrate": rate_ghs,
            "instant_hashrate": rate_ghs,
            "hr_realtime": rate_ghs,
            "hr_nominal": self.miner.model.rated_hs / 1e9,
            "hr_average": rate_ghs,
            "pcb_temp": {"min": 50, "max": 60},
            "chip_temp": {"min": 60, "max": 72},
            "power_consumption": watts,
            "power_usage": watts,
            "power_efficiency": 30.0,
            "hw_errors": 0,
            "devfee_percent": 2.0,
            "pools": [
                {"id": n, "url": p.url, "user": p.user, "status": "working" if n == 0 else "active"}
                for n, p in enumerate(self.pools)
            ],
            "cooling": {
                "fan_num": 4,
                "fans": [{"id": n, "rpm": 5400, "status": "ok", "max_rpm": 6000} for n in range(4)],
                "fan_duty": 90,
            },
            "chains": [
                {"id": n + 1, "status": {"state": "stopped" if self.is_asleep else "mining"}} for n in range(BOARDS)
            ],
        }
        if self.keys_have_vanished:
            for key in ("power_consumption", "power_usage", "power_efficiency"):
                del told[key]
            told["miner_status"].pop("throttled", None)
        return {"miner": told, "system": self._system()}

    def _preset(self, key: str) -> dict[str, Any]:
        preset = next(preset for preset in self.miner.model.presets if preset.key == key)
        rate_hs = self.miner.model.rate_hs(preset.draw_w)
        pretty = f"{preset.draw_w:.0f} watt ~ {rate_hs / 1e12:.0f} TH"
        status = "modified" if key in self.modified_presets else "tuned"
        return {"name": key, "pretty": pretty, "status": status, "modded_psu_required": False}

    def _presets(self) -> list[dict[str, Any]]:
        none = {"name": "disabled", "pretty": "Disabled", "status": "untuned", "modded_psu_required": False}
        return [none, *(self._preset(preset.key) for preset in self.miner.model.presets)]

    def _performance(self) -> dict[str, Any]:
        switcher = {"enabled": False, "top_preset": None, "min_preset": None, "decrease_temp": 75, "rise_temp": 55}
        return {"current_preset": self._preset(self.miner.setting.preset), "preset_switcher": switcher}

    def _settings(self) -> dict[str, Any]:
        overclock: dict[str, Any] = {
            "modded_psu": False,
            "preset": self.miner.setting.preset,
            "globals": self.globals,
            "chains": [],
        }
        if self.keys_have_vanished:
            del overclock["preset"]
        return {
            "miner": {
                "cooling": self.cooling,
                "overclock": overclock,
                "misc": {"quiet_mode": self.quiet_mode},
                "pools": [
                    {"url": p.url.removeprefix("stratum+tcp://"), "user": p.user, "pass": p.password}
                    for p in self.pools
                ],
            }
        }


_READS: dict[str, Callable[[VnishUnit], object]] = {
    "info": VnishUnit._info,
    "status": VnishUnit._status,
    "summary": VnishUnit._summary_of_all,
    "perf-summary": VnishUnit._performance,
    "autotune/presets": VnishUnit._presets,
    "settings": VnishUnit._settings,
}

_COMMANDS: dict[str, Callable[[VnishUnit, HttpRequest], Answer]] = {
    "settings": VnishUnit._save,
    "mining/stop": VnishUnit._stop,
    "mining/pause": VnishUnit._stop,
    "mining/start": VnishUnit._start,
    "mining/resume": VnishUnit._start,
    "mining/restart": VnishUnit._restart,
    "mining/throttle": VnishUnit._throttle,
    "system/reboot": VnishUnit._restart,
}
