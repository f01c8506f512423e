"""Draws the pictures of docs/control.md from rehearsals: `python docs/build_control.py`. The results are committed."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from curtaild.rehearse.chart import COLOURS, Line, over_time
from curtaild.rehearse.emulated import emulate
from curtaild.rehearse.play import Capacity, Order, Play
from curtaild.rehearse.run import Rehearsal, rehearse
from curtaild.rehearse.trace import SLOT_S
from curtaild.rehearse.troubles import Troubles
from curtaild_config import load_site

FOLDER = Path(__file__).parent
SITE = """
[site]
name = "example"
[grid]
brokers = ["mqtt://127.0.0.1:1883"]
failsafe_limit_w = 50_000
[[feeder]]
id = "site"
rating_w = 140_000
auxiliary_w = 2_000
[feeder.meter]
address = "10.0.0.5:502"
settings = { preset = "eastron-sdm630" }
"""
GROUPS = (("whatsminer-v3", 12), ("luxos", 12), ("braiins", 8), ("antminer", 8))
INK = {"limit": "#d4870b", "true": "#1f6fb2", "metered": "#7fb7dd", "reserved": "#8794a1"}
STYLE = """<style>text{fill:#4d5763;font:12px system-ui,sans-serif}.grid{stroke:#dfe4e9}.mark{fill:#c0272d;opacity:.18}
polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}.reserved{stroke-dasharray:5 4}
""" + "".join(f".{name}{{stroke:{colour}}}" for name, colour in INK.items())
LEGEND_H = 26


def played(orders: Sequence[tuple[float, float | None, float]], duration_s: float, faults: str = "") -> Rehearsal:
    """A rehearsal of the example site. Each order: when, the share of what can be shed, announced how long before."""
    tables = [SITE] + [
        f'[[devices]]\nname = "{firmware}"\ndriver = "asic"\naddresses = ["10.{number}.0.1-{count}"]\n'
        f'feeder = "site"\nsettings = {{ firmware = "{firmware}" }}'
        for number, (firmware, count) in enumerate(GROUPS, 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.toml"
        path.write_text("\n".join(tables))
        site = load_site(path, {})
    troubles = Troubles.parse(faults)
    emulated = emulate(site, {}, troubles, seed=1)
    told = tuple(_order(emulated.capacity, *order) for order in orders)
    return rehearse(emulated, Play("example", "", told, duration_s), troubles, seed=1)


def _order(capacity: Capacity, at_s: float, share: float | None, announced_s: float) -> Order:
    return Order(at_s, capacity.at(share) if share is not None else None, announced_s=announced_s)


def power(rehearsal: Rehearsal, begin: int = 0, end: int | None = None) -> str:
    """The limit, what is drawn, what the meter says, and what is reserved."""
    trace, top_w = rehearsal.trace, 1.05 * rehearsal.emulated.capacity.demand_w
    lines = (
        Line("reserved and auxiliary", [min(w, top_w) for w in trace.reserved_w[begin:end]], "reserved"),
        Line("meter", trace.metered_w[begin:end], "metered"),
        Line("true draw", trace.true_w[begin:end], "true"),
        Line("limit", [min(w, top_w) for w in trace.limit_w[begin:end]], "limit"),
    )
    picture = over_time(lines, 1.0, unit="W", height=260, begins_s=float(begin), has_legend=False)
    return _alone(picture, [(line.label, INK[line.style]) for line in lines])


def groups(rehearsal: Rehearsal) -> str:
    """What each group draws, one on the other."""
    lines = [Line(group, watts, "") for group, watts in rehearsal.trace.groups_w.items()]
    picture = over_time(lines, SLOT_S, unit="W", stacked=True, height=240, has_legend=False)
    return _alone(picture, [(line.label, COLOURS[number]) for number, line in enumerate(lines)])


def _alone(picture: str, keys: Sequence[tuple[str, str]]) -> str:
    """A picture as a file of its own: its colours, a ground to stand on, and its legend inside."""
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', picture)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    legend = "".join(
        f'<rect x="{72 + 190 * number}" y="{height + 4}" width="16" height="10" rx="2" fill="{colour}"/>'
        f'<text x="{94 + 190 * number}" y="{height + 13}">{escape(label)}</text>'
        for number, (label, colour) in enumerate(keys)
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + LEGEND_H}">{STYLE}</style>'
        f'<rect width="{width}" height="{height + LEGEND_H}" fill="#fff"/>'
    )
    return head + picture[picture.index(">") + 1 : -len("</svg>")] + legend + "</svg>\n"


def pictures() -> dict[str, str]:
    """Every picture by its file's name."""
    cut = played(((120.0, 0.7, 0.0), (480.0, 0.35, 0.0), (840.0, None, 0.0)), 1_320.0)
    window = played(((600.0, 0.4, 540.0), (1_080.0, None, 540.0)), 1_680.0)
    faulty = played(((120.0, 0.7, 0.0), (480.0, 0.35, 0.0), (840.0, None, 0.0)), 1_320.0, "devices=10%,bias=3%")
    return {
        "control-cut.svg": power(cut),
        "control-groups.svg": groups(cut),
        "control-window.svg": power(window, 540, 680),
        "control-faulty.svg": power(faulty),
    }


if __name__ == "__main__":
    for name, picture in pictures().items():
        (FOLDER / name).write_text(picture)
