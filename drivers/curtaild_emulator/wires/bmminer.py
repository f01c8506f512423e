"""What Bitmain's cgminer tells on port 4028, under Bitmain's own firmware and under those made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curtaild_emulator.wires.cgminer import INVALID_COMMAND, encode, pool_list, status
from curtaild_emulator.wires.unit import Answer, Unit

BOARDS = 3
CHIPS = 110
COMPILED = "Fri Sep 15 14:39:20 CST 2023"
VERSION = "1.1.0"


class BmminerUnit(Unit):
    """An Antminer's readable side. Subclasses are the firmwares."""

    __slots__ = ()

    def about(self) -> dict[str, Any]:
        """The versions that head `version` and `stats`."""
        return {"BMMiner": "1.0.0", "API": "3.1", "Miner": VERSION, "CompileTime": COMPILED}

    @property
    def type_in_stats(self) -> str:
        """How `stats` names the model."""
        return self.miner.model.wire_name

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        command = str(request.get("command", ""))
        tell = _RPC.get(command)
        if tell is None:  # also for a+b: this firmware joins no commands
            return Answer(encode({"STATUS": [status(self, INVALID_COMMAND, "Invalid command", ok=False)], "id": 1}))
        code, key, rows = tell(self)
        return Answer(encode({"STATUS": [status(self, code, key.title())], key: rows, "id": 1}))

    def _version(self) -> tuple[int, str, list[dict[str, Any]]]:
        return 22, "VERSION", [self.about() | {"Type": self.miner.model.wire_name}]

    def _summary(self) -> tuple[int, str, list[dict[str, Any]]]:
        if self.summary_is_empty:
            return 11, "SUMMARY", []
        rate_ghs = round(self.miner.measured_hs() / 1e9, 2)
        row: dict[str, Any] = {"Elapsed": self.elapsed_s}
        if not self.keys_have_vanished:
            row |= {"GHS 5s": rate_ghs, "GHS av": rate_ghs, "GHS 30m": rate_ghs}
        row |= {
            "Found Blocks": 0,
            "Getworks": 1000,
            "Accepted": 1000,
            "Rejected": 1,
            "Hardware Errors": 0,
            "Utility": 10.0,
            "Discarded": 0,
            "Stale": 0,
            "Get Failures": 0,
            "Remote Failures": 0,
            "Network Blocks": 10,
            "Total MH": 0.0,
            "Device Hardware%": 0.0,
            "Pool Rejected%": 0.1,
            "Last getwork": self.wall_s(),
        }
        return 11, "SUMMARY", [row]

    def _stats(self) -> tuple[int, str, list[dict[str, Any]]]:
        if self.summary_is_empty:
            return 70, "STATS", []
        rate_ghs = round(self.miner.measured_hs() / 1e9, 2)
        row: dict[str, Any] = {
            "STATS": 0,
            "ID": "BC50",
            "Elapsed": self.elapsed_s,
            "GHS 5s": rate_ghs,
            "GHS av": rate_ghs,
            "rate_30m": rate_ghs,
            "Mode": 2,
            "miner_count": BOARDS,
            "frequency": "545",
            "fan_num": 4,
            **{f"fan{n}": self.fan_rpm for n in range(1, 5)},
            "temp_num": BOARDS,
            "temp_max": 75,
            "total_rateideal": self.miner.model.rated_hs / 1e9,
            "rate_unit": "GH",
            "total_rate": rate_ghs,
            "no_matching_work": 0,
            "miner_version": VERSION,
        }
        for n in range(1, BOARDS + 1):
            row |= {
                f"temp{n}": 60,
                f"temp2_{n}": 70,
                f"temp_pcb{n}": "55-55-60-60",
                f"temp_chip{n}": "65-65-70-70",
                f"chain_acn{n}": CHIPS,
                f"chain_acs{n}": "o" * CHIPS,
                f"chain_hw{n}": 0,
                f"chain_rate{n}": f"{rate_ghs / BOARDS:.2f}",
            }
        return 70, "STATS", [self.about() | {"Type": self.type_in_stats}, row]

    def _devs(self) -> tuple[int, str, list[dict[str, Any]]]:
        share_mhs = self.miner.measured_hs() / 1e6 / BOARDS
        rows = [
            {"ASC": n, "Name": "BTM_SOC", "ID": n, "Enabled": "Y", "Status": "Alive", "MHS 5s": share_mhs}
            for n in range(BOARDS)
        ]
        return 9, "DEVS", [] if self.summary_is_empty else rows

    def _pools(self) -> tuple[int, str, list[dict[str, Any]]]:
        return 7, "POOLS", pool_list(self)

    def _config(self) -> tuple[int, str, list[dict[str, Any]]]:
        return 33, "CONFIG", [{"ASC Count": BOARDS, "PGA Count": 0, "Pool Count": 3, "Strategy": "Failover"}]

    @property
    def fan_rpm(self) -> int:
        return 0 if self.is_asleep else 5400


_RPC: dict[str, Callable[[BmminerUnit], tuple[int, str, list[dict[str, Any]]]]] = {
    "version": BmminerUnit._version,
    "summary": BmminerUnit._summary,
    "stats": BmminerUnit._stats,
    "devs": BmminerUnit._devs,
    "pools": BmminerUnit._pools,
    "config": BmminerUnit._config,
}
