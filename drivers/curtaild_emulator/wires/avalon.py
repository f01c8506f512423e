"""Canaan's Avalons: cgminer 4.11 on port 4028, read by bare words or JSON, commanded by `ascset|0,…`.

Answers come in the form the question had. Fields are those of an A15's `estats` and of Canaan's `ascset` help; which
firmwares act on an `ascset` that comes as JSON differs, so that is a fault of the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from curtaild_drivers.contract import RunState, Seconds
from curtaild_emulator.faults import Fault
from curtaild_emulator.wires.cgminer import INVALID_COMMAND, Rows, encode, joined, pool_list, status
from curtaild_emulator.wires.unit import Answer, Effect, HttpRequest, Unit, Wire
from curtaild_emulator.wires.web import page, reply

_BY = "cgminer 4.11.1"
_BOARDS = 3
_FIRMWARE = "24102401_25462b2_9ddf522"
_SET_OK, _SET_FAILED, _SET_INFO = 119, 120, 118
_OPTIONS = "help|led|worklevel|reboot|softon|softoff"


class AvalonUnit(Unit):
    """An Avalon with its work level, its soft switch and its light."""

    speaks = frozenset({Wire.RPC, Wire.HTTP})
    speaks_text = True

    __slots__ = ()

    def http(self, request: HttpRequest) -> Answer | None:
        return reply(request, 200, page("Avalon Device"))

    # --- the two forms of one question -----------------------------------------------------------

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        command, parameter = str(request.get("command", "")), str(request.get("parameter", ""))
        if "+" in command:
            return joined(self, command)
        if command == "ascset":
            if self.miner.has(Fault.JSON_COMMANDS_IGNORED):
                return None
            code, letter, message, effect = self._ascset(parameter)
            return Answer(encode({"STATUS": [self._status(code, letter, message)], "id": 1}), effect)
        told = self._tell(command)
        if told is None:
            return Answer(encode({"STATUS": [self._status(INVALID_COMMAND, "E", "Invalid command")], "id": 1}))
        code, message, key, rows = told
        if command == "restart":
            return Answer(encode({"STATUS": "RESTART"}), Effect.COMMAND)
        return Answer(encode({"STATUS": [self._status(code, "S", message)], key: rows, "id": 1}))

    def rpc_text(self, line: str) -> Answer | None:
        command, _, parameter = line.partition("|")
        if command == "ascset":
            code, letter, message, effect = self._ascset(parameter)
            return Answer(_as_text([("", self._status(code, letter, message))]), effect)
        told = self._tell(command)
        if told is None:
            return Answer(_as_text([("", self._status(INVALID_COMMAND, "E", "Invalid command"))]))
        code, message, key, rows = told
        if command == "restart":
            return Answer(b"RESTART|\0", Effect.COMMAND)
        sections = [(key if n == 0 else f"{key}{n}", row) for n, row in enumerate(rows)]
        return Answer(_as_text([("", self._status(code, "S", message)), *sections]))

    def _status(self, code: int, letter: str, message: str) -> dict[str, Any]:
        return status(self, code, message, by=_BY) | {"STATUS": letter}

    def _tell(self, command: str) -> Rows | None:
        if command == "restart":
            self.miner.reboot(self.now())
            return 0, "", "RESTART", []
        tell = _READS.get(command)
        return None if tell is None else tell(self)

    # --- ascset ----------------------------------------------------------------------------------

    def _ascset(self, parameter: str) -> tuple[int, str, str, Effect]:
        """Code, status letter, message and effect of `ascset|<device>,<option>[,<value>…]`."""
        device, _, rest = parameter.partition(",")
        option, _, value = rest.partition(",")
        if device.strip() != "0":
            return 107, "E", "Invalid ASC id", Effect.READ
        set_option = _ASCSET.get(option)
        if option == "help":
            return _SET_INFO, "I", f"ASC 0 set info: {_OPTIONS}", Effect.READ
        if set_option is None:
            return _SET_FAILED, "E", f"ASC 0 set failed: Unknown option: {option[:40]}", Effect.READ
        return set_option(self, value)

    def _worklevel(self, value: str) -> tuple[int, str, str, Effect]:
        verb, _, level = value.partition(",")
        if verb == "get":
            return _SET_INFO, "I", f"ASC 0 set info: worklevel {self.miner.setting.preset}", Effect.READ
        if verb != "set" or self.miner.model.preset_w(level) is None:
            return _SET_FAILED, "E", "ASC 0 set failed: worklevel unknown argument", Effect.READ
        self.miner.set_preset(level, self.now())
        return _SET_OK, "S", "ASC 0 set OK", Effect.COMMAND

    def _softoff(self, value: str) -> tuple[int, str, str, Effect]:
        return self._at_stamp("softoff", value, self.miner.sleep, Effect.STOP)

    def _softon(self, value: str) -> tuple[int, str, str, Effect]:
        return self._at_stamp("softon", value, self.miner.wake, Effect.COMMAND)

    def _at_stamp(
        self, option: str, value: str, verb: Callable[[Seconds], None], effect: Effect
    ) -> tuple[int, str, str, Effect]:
        """`1:<unix time>`: to be done when its own clock says so, at once if that is past."""
        on, _, stamp = value.partition(":")
        if on not in ("0", "1") or not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12:
            return _SET_FAILED, "E", f"ASC 0 set failed: {option} unknown argument", Effect.READ
        now = self.now()
        if on == "1":
            self.miner.schedule(now + max(0, int(stamp) - self.wall_s()), verb)
        return _SET_INFO, "I", f"ASC 0 set info: success {option}:{stamp}", effect

    def _reboot(self, value: str) -> tuple[int, str, str, Effect]:
        self.miner.reboot(self.now())
        return _SET_OK, "S", "ASC 0 set OK", Effect.COMMAND

    def _led(self, value: str) -> tuple[int, str, str, Effect]:
        if value not in ("1-0", "1-1"):
            return _SET_FAILED, "E", "ASC 0 set failed: led unknown argument", Effect.READ
        self.is_blinking = value == "1-1"
        return _SET_OK, "S", "ASC 0 set OK", Effect.COMMAND

    # --- reading ---------------------------------------------------------------------------------

    def _version(self) -> Rows:
        row = {
            "CGMiner": "4.11.1",
            "API": "3.7",
            "STM8": "20.08.01",
            "PROD": self.miner.model.wire_name,
            "MODEL": self.miner.model.wire_name.rpartition(" ")[2],
            "HWTYPE": "MM4v2_X3",
            "SWTYPE": "MM319",
            "LVERSION": _FIRMWARE,
            "BVERSION": _FIRMWARE,
            "CGVERSION": _FIRMWARE,
            "DNA": f"0201{self.mac.replace(':', '')}",
            "MAC": self.mac.replace(":", ""),
            "UPAPI": "2",
        }
        return 22, "CGMiner versions", "VERSION", [row]

    def _rates_mhs(self) -> dict[str, Any]:
        rate_mhs = round(self.miner.measured_hs() / 1e6, 2)
        return {f"MHS {span}": rate_mhs for span in ("av", "5s", "1m", "5m", "15m")}

    def _summary(self) -> Rows:
        row = {"Elapsed": self.elapsed_s, **self._rates_mhs(), "Accepted": 1000, "Rejected": 1, "Hardware Errors": 0}
        return 11, "Summary", "SUMMARY", [] if self.summary_is_empty else [row]

    def _devs(self) -> Rows:
        row = {"ASC": 0, "Name": "AVA10", "ID": 0, "Enabled": "Y", "Status": "Alive", "Temperature": 31}
        return 9, "1 ASC(s)", "DEVS", [row | self._rates_mhs()]

    def _pools(self) -> Rows:
        return 7, f"{len(self.pools)} Pool(s)", "POOLS", pool_list(self)

    def _estats(self) -> Rows:
        if self.summary_is_empty:
            return 70, "CGMiner stats", "STATS", []
        row = {"STATS": 0, "ID": "AVA100", "Elapsed": self.elapsed_s, "Calls": 0, "MM ID0": self._info()}
        return 70, "CGMiner stats", "STATS", [row, {"STATS": 1, "ID": "POOL0", "Elapsed": self.elapsed_s}]

    def _info(self) -> str:
        """One long line of `Key[values]`."""
        miner = self.miner
        rate_ghs = miner.measured_hs() / 1e9
        watts = "nan" if miner.has(Fault.NAN_POWER) else str(round(miner.measured_w()))
        full_w = miner.model.rated_w
        work = "In Idle" if self.is_asleep else "In Work" if miner.state is RunState.RUNNING else "In Init"
        told = {
            "Ver": f"15-194-{_FIRMWARE}",
            "DNA": f"0201{self.mac.replace(':', '')}",
            "SYSTEMSTATU": f"Work: {work}, Hash Board: {_BOARDS} ",
            "Elapsed": self.elapsed_s,
            "Temp": 31,
            "TMax": 78,
            "TAvg": 70,
            "Fan1": 4275,
            "Fan2": 4282,
            "FanR": "49%",
            "PS": f"0 1209 1187 297 {watts if watts == 'nan' else round(int(watts) * 0.945)} 1188 {watts}",
            "WALLPOWER": watts,
            "MPO": round(miner.model.preset_w(miner.setting.preset) or full_w),
            "GHSspd": f"{rate_ghs:.2f}",
            "GHSmm": f"{miner.model.rated_hs / 1e9:.2f}",
            "GHSavg": f"{rate_ghs:.2f}",
            "Led": int(self.is_blinking),
            "MGHS": " ".join([f"{rate_ghs / _BOARDS:.2f}"] * _BOARDS),
            "MTmax": "77 78 77",
            "MTavg": "69 70 71",
            "Core": "A3197S",
            "PING": 131,
            "WORKLEVEL": miner.setting.preset,
            "SoftOFF": int(miner.setting.asleep),
        }
        if self.keys_have_vanished:
            for key in ("PS", "WALLPOWER", "MPO", "WORKLEVEL"):
                del told[key]
        return " ".join(f"{key}[{value}]" for key, value in told.items())


def _as_text(sections: list[tuple[str, Mapping[str, Any]]]) -> bytes:
    """cgminer's own form: `NAME=0,key=value,…|` section after section."""
    lines = []
    for name, row in sections:
        fields = [f"{key}={value}" for key, value in row.items() if value is not None]
        lines.append(",".join([name, *fields] if name else fields))
    return "".join(f"{line}|" for line in lines).encode() + b"\0"


_READS: dict[str, Callable[[AvalonUnit], Rows]] = {
    "version": AvalonUnit._version,
    "summary": AvalonUnit._summary,
    "devs": AvalonUnit._devs,
    "pools": AvalonUnit._pools,
    "stats": AvalonUnit._estats,
    "estats": AvalonUnit._estats,
}

_ASCSET: dict[str, Callable[[AvalonUnit, str], tuple[int, str, str, Effect]]] = {
    "worklevel": AvalonUnit._worklevel,
    "softoff": AvalonUnit._softoff,
    "softon": AvalonUnit._softon,
    "reboot": AvalonUnit._reboot,
    "led": AvalonUnit._led,
}
