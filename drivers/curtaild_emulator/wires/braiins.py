"""Braiins OS: the cgminer API for reading on 4028. What its gRPC service on 50051 does to the miner is here as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curtaild_drivers.contract import Watts
from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.cgminer import Rows, pool_list, told
from curtaild_emulator.wires.tokens import Tokens
from curtaild_emulator.wires.unit import Answer, Board, HttpRequest, Unit, Wire
from curtaild_emulator.wires.web import page, reply

BOARDS = 3
BOS_VERSION = "2025-01-14-0-5b2b2bd0-25.01-plus"
TOKEN_LIFE_S = 3600.0
_BY = "BOSer boser-openwrt 0.1.0-5b2b2bd0"


class BraiinsUnit(Unit):
    """An Antminer under Braiins OS with its power target."""

    speaks = frozenset({Wire.RPC, Wire.HTTP, Wire.BRAIINS})

    __slots__ = ("_tokens", "ramp_down_s", "tunes_by_hashrate")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._tokens = Tokens(TOKEN_LIFE_S)
        self.ramp_down_s: int | None = None
        """How long it takes over a pause: its quick ramping, where somebody has set it (from API 1.7)."""
        self.tunes_by_hashrate = False

    def settings(self) -> dict[str, object]:
        return super().settings() | {"ramp_down_s": self.ramp_down_s, "tunes_by_hashrate": self.tunes_by_hashrate}

    def http(self, request: HttpRequest) -> Answer | None:
        return reply(request, 200, page("Braiins OS"))

    # --- what gRPC does to it --------------------------------------------------------------------

    def login(self, user: str, password: str) -> str | None:
        """A token for who knows the password."""
        if self.miner.has(Fault.WRONG_PASSWORD) or (user, password) != ("root", self.password):
            return None
        return self._tokens.issue(self.board.wall_clock())

    def knows(self, token: object) -> bool:
        """Is it one of its live tokens."""
        return (
            isinstance(token, str)
            and not self.miner.has(Fault.WRONG_PASSWORD)
            and self._tokens.is_live(token, self.board.wall_clock())
        )

    @property
    def target_w(self) -> Watts:
        """The power target as it is set."""
        return self.miner.setting.limit_w

    @property
    def lowest_target_w(self) -> Watts:
        lowest_w = self.miner.model.lowest_limit_w
        assert lowest_w is not None
        return lowest_w

    def takes_target(self, target_w: Watts) -> bool:
        """Take a power target within its constraints; whether it did."""
        if not self.lowest_target_w <= target_w <= self.miner.model.rated_w:
            return False
        self.tunes_by_hashrate = False
        if target_w != self.target_w:
            self.miner.set_limit(target_w, self.now())
        return True

    # --- RPC -------------------------------------------------------------------------------------

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        return told(self, request, _READS, _BY)

    def _version(self) -> Rows:
        return 22, "BOSer versions", "VERSION", [{"API": "3.7", "BOSer": _BY.removeprefix("BOSer ")}]

    def _rates_mhs(self, share: float = 1.0) -> dict[str, Any]:
        rate_mhs = round(self.miner.measured_hs() * share / 1e6, 2)
        return {f"MHS {span}": rate_mhs for span in ("av", "5s", "1m", "5m", "15m", "24h")}

    def _summary(self) -> Rows:
        row = {"Elapsed": self.elapsed_s, **self._rates_mhs(), "Accepted": 1000, "Rejected": 1, "Hardware Errors": 0}
        return 11, "Summary", "SUMMARY", [] if self.summary_is_empty else [row]

    def _devs(self) -> Rows:
        nominal_mhs = self.miner.model.rated_hs / 1e6 / BOARDS
        rows = [
            {
                "ASC": n,
                "Name": "",
                "ID": n + 1,
                "Enabled": "N" if self.is_asleep else "Y",
                "Status": "Alive",
                "Nominal MHS": nominal_mhs,
                **self._rates_mhs(1.0 / BOARDS),
            }
            for n in range(BOARDS)
        ]
        return 9, f"{BOARDS} ASC(s)", "DEVS", [] if self.summary_is_empty else rows

    def _devdetails(self) -> Rows:
        rows = [
            {"DEVDETAILS": n, "Name": "", "ID": n + 1, "Driver": "", "Model": f"Bitmain {self.miner.model.wire_name}"}
            for n in range(BOARDS)
        ]
        return 69, "Device Details", "DEVDETAILS", rows

    def _tunerstatus(self) -> Rows:
        state = "Stable" if self.miner.is_settled else "Tuning individual chips"
        row: dict[str, Any] = {
            "PowerLimit": round(self.target_w),
            "ApproximateMinerPowerConsumption": round(self.miner.measured_w()),
            "TunerRunning": True,
            "TunerChainStatus": [{"HashchainIndex": n + 1, "Status": state} for n in range(BOARDS)],
        }
        if self.keys_have_vanished:
            del row["PowerLimit"], row["ApproximateMinerPowerConsumption"]
        return 200, "Tuner Status", "TUNERSTATUS", [row]

    def _pools(self) -> Rows:
        return 7, f"{len(self.pools)} Pool(s)", "POOLS", pool_list(self)


_READS: dict[str, Callable[[BraiinsUnit], Rows]] = {
    "version": BraiinsUnit._version,
    "summary": BraiinsUnit._summary,
    "devs": BraiinsUnit._devs,
    "devdetails": BraiinsUnit._devdetails,
    "tunerstatus": BraiinsUnit._tunerstatus,
    "pools": BraiinsUnit._pools,
}
