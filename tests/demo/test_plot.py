"""Power over time in characters: an area, a line, and red where the one is above the other."""

from __future__ import annotations

from curtaild.demo.plot import Column, plot


def test_area_and_limit_stand_at_their_heights() -> None:
    rows = plot([Column(50.0, 76.0, False), Column(100.0, 26.0, True), None], 100.0, 4)
    assert rows[0].plain == "▁█ ", "76 of 100 W lies in the topmost quarter"
    assert [row.plain[0] for row in rows] == ["▁", " ", "█", "█"]
    assert [row.plain[1] for row in rows] == ["█", "█", "▁", "█"]
    assert [row.plain[2] for row in rows] == [" "] * 4, "nothing is known there"
    assert "red" in str(rows[3].spans[1].style)
    assert "green" in str(rows[3].spans[0].style)


def test_a_limit_of_zero_and_one_at_the_top_are_still_seen() -> None:
    zero = plot([Column(0.0, 0.0, False)], 100.0, 3)
    top = plot([Column(0.0, 100.0, False)], 100.0, 3)
    assert [row.plain for row in zero] == [" ", " ", "▁"]
    assert [row.plain for row in top] == ["▔", " ", " "]
