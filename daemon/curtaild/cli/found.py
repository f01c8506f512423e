"""How a scan looks in a terminal: its progress, and what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from curtaild.survey.changes import Change, Kind
from curtaild.survey.scan import Scan, Tally
from curtaild.survey.targets import in_order, ranges
from curtaild.survey.touch import Touch
from curtaild_drivers.asic.finding import Finding
from curtaild_drivers.contract import Identity, Seconds

MOST_LINES = 12
"""So many of a kind are listed, the others counted."""
_WIDE = 120
"""Terminals of so many columns show firmware versions too."""
_STYLES = {
    Kind.MOVED: "cyan",
    Kind.REPLACED: "yellow",
    Kind.REFLASHED: "yellow",
    Kind.UPDATED: "green",
    Kind.GONE: "red",
    Kind.OTHER_THAN_LISTED: "red",
    Kind.SILENT_BUT_LISTED: "red",
    Kind.SAME_SERIAL: "magenta",
}


class Bar:
    """A bar where somebody watches, a line now and then where nobody does."""

    def __init__(self, scan: Scan, progress: Progress, task: TaskID, console: Console) -> None:
        self._scan = scan
        self._progress = progress
        self._task = task
        self._console = console
        self.every_s: Seconds = 0.1 if console.is_terminal else 5.0

    def update(self) -> None:
        tally = self._scan.tally
        count = len(tally.miners)
        self._progress.update(self._task, completed=tally.done, found=count)
        if not self._console.is_terminal:
            self._console.print(f"{tally.done:,} of {len(self._scan.addresses):,} addresses, {count:,} miners")


@contextmanager
def progress(console: Console, words: Sequence[str], scan: Scan) -> Iterator[Bar]:
    """Shows a scan for as long as the context is open."""
    columns = (
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _Rate(),
        TextColumn("[green]{task.fields[found]:,} miners"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        title = words[0] if len(words) == 1 else f"{words[0]} and {len(words) - 1} more"
        task = shown.add_task(title, total=len(scan.addresses), completed=scan.tally.done, found=0)
        yield Bar(scan, shown, task, console)


class _Rate(ProgressColumn):
    """Addresses per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", "cyan")


def show(console: Console, tally: Tally, told: Sequence[Change], total: int, took_s: Seconds) -> None:
    """What a scan found, by kind; what is wrong; what has changed."""
    _headline(console, tally, total, took_s)
    miners = tally.miners
    known = {a: f.identity for a, f in miners.items() if f.identity is not None and f.identity.model}
    if known:
        console.print(_table(known, console.width))
    locked = {address: finding for address, finding in miners.items() if address not in known}
    if locked:
        _list(console, "reject the password (give it with --password-file)", locked)
    others = {address: finding for address, finding in tally.findings.items() if finding.identity is None}
    if others:
        _list(console, "answer, and are no miner that is known", others)
    _tell_changes(console, told)


def _headline(console: Console, tally: Tally, total: int, took_s: Seconds) -> None:
    count = len(tally.miners)
    line = Text(f"{count:,} miner{'' if count == 1 else 's'}", "bold green" if count else "bold yellow")
    asked = f"{total:,}" if tally.done == total else f"{tally.done:,} of {total:,}"
    line.append(f" at {asked} address{'' if total == 1 else 'es'} in {took_s:.1f} s", "default")
    for touch, words in ((Touch.REFUSED, "answer on none of a miner's ports"), (Touch.SILENT, "silent")):
        if tally.touched[touch]:
            line.append(f"; {tally.touched[touch]:,} {words}", "bright_black")
    console.print(line, highlight=False)
    if tally.touched[Touch.NO_ROUTE]:
        console.print(
            f"! {tally.touched[Touch.NO_ROUTE]:,} addresses: this host has no route there, or forbids it", style="red"
        )
    if tally.touched[Touch.NOT_ASKED]:
        console.print(
            f"! {tally.touched[Touch.NOT_ASKED]:,} addresses were not asked: this host ran out of sockets or neighbour "
            "entries. Scan again with a smaller --concurrency.",
            style="red",
        )


def _table(known: dict[str, Identity], width: int) -> Table:
    """One row per model and firmware; versions where there is room for them."""
    shows_version = width >= _WIDE
    groups: dict[tuple[str, ...], list[str]] = {}
    for address, identity in known.items():
        name = " ".join(filter(None, (identity.make, identity.model)))
        kind = (name, identity.firmware, *((identity.version,) if shows_version else ()))
        groups.setdefault(kind, []).append(address)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("miners", justify="right")
    for heading in ("model", "firmware", *(("version",) if shows_version else ()), "addresses"):
        table.add_column(heading, no_wrap=True)
    room = width - 10 - sum(2 + max(len(heading), *map(len, column)) for heading, column in _columns(groups))
    for kind, addresses in sorted(groups.items()):
        table.add_row(f"{len(addresses):,}", *map(Text, kind), Text(_short(addresses, room)))
    return table


def _columns(groups: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each column of names with its heading."""
    return zip(("firmware",) * 3, zip(*groups, strict=True), strict=False)


def _short(addresses: Sequence[str], room: int) -> str:
    """The first of these addresses, as many as fit, and how many words are left out."""
    words = ranges(addresses)
    for kept in range(len(words), 1, -1):
        more = f" and {len(words) - kept} more" if kept < len(words) else ""
        if len(text := ", ".join(words[:kept]) + more) <= room:
            return text
    return f"{words[0]} and {len(words) - 1} more" if len(words) > 1 else words[0]


def _list(console: Console, what: str, findings: dict[str, Finding]) -> None:
    console.print(Text(f"{len(findings):,} {what}:", "yellow"))
    for address in in_order(findings)[:MOST_LINES]:
        finding = findings[address]
        name = f"{finding.identity.firmware}: " if finding.identity is not None else ""
        console.print(Text(f"  {address:<15}  {name}{finding.trouble}", "bright_black"), soft_wrap=True)
    if len(findings) > MOST_LINES:
        console.print(Text(f"  and {len(findings) - MOST_LINES:,} more; --json lists all", "bright_black"))


def _tell_changes(console: Console, told: Sequence[Change]) -> None:
    for kind in Kind:
        of_kind = [change for change in told if change.kind is kind]
        for change in of_kind[:MOST_LINES]:
            line = Text("! ", _STYLES[kind]).append(f"{change.address} {kind.value}: ", _STYLES[kind])
            console.print(line.append(change.detail, "default"), soft_wrap=True)
        if len(of_kind) > MOST_LINES:
            console.print(Text(f"  and {len(of_kind) - MOST_LINES:,} more {kind.value}; --json lists all"))
