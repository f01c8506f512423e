"""Rehearsing: how long an hour of a site takes, the daemon's own core against the emulated plant, in virtual time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.policies.compare import site_of
from bench.table import Row
from curtaild.rehearse.emulated import emulate
from curtaild.rehearse.run import rehearse
from curtaild.rehearse.signals import SIGNALS
from curtaild.rehearse.troubles import Troubles

HOUR_S = 3_600.0
TIMES_REAL_TIME = 1_000.0


def rehearsal_rows(devices: int, signals: tuple[str, ...], progress: Callable[[str], None]) -> Iterator[Row]:
    """For each signal the CPU seconds that an hour of it takes. The start, before which nothing is judged, counts."""
    for signal in signals:
        progress(f"rehearsal: {signal}")
        emulated = emulate(site_of(devices), {}, Troubles(), seed=1)
        play = SIGNALS[signal](emulated.capacity)
        begin = time.thread_time()
        rehearse(emulated, play, Troubles(), seed=1)
        took_s = time.thread_time() - begin
        yield Row(
            f"rehearsal of {devices} devices: an hour of {signal}",
            "s",
            took_s / play.duration_s * HOUR_S,
            bar=HOUR_S / TIMES_REAL_TIME,
        )
