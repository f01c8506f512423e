"""The demo for machines and logs: one line per second, and each thing said as it is said."""

from __future__ import annotations

import asyncio
import time

from rich.console import Console

from curtaild.demo.play import Progress
from curtaild.demo.stage import Stage


class PlainScreen:
    """Lines that `grep` and `awk` can read: key value pairs, watts as whole numbers."""

    is_live = False

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0

    async def show(self, stage: Stage, progress: Progress) -> None:
        began_at = time.monotonic()
        while True:
            for at, words in progress.said[self._told :]:
                self._print(f"{at - began_at:6.1f}  # {words}")
            self._told = len(progress.said)
            self._print(f"{time.monotonic() - began_at:6.1f}  {_line(stage, progress)}")
            await asyncio.sleep(1.0)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _line(stage: Stage, progress: Progress) -> str:
    step = progress.current
    words = [f'step "{step.name if step is not None else "starting"}"']
    status, latest = stage.status, stage.latest
    if status is not None:
        words += [
            f"link {status.phase.value}",
            f"limit {status.site.limit_w:.0f}",
            f"metered {_whole(status.site.metered_w)}",
            f"reserved {status.site.reserved_w + status.site.auxiliary_w:.0f}",
            f"deficit {status.site.deficit_w:.0f}",
            f"in-flight {status.actuations_in_flight}",
        ]
    if latest is not None:
        words += [f"true {latest.site_w:.0f}", f"told {latest.lowered + latest.raised}"]
    return "  ".join(words)


def _whole(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
