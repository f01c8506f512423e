"""A configuration that a miner takes only whole, pools included: read and written back to the letter, since what is
mended, replaced or left out on the way would be lost there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from curtaild_drivers.asic.http import Response
from curtaild_drivers.contract import BadReply, Refused

Configuration: TypeAlias = Mapping[str, Any]


def to_the_letter(page: str, answer: Response) -> dict[str, Any]:
    """What a page says. Raises `BadReply` for all that is not a JSON object in UTF-8."""
    if answer.status != 200:
        raise BadReply(f"{page}: HTTP {answer.status}")
    try:
        reply = json.loads(answer.body.decode())
    except (ValueError, RecursionError):
        raise BadReply(f"{page}: not JSON: {answer.body[:80]!r}") from None
    if not isinstance(reply, dict):
        raise BadReply(f"{page}: not a JSON object")
    return reply


def written_back(configuration: Configuration) -> bytes:
    """As it goes over the wire. Raises `Refused`."""
    try:
        return json.dumps(configuration, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused("its configuration has text that cannot be written back as it was") from None


def refuse_hidden(passwords: Iterable[object]) -> None:
    """Raises `Refused` where a pool's password is shown as stars."""
    if any(isinstance(hidden, str) and len(hidden) > 2 and set(hidden) == {"*"} for hidden in passwords):
        raise Refused("its configuration hides the pool passwords; writing it back would replace them with stars")
