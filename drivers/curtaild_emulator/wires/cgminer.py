"""The cgminer API on port 4028: one JSON request per connection, one JSON answer, close. Firmwares differ in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from curtaild_emulator.wires.exchange import Exchange
from curtaild_emulator.wires.unit import Answer, Effect, Unit, Wire
from curtaild_emulator.wires.web import pump_http

INVALID_COMMAND = 14
INVALID_JSON = 23

Rows: TypeAlias = tuple[int, str, str, list[dict[str, Any]]]
"""What one command tells: code, message, the rows' key, and the rows."""

_Firmware = TypeVar("_Firmware", bound=Unit)


class RpcExchange(Exchange):
    """One connection to the RPC port. The request has no end mark: it ends where its JSON does, or at once if it is
    text, which fits any segment."""

    wire = Wire.RPC

    def pump(self, unit: Unit) -> None:
        if unit.rpc_is_http:
            pump_http(self, unit)
            return
        text = self.buffer.strip(b" \r\n\t\0")
        if not text:
            return
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            if text.startswith(b"{") and not text.endswith(b"}"):
                return  # the rest is still on its way
            request = None
        self.buffer = b""
        if isinstance(request, dict):
            self.answer(unit.rpc(request))
        elif unit.speaks_text:
            self.answer(unit.rpc_text(text.decode("latin-1")))
        else:
            self.answer(Answer(encode({"STATUS": [status(unit, INVALID_JSON, "Invalid JSON", ok=False)], "id": 1})))


def status(unit: Unit, code: int, message: str, *, ok: bool = True, by: str = "cgminer 1.0.0") -> dict[str, Any]:
    """The STATUS entry that heads every answer."""
    return {
        "STATUS": "S" if ok else "E",
        "When": unit.wall_s(),
        "Code": code,
        "Msg": message,
        "Description": by,
    }


def encode(answer: Mapping[str, Any]) -> bytes:
    """JSON as the C implementations print it: no blanks, and a null byte at the end."""
    return json.dumps(answer, separators=(",", ":")).encode() + b"\0"


def joined(unit: Unit, command: str) -> Answer | None:
    """Several commands in one (`a+b`): each one's answer in a list under its name, READ commands only."""
    merged: dict[str, Any] = {}
    for name in command.split("+")[:16]:
        part = unit.rpc({"command": name})
        if part is None or part.effect is not Effect.READ:
            return None
        merged[name] = [json.loads(part.data.rstrip(b"\0"))]
    merged["id"] = 1
    return Answer(encode(merged))


def told(
    unit: _Firmware, request: Mapping[str, Any], reads: Mapping[str, Callable[[_Firmware], Rows]], by: str
) -> Answer | None:
    """The answer of a firmware that only tells on this port: `reads` by command, all else is no command."""
    command = str(request.get("command", ""))
    if "+" in command:
        return joined(unit, command)
    tell = reads.get(command)
    if tell is None:
        refusal = status(unit, INVALID_COMMAND, "Invalid command", ok=False, by=by)
        return Answer(encode({"STATUS": [refusal], "id": 1}))
    code, message, key, rows = tell(unit)
    return Answer(encode({"STATUS": [status(unit, code, message, by=by)], key: rows, "id": 1}))


def pool_list(unit: Unit) -> list[dict[str, Any]]:
    """POOLS as cgminer prints it; the passwords stay inside."""
    return [
        {
            "POOL": number,
            "URL": pool.url,
            "Status": "Alive" if pool.url else "Dead",
            "Priority": number,
            "Quota": 1,
            "Long Poll": "N",
            "Getworks": 100 if number == 0 else 0,
            "Accepted": 1000 if number == 0 else 0,
            "Rejected": 1 if number == 0 else 0,
            "Discarded": 0,
            "Stale": 0,
            "Get Failures": 0,
            "Remote Failures": 0,
            "User": pool.user,
            "Stratum Active": number == 0 and bool(pool.url) and not unit.is_asleep,
            "Stratum URL": pool.url if number == 0 else "",
            "Has Stratum": True,
            "GROUP": 0,
        }
        for number, pool in enumerate(unit.pools)
    ]
