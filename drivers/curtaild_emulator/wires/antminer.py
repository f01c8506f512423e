"""Bitmain's own firmware: cgminer RPC for reading, digest-protected CGI for configuration. No power sensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.cgminer import INVALID_COMMAND, encode, pool_list, status
from curtaild_emulator.wires.unit import Answer, Board, Effect, Pool, Unit, Wire

_BOARDS = 3
_CHIPS = 110
_COMPILED = "Fri Sep 15 14:39:20 CST 2023"
_VERSION = "1.1.0"
# what the firmware writes as miner-mode it reads back as bitmain-work-mode
_MODES = {0: "normal", 1: None, 3: "low"}
_MODE_NUMBERS = {"normal": 0, "low": 3}
_SLEEP = 1


class AntminerUnit(Unit):
    """A stock Antminer with its configuration file."""

    speaks = frozenset({Wire.RPC, Wire.HTTP})

    __slots__ = ("fan_is_manual", "fan_percent", "freq_level")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self.freq_level = "100"
        self.fan_is_manual = False
        self.fan_percent = "100"

    # --- RPC -------------------------------------------------------------------------------------

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        command = str(request.get("command", ""))
        tell = _RPC.get(command)
        if tell is None:  # also for a+b: this firmware joins no commands
            return Answer(encode({"STATUS": [status(self, INVALID_COMMAND, "Invalid command", ok=False)], "id": 1}))
        code, key, rows = tell(self)
        return Answer(encode({"STATUS": [status(self, code, key.title())], key: rows, "id": 1}))

    def _version(self) -> tuple[int, str, list[dict[str, Any]]]:
        about = {"BMMiner": "1.0.0", "API": "3.1", "Miner": _VERSION, "CompileTime": _COMPILED}
        return 22, "VERSION", [about | {"Type": self.miner.model.wire_name}]

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
        _, _, about = self._version()
        rate_ghs = round(self.miner.measured_hs() / 1e9, 2)
        row: dict[str, Any] = {
            "STATS": 0,
            "ID": "BC50",
            "Elapsed": self.elapsed_s,
            "GHS 5s": rate_ghs,
            "GHS av": rate_ghs,
            "rate_30m": rate_ghs,
            "Mode": 2,
            "miner_count": _BOARDS,
            "frequency": "545",
            "fan_num": 4,
            **{f"fan{n}": self._fan_rpm() for n in range(1, 5)},
            "temp_num": _BOARDS,
            "temp_max": 75,
            "total_rateideal": self.miner.model.rated_hs / 1e9,
            "rate_unit": "GH",
            "total_rate": rate_ghs,
            "no_matching_work": 0,
            "miner_version": _VERSION,
        }
        for n in range(1, _BOARDS + 1):
            row |= {
                f"temp{n}": 60,
                f"temp2_{n}": 70,
                f"temp_pcb{n}": "55-55-60-60",
                f"temp_chip{n}": "65-65-70-70",
                f"chain_acn{n}": _CHIPS,
                f"chain_acs{n}": "o" * _CHIPS,
                f"chain_hw{n}": 0,
                f"chain_rate{n}": f"{rate_ghs / _BOARDS:.2f}",
            }
        return 70, "STATS", [*about, row]

    def _devs(self) -> tuple[int, str, list[dict[str, Any]]]:
        share_mhs = self.miner.measured_hs() / 1e6 / _BOARDS
        rows = [
            {"ASC": n, "Name": "BTM_SOC", "ID": n, "Enabled": "Y", "Status": "Alive", "MHS 5s": share_mhs}
            for n in range(_BOARDS)
        ]
        return 9, "DEVS", [] if self.summary_is_empty else rows

    def _pools(self) -> tuple[int, str, list[dict[str, Any]]]:
        return 7, "POOLS", pool_list(self)

    def _config(self) -> tuple[int, str, list[dict[str, Any]]]:
        return 33, "CONFIG", [{"ASC Count": _BOARDS, "PGA Count": 0, "Pool Count": 3, "Strategy": "Failover"}]

    def _fan_rpm(self) -> int:
        return 0 if self.is_asleep else 5400

    # --- CGI -------------------------------------------------------------------------------------

    def cgi(self, name: str, body: bytes | None) -> tuple[dict[str, Any], Effect] | None:
        """Answer a CGI script, `body` being what was posted; `None` where the firmware has none of that name."""
        if name == "set_miner_conf" and body is not None:
            return self._set_conf(body)
        if name == "blink" and body is not None:
            self.is_blinking = b"true" in body
            return {"code": "B000" if self.is_blinking else "B100"}, Effect.COMMAND
        if name == "reboot":
            self.miner.reboot(self.now())
            return {"stats": "success", "code": "R000", "msg": "OK!"}, Effect.COMMAND
        tell = _CGI.get(name)
        return None if tell is None else (tell(self), Effect.READ)

    def _set_conf(self, body: bytes) -> tuple[dict[str, Any], Effect]:
        """Replace the configuration. What is not sent is lost: so pools vanish by careless writes."""
        try:
            conf = json.loads(body)
        except (ValueError, RecursionError):
            conf = None
        mode = _mode_number(conf)
        if not isinstance(conf, dict) or mode not in _MODES:
            return {"stats": "error", "code": "M001", "msg": "Illegal request!"}, Effect.READ
        pools = conf.get("pools")
        sent = [pool for pool in pools if isinstance(pool, dict)] if isinstance(pools, list) else []
        sent += [{}] * 3
        self.pools = [Pool(*(str(pool.get(key, "")) for key in ("url", "user", "pass"))) for pool in sent[:3]]
        self.freq_level = str(conf.get("freq-level", ""))
        self.fan_is_manual = conf.get("bitmain-fan-ctrl") is True
        self.fan_percent = str(conf.get("bitmain-fan-pwm", "100"))
        now = self.now()
        if mode == _SLEEP:
            self.miner.sleep(now)
        else:
            preset = _MODES[mode]
            assert preset is not None
            self.miner.set_preset(preset, now)
            self.miner.wake(now)
        effect = Effect.STOP if mode == _SLEEP else Effect.COMMAND
        return {"stats": "success", "code": "M000", "msg": "OK!"}, effect

    def work_mode(self) -> int:
        """The mode number as the configuration has it."""
        setting = self.miner.setting
        return _SLEEP if setting.asleep else _MODE_NUMBERS[setting.preset]

    def _get_conf(self) -> dict[str, Any]:
        conf: dict[str, Any] = {
            "pools": [{"url": p.url, "user": p.user, "pass": p.password} for p in self.pools],
            "api-listen": True,
            "api-network": True,
            "api-groups": "A:stats:pools:devs:summary:version",
            "api-allow": "A:0/0,W:*",
            "bitmain-fan-ctrl": self.fan_is_manual,
            "bitmain-fan-pwm": self.fan_percent,
            "bitmain-use-vil": True,
            "bitmain-freq": "545",
            "bitmain-voltage": "1360",
            "bitmain-ccdelay": "0",
            "bitmain-pwth": "0",
            "bitmain-work-mode": str(self.work_mode()),
            "bitmain-freq-level": self.freq_level,
        }
        if self.keys_have_vanished:
            del conf["bitmain-work-mode"]
        return conf

    def _system_info(self) -> dict[str, Any]:
        return {
            "minertype": self.miner.model.wire_name,
            "nettype": "DHCP",
            "netdevice": "eth0",
            "macaddr": self.mac.upper(),
            "hostname": "Antminer",
            "ipaddress": self.address,
            "netmask": "255.0.0.0",
            "gateway": "",
            "dnsservers": "",
            "system_mode": "GNU/Linux",
            "system_kernel_version": "Linux 4.6.0-xilinx-gff8137b-dirty",
            "system_filesystem_version": _COMPILED,
            "firmware_type": "Release",
            "serinum": f"EMU{self.miner.id}",
        }

    def _network_info(self) -> dict[str, Any]:
        return {
            "nettype": "DHCP",
            "netdevice": "eth0",
            "macaddr": self.mac.upper(),
            "ipaddress": self.address,
            "netmask": "255.0.0.0",
            "conf_nettype": "DHCP",
            "conf_hostname": "Antminer",
            "conf_ipaddress": "",
            "conf_netmask": "",
            "conf_gateway": "",
            "conf_dnsservers": "",
        }

    def _headed(self, command: str, key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "STATUS": {"STATUS": "S", "when": self.wall_s(), "Msg": command, "api_version": "1.0.0"},
            "INFO": {"miner_version": _VERSION, "CompileTime": _COMPILED, "type": self.miner.model.wire_name},
            key: rows,
        }

    def _web_rates(self) -> dict[str, Any]:
        rate_ghs = round(self.miner.measured_hs() / 1e9, 2)
        ideal_ghs = self.miner.model.rated_hs / 1e9
        return {
            "elapsed": self.elapsed_s,
            "rate_5s": rate_ghs,
            "rate_30m": rate_ghs,
            "rate_avg": rate_ghs,
            "rate_ideal": ideal_ghs,
            "rate_unit": "GH/s",
        }

    def _web_summary(self) -> dict[str, Any]:
        fine = [{"type": part, "status": "s", "code": 0, "msg": ""} for part in ("rate", "network", "fans", "temp")]
        row = self._web_rates() | {"hw_all": 0, "bestshare": 1, "status": fine}
        return self._headed("summary", "SUMMARY", [] if self.summary_is_empty else [row])

    def _web_stats(self) -> dict[str, Any]:
        rates = self._web_rates()
        chains = [
            {
                "index": n,
                "freq_avg": 545,
                "rate_ideal": rates["rate_ideal"] / _BOARDS,
                "rate_real": round(rates["rate_5s"] / _BOARDS, 2),
                "asic_num": _CHIPS,
                "asic": "o" * _CHIPS,
                "temp_pic": [55, 55, 60, 60],
                "temp_pcb": [55, 55, 60, 60],
                "temp_chip": [65, 65, 70, 70],
                "hw": 0,
                "eeprom_loaded": True,
                "sn": f"EMU{self.miner.id}B{n}",
            }
            for n in range(_BOARDS)
        ]
        row = rates | {
            "chain_num": _BOARDS,
            "fan_num": 4,
            "fan": [self._fan_rpm()] * 4,
            "hwp_total": 0.0,
            "miner-mode": self.work_mode(),
            "freq-level": int(self.freq_level) if self.freq_level.isdigit() else 100,
            "chain": chains,
        }
        return self._headed("stats", "STATS", [] if self.summary_is_empty else [row])

    def _web_pools(self) -> dict[str, Any]:
        rows = [
            {"index": n, "url": p.url, "user": p.user, "status": "Alive" if p.url else "Dead", "priority": n}
            for n, p in enumerate(self.pools)
        ]
        return self._headed("pools", "POOLS", rows)

    def _blink_status(self) -> dict[str, Any]:
        return {"blink": self.is_blinking}

    @property
    def web_is_broken(self) -> bool:
        return self.miner.strikes(Fault.HTTP_500)


def _mode_number(conf: object) -> int | None:
    """`miner-mode` as it is written: a number, or a number in a string. It must be there."""
    mode = conf.get("miner-mode") if isinstance(conf, dict) else None
    if isinstance(mode, str) and mode.isdigit():
        return int(mode)
    return mode if isinstance(mode, int) and not isinstance(mode, bool) else None


_RPC: dict[str, Callable[[AntminerUnit], tuple[int, str, list[dict[str, Any]]]]] = {
    "version": AntminerUnit._version,
    "summary": AntminerUnit._summary,
    "stats": AntminerUnit._stats,
    "devs": AntminerUnit._devs,
    "pools": AntminerUnit._pools,
    "config": AntminerUnit._config,
}

_CGI: dict[str, Callable[[AntminerUnit], dict[str, Any]]] = {
    "get_system_info": AntminerUnit._system_info,
    "get_network_info": AntminerUnit._network_info,
    "get_miner_conf": AntminerUnit._get_conf,
    "get_blink_status": AntminerUnit._blink_status,
    "summary": AntminerUnit._web_summary,
    "stats": AntminerUnit._web_stats,
    "pools": AntminerUnit._web_pools,
}
