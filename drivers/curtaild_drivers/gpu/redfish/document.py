"""What a BMC's JSON says, whatever its shape: numbers, parts, links, and the words of a refusal (DSP0266)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TypeAlias, TypeGuard

from curtaild_drivers.contract import BadReply, Watts

Json: TypeAlias = dict[str, object]

MOST_W: Watts = 250_000.0
"""More than any node or rack behind one BMC draws; a claim above it is nonsense."""

_REJECTIONS = (
    "ActionNotSupported",
    "ActionParameter",
    "InsufficientPrivilege",
    "License",
    "PropertyNot",
    "PropertyUnknown",
    "PropertyValue",
    "ResourceInUse",
)
_NO_RIGHTS = ("InsufficientPrivilege", "AccessDenied", "NoValidSession", "Unauthorized")


def parsed(raw: bytes) -> Json:
    """A JSON object. Raises `BadReply` for anything else."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadReply(f"not JSON: {raw[:80]!r}") from None
    if not isinstance(document, dict):
        raise BadReply(f"not a JSON object: {raw[:80]!r}")
    return document


def number(value: object) -> float | None:
    """A finite number; `None` for anything else, text included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        parsed_value = float(value)
    except OverflowError:
        return None
    return parsed_value if math.isfinite(parsed_value) else None


def watts(value: object) -> Watts | None:
    """Watts above 0: nothing whose BMC answers draws nothing, and no node keeps a limit of nothing."""
    claimed = number(value)
    return claimed if claimed is not None and 0 < claimed <= MOST_W else None


def text(value: object) -> str:
    """Text to be shown, in one line of printable characters; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in value[:400]).split())[:200]


def part(document: Json, *keys: str) -> Json:
    """The object under these keys; empty where there is none."""
    for key in keys:
        inner = document.get(key)
        document = inner if isinstance(inner, dict) else {}
    return document


def first(value: object) -> Json:
    """The first object of a list; empty where there is none."""
    return next((item for item in value if isinstance(item, dict)), {}) if isinstance(value, list) else {}


def link(document: Json, *keys: str) -> str | None:
    """The path that the object under these keys points to."""
    target = part(document, *keys).get("@odata.id")
    return target if is_path(target) else None


def is_path(target: object) -> TypeGuard[str]:
    """Whether a link stays within this BMC's Redfish service, and is one that may be sent."""
    return (
        isinstance(target, str)
        and target.startswith("/redfish/")
        and len(target) <= 1024
        and target.isascii()
        and target.isprintable()
        and not any(sign in target for sign in " \\<>\"'")
    )


def members(collection: Json, key: str = "Members") -> list[str]:
    """The paths of a collection's members, in its order."""
    listed = collection.get(key)
    if not isinstance(listed, list):
        return []
    targets = [item.get("@odata.id") for item in listed[:_MOST_MEMBERS] if isinstance(item, dict)]
    return [target for target in targets if is_path(target)]


_MOST_MEMBERS = 512


def last_part(path: str) -> str:
    """The id at the end of a resource's path."""
    return path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Words:
    """What a BMC says beside a status: its messages for people, and their ids in the registries."""

    said: str = ""
    ids: tuple[str, ...] = field(default=())

    @property
    def refuses(self) -> bool:
        """Whether it says no, though its status says yes (a property that it ignored, say)."""
        return any(message_id.startswith(_REJECTIONS) for message_id in self.ids)

    @property
    def denies_rights(self) -> bool:
        """Whether the account may not do that."""
        return any(message_id.startswith(_NO_RIGHTS) for message_id in self.ids)


def words(raw: bytes) -> Words:
    """The messages of an answer: `@Message.ExtendedInfo`, bare, within `error`, or beside a property."""
    try:
        document = parsed(raw)
    except BadReply:
        return Words(text(raw[:160].decode("utf-8", "replace")))
    found: list[Json] = []
    for holder in (document, part(document, "error")):
        for key, listed in holder.items():
            if key.endswith("@Message.ExtendedInfo") and isinstance(listed, list):
                found += [message for message in listed[:8] if isinstance(message, dict)]
    ids = tuple(text(message.get("MessageId")).rpartition(".")[2] for message in found)
    said = [line for line in (_line(message) for message in found) if line]
    if not said:
        said = [line for line in (text(part(document, "error").get("message")),) if line]
    return Words("; ".join(dict.fromkeys(said))[:400], ids)


def _line(message: Json) -> str:
    return text(message.get("Message")) or text(message.get("MessageId"))
