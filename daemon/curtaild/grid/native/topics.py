"""Where the native dialect's messages go, and what reading them needs beside the bytes."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild.clock import Clock
from curtaild.core.allocation import Issuer
from curtaild.grid.native.gate import Gate
from curtaild_drivers.contract import FeederId, Seconds

SCHEDULE_PAYLOADS = 8
"""A schedule may be this many times longer than an allocation: 256 items of 512 bytes at the default of 16 KiB."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The six topics of one site. Raises `ValueError` where prefix or site would make a wildcard or another level."""

    prefix: str
    site: str

    def __post_init__(self) -> None:
        if not self.site or set(self.site) & set("/+#\0") or not self.prefix or set(self.prefix) & set("+#\0"):
            raise ValueError(f"not usable in an MQTT topic: prefix {self.prefix!r}, site {self.site!r}")

    @property
    def allocation(self) -> str:
        return f"{self.prefix}/{self.site}/allocation"

    @property
    def schedule(self) -> str:
        return f"{self.prefix}/{self.site}/schedule"

    @property
    def heartbeat(self) -> str:
        return f"{self.prefix}/{self.site}/heartbeat"

    @property
    def ack(self) -> str:
        return f"{self.prefix}/{self.site}/ack"

    @property
    def status(self) -> str:
        return f"{self.prefix}/{self.site}/status"

    @property
    def breach(self) -> str:
        return f"{self.prefix}/{self.site}/breach"


@dataclass(frozen=True, slots=True)
class Context:
    """What decoding needs beside the bytes. `feeder: null` in a message means `root`. Without `gate` nothing is signed
    and anybody may speak, but in no name of `signing_elsewhere`: issuers whose keys another connection knows."""

    topics: Topics
    root: FeederId
    clock: Clock
    max_clock_skew_s: Seconds
    max_payload_bytes: int
    gate: Gate | None = None
    signing_elsewhere: frozenset[Issuer] = frozenset()

    def bound(self, topic: str) -> int:
        """The longest payload taken on `topic`, in bytes; a signature makes it half as long again."""
        longest = self.max_payload_bytes * (SCHEDULE_PAYLOADS if topic == self.topics.schedule else 1)
        return longest if self.gate is None else longest * 3 // 2
