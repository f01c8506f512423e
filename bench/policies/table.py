"""The policies' figures as a table: for a terminal, and for a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from bench.policies.compare import FORESIGHT, OURS, Row

HEADINGS = ("Wh over", "worst over", "within for good", "energy used", "value", "actuations")
NOTE = (
    "Over: above the limit after the time that it allows (60 s), by the plant's truth, in intervals of 4 s. Within for "
    "good: from when a limit fell until the draw was under it and stayed so, the slowest fall; in grace: the next one "
    "came sooner, and none was broken. Value: of the most that any dispatch could have earned, foreseeing all, with "
    "devices that obey in no time; watts above the limit earn nothing."
)


def terminal(rows: Sequence[Row]) -> Table:
    """For people at a terminal 120 columns wide."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("signal", "policy"):
        shown.add_column(heading, no_wrap=True)
    for heading in HEADINGS:
        shown.add_column(heading, justify="right")
    before = ""
    for row in rows:
        title = f"{row.signal}, {row.weather}"
        if title != before and before:
            shown.add_section()
        shown.add_row(title if title != before else "", row.policy, *_cells(row), style=_style(row))
        before = title
    return shown


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a table in Markdown, our own rows in bold."""
    yield "| signal | policy | " + " | ".join(HEADINGS) + " |"
    yield "|---|---|" + "---:|" * len(HEADINGS)
    before = ""
    for row in rows:
        title = f"{row.signal}, {row.weather}"
        cells = [row.policy, *_cells(row)]
        if row.policy == OURS:
            cells = [f"**{cell}**" for cell in cells]
        yield f"| {title if title != before else ''} | " + " | ".join(cells) + " |"
        before = title


def _style(row: Row) -> str:
    return {OURS: "bold", FORESIGHT: "dim"}.get(row.policy, "")


def _cells(row: Row) -> list[str]:
    if row.policy == FORESIGHT:
        return ["–", "–", "", "", "100 %", f"{row.actuations:,}" if row.actuations is not None else ""]
    return [
        f"{row.over_wh:,.1f}" if row.over_wh else "–",
        f"{row.worst_over_w:,.0f} W" if row.worst_over_w else "–",
        _within(row),
        f"{100 * row.utilisation:.1f} %" if row.utilisation is not None else "",
        f"{100 * row.value_share:.1f} %",
        f"{row.actuations:,}" if row.actuations is not None else "",
    ]


def _within(row: Row) -> str:
    """Where the limit moves on before it is reached, no answer ends; that is no fault within the grace."""
    if row.slowest_s is not None:
        return f"{row.slowest_s:.0f} s"
    return "never" if row.worst_over_w else "in grace"
