"""Ceilings in watts. `Limit(0)`, `Unlimited` and unknown (`None`) are three things, never told apart by truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from curtaild_drivers.contract import Watts


@dataclass(frozen=True, slots=True)
class Limit:
    """A ceiling in W; zero is a limit like any other. Raises `ValueError` if negative, NaN or infinite."""

    watts: Watts

    def __post_init__(self) -> None:
        if not math.isfinite(self.watts) or self.watts < 0:
            raise ValueError(f"not a limit: {self.watts} W")


@dataclass(frozen=True, slots=True)
class Unlimited:
    """Nobody limits this feeder; its rating still does."""


Ceiling: TypeAlias = Limit | Unlimited
UNLIMITED = Unlimited()


def strictest(first: Ceiling, *others: Ceiling) -> Ceiling:
    """The lowest of several ceilings."""
    least = first
    for other in others:
        if isinstance(other, Limit) and (isinstance(least, Unlimited) or other.watts < least.watts):
            least = other
    return least


def within(ceiling: Ceiling, rating_w: Watts) -> Watts:
    """The ceiling in watts once the feeder's rating is counted."""
    return min(ceiling.watts, rating_w) if isinstance(ceiling, Limit) else rating_w
