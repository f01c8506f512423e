"""What a node's own throughput teaches of its curve: what it really keeps of its work under each limit. Pure.

Throughput counts in whatever the site counts (tokens or samples a second), so it is compared with nothing but the same
node's own at full power, a little earlier. The curve keeps its corners; each sample moves the two beside it by a share
of what it differs from the line between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from curtaild_drivers.contract import Seconds
from curtaild_drivers.gpu.curve import Curve, throughput

FULL = 0.98
"""From this fraction of full GPU power on, what a limit costs is not to be told from noise."""
FULL_SAMPLES = 5
"""So many at full power, before anything is compared with their mean."""
FULL_HOLDS_S: Seconds = 1_800.0
"""How long that mean is a measure for what follows: later it may be other work."""
SHARE = 0.1
"""Of what a sample differs, the share that is believed: some twenty samples move a corner nearly all the way."""
_FULL_SHARE = 0.2
_LEAST_KEPT = 0.01


@dataclass(frozen=True, slots=True)
class LearnedCurve:
    """`curve` as it is known now; `full` is the throughput at full power (the site's unit), the mean of `full_samples`,
    the last at `full_at`."""

    curve: Curve
    full: float = 0.0
    full_samples: int = 0
    full_at: Seconds = -math.inf

    def seen(self, fraction: float, achieved: float, at: Seconds) -> LearnedCurve:
        """With one sample more: `achieved` throughput under a limit at this fraction of full GPU power. What is not
        finite and above 0 teaches nothing: where there is no work, none is lost."""
        if not (math.isfinite(achieved) and achieved > 0 and fraction > 0):
            return self
        is_old = at - self.full_at > FULL_HOLDS_S
        if fraction >= FULL:
            samples = 1 if is_old else self.full_samples + 1
            full = self.full + max(1 / samples, _FULL_SHARE) * (achieved - self.full)
            return replace(self, full=full, full_samples=samples, full_at=at)
        if is_old or self.full_samples < FULL_SAMPLES:
            return self
        return replace(self, curve=bent(self.curve, fraction, min(achieved / self.full, 1.0)))

    def differs_from(self, other: Curve) -> float:
        """By how much of full throughput, where it does most."""
        return max(abs(kept - before) for (_, kept), (_, before) in zip(self.curve, other, strict=True))


def bent(curve: Curve, fraction: float, kept: float) -> Curve:
    """The curve a share nearer to what was kept at `fraction`. Its begin at full power stays, and it still falls: what
    one corner keeps, those at more power keep as well."""
    miss = SHARE * (kept - throughput(curve, fraction))
    rates = [rate for _, rate in curve]
    for place, weight in _beside(curve, fraction):
        rates[place] += weight * miss
    rates = [1.0, *(min(max(rate, _LEAST_KEPT), 1.0) for rate in rates[1:])]
    if miss > 0:
        for place in range(len(rates) - 2, 0, -1):
            rates[place] = max(rates[place], rates[place + 1])
    for place in range(1, len(rates)):
        rates[place] = min(rates[place], rates[place - 1])
    return tuple((power, rate) for (power, _), rate in zip(curve, rates, strict=True))


def _beside(curve: Curve, fraction: float) -> list[tuple[int, float]]:
    """The corners that a sample there speaks of, and how much."""
    last = len(curve) - 1
    if fraction <= curve[last][0]:
        return [(last, fraction / curve[last][0])]
    for place, ((upper, _), (lower, _)) in enumerate(pairwise(curve)):
        if fraction >= lower:
            share = (fraction - lower) / (upper - lower)
            return [(place, share), (place + 1, 1.0 - share)]
    return []
