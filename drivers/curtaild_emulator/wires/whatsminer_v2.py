"""Whatsminer API 2: plain reading, commands only in an encrypted envelope signed by a token that lives half an hour.

Codes and limits are those of MicroBT's API documents 2.0.3–2.0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from curtaild_drivers.contract import Seconds
from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner
from curtaild_emulator.wires.btminer import (
    COMMAND_ERROR,
    COMMAND_OK,
    INVALID_COMMAND,
    PERMISSION_DENIED,
    BtminerUnit,
    is_relayed,
)
from curtaild_emulator.wires.btminer_cipher import crypt, open_envelope, seal, signature
from curtaild_emulator.wires.unit import Answer, Board, Effect, Pool, Wire

TOKEN_LIFE_S = 1800.0
MOST_TOKENS = 32
MOST_TOKENS_UNDER_FAULT = 16
_RELAY_REFUSED = b"Socket connect failed: Connection refused\n"
_SALT = "BQ5hoXV9"
_INVALID_JSON = 23
_TOKEN_OK = 134
_TOKEN_INVALID = 135
_TOKENS_EXHAUSTED = 136
_CHALLENGES = 64  # so few different ones that checking them stays cheap for a whole farm


class WhatsminerV2Unit(BtminerUnit):
    """A Whatsminer with API 2 and its table of tokens."""

    speaks = frozenset({Wire.RPC})
    __slots__ = ("_given", "_tokens")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        super().__init__(board, miner, address, password)
        self._tokens: dict[str, Seconds] = {}  # signature → until when
        self._given = 0

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        if "enc" in request:
            return self._command(request)
        command = str(request.get("command", request.get("cmd", "")))
        if command == "get_token":
            return self._get_token()
        if self.is_asleep and is_relayed(command) and self.miner.has(Fault.API_DOWN_WHILE_STOPPED):
            return Answer(_RELAY_REFUSED)
        told = self.tell(command)
        if told is not None:
            return told
        if command in _COMMANDS:
            return self.message(PERMISSION_DENIED, "permission denied", ok=False)
        return self.message(INVALID_COMMAND, "invalid cmd", ok=False)

    # --- tokens ----------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        changed = self.miner.has(Fault.WRONG_PASSWORD)
        return crypt(f"{self.password} changed" if changed else self.password, _SALT)

    def _get_token(self) -> Answer:
        now = self.board.wall_clock()
        self._tokens = {token: until for token, until in self._tokens.items() if until > now}
        most = MOST_TOKENS_UNDER_FAULT if self.miner.has(Fault.TOKEN_LIMIT) else MOST_TOKENS
        if len(self._tokens) >= most:
            return self.message(_TOKENS_EXHAUSTED, "over max token", ok=False)
        number = (sum(self.address.encode()) + self._given) % _CHALLENGES
        self._given += 1
        time_text, newsalt = f"{1000 + number}", f"nEw5aLt{chr(48 + number // 10)}"
        self._tokens[signature(self._key, time_text, newsalt)] = now + TOKEN_LIFE_S
        return self.message(_TOKEN_OK, {"time": time_text, "salt": _SALT, "newsalt": newsalt})

    def _command(self, request: dict[str, Any]) -> Answer | None:
        key = self._key
        opened = open_envelope(key, request.get("data"))
        if opened is None:
            return self.message(_INVALID_JSON, "enc json load err", ok=False)
        if self._tokens.get(str(opened.get("token")), 0.0) <= self.board.wall_clock():
            return self.message(_TOKEN_INVALID, "check token err", ok=False)
        command = str(opened.get("cmd", opened.get("command", "")))
        do = _COMMANDS.get(command)
        if do is None:
            told = self.tell(command)
            return told or self.message(INVALID_COMMAND, "invalid cmd", ok=False)
        done = do(self, opened)
        code, text = (COMMAND_OK, "API command OK") if done else (COMMAND_ERROR, "API command ERROR")
        sealed = self.dumped(seal(key, self.message_body(code, text, ok=done)))
        effect = Effect.STOP if command == "power_off" else Effect.COMMAND
        return sealed._replace(effect=effect) if done else sealed

    # --- commands: each says whether it was done -------------------------------------------------

    def _power_off(self, said: dict[str, Any]) -> bool:
        self.miner.sleep(self.now())
        return True

    def _power_on(self, said: dict[str, Any]) -> bool:
        self.miner.wake(self.now())
        return True

    def _set_percent(self, said: dict[str, Any]) -> bool:
        percent = said.get("percent")
        if isinstance(percent, int) and self.miner.has(Fault.NUMERIC_PERCENT_REFUSED):
            return False
        value = whole_number(percent)
        if value is None or not 0 <= value <= 100 or self.miner.setting.asleep:
            return False
        self.miner.set_percent(value, self.now())
        return True

    def _adjust_limit(self, said: dict[str, Any]) -> bool:
        value = whole_number(said.get("power_limit"))
        if value is None or not 0 <= value <= 99_999:
            return False
        self.miner.set_limit(value, self.now())
        return True

    def _low(self, said: dict[str, Any]) -> bool:
        self.miner.set_preset("low", self.now())
        return True

    def _normal(self, said: dict[str, Any]) -> bool:
        """Also for the high mode: these models are sold without headroom above normal."""
        self.miner.set_preset("normal", self.now())
        return True

    def _reboot(self, said: dict[str, Any]) -> bool:
        self.miner.reboot(self.now())
        return True

    def _update_pools(self, said: dict[str, Any]) -> bool:
        self.pools = [
            Pool(*(str(said.get(f"{part}{n}", "")) for part in ("pool", "worker", "passwd"))) for n in (1, 2, 3)
        ]
        return True

    def _set_led(self, said: dict[str, Any]) -> bool:
        self.is_blinking = said.get("param") != "auto"
        return True

    def _pre_power_on(self, said: dict[str, Any]) -> bool:
        return True


def whole_number(value: object) -> int | None:
    """A number as these APIs take it: an integer, or one in a string."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) <= 9:
        return int(value)
    return value if isinstance(value, int) else None


_COMMANDS: dict[str, Callable[[WhatsminerV2Unit, dict[str, Any]], bool]] = {
    "power_off": WhatsminerV2Unit._power_off,
    "power_on": WhatsminerV2Unit._power_on,
    "set_power_pct": WhatsminerV2Unit._set_percent,
    "set_power_pct_v2": WhatsminerV2Unit._set_percent,
    "adjust_power_limit": WhatsminerV2Unit._adjust_limit,
    "set_low_power": WhatsminerV2Unit._low,
    "set_normal_power": WhatsminerV2Unit._normal,
    "set_high_power": WhatsminerV2Unit._normal,
    "restart_btminer": WhatsminerV2Unit._reboot,
    "reboot": WhatsminerV2Unit._reboot,
    "update_pools": WhatsminerV2Unit._update_pools,
    "set_led": WhatsminerV2Unit._set_led,
    "pre_power_on": WhatsminerV2Unit._pre_power_on,
}
