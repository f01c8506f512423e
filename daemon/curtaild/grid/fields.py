"""Reads single fields out of a hostile JSON object. Each function returns the value or raises `Rejection`.

Nothing here trusts types: a bool is no number, a float is no sequence number, a missing key is never a default.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import RejectCode
from curtaild.core.limits import UNLIMITED, Ceiling, Limit

MAX_TEXT = 128
"""Longest identifier taken from the wire, in characters."""

MAX_DEPTH = 16
"""Objects and lists in each other, in a message; no dialect has more than five."""

MAX_SEQ = 2**63 - 1
"""Highest sequence number: what a signed 64-bit column can keep."""

UNPRINTABLE = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\uffff"
)
"""What no identifier may hold, as a class of a regular expression: controls, what turns text around, what hides in it,
halves of characters."""

MOST_AMOUNT = sys.float_info.max

_EARLIEST: UnixSeconds = 0.0
_LATEST: UnixSeconds = 253402300799.0  # 9999-12-31T23:59:59Z, the last second RFC 3339 can write
RFC3339 = "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
MAX_MOMENT_TEXT = 40
_MOMENT = re.compile(RFC3339)
_UNPRINTABLE = re.compile(f"[{UNPRINTABLE}]")


class Rejection(Exception):
    """Why a message is not taken. `subject` is the JSON object at fault where it is not the whole message."""

    def __init__(self, code: RejectCode, reason: str, subject: Mapping[str, object] | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.subject = subject


def malformed(reason: str) -> Rejection:
    return Rejection(RejectCode.MALFORMED, reason)


def shown(value: object) -> str:
    """A hostile value for a message to people: ASCII, and short."""
    text = ascii(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def parse_object(payload: bytes) -> tuple[dict[str, object], bool]:
    """The payload as a JSON object, and whether it holds NaN or Infinity: Python reads them, JSON has no such thing."""
    literals: list[str] = []

    def literal(name: str) -> float:
        literals.append(name)
        return float(name)

    try:
        body = json.loads(payload.decode("utf-8"), parse_constant=literal)
    except UnicodeDecodeError:
        raise malformed("not UTF-8") from None
    except RecursionError:
        raise malformed("nested too deeply") from None
    except ValueError as error:  # JSON's own errors, and integers too long to convert
        raise malformed(f"not JSON: {shown(str(error))}") from None
    if not isinstance(body, dict):
        raise malformed(f"expected an object, got {shown(body)}")
    if _is_deeper(body, MAX_DEPTH):
        raise malformed("nested too deeply")
    return body, bool(literals)


def _is_deeper(body: Mapping[str, object], levels: int) -> bool:
    """Level by level, not by recursion: how deep Python may recurse differs from version to version."""
    level: list[Iterable[object]] = [body.values()]
    for _ in range(levels):
        level = [
            each.values() if isinstance(each, dict) else each
            for values in level
            for each in values
            if isinstance(each, (dict, list))
        ]
        if not level:
            return False
    return True


def required(body: Mapping[str, object], key: str) -> object:
    if key not in body:
        raise malformed(f"{key} is missing")
    return body[key]


def text(body: Mapping[str, object], key: str) -> str:
    """A printable string of 1 to 128 characters: it goes into logs, the ledger and answers."""
    value = required(body, key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or _UNPRINTABLE.search(value):
        raise malformed(f"{key} must be 1 to {MAX_TEXT} printable characters, got {shown(value)}")
    return value


def text_or_none(body: Mapping[str, object], key: str) -> str | None:
    return None if body.get(key) is None else text(body, key)


def sequence(body: Mapping[str, object], key: str) -> int:
    """An integer; JSON does not tell 5.0 from 5."""
    value = required(body, key)
    number = readable_sequence(body, key)
    if number is None:
        raise malformed(f"{key} must be an integer from 0 to {MAX_SEQ}, got {shown(value)}")
    return number


def ceiling(body: Mapping[str, object], key: str) -> Ceiling:
    """Watts, or `Unlimited` where the grid wrote null in so many letters; an absent key is malformed."""
    value = required(body, key)
    if value is None:
        return UNLIMITED
    watts = _finite(value)
    if watts is None or watts < 0:
        raise Rejection(RejectCode.NOT_A_LIMIT, f"{key} must be watts, 0 or more, or null, got {shown(value)}")
    return Limit(watts + 0.0)  # -0.0 becomes 0.0


def amount_or_none(body: Mapping[str, object], key: str) -> float | None:
    """A finite number of 0 or more; `None` where the key is absent or null."""
    value = body.get(key)
    if value is None:
        return None
    amount = _finite(value)
    if amount is None or amount < 0:
        raise malformed(f"{key} must be a number, 0 or more, or null, got {shown(value)}")
    return amount + 0.0


def moment(body: Mapping[str, object], key: str) -> UnixSeconds:
    """An RFC 3339 timestamp with `Z` or an offset; local times are nobody's time."""
    value = required(body, key)
    if isinstance(value, str) and len(value) <= MAX_MOMENT_TEXT and _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).timestamp()
        except (ValueError, OverflowError):
            pass  # the 30th of February
    raise malformed(f"{key} must be an RFC 3339 timestamp with Z or an offset, got {shown(value)}")


def moment_or_none(body: Mapping[str, object], key: str) -> UnixSeconds | None:
    """As `moment`, or `None` for null; an absent key is malformed."""
    return None if required(body, key) is None else moment(body, key)


def readable_text(body: Mapping[str, object], key: str) -> str | None:
    """What can be quoted of a refused message's identifier: cut to 128 characters, `None` if it cannot be shown."""
    value = body.get(key)
    if not isinstance(value, str):
        return None
    cut = value[:MAX_TEXT]
    return cut if cut and not _UNPRINTABLE.search(cut) else None


def readable_sequence(body: Mapping[str, object], key: str) -> int | None:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_SEQ:
        return None
    return int(value) if value == int(value) else None


def timestamp(unix: UnixSeconds) -> str:
    """RFC 3339 in UTC, to the millisecond; moments outside the years 1970 to 9999 become the nearest inside."""
    inside = min(max(unix, _EARLIEST), _LATEST)
    return datetime.fromtimestamp(inside, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MOST_AMOUNT <= value <= MOST_AMOUNT:
        return None  # NaN, too, and an integer of hundreds of digits
    return float(value)
