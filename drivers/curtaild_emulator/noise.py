"""Seeded randomness that costs eight bytes a device, so that ten thousand devices can each have their own."""

from __future__ import annotations

import hashlib
import math

_MASK = (1 << 64) - 1
_STEPS = 1 << 53  # as many numbers as a double has between 0 and 1
_TURN = 2.0 * math.pi


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
        first = (self._state + 0x9E3779B97F4A7C15) & _MASK  # `uniform` twice, written out: every reading asks for it
        self._state = second = (first + 0x9E3779B97F4A7C15) & _MASK
        first = ((first ^ (first >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        first = ((first ^ (first >> 27)) * 0x94D049BB133111EB) & _MASK
        second = ((second ^ (second >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        second = ((second ^ (second >> 27)) * 0x94D049BB133111EB) & _MASK
        radius = math.sqrt(-2.0 * math.log(1.0 - ((first ^ (first >> 31)) >> 11) / _STEPS))
        drawn = radius * math.cos(_TURN * (((second ^ (second >> 31)) >> 11) / _STEPS))
        return spread * (drawn if -3.0 < drawn < 3.0 else math.copysign(3.0, drawn))
