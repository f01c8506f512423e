"""What a GPU node gets done under a limit, by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from curtaild_drivers.contract import OFF
from curtaild_drivers.gpu.curve import DEFAULT_CURVE, LIMIT, node_points, throughput


@pytest.mark.parametrize(
    ("power", "kept"),
    [(1.0, 1.0), (1.2, 1.0), (0.9, 0.98), (0.8, 0.96), (0.6, 0.86), (0.55, 0.79), (0.5, 0.72), (0.25, 0.36), (0, 0)],
)
def test_throughput_falls_slower_than_power(power: float, kept: float) -> None:
    assert throughput(DEFAULT_CURVE, power) == pytest.approx(kept)


def test_a_node_of_eight_h100s() -> None:
    """1.8 kW beside the GPUs, which take 1.6 to 5.6 kW, with a seventh more on the way to them."""
    points = node_points(least_w=3640.0, most_w=8240.0, base_w=1800.0, off_w=120.0)
    assert [(point.key, round(point.draw_w), round(point.rate, 3)) for point in points.points] == [
        (OFF, 120, 0.0),
        (LIMIT, 3640, 0.411),
        (LIMIT, 5020, 0.72),
        (LIMIT, 5664, 0.86),
        (LIMIT, 6308, 0.92),
        (LIMIT, 6952, 0.96),
        (LIMIT, 8240, 1.0),
    ]
    assert [point.divisible for point in points.points] == [False, False, True, True, True, True, True]
    gained = [(above.rate - below.rate) / (above.draw_w - below.draw_w) for below, above in pairwise(points.points[1:])]
    assert gained == sorted(gained, reverse=True), "each further watt earns less"


def test_a_node_that_is_never_switched_off_offers_no_off() -> None:
    assert node_points(3640.0, 8240.0, 1800.0).lowest.key == LIMIT


def test_a_node_without_room_to_move_has_one_point() -> None:
    assert [point.draw_w for point in node_points(500.0, 500.0, 100.0).points] == [500.0]


@pytest.mark.parametrize(
    ("least_w", "most_w", "base_w", "off_w"),
    [(9.0, 8.0, 1.0, None), (5.0, 8.0, 8.0, None), (5.0, 8.0, 1.0, 5.0), (float("nan"), 8.0, 1.0, None)],
)
def test_watts_that_cannot_be_are_refused(least_w: float, most_w: float, base_w: float, off_w: float | None) -> None:
    with pytest.raises(ValueError, match="watts must"):
        node_points(least_w, most_w, base_w, off_w)
