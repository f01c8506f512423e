"""The demo for people: the play's progress, power over time, the feeders, the devices, and what was said."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from curtaild.cli import view
from curtaild.demo.play import STEPS, Progress
from curtaild.demo.plot import Column, plot
from curtaild.demo.score import NOISE_FRACTION
from curtaild.demo.stage import Stage
from curtaild.demo.trace import Sample, StepMark
from curtaild.narrate import watts
from curtaild_drivers.contract import Seconds

FRAME_S = 0.25
PLOT_HEIGHT = 9
AXIS_WIDTH = 8
MOST_SAID = 7
_SPEAKERS = {"operator": "bold yellow", "site": "cyan", "daemon": "bold magenta"}


@dataclass(slots=True)
class LiveScreen:
    """Redraws itself four times a second; the last frame stays."""

    console: Console
    is_live: bool = True
    _columns: dict[int, Column] = field(default_factory=dict)

    async def show(self, stage: Stage, progress: Progress) -> None:
        with Live(console=self.console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self.frame(stage, progress, time.monotonic()), refresh=True)
                    await asyncio.sleep(FRAME_S)
            finally:
                live.update(self.frame(stage, progress, time.monotonic()), refresh=True)

    def frame(self, stage: Stage, progress: Progress, now: Seconds) -> RenderableType:
        """Everything, as it is now."""
        width = self.console.width - 4
        status = stage.status
        parts: list[RenderableType] = [_steps(progress, now), Text()]
        parts += self._plot(stage, progress, now, width)
        parts.append(Text())
        if status is None:
            parts.append(Text("the daemon is starting …", "bright_black"))
        else:
            parts += [view.site_line(status), Text(), view.feeders(status, bar_width=max(10, min(50, width - 52)))]
            parts += [Text(), view.devices(status), *view.troubled(status)[:3]]
        return Group(
            Panel(Group(*parts), title="[bold]curtaild demo[/]", border_style="bright_black", title_align="left"),
            _said(progress),
        )

    def _plot(self, stage: Stage, progress: Progress, now: Seconds, width: int) -> list[RenderableType]:
        columns = max(20, width - AXIS_WIDTH)
        began_at, mark, latest = progress.began_at, progress.mark, stage.latest
        if began_at is not None and progress.step is not None and mark is not None and latest is not None:
            self._note(int((now - began_at) / progress.seconds * columns), latest, mark)
        rows = plot([self._columns.get(place) for place in range(columns)], stage.rating_w, PLOT_HEIGHT)
        lines: list[RenderableType] = []
        for number, row in enumerate(rows):
            mark_w = stage.rating_w * (PLOT_HEIGHT - number) / PLOT_HEIGHT
            label = watts(mark_w) if number % 3 == 0 else ""
            lines.append(Text(f"{label:>{AXIS_WIDTH - 1}} ", "bright_black").append_text(row))
        return [*lines, _axis(columns, progress)]

    def _note(self, place: int, sample: Sample, mark: StepMark) -> None:
        """The farm's truth against what the operator asked: the daemon's own word comes a second later."""
        limit_w = mark.limit_w if sample.at >= mark.due_at else mark.from_w
        may_be_w = max(mark.limit_w * (1 + NOISE_FRACTION), mark.floor_w)
        is_over = sample.at >= mark.holds_from and sample.site_w > may_be_w
        known = self._columns.get(place)
        if known is not None and known.limit_w == limit_w:
            is_over = is_over or known.is_over
        self._columns[place] = Column(sample.site_w, limit_w, is_over)


def _steps(progress: Progress, now: Seconds) -> Text:
    text = Text()
    done = len(progress.marks)
    for number, step in enumerate(STEPS):
        if number == progress.step and progress.mark is not None:
            text.append(f"▶ {step.name}", "bold white")
            text.append(f" {max(0.0, progress.mark.ends_at - now):.0f} s", "bright_black")
        elif number < done:
            text.append(f"✔ {step.name}", "green")
        else:
            text.append(f"· {step.name}", "bright_black")
        text.append("   ")
    if progress.step is None:
        text.append("the curtain falls" if done else "setting the stage …", "italic")
    return text


def _axis(columns: int, progress: Progress) -> Text:
    """The steps' names under the moments they begin."""
    line = [" "] * (columns + AXIS_WIDTH)
    parts = sum(step.part for step in STEPS)
    began = 0.0
    for step in STEPS:
        at = AXIS_WIDTH + int(began / parts * columns)
        for offset, letter in enumerate(f"╵{step.name}"):
            if at + offset < len(line):
                line[at + offset] = letter
        began += step.part
    return Text("".join(line).rstrip(), "bright_black", no_wrap=True)


def _said(progress: Progress) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    began_at = progress.began_at
    for at, words in progress.said[-MOST_SAID:]:
        moment = f"{at - began_at:5.1f} s" if began_at is not None else "       "
        who, _, what = words.partition(": ")
        style = _SPEAKERS.get(who, "")
        table.add_row(Text(moment, "bright_black"), Text(who, style), Text(what))
    return table
