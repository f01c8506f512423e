"""Seeded randomness that costs a few bytes a device, so that ten thousand devices can each have their own."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

_MASK = (1 << 64) - 1
_TURN = 2.0 * math.pi
_STEPS = 1 << 53  # as many numbers as a double has between 0 and 1


class Noise:
    """A stream of random numbers, the same for the same seed and name on every machine (SplitMix64); `pair` has another
    of its own."""

    __slots__ = ("_state", "_turn")

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "big")
        self._turn = 1.0 + self._state % int(_MODULUS - 1.0)

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
        """Two such numbers with standard deviation 1, of 4096 values. A reading of watts and hashrate asks for both,
        fifty times in each second of a rehearsal: two turns of Lehmer's generator in doubles, which hold its products.
        """
        first = self._turn * _MULTIPLIER % _MODULUS
        self._turn = second = first * _MULTIPLIER % _MODULUS
        return _NORMAL[int(first * _PLACES_PER_TURN)], _NORMAL[int(second * _PLACES_PER_TURN)]


_MULTIPLIER = 48_271.0
_MODULUS = 2_147_483_647.0
_PLACES = 4096
_PLACES_PER_TURN = _PLACES / _MODULUS
_NORMAL = [max(-3.0, min(3.0, NormalDist().inv_cdf((place + 0.5) / _PLACES))) for place in range(_PLACES)]
