"""The JSON that cgminer's many descendants answer with, and the numbers in it: mended where it is broken in known
ways, doubted always.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from curtaild_drivers.asic.wire import ask
from curtaild_drivers.contract import BadReply, Seconds, Watts, watts_or_none

Reply: TypeAlias = dict[str, Any]

MOST_WATTS: Watts = 20_000.0
"""No ASIC miner draws more; the largest hydro units take about 11 kW."""

_MOST_HASHRATE_HS = 1e16
_NOT_A_NUMBER = re.compile(r"(:\s*)-?(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",\s*([}\]])")
_LEADING_COMMA = re.compile(r"\[\s*,")
_GLUE = re.compile(r"}\s*{")


class MinerStopped(BadReply):
    """The API server answers, the miner process behind it does not run (Whatsminer switched off or starting)."""


def has_ended(buffer: bytearray) -> bool:
    """cgminer ends an answer with a NUL, its descendants only by closing the connection."""
    return buffer[-1] == 0


def json_bytes(body: Mapping[str, object]) -> bytes:
    """What goes over the wire."""
    return json.dumps(body, separators=(",", ":")).encode()


@cache
def question(command: str) -> bytes:
    """An API command of this name without parameters: the names are a driver's own, and few."""
    return json_bytes({"command": command})


async def ask_json(host: str, port: int, command: bytes, until: Seconds) -> Reply:
    """One API command and its answer. Raises `Unreachable` (`Unanswered` once sent) and `BadReply`."""
    return parse(await ask(host, port, command, until, has_ended))


def parse(raw: bytes) -> Reply:
    """The answer as a dict. Raises `BadReply`, whatever the bytes; `MinerStopped` where they say so."""
    text = raw.replace(b"\0", b"").decode("utf-8", "replace").strip()
    if text.startswith("Socket connect failed"):
        raise MinerStopped(text[:80])
    try:
        reply = _decode(text)
    except ValueError:
        try:
            reply = _decode(_mended(text))
        except ValueError:
            raise BadReply(f"not JSON: {text[:80]!r}") from None
    if not isinstance(reply, dict):
        raise BadReply(f"not a JSON object: {text[:80]!r}")
    return reply


def _decode(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _mended(text: str) -> str:
    """Objects glued together ("}{", stock Antminer `stats`), stray commas (btminer, bmminer), C's nan and inf."""
    text = _GLUE.sub("},{", text)
    text = _TRAILING_COMMA.sub(r"\1", text)
    text = _LEADING_COMMA.sub("[", text)
    return _NOT_A_NUMBER.sub(r"\1null", text)


def first(reply: Reply, section: str) -> Reply:
    """The first object of a section such as SUMMARY; empty where there is none (a sleeping Antminer)."""
    items = reply.get(section)
    if isinstance(items, list):
        items = items[0] if items else None
    return items if isinstance(items, dict) else {}


def inner(reply: Reply, command: str) -> Reply:
    """One command's own answer within that of a joined command ("power+summary"); empty where it is missing."""
    return first(reply, command)


def status(reply: Reply) -> tuple[bool, int | None, str]:
    """Whether the answer says success, its code, and its words. cgminer says it in a list, btminer flatly."""
    stated = reply.get("STATUS")
    flat = reply if isinstance(stated, str) else first(reply, "STATUS")
    code = flat.get("Code")
    words = flat.get("Msg")
    said = flat.get("STATUS")
    return (
        said in ("S", "I"),
        code if isinstance(code, int) else None,
        words if isinstance(words, str) else json.dumps(words)[:200],
    )


def description(reply: Reply) -> str:
    """How the firmware names itself in an answer ("LUXminer 2024.5.1", "cgminer 1.0.0"); empty if it does not."""
    named = reply.get("Description") or first(reply, "STATUS").get("Description")
    return named if isinstance(named, str) else ""


def number(value: object) -> float | None:
    """A finite number, also where it is sent as text; otherwise `None`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def hashrate(value: object, unit_hs: float) -> float | None:
    """A hashrate in H/s from a value in units of `unit_hs`; `None` where absent, negative or absurd."""
    parsed = number(value)
    if parsed is None or not 0 <= parsed * unit_hs <= _MOST_HASHRATE_HS:
        return None
    return parsed * unit_hs


def temperature(value: object) -> float | None:
    """A temperature in °C; `None` where absent or impossible. Sensors that are off report 0."""
    parsed = number(value)
    return parsed if parsed is not None and -40 <= parsed <= 200 and parsed != 0 else None


def watts(value: object) -> Watts | None:
    """Measured watts; `None` where absent, NaN, negative or more than any miner draws. A claim of 0 W is none
    either: the control board that says so is powered."""
    claimed = watts_or_none(value, MOST_WATTS) if not _too_large(value) else None
    return claimed or None


def _too_large(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 64
