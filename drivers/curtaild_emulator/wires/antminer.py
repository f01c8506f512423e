"""Bitmain's own firmware: cgminer RPC for reading, digest-protected CGI for configuration. No power sensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.bmminer import BOARDS, CHIPS, COMPILED, VERSION, BmminerUnit
from curtaild_emulator.wires.digest import Digest
from curtaild_emulator.wires.unit import Answer, Board, Effect, HttpRequest, Pool, Wire
from curtaild_emulator.wires.web import page, reply, reply_json

_REALM = "antMiner Configuration"
_USER = "root"
# what the firmware writes as miner-mode it reads back as bitmain-work-mode
_MODES = {0: "normal", 1: None, 3: "low"}
_MODE_NUMBERS = {"normal": 0, "low": 3}
_SLEEP = 1


class AntminerUnit(BmminerUnit):
    """A stock Antminer with its configuration file."""

    speaks = frozenset({Wire.RPC, Wire.HTTP})

    __slots__ = ("_digest", "fan_is_manual", "fan_percent", "freq_level")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._digest = Digest(_REALM, _USER, board.nonce_secret)
        self.freq_level = "100"
        self.fan_is_manual = False
        self.fan_percent = "100"

    def settings(self) -> dict[str, object]:
        fan = (self.fan_is_manual, self.fan_percent)
        return super().settings() | {"fan": fan, "freq_level": self.freq_level}

    # --- CGI -------------------------------------------------------------------------------------

    def http(self, request: HttpRequest) -> Answer | None:
        if self.miner.has(Fault.WRONG_PASSWORD) or not self._digest.is_authorised(request, self.password):
            return reply(request, 401, page("401"), header=self._digest.challenge())
        if request.path in ("/", "/index.html"):
            return reply(request, 200, page("Ant Miner"))
        name = request.path.removeprefix("/cgi-bin/").removesuffix(".cgi")
        is_cgi = request.path == f"/cgi-bin/{name}.cgi"
        if name == "get_miner_conf" and self.miner.strikes(Fault.SETTINGS_UNREADABLE):
            return reply(request, 500, page("500"))
        told = self.cgi(name, request.body if request.method == "POST" else None) if is_cgi else None
        if told is None:
            # in HTML, as the real one does: a JSON 404 makes scanners take it for another make
            return reply(request, 404, page("404"))
        answer, effect = told
        return reply_json(request, answer, effect=effect)

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
            "system_filesystem_version": COMPILED,
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
            "INFO": {"miner_version": VERSION, "CompileTime": COMPILED, "type": self.miner.model.wire_name},
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
                "rate_ideal": rates["rate_ideal"] / BOARDS,
                "rate_real": round(rates["rate_5s"] / BOARDS, 2),
                "asic_num": CHIPS,
                "asic": "o" * CHIPS,
                "temp_pic": [55, 55, 60, 60],
                "temp_pcb": [55, 55, 60, 60],
                "temp_chip": [65, 65, 70, 70],
                "hw": 0,
                "eeprom_loaded": True,
                "sn": f"EMU{self.miner.id}B{n}",
            }
            for n in range(BOARDS)
        ]
        row = rates | {
            "chain_num": BOARDS,
            "fan_num": 4,
            "fan": [self.fan_rpm] * 4,
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


def _mode_number(conf: object) -> int | None:
    """`miner-mode` as it is written: a number, or a number in a string. It must be there."""
    mode = conf.get("miner-mode") if isinstance(conf, dict) else None
    if isinstance(mode, str) and mode.isdigit():
        return int(mode)
    return mode if isinstance(mode, int) and not isinstance(mode, bool) else None


_CGI: dict[str, Callable[[AntminerUnit], dict[str, Any]]] = {
    "get_system_info": AntminerUnit._system_info,
    "get_network_info": AntminerUnit._network_info,
    "get_miner_conf": AntminerUnit._get_conf,
    "get_blink_status": AntminerUnit._blink_status,
    "summary": AntminerUnit._web_summary,
    "stats": AntminerUnit._web_stats,
    "pools": AntminerUnit._web_pools,
}
