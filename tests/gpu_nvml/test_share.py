"""A node's limit as shares of its GPUs: whatever they can take, never more than the limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from curtaild_drivers.gpu.share import equal_shares

BOUNDS = st.tuples(st.integers(0, 400_000), st.integers(0, 1_000_000)).map(lambda pair: (pair[0], sum(pair)))


@given(total_mw=st.integers(-1_000_000, 20_000_000), bounds=st.lists(BOUNDS, min_size=1, max_size=16))
def test_shares_are_equal_within_bounds_and_use_up_the_limit(total_mw: int, bounds: list[tuple[int, int]]) -> None:
    shares = equal_shares(total_mw, bounds)
    assert all(least <= share <= most for share, (least, most) in zip(shares, bounds, strict=True))
    least_mw = sum(least for least, _ in bounds)
    assert sum(shares) <= max(total_mw, least_mw)

    not_full = [share for share, (_, most) in zip(shares, bounds, strict=True) if share < most]
    not_least = [share for share, (least, _) in zip(shares, bounds, strict=True) if share > least]
    if not_full and total_mw >= least_mw:
        assert total_mw - sum(shares) < len(bounds), "nothing is left over that a GPU could take"
    if not_full and not_least:
        assert max(not_least) <= min(not_full), "no GPU has more than another that could take more"


def test_examples() -> None:
    assert equal_shares(2_000_000, [(200_000, 700_000)] * 4) == [500_000] * 4
    assert equal_shares(1_000_001, [(100_000, 700_000)] * 3) == [333_333] * 3
    assert equal_shares(1_000_000, [(100_000, 150_000), (100_000, 700_000)]) == [150_000, 700_000]
    assert equal_shares(100, [(200_000, 700_000)] * 2) == [200_000] * 2
