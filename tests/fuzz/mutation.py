"""How inputs are varied: as JSON where they are JSON, value by value, and else byte by byte. By bytes alone they would
seldom stay well-formed for long enough to be wrong in a single place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

AS_JSON = 0.6
MOST_TAGS = 2
"""Bytes before the JSON that say which target, and which of its topics."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, -0.0, 0.5, 1e308, -1e308, float("inf"), float("nan"), 2**63, -(2**63), 10**400),
    *("", "x", "0", "-1", "null", "\0", "\ud800", "\u202e", "x" * 129, "a//b", "0001-01-01T00:00:00Z", "P9999Y"),
    *([], {}, [[]], [None], {"x": {}}),
)


def varied(data: bytes, most: int, seed: int, bytewise: Callable[[bytes, int], bytes]) -> bytes:
    """Another input of at most `most` bytes; the same seed makes the same."""
    chance = random.Random(seed)
    at = next((at for at in range(MOST_TAGS + 1) if data[at : at + 1] == b"{"), None)
    if at is None or chance.random() > AS_JSON:
        return bytewise(data, most)
    try:
        body = json.loads(data[at:])
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            body = _with_one_changed(body, chance)
        changed = data[:at] + json.dumps(body).encode()
    except (ValueError, RecursionError):
        return bytewise(data, most)
    return changed if len(changed) <= most else bytewise(data, most)


def _with_one_changed(body: Any, chance: random.Random) -> Any:
    places = list(_places(body))
    if not places:
        return body
    holder, key = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1:
            other, its_key = chance.choice(places)
            holder[key] = json.loads(json.dumps(other[its_key]))
        case 2 if isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(holder[key])))
        case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = chance.choice((-holder[key], holder[key] + 1, str(holder[key])))
        case _:
            holder[key] = json.loads(json.dumps(chance.choice(ODD)))
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in it, as who holds it and by what."""
    within: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        within = value.items()
    elif isinstance(value, list):
        within = enumerate(value)
    for key, inner in within:
        yield value, key
        yield from _places(inner)
