"""What the demo says in the end: one row per step, and what the rows mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from curtaild.demo.score import Score, Verdict
from curtaild.demo.stage import Stage
from curtaild.narrate import watts

_COLOURS = {Verdict.KEPT: "green", Verdict.FLOOR: "yellow", Verdict.OVER: "bold red"}


def opening(stage: Stage) -> str:
    """What is about to be seen."""
    return (
        f"{stage.devices} emulated miners on two metered rows, {watts(stage.demand_w)} when nothing limits them; "
        f"their physics run {stage.speed:.0f} × as fast as real ones.\n"
        f"An MQTT broker, the daemon (curtaild run), and a grid operator. Look on: curtaild status --watch --url "
        f"{stage.url}"
    )


def table(scores: Sequence[Score], *, is_plain: bool) -> Table:
    """One row per step; for logs without lines."""
    title = "What each step came to, by the farm's own truth"
    shown = Table(title=title, title_justify="left", header_style="bold", box=None if is_plain else box.ROUNDED)
    shown.add_column("step", no_wrap=True)
    for heading in ("limit", "first\ncommand", "under\nlimit", "over after\nthe grace", "ended at", "energy\nused"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for each in scores:
        shown.add_row(
            each.mark.name,
            watts(each.mark.limit_w),
            _seconds(each.first_command_s),
            _seconds(each.to_limit_s),
            f"{watts(each.overshoot_w)} · {each.overshoot_wh:.1f} Wh" if round(each.overshoot_w) else "–",
            watts(each.end_w),
            "–" if each.utilisation is None else f"{100 * each.utilisation:.1f} %",
            f"[{_COLOURS[each.verdict]}]{each.verdict.value}[/]",
        )
    return shown


def result_line(each: Score) -> str:
    """One step for machines: `result` and a JSON object, in W, Wh and s."""
    numbers = {
        "step": each.mark.name,
        "limit_w": round(each.mark.limit_w),
        "first_command_s": _rounded(each.first_command_s),
        "to_limit_s": _rounded(each.to_limit_s),
        "overshoot_w": round(each.overshoot_w),
        "overshoot_wh": round(each.overshoot_wh, 3),
        "end_w": round(each.end_w),
        "utilisation": _rounded(each.utilisation),
        "verdict": each.verdict.name.lower(),
    }
    return f"result {json.dumps(numbers)}"


def remarks(scores: Sequence[Score], stage: Stage) -> Iterator[str]:
    """How to read the table."""
    yield (
        "first command: from the publish (or the heartbeat's time-out) until the first device was told, as seen at the "
        "farm, to 0.02 s. energy used: of what was allowed while there was demand, after the grace; waking up included."
    )
    for each in scores:
        if each.verdict is Verdict.FLOOR:
            yield (
                f"{each.mark.name}: everything is asleep. {watts(each.mark.floor_w)} of standby and auxiliary load "
                "cannot be shed, and the site told the grid so (shortfall)."
            )
    still = stage.unproven()
    if still:
        yield (
            f"{still} devices that measure no watts (stock Antminers) are not awake again: one is believed asleep only "
            "after a minute, which no speed-up shortens, and woken only then."
        )


def verdict(scores: Sequence[Score]) -> str:
    """The last line."""
    over = [each.reason for each in scores if each.verdict is Verdict.OVER]
    if over:
        return "[bold red]FAILED:[/] " + "; ".join(over)
    return f"[bold green]All {len(scores)} steps ended within their limits.[/]"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
