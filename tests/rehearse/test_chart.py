"""The pictures: what stands in them stands at the right height, and no peak is lost to thinning."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from curtaild.rehearse.chart import BOTTOM, LEFT, RIGHT, TOP, Line, over_time


def points(svg: str, shape: str) -> list[list[tuple[float, float]]]:
    drawn = ElementTree.fromstring(svg.split("</svg>")[0] + "</svg>")
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", element.attrib["points"])]
        for element in drawn.iter(shape)
    ]


def test_the_highest_is_up_and_nothing_is_down() -> None:
    (curve,) = points(over_time([Line("a", [0.0, 500.0, 1_000.0], "true")], 1.0, unit="W", height=300), "polyline")
    assert [y for _, y in curve] == pytest.approx([300 - BOTTOM, (TOP + 300 - BOTTOM) / 2, TOP])


def test_a_peak_of_one_second_in_a_day_is_seen() -> None:
    values = [10.0] * 86_400
    values[43_210] = 90.0
    (curve,) = points(over_time([Line("a", values, "true")], 1.0, unit="W"), "polyline")
    assert len(curve) < 3_000
    assert min(y for _, y in curve) < min(y for _, y in curve[:10])


def test_what_is_not_known_is_not_drawn() -> None:
    line = Line("a", [1.0, 2.0, math.nan, math.nan, 3.0, 4.0], "metered")
    assert [len(piece) for piece in points(over_time([line], 1.0, unit="W"), "polyline")] == [2, 2]


def test_areas_stand_on_each_other() -> None:
    svg = over_time([Line("a", [1.0, 1.0], ""), Line("b", [2.0, 2.0], "")], 4.0, unit="W", stacked=True)
    upper, lower = points(svg, "polygon")
    assert upper[0][1] < lower[0][1]
    assert upper[-1][1] == lower[-1][1]


def test_a_picture_that_begins_before_its_event_counts_from_it() -> None:
    values = [100.0] * 15 + [50.0] * 60
    svg = over_time([Line("limit", values, "limit")], 1.0, unit="W", width=520, begins_s=-15.0, has_legend=False)
    (curve,) = points(svg, "polyline")
    inner_w = 520 - LEFT - RIGHT
    fell_at = next(x for x, y in curve if y > TOP + 10)
    assert fell_at == pytest.approx(LEFT + inner_w * 15 / 75, abs=0.1)
    (zero,) = (text for text in ElementTree.fromstring(svg).iter("text") if text.text == "0 s")
    assert float(zero.attrib["x"]) == pytest.approx(fell_at, abs=0.1)


def test_names_cannot_break_the_page() -> None:
    assert "<script>" not in over_time([Line("<script>", [1.0], "true")], 1.0, unit="W")
    assert over_time([], 1.0, unit="W") == ""
