"""Shares a limit out among the GPUs of a node. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from curtaild_drivers.gpu.card import Milliwatts


def equal_shares(total_mw: Milliwatts, bounds: Sequence[tuple[Milliwatts, Milliwatts]]) -> list[Milliwatts]:
    """The same for every GPU, as far as its own least and most allow; what one cannot take the others get.

    The shares never sum to more than `total_mw` unless the GPUs' least do: then each gets its least.
    """
    level = _level(total_mw, bounds)
    return [min(max(level, least), most) for least, most in bounds]


def _level(total_mw: Milliwatts, bounds: Sequence[tuple[Milliwatts, Milliwatts]]) -> Milliwatts:
    """The highest level such that all GPUs held to it, within their bounds, stay within `total_mw` together."""
    low, high = 0, max(most for _, most in bounds)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(max(middle, least), most) for least, most in bounds) <= total_mw:
            low = middle
        else:
            high = middle - 1
    return low
