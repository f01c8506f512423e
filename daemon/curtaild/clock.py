"""The two clocks and the bridge between them: monotonic inside, wall time only at the edges (messages, ledger)."""

from __future__ import annotations

import time
from typing import Protocol

from curtaild_drivers.contract import Seconds

UnixSeconds = float
"""Wall time: seconds since 1970-01-01T00:00:00Z."""


class Clock(Protocol):
    def monotonic(self) -> Seconds: ...

    def wall(self) -> UnixSeconds: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> Seconds:
        return time.monotonic()

    def wall(self) -> UnixSeconds:
        return time.time()


def to_monotonic(clock: Clock, unix: UnixSeconds) -> Seconds:
    """A wall time as a moment on the monotonic clock, by both clocks' present readings."""
    return clock.monotonic() + (unix - clock.wall())


def to_unix(clock: Clock, moment: Seconds) -> UnixSeconds:
    """A monotonic moment as wall time, by both clocks' present readings."""
    return clock.wall() + (moment - clock.monotonic())
