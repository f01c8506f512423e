"""A book of recorded replies: what one emulated miner of each firmware answered, for the responder to say ten thousand
times over. A reply is found by words of its question (needles), because tokens and time stamps in it vary.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from curtaild_drivers.contract import Seconds, Watts

FIRST_NET = 64
METER = "127.63.0.1:502"
PORTS = {"rpc": 4028, "http": 80, "framed": 4433, "modbus": 502}


@dataclass(frozen=True, slots=True)
class Kind:
    """A firmware of the benches: its name in site files, and which emulated model stands for it."""

    firmware: str
    model: str


KINDS = (
    Kind("antminer", "antminer-s19j-pro"),
    Kind("whatsminer-v2", "whatsminer-m50"),
    Kind("whatsminer-v3", "whatsminer-m60"),
    Kind("luxos", "luxos-s21"),
    Kind("avalon", "avalon-a1566"),
)


def address(kind: int, number: int) -> str:
    """Where the device `number` (from 1) of a kind lives."""
    return str(ipaddress.IPv4Address(f"127.{FIRST_NET + kind}.0.0") + number)


def shares(count: int) -> list[int]:
    """How many of `count` devices are of each kind: as even as it goes."""
    each, over = divmod(count, len(KINDS))
    return [each + (kind < over) for kind in range(len(KINDS))]


def addresses(count: int) -> Iterator[tuple[int, str]]:
    """All devices of a farm, kinds in turn."""
    for number in range(count):
        kind = number % len(KINDS)
        yield kind, address(kind, number // len(KINDS) + 1)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer as they went over the wire, and what the device did about it."""

    wire: str
    question: bytes
    reply: bytes
    was_asleep: bool
    effect: str
    """"read", "stop" or "start"."""

    @property
    def needles(self) -> tuple[str, ...]:
        """Words that only questions of this meaning have, without blanks."""
        if self.wire == "http":
            found = _http_needles(self.question, is_refused=b" 401 " in self.reply[:32])
        else:
            found = _json_needles(self.question[4:] if self.wire == "framed" else self.question)
        return tuple("".join(needle.split()) for needle in found)


def _http_needles(question: bytes, is_refused: bool) -> Iterator[str]:
    head, _, body = question.decode("latin-1").partition("\r\n\r\n")
    yield head.partition("\r\n")[0]
    if not is_refused:
        if "\r\nauthorization:" in head.lower():
            yield "authorization:"
        mode = re.search(r'"miner-mode":\s*"?\d"?', body)
        if mode:
            yield mode[0]


def _json_needles(question: bytes) -> Iterator[str]:
    text = question.decode("latin-1").strip(" \0\r\n")
    try:
        said = json.loads(text)
    except ValueError:
        yield text.partition(":")[0]  # an Avalon's command; behind the colon stands the time
        return
    if "enc" in said:
        yield '"enc":1'
        yield said["data"][:20]  # the first block of AES-ECB: the command's name under this token
        return
    for key in ("command", "cmd"):
        if key in said:
            yield f'"{key}":"{said[key]}"'
    parameter = said.get("parameter")
    if isinstance(parameter, str):  # a session stands before the first comma, a time behind a colon
        first, comma, rest = parameter.partition(",")
        yield f"{comma}{rest.partition(':')[0]}" if comma else f'"{first}"'
    if "param" in said:
        yield f'"param":{json.dumps(said["param"], separators=(",", ":"))}'


@dataclass(slots=True)
class Pages:
    """What was recorded of one kind. `hot` and `stop` are what our driver asks for a reading and to stop a device."""

    exchanges: list[Exchange] = field(default_factory=list)
    watts: tuple[Watts, Watts] = (0.0, 0.0)
    hot: list[tuple[str, bytes]] = field(default_factory=list)
    stop: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Book:
    """The pages by kind, in the order of `KINDS`."""

    pages: list[Pages]

    def write(self, path: Path, count: int, answer_s: Seconds) -> None:
        """For the responder: a farm of `count` devices, each answering after `answer_s`."""
        lines = [f"delay {round(answer_s * 1e9)}", f"net {FIRST_NET}"]
        for kind, (pages, many) in enumerate(zip(self.pages, shares(count), strict=True)):
            lines.append(f"firmware {kind} {many} {pages.watts[0]:.1f} {pages.watts[1]:.1f}")
            lines += _entries(kind, pages.exchanges)
        path.write_text("\n".join(lines) + "\n", encoding="ascii")

    def plan(self, count: int, what: str) -> str:
        """For the floor: the very bytes of our driver for a reading (`hot`) or a stop (`stop`) of each device."""
        asked = [
            [f"{PORTS[wire]} {question.hex()}" for wire, question in (pages.hot if what == "hot" else pages.stop)]
            for pages in self.pages
        ]
        return "".join(f"{where} {one}\n" for kind, where in addresses(count) for one in asked[kind])


def _entries(kind: int, exchanges: list[Exchange]) -> list[str]:
    """One line for each meaning, the more precise first; of several recordings the last holds."""
    known = {(one.wire, one.was_asleep, one.needles): one for one in exchanges}
    ordered = sorted(known.values(), key=lambda one: (len(one.needles), sum(map(len, one.needles))), reverse=True)
    return [
        f"entry {kind} {one.wire} {int(one.was_asleep)} {one.effect} "
        f"{chr(10).join(one.needles).encode('latin-1').hex()} {one.reply.hex() or '-'}"
        for one in ordered
    ]
