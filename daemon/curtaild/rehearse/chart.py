"""Pictures as inline SVG: lines and stacked areas over time, legible in light and dark, without a library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1080, 72, 16, 14, 30
MOST_POINTS = 1_400
"""More than the picture has pixels would only make the page heavy: of more, each pixel's extremes are kept."""
MOST_TICKS = 13
"""Along a picture's whole width."""
COLOURS = (
    "#4c78a8",
    "#72b7b2",
    "#54a24b",
    "#b2945b",
    "#9d755d",
    "#b279a2",
    "#e45756",
    "#7f7f7f",
    "#eeca3b",
    "#a0cbe8",
    "#2f6b5e",
    "#d6a5c9",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: what it is, its values at even times, and how it is drawn (a CSS class of the page)."""

    label: str
    values: Sequence[float]
    style: str


def over_time(
    lines: Sequence[Line],
    step_s: float,
    *,
    unit: str,
    stacked: bool = False,
    marks: Sequence[tuple[float, float]] = (),
    width: int = WIDTH,
    height: int = 300,
    begins_s: float = 0.0,
    has_legend: bool = True,
) -> str:
    """One picture. Values share the scale of `unit`; `marks` are stretches of time (s) to be shaded; the first value
    stands at `begins_s`."""
    length = max((len(line.values) for line in lines), default=0)
    if not length:
        return ""
    drawn = _stacked(lines) if stacked else list(lines)
    top = max((value for line in drawn for value in line.values if math.isfinite(value)), default=1.0)
    scale, prefix = _prefix(top)
    highest, step = _nice(top / scale)
    span_s = length * step_s
    inner_w, inner_h = width - LEFT - RIGHT, height - TOP - BOTTOM

    def x(at_s: float) -> float:
        return LEFT + inner_w * (at_s - begins_s) / span_s

    def y(value: float) -> float:
        return TOP + inner_h * (1 - value / scale / highest)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" preserveAspectRatio="xMidYMid meet">']
    parts += [
        f'<rect class="mark" x="{x(begin):.1f}" y="{TOP}" height="{inner_h}" '
        f'width="{max(1.5, x(end) - x(begin)):.1f}"/>'
        for begin, end in marks
    ]
    for number in range(round(highest / step) + 1):
        at = y(number * step * scale)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number * step:g}</text>')
    parts.append(f'<text class="unit" x="8" y="{TOP + 10}">{prefix}{escape(unit)}</text>')
    for at_s, label in _times(begins_s, span_s, MOST_TICKS * width // WIDTH):
        anchor = "middle" if x(at_s) < width - 2 * RIGHT else "end"  # the last one stays within the picture
        parts.append(f'<text class="tick" x="{x(at_s):.1f}" y="{height - 8}" text-anchor="{anchor}">{label}</text>')
        parts.append(f'<line class="grid" x1="{x(at_s):.1f}" x2="{x(at_s):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for number, line in enumerate(reversed(drawn) if stacked else drawn):
        points = [(begins_s + at_s, value) for at_s, value in _thinned(line.values, step_s)]
        if stacked:
            colour = COLOURS[(len(drawn) - 1 - number) % len(COLOURS)]
            outline = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
            ends = f"{x(points[-1][0]):.1f},{y(0):.1f} {x(points[0][0]):.1f},{y(0):.1f}"
            parts.append(f'<polygon fill="{colour}" fill-opacity="0.85" points="{outline} {ends}"/>')
        else:
            parts += [
                f'<polyline class="{line.style}" points="{" ".join(f"{x(a):.1f},{y(v):.1f}" for a, v in piece)}"/>'
                for piece in _unbroken(points)
            ]
    parts.append("</svg>")
    return "".join(parts) + (legend(lines, stacked) if has_legend else "")


def legend(lines: Sequence[Line], stacked: bool = False) -> str:
    """What each curve or area is."""
    keys = []
    for number, line in enumerate(lines):
        swatch = f' style="background:{COLOURS[number % len(COLOURS)]}"' if stacked else ""
        keys.append(f'<span class="key"><i class="swatch {escape(line.style)}"{swatch}></i>{escape(line.label)}</span>')
    return f'<p class="legend">{"".join(keys)}</p>'


def _stacked(lines: Sequence[Line]) -> list[Line]:
    """Each line on top of those before it."""
    sums: list[float] = []
    stacked: list[Line] = []
    for line in lines:
        sums = [below + value for below, value in zip(sums, line.values, strict=True)] if sums else list(line.values)
        stacked.append(Line(line.label, sums, line.style))
    return stacked


def _thinned(values: Sequence[float], step_s: float) -> Iterator[tuple[float, float]]:
    """Of every stretch its lowest and highest value, in their order, so that no peak is lost."""
    stretch = max(1, math.ceil(2 * len(values) / MOST_POINTS))
    if stretch == 1:
        yield from ((number * step_s, value) for number, value in enumerate(values))
        return
    for begin in range(0, len(values), stretch):
        part = [(value, begin + n) for n, value in enumerate(values[begin : begin + stretch]) if math.isfinite(value)]
        if part:
            for value, number in sorted({min(part), max(part)}, key=lambda pair: pair[1]):
                yield number * step_s, value


def _unbroken(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """The stretches in which the value is known."""
    piece: list[tuple[float, float]] = []
    for point in points:
        if math.isfinite(point[1]):
            piece.append(point)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _prefix(top: float) -> tuple[float, str]:
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if top >= scale:
            return scale, prefix
    return 1.0, ""


def _nice(top: float) -> tuple[float, float]:
    """The end of the scale and its step: 1, 2 or 5 times a power of ten, some five of them."""
    raw = max(top, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    return math.ceil(top / step - 1e-9) * step or step, step


def _times(begins_s: float, span_s: float, most: int) -> Iterator[tuple[float, str]]:
    steps = (10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 14_400, 86_400)
    every = next((step_s for step_s in steps if span_s / step_s <= most), 7 * 86_400)
    for number in range(math.ceil(begins_s / every), int((begins_s + span_s) // every) + 1):
        at_s = number * every
        if every < 60:
            label = f"{at_s} s"
        else:
            label = f"{at_s // 60} min" if span_s <= 7_200 else f"{at_s // 3_600}:{at_s % 3_600 // 60:02d}"
        yield float(at_s), label
