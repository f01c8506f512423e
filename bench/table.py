"""One row per bar: ours beside peer and floor of the same run, what it cost, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.machine import Machine
from bench.policies.compare import Row as PolicyRow
from bench.policies.table import NOTE, terminal
from curtaild_drivers.contract import Seconds


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the daemon's event loop woke a sleeper (s). A quantile is what somebody who comes at any moment stays
    under with that probability: counting wakes alone would flatter who stalls, as a stall of a second is one wake."""

    p50_s: Seconds
    p99_s: Seconds
    max_s: Seconds

    @classmethod
    def of(cls, lags: Sequence[Seconds], sleep_s: Seconds) -> Lag | None:
        if not lags:
            return None
        ordered = sorted(lags)
        return cls(_lag_at(0.5, ordered, sleep_s), _lag_at(0.99, ordered, sleep_s), ordered[-1])

    def __str__(self) -> str:
        return " / ".join(f"{lag_s * 1e3:.0f}" for lag_s in (self.p50_s, self.p99_s, self.max_s))


def _lag_at(share: float, ordered: Sequence[Seconds], sleep_s: Seconds) -> Seconds:
    total, waited = sum(ordered) + sleep_s * len(ordered), 0.0
    for lag_s in ordered:
        waited += lag_s + sleep_s
        if waited >= share * total:
            return lag_s
    return ordered[-1]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. All of `ours`, `peer`, `floor` and `bar` are in `unit`, and less is better; `None` is not measured.
    `cpu_s`, `memory_mib` and `lag` are the daemon's, or of whatever process runs our side."""

    what: str
    unit: str
    ours: float | None
    bar: float | None = None
    peer: float | None = None
    peer_name: str = ""
    floor: float | None = None
    floor_name: str = ""
    cpu_s: Seconds | None = None
    memory_mib: float | None = None
    lag: Lag | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met, `None` where there is none."""
        return None if self.bar is None or self.ours is None else self.ours <= self.bar


@dataclass(slots=True)
class Result:
    """All rows, the policies' own, and what could not be run with the reason."""

    machine: Machine
    rows: list[Row] = field(default_factory=list)
    policies: list[PolicyRow] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def show(self, console: Console) -> None:
        if self.policies:
            console.print(terminal(self.policies))
            console.print(NOTE)
        if self.rows:
            console.print(self._figures())
        console.print(str(self.machine), highlight=False)
        if not self.machine.is_quiet:
            console.print("[yellow]This machine was not quiet at the start: others' work is in these figures.[/]")
        for note in self.notes:
            console.print(f"· {note}", highlight=False)
        for reason in self.not_run:
            console.print(f"[yellow]not run:[/] {reason}", highlight=False)

    def _figures(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("what", overflow="fold", min_width=24)
        for title in ("ours", "bar", "peer", "floor", "peer/ours", "ours/floor", "CPU s", "MiB", "lag ms 50/99/max"):
            table.add_column(title, justify="right", overflow="fold")
        for row in self.rows:
            table.add_row(*_cells(row), style=None if row.is_met is not False else "red")
        return table


def _cells(row: Row) -> list[str]:
    return [
        row.what,
        _figure(row.ours, row.unit),
        "" if row.bar is None else f"≤ {_figure(row.bar, row.unit)}",
        _named(row.peer, row.unit, row.peer_name),
        _named(row.floor, row.unit, row.floor_name),
        _ratio(row.peer, row.ours),
        _ratio(row.ours, row.floor),
        "" if row.cpu_s is None else f"{row.cpu_s:.2f}",
        "" if row.memory_mib is None else f"{row.memory_mib:.0f}",
        "" if row.lag is None else str(row.lag),
    ]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "s" and value < 1.0:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.1f} %" if unit == "%" else f"{value:.3g} {unit}"


def _named(value: float | None, unit: str, name: str) -> str:
    return "" if value is None else f"{_figure(value, unit)} {name}".strip()


def _ratio(above: float | None, below: float | None) -> str:
    return f"{above / below:.1f}×" if above is not None and below else ""
