"""The file in which a daemon under test writes down how late its event loop wakes a sleeper."""

from __future__ import annotations

import struct
from pathlib import Path

from curtaild_drivers.contract import Seconds

SLEEP_S = 0.005
FLUSH_EVERY_S = 0.5
SAMPLE = struct.Struct("dd")
"""When it woke (monotonic s) and how late that was (s)."""


def lags_between(file: Path, begin: Seconds, end: Seconds) -> list[Seconds]:
    """What the sleeper wrote of a stretch of monotonic time."""
    raw = file.read_bytes()
    whole = raw[: len(raw) - len(raw) % SAMPLE.size]
    return [lag for woke, lag in SAMPLE.iter_unpack(whole) if begin <= woke <= end]
