"""Draws power over time with characters: what is drawn as an area, the limit as a line above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from curtaild_drivers.contract import Watts

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LINES = "▁─▔"


@dataclass(frozen=True, slots=True)
class Column:
    """One stretch of time: what was drawn last in it, the limit, and whether the draw was ever over it."""

    drawn_w: Watts
    limit_w: Watts
    is_over: bool


def plot(columns: Sequence[Column | None], full_w: Watts, height: int) -> list[Text]:
    """`height` rows, the top first; the scale ends at `full_w`. `None`: nothing is known, or nothing has happened."""
    return [_row(columns, max(full_w, 1.0), height, row) for row in reversed(range(height))]


def _row(columns: Sequence[Column | None], full_w: Watts, height: int, row: int) -> Text:
    text = Text(no_wrap=True)
    for column in columns:
        if column is None:
            text.append(" ")
            continue
        drawn = column.drawn_w / full_w * height - row
        limit = min(column.limit_w / full_w, 0.999) * height - row
        area = "red" if column.is_over else "green"
        if 0 <= limit < 1:
            is_covered = drawn >= 1
            text.append(_LINES[min(2, int(limit * 3))], f"bold yellow on {area}" if is_covered else "bold yellow")
        elif drawn > 0:
            text.append(_EIGHTHS[min(8, max(1, round(drawn * 8)))], area)
        else:
            text.append(" ")
    return text
