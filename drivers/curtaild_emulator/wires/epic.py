"""ePIC's PowerPlay firmware: HTTP on the RPC port, a password in every command, targets for its perpetual tuner.

Paths and fields are those of ePIC's published API. A refused command is told by `result`, not by the status code.
"""

from __future__ import annotations

import math
from typing import Any

from curtaild_drivers.contract import RunState, Watts
from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.models import DeviceModel
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Unit, Wire
from curtaild_emulator.wires.web import page, reply, reply_json

_BOARDS = 3
_CHIPS = 126
_POWER = "PowerTune"
_BY_HASHRATE = ("VoltageOptimizer", "BoardTune", "ChipTune")
_BISECTIONS = 40


class EpicUnit(Unit):
    """A miner with ePIC's control board."""

    speaks = frozenset({Wire.RPC, Wire.HTTP})
    rpc_is_http = True

    __slots__ = ("_algorithm", "_target", "_throttle")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._algorithm = _BY_HASHRATE[0]
        self._target = round(miner.model.rated_hs / 1e12)
        self._throttle: tuple[object, object] = (None, None)  # how far it steps down when hot, and in what steps

    def settings(self) -> dict[str, object]:
        return super().settings() | {"tuner": (self._algorithm, self._told_target), "throttle": self._throttle}

    def http(self, request: HttpRequest) -> Answer | None:
        if request.wire is Wire.HTTP:
            return reply(request, 200, page("Miner Web Dashboard"))
        name = request.path.removeprefix("/")
        if name == "summary" and self.miner.strikes(Fault.SETTINGS_UNREADABLE):
            return reply(request, 500, page("500"))
        if request.method == "GET" and name == "summary":
            return reply_json(request, self._summary())
        if request.method == "GET" and name == "capabilities":
            return reply_json(request, self._capabilities())
        if request.method == "GET" and name == "network":
            return reply_json(request, {"dhcp": {"address": self.address, "mac_address": self.mac, "gateway": ""}})
        if request.method != "POST" or name not in _COMMANDS:
            return reply(request, 404, page("404"))
        said = request.json()
        if said is None or self.miner.has(Fault.WRONG_PASSWORD) or said.get("password") != self.password:
            return self._refuse(request, "Incorrect password")
        return self._command(request, name, said.get("param"))

    # --- commands --------------------------------------------------------------------------------

    def _command(self, request: HttpRequest, name: str, param: Any) -> Answer:
        effect = Effect.COMMAND
        if name == "miner":
            if param not in ("Stop", "Autostart"):
                return self._refuse(request, "Unknown command")
            if param == "Stop":
                self.miner.sleep(self.now())
                effect = Effect.STOP
            else:
                self.miner.wake(self.now())
        elif name == "perpetualtune/algo":
            if not self._takes_target(param):
                return self._refuse(request, "Invalid tuning target")
        elif name == "identify":
            self.is_blinking = param is True
        else:
            self.miner.reboot(self.now())
        return reply_json(request, {"result": True, "error": None}, effect=effect)

    @staticmethod
    def _refuse(request: HttpRequest, why: str) -> Answer:
        return reply_json(request, {"result": False, "error": why})

    def _takes_target(self, param: Any) -> bool:
        """`{"algo": …, "target": …}`: watts for the power tuner, TH/s for the others; both whole numbers. What is not
        sent beside them is reset."""
        if not isinstance(param, dict):
            return False
        algorithm, target = param.get("algo"), param.get("target")
        if isinstance(target, bool) or not isinstance(target, int):
            return False
        model = self.miner.model
        lowest_w = model.lowest_limit_w
        assert lowest_w is not None
        if algorithm == _POWER:
            target_w: Watts = target
        elif algorithm in _BY_HASHRATE:
            target_w = _draw_for(model, target * 1e12)
        else:
            return False
        if not lowest_w - 1.0 <= target_w <= model.rated_w:
            return False
        self._algorithm, self._target = str(algorithm), target
        self._throttle = (param.get("min_throttle"), param.get("throttle_step"))
        self.miner.set_limit(target_w, self.now())
        return True

    @property
    def _told_target(self) -> int:
        """What its tuner is set to: it says so too where it woke up with another than it slept with."""
        limit_w = self.miner.setting.limit_w
        if self._algorithm == _POWER:
            return round(limit_w)
        is_full = limit_w == self.miner.model.rated_w
        return round(self.miner.model.rated_hs / 1e12) if is_full else self._target

    # --- reading ---------------------------------------------------------------------------------

    def _capabilities(self) -> dict[str, Any]:
        lowest_w = self.miner.model.lowest_limit_w or 0.0
        lowest_ths = math.ceil(self.miner.model.rate_hs(lowest_w) / 1e12)
        full_ths = round(self.miner.model.rated_hs / 1e12)
        return {
            "Model": self.miner.model.wire_name,
            "Coins": ["Btc"],
            "Board Serial Numbers": [f"EMU{self.miner.id}B{n}" for n in range(_BOARDS)],
            "Performance Estimator": {"Chip Count": _CHIPS},
            "PerpetualTune": [
                {"algorithm": name, "name": name, "description": "", "min": least, "max": most}
                for name, least, most in (
                    (_POWER, math.ceil(lowest_w), round(self.miner.model.rated_w)),
                    *((name, lowest_ths, full_ths) for name in _BY_HASHRATE),
                )
            ],
        }

    @property
    def _state(self) -> str:
        if self.miner.setting.asleep:
            return "Idling"
        return "Mining" if self.miner.state is RunState.RUNNING else "AdjustingClockVoltage"

    def _summary(self) -> dict[str, Any]:
        if self.summary_is_empty:
            return {}
        miner = self.miner
        watts = math.nan if miner.has(Fault.NAN_POWER) else round(miner.measured_w(), 1)
        rate_mhs = miner.measured_hs() / 1e6
        percent = 100.0 * miner.rate_hs / miner.model.rated_hs
        pool = self.pools[0]
        tuner = {
            "Target": self._told_target,
            "Throttle Target": None,
            "Min Throttle Target": self._throttle[0],
            "Throttle Step": self._throttle[1],
            "Unit": "W" if self._algorithm == _POWER else "TH/s",
            "Optimized": miner.is_settled,
        }
        told: dict[str, Any] = {
            "Hostname": "epic",
            "Software": "PowerPlay v1.17.1",
            "Status": {
                "Operating State": self._state,
                "Last Command": "stop" if miner.setting.asleep else "autostart",
                "Last Command Result": None,
                "Last Error": None,
            },
            "Mining": {"Coin": "Btc", "Algorithm": "SHA-256"},
            "Stratum": {
                "Current Pool": pool.url.removeprefix("stratum+tcp://"),
                "Current User": pool.user,
                "IsPoolConnected": not self.is_asleep,
                "Config Id": 0,
            },
            "StratumConfigs": [{"pool": p.url, "login": p.user, "password": p.password} for p in self.pools],
            "Session": {
                "Uptime": self.elapsed_s,
                "Active HBs": 0 if self.is_asleep else _BOARDS,
                "Average MHs": rate_mhs,
                "Accepted": 1000,
                "Rejected": 1,
            },
            "HBs": [
                {
                    "Index": n,
                    "Hashrate": [rate_mhs / _BOARDS, percent, 100.0],
                    "Core Clock Avg": 545.0,
                    "Input Voltage": 13.6,
                    "Input Power": watts / _BOARDS,
                    "Temperature": 60,
                }
                for n in range(_BOARDS)
            ],
            "Fans": {"Fans Speed": 60},
            "Fans Rpm": {f"Fans Speed {n}": 5400 for n in range(1, 5)},
            "Misc": {"Locate Miner State": self.is_blinking},
            "HwConfig": {"Boards Target Clock": [{"Index": n, "Data": 545.0} for n in range(_BOARDS)]},
            "PerpetualTune": {"Running": True, "Algorithm": {self._algorithm: tuner}},
            "Power Supply Stats": {"Input Voltage": 230.0, "Input Power": watts, "Target Voltage": 13_600},
        }
        if self.keys_have_vanished:
            del told["Power Supply Stats"], told["PerpetualTune"]
        return told


_COMMANDS = frozenset({"miner", "perpetualtune/algo", "identify", "reboot", "softreboot"})


def _draw_for(model: DeviceModel, rate_hs: float) -> Watts:
    """The draw at which a model yields a hashrate, by halving the span it lies in; beyond its best, infinite."""
    if rate_hs > model.rated_hs:
        return math.inf
    low_w, high_w = model.standby_w, model.rated_w
    for _ in range(_BISECTIONS):
        middle_w = (low_w + high_w) / 2.0
        if model.rate_hs(middle_w) < rate_hs:
            low_w = middle_w
        else:
            high_w = middle_w
    return high_w
