"""What a rehearsal says in the terminal: what came of it, the responses, where the energy went, and what to look at."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curtaild.narrate import watts
from curtaild.rehearse.score import Overshoot, Response
from curtaild.rehearse.summary import Summary
from curtaild_drivers.contract import Seconds

MOST_RESPONSES = 12

PARTS = {
    "waking": "reserved for devices that are waking or rising",
    "falling": "reserved for devices that are falling, until it is seen",
    "settled": "reserved for settled devices beyond what they draw",
    "unknown": "reserved for devices of which nobody knows where they are set",
    "auxiliary": "reckoned for fans and losses beyond what they take",
    "unseen": "held for errors of readings that no meter has checked",
    "margin": "kept as a margin under the limit",
    "not_given_out": "free, and not given out",
}
"""The causes of `losses.Losses`, for people."""


def tables(summary: Summary) -> RenderableType:
    """All of it."""
    return Group(_result(summary), _responses(summary), _lost(summary), *_remarks(summary))


def verdict(summary: Summary) -> Text:
    """The last line."""
    if summary.score.is_broken:
        broken = ", ".join(
            f"{feeder} by up to {watts(over.worst_w)}"
            for feeder, over in summary.score.overshoot.items()
            if over.broken
        )
        return Text(f"A limit would be BROKEN: {broken}.", "bold red")
    return Text(f"Every limit would be kept, {summary.score.grace_s:g} s after it began at the latest.", "bold green")


def _grid(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.ROUNDED)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _result(summary: Summary) -> Table:
    scored, play = summary.score, summary.rehearsal.play
    table = _grid(f"{play.name}: {play.says}", "", "", "")
    table.show_header = False
    used = f"{scored.used_wh / 1e3:,.1f} of {scored.allowed_wh / 1e3:,.1f} kWh"
    table.add_row("energy used, of what was allowed", used, f"{100 * scored.utilisation:.1f} %")
    if summary.best is not None and summary.value_share is not None:
        earned = f"{scored.earned:,.2f} of {summary.best:,.2f} {summary.unit}"
        table.add_row("earned, of the most that could be", earned, f"{100 * summary.value_share:.1f} %")
    else:
        table.add_row("earned", f"{scored.earned:,.2f} {summary.unit}", f"most possible: {summary.unsolved}")
    least = f"{summary.least} would have done" if summary.least is not None else ""
    table.add_row("actuations", f"{scored.actuations} on {scored.devices_moved} devices", least)
    for feeder, over in scored.overshoot.items():
        table.add_row(f"over the limit at {feeder}", _over(over), f"{over.energy_wh:.1f} Wh" if over.slots else "")
    return table


def _over(over: Overshoot) -> str:
    if not over.slots:
        return "never"
    return f"{over.slots} intervals of 4 s ({over.broken} for certain), by up to {watts(over.worst_w)}"


def _responses(summary: Summary) -> Table:
    responses = summary.score.responses
    shown = list(responses)
    title = "How fast the site answered"
    if len(responses) > MOST_RESPONSES:
        shown = summary.slowest_responses(MOST_RESPONSES)
        title += f": the {len(shown)} slowest of {sum(each.lowers for each in responses)} lower limits"
    table = _grid(title, "at", "from", "to", "begun", "90 %", "within the limit")
    for each in shown:
        table.add_row(
            _clock(each.at_s), watts(each.from_w), watts(each.to_w), _s(each.first_s), _s(each.most_s), _within(each)
        )
    return table


def _lost(summary: Summary) -> Table:
    table = _grid("Where the energy went that was allowed and not used", "", "kWh", "of allowed")
    for part, energy_wh in sorted(summary.lost_wh.items(), key=lambda item: -item[1]):
        share = energy_wh / summary.score.allowed_wh if summary.score.allowed_wh else 0.0
        if abs(share) >= 0.0005:
            table.add_row(PARTS[part], f"{energy_wh / 1e3:,.2f}", f"{100 * share:.2f} %")
    return table


def _remarks(summary: Summary) -> Iterator[Text]:
    for slow in summary.slow[:3]:
        wrong = f", {slow.misbehaving} of them made to misbehave" if slow.misbehaving else ""
        yield Text(
            f"Slowest to obey: {slow.group} ({slow.model}), {slow.median_s:.0f} s in the middle, {slow.worst_s:.0f} s "
            f"at worst ({slow.worst_device}){wrong}."
        )
    for assumed in summary.rehearsal.emulated.assumed:
        yield Text(f"{assumed.count} × {assumed.group}: taken for {assumed.model} ({assumed.because}).", "dim")


def _clock(at_s: Seconds) -> str:
    whole = round(at_s)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _s(value: Seconds | None) -> str:
    return "–" if value is None else f"{value:.0f} s"


def _within(response: Response) -> str:
    return _s(response.within_s) if response.lowers else ""
