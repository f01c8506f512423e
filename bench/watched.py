"""The real daemon with two witnesses in its process: a sleeper that writes down how late it wakes, and, where asked,
cProfile. Everything else is `curtaild`, to the letter of its command line.

    python -m bench.watched LAGS PROFILE run --config site.toml        (PROFILE: a file, or "-" for none)
"""

from __future__ import annotations

import asyncio
import cProfile
import signal
import sys
import time
from typing import BinaryIO

import curtaild.app
from bench.lags import FLUSH_EVERY_S, SAMPLE, SLEEP_S
from curtaild.cli import main
from curtaild.telemetry import Telemetry, watch_loop_lag


def _watch(arguments: list[str]) -> None:
    lags, profile, *command = arguments
    profiler = cProfile.Profile() if profile != "-" else None

    async def watch(telemetry: Telemetry) -> None:
        if profiler is not None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, profiler.enable)
            loop.add_signal_handler(signal.SIGUSR2, profiler.disable)
        await asyncio.gather(watch_loop_lag(telemetry), _write_lags(file))

    file = open(lags, "wb")  # noqa: SIM115  # for as long as the process lives
    setattr(curtaild.app, "watch_loop_lag", watch)  # noqa: B010  # the one place where the daemon starts its own
    sys.argv = ["curtaild", *command]
    try:
        main()
    finally:
        if profiler is not None:
            profiler.dump_stats(profile)


async def _write_lags(file: BinaryIO) -> None:
    flush_at = 0.0
    while True:
        begin = time.monotonic()
        await asyncio.sleep(SLEEP_S)
        now = time.monotonic()
        file.write(SAMPLE.pack(now, max(0.0, now - begin - SLEEP_S)))
        if now >= flush_at:
            file.flush()
            flush_at = now + FLUSH_EVERY_S


if __name__ == "__main__":
    _watch(sys.argv[1:])
