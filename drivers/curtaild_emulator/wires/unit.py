"""One device as its wires see it, and the board that knows which device sits at which address."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from curtaild_drivers.contract import RunState, Seconds
from curtaild_emulator.faults import Fault
from curtaild_emulator.miner import Miner

_CLOCK_ERROR_S = 4 * 365 * 86_400


class Wire(Enum):
    """A protocol and its port."""

    HTTP = "http"
    RPC = "rpc"  # the cgminer API and its descendants
    WHATSMINER_V3 = "whatsminer_v3"
    BRAIINS = "braiins"  # gRPC
    AURADINE = "auradine"  # HTTP on a port of its own


class Effect(Enum):
    """What a request did, for those faults that strike commands only."""

    READ = "read"
    COMMAND = "command"
    STOP = "stop"


class Answer(NamedTuple):
    """What goes back over the wire, and whether the device closes the connection after it."""

    data: bytes
    effect: Effect = Effect.READ
    closes: bool = True


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request to a device's web server. Header names are in lower case."""

    wire: Wire
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"

    def json(self) -> dict[str, Any] | None:
        """The body as a JSON object, `None` where it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


@dataclass(slots=True)
class Pool:
    """One line of a device's pool list, which a careless write wipes."""

    url: str
    user: str
    password: str


class Unit:
    """A device's side of its wires. Subclasses are the firmwares; each says which wires it speaks."""

    speaks: ClassVar[frozenset[Wire]] = frozenset()
    speaks_text: ClassVar[bool] = False  # on the RPC port, beside JSON
    rpc_is_http: ClassVar[bool] = False

    __slots__ = ("address", "answered", "board", "is_blinking", "miner", "password", "pools")

    def __init__(self, board: Board, miner: Miner, address: str, password: str) -> None:
        self.board = board
        self.miner = miner
        self.address = address
        self.password = password
        self.is_blinking = False
        self.answered: Counter[Effect] = Counter()
        """How many requests it has dealt with, by what they did; a request that it refused did nothing."""
        self.pools = [Pool(f"stratum+tcp://pool{n}.example:3333", f"farm.{miner.id}", f"secret{n}") for n in (1, 2, 3)]

    def now(self) -> Seconds:
        """Plant time; the device is brought up to it."""
        now = self.board.clock()
        self.miner.advance(now)
        return now

    def settings(self) -> dict[str, object]:
        """All that can be set on it, as it stands: what a command changes, and what it has to leave alone."""
        setting = self.miner.setting
        return {
            "asleep": setting.asleep,
            "preset": setting.preset,
            "limit_w": setting.limit_w,
            "percent": setting.percent,
            "pools": tuple((pool.url, pool.user, pool.password) for pool in self.pools),
            "blinking": self.is_blinking,
        }

    def wall_s(self) -> int:
        """Unix time as the device's own clock has it."""
        error_s = _CLOCK_ERROR_S if self.miner.has(Fault.CLOCK_WRONG) else 0
        return int(time.time()) - error_s

    @property
    def elapsed_s(self) -> int:
        """Seconds since it last started to work."""
        return int(max(0.0, self.board.clock() - self.miner.working_since))

    @property
    def is_asleep(self) -> bool:
        return self.miner.state is RunState.ASLEEP

    @property
    def summary_is_empty(self) -> bool:
        return self.is_asleep and self.miner.has(Fault.EMPTY_SUMMARY_ASLEEP)

    @property
    def keys_have_vanished(self) -> bool:
        return self.is_asleep and self.miner.has(Fault.KEYS_VANISH_AFTER_SLEEP)

    @property
    def mac(self) -> str:
        """A locally administered address made of its network address."""
        return ":".join(["02", "c0", *(f"{int(part):02x}" for part in self.address.split("."))])

    def rpc(self, request: dict[str, Any]) -> Answer | None:
        """Answer one request on the RPC port; `None` closes the connection without a word."""
        raise NotImplementedError

    def rpc_text(self, line: str) -> Answer | None:
        """Answer one request in cgminer's text form: `command|parameter`."""
        raise NotImplementedError

    def http(self, request: HttpRequest) -> Answer | None:
        """Answer one request to its web server; `None` closes the connection without a word."""
        raise NotImplementedError


@dataclass(slots=True)
class Board:
    """Which device answers at which address, the time, and how long answers take."""

    clock: Callable[[], Seconds]
    latency_s: Seconds
    units: dict[str, Unit] = field(default_factory=dict)
    calls: set[asyncio.Transport] = field(default_factory=set)
    nonce_secret: str = field(default_factory=lambda: secrets.token_hex(16))
    wall_clock: Callable[[], Seconds] = time.monotonic  # sessions and tokens age by it, not by plant time

    def unit_at(self, address: str, wire: Wire) -> Unit | None:
        """The device that speaks `wire` at `address`."""
        unit = self.units.get(address)
        return unit if unit is not None and wire in unit.speaks else None
