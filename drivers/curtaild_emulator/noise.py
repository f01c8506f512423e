"""Seeded randomness that costs eight bytes a device, so that ten thousand devices can each have their own."""

from __future__ import annotations

import hashlib
import math

_MASK = (1 << 64) - 1


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
        return low + (high - low) * ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)

    def normal(self, spread: float) -> float:
        """The next number around 0 with standard deviation `spread`, cut at three of them: no sensor is wilder."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return spread * max(-3.0, min(3.0, radius * math.cos(2.0 * math.pi * self.uniform())))
