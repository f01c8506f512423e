"""Seeded randomness that costs eight bytes a device, so that ten thousand devices can each have their own."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

_MASK = (1 << 64) - 1
_TURN = 2.0 * math.pi
_STEPS = 1 << 53  # as many numbers as a double has between 0 and 1


class Noise:
    """A stream of random numbers, the same for the same seed and name on every machine (SplitMix64)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "big")

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number, evenly spread over [low, high)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return low + (high - low) * ((mixed ^ (mixed >> 31)) >> 11) / _STEPS

    def normal(self, spread: float) -> float:
        """The next number around 0 with standard deviation `spread`, cut at three of them: no sensor is wilder."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        drawn = radius * math.cos(_TURN * self.uniform())
        return spread * (drawn if -3.0 < drawn < 3.0 else math.copysign(3.0, drawn))

    def pair(self) -> tuple[float, float]:
        """Two such numbers with standard deviation 1, of one draw: each takes half of its bits. A reading of watts and
        hashrate asks for both, fifty times in each second of a rehearsal."""
        self._state = mixed = (self._state + 0x9E3779B97F4A7C15) & _MASK  # `uniform`, written out
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
        high, low = mixed >> 32, mixed & 0xFFFFFFFF
        first, second = high >> 20, low >> 20
        return (
            _NORMAL[first] + _RISE[first] * (high & 0xFFFFF),
            _NORMAL[second] + _RISE[second] * (low & 0xFFFFF),
        )


def _quantile(place: int) -> float:
    """Of the normal distribution, cut at three."""
    least, most = 1, _PLACES - 1
    return max(-3.0, min(3.0, NormalDist().inv_cdf(min(max(place, least), most) / _PLACES)))


_PLACES = 4096
_NORMAL = [_quantile(place) for place in range(_PLACES)]
_RISE = [(_quantile(place + 1) - _NORMAL[place]) / (1 << 20) for place in range(_PLACES)]
