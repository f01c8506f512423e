"""What the demo says in the end: one row per step, and what the rows mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def table(scores: Sequence[Score]) -> Table:
    """One row per step."""
    shown = Table(title="The site, by the farm's own truth", title_justify="left", header_style="bold")
    shown.add_column("step", no_wrap=True)
    for heading in ("limit", "first command", "under limit", "over after grace", "ended at", "energy used"):
        shown.add_column(heading, justify="right")
    shown.add_column("verdict", no_wrap=True)
    for each in scores:
        shown.add_row(
            each.mark.name,
            watts(each.mark.limit_w),
            _seconds(each.first_command_s),
            _seconds(each.to_limit_s),
            f"{watts(each.overshoot_w)} · {each.overshoot_wh:.1f} Wh",
            watts(each.end_w),
            "–" if each.utilisation is None else f"{100 * each.utilisation:.1f} %",
            f"[{_COLOURS[each.verdict]}]{each.verdict.value}[/]",
        )
    return shown


def remarks(scores: Sequence[Score]) -> Iterator[str]:
    """How to read the table, and the reason for each step that ended over its limit."""
    yield (
        "first command: from the publish (or the heartbeat's time-out) until the first device was told, seen at the "
        "farm to 0.02 s"
    )
    yield "energy used: of what was allowed while there was demand, after the grace; a release includes the waking up"
    for each in scores:
        if each.verdict is Verdict.FLOOR:
            yield (
                f"{each.mark.name}: everything is asleep; {watts(each.mark.floor_w)} of standby and auxiliary load "
                "cannot be shed, and the site told the grid so"
            )
    for each in scores:
        if each.verdict is Verdict.OVER:
            yield f"FAILED: {each.reason}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
