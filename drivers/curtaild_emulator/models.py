"""What makes one device model differ from another: its draws, how fast they change, what a restart costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from curtaild_drivers.contract import OFF, Capabilities, Identity, OperatingPoint, OperatingPoints, Seconds, Watts
from curtaild_emulator.faults import Fault

LIMIT = "limit"
"""The key of a point that is held by a power limit in watts."""

_LADDER_STEPS = 5
_CONCAVITY = 0.4


class Firmware(Enum):
    """What speaks on the device's ports."""

    ANTMINER = "antminer"  # Bitmain's own: cgminer RPC and digest HTTP
    WHATSMINER_V2 = "whatsminer-v2"  # btminer on 4028 with AES tokens
    WHATSMINER_V3 = "whatsminer-v3"  # framed JSON on 4433
    LUXOS = "luxos"  # cgminer RPC with sessions and profiles
    AVALON = "avalon"  # Canaan's own: cgminer RPC in text, commands by ascset
    AXEOS = "axeos"  # ESP-Miner: JSON over HTTP, frequencies
    AURADINE = "auradine"  # FluxOS: HTTP with tokens, watts or modes
    EPIC = "epic"  # PowerPlay: HTTP on the RPC port, a tuner's targets
    BRAIINS = "braiins"  # Braiins OS: gRPC with tokens, a power target
    MARATHON = "marathon"  # MARA's: digest HTTP, a whole configuration with a power target
    VNISH = "vnish"  # JSON over HTTP with tokens and a ladder of tuned presets


@dataclass(frozen=True, slots=True)
class Preset:
    """A named mode or profile of the firmware, the watts it holds, and the hashrate tuned for them if it is tuned."""

    key: str
    draw_w: Watts
    tuned_hs: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """One model under one firmware.

    `wire_name` is how it names itself. `presets` rise in draw and end with what it runs at when left alone, at
    `rated_w`. `lowest_limit_w` is the least power limit it holds, `None` where it takes none; with `limit_is_percent`
    it is best given as whole percents of the rated draw, which need no restart. `fall_s` is the time to standby after
    a stop; `trim_s` to follow a change that needs no restart. A restart sits `boot_s` at `boot_w`, holds `warm_w` for
    `warm_s` while temperatures settle, then climbs a full swing in `climb_s`. `api_version` is the maker's, where it
    decides which fields there are. `born_with` are the faults every unit has.
    """

    name: str
    make: str
    model: str
    wire_name: str
    firmware: Firmware
    rated_w: Watts
    rated_hs: float
    standby_w: Watts
    presets: tuple[Preset, ...]
    fall_s: Seconds
    trim_s: Seconds
    boot_s: Seconds
    boot_w: Watts
    warm_s: Seconds
    warm_w: Watts
    climb_s: Seconds
    lowest_limit_w: Watts | None = None
    api_version: str = ""
    limit_is_percent: bool = False
    preset_restarts: bool = False
    limit_restarts: bool = True
    measures_power: bool = True
    born_with: frozenset[Fault] = frozenset()

    def rate_hs(self, draw_w: Watts) -> float:
        """Hashes per second at a draw: between tuned presets evenly, else concave, so that J/TH is best at the low end.
        Nothing at standby."""
        if self.presets[0].tuned_hs is not None:
            tuned = ((preset.draw_w, preset.tuned_hs or 0.0) for preset in self.presets)
            return _between([(self.standby_w, 0.0), *tuned], draw_w)
        share = (draw_w - self.standby_w) / (self.rated_w - self.standby_w)
        share = max(0.0, min(1.2, share))
        return self.rated_hs * share * (1.0 + _CONCAVITY * (1.0 - share))

    def preset_w(self, key: str) -> Watts | None:
        """The nominal draw of a preset, `None` where the firmware has none of that name."""
        return next((preset.draw_w for preset in self.presets if preset.key == key), None)

    @property
    def limit_step_w(self) -> Watts:
        """The least change of limit it can follow."""
        return self.rated_w / 100.0 if self.limit_is_percent else 1.0

    def operating_points(self) -> OperatingPoints:
        """What the firmware offers, at the model's nominal figures."""
        points = [OperatingPoint(OFF, self.standby_w, 0.0)]
        if self.lowest_limit_w is None:
            points += [OperatingPoint(p.key, p.draw_w, self.rate_hs(p.draw_w)) for p in self.presets]
            return OperatingPoints(tuple(points))
        swing_w = self.rated_w - self.lowest_limit_w
        for step in range(_LADDER_STEPS + 1):
            draw_w = self.lowest_limit_w + swing_w * step / _LADDER_STEPS
            points.append(OperatingPoint(LIMIT, draw_w, self.rate_hs(draw_w), divisible=step > 0))
        return OperatingPoints(tuple(points), step_w=self.limit_step_w)

    @property
    def restarts(self) -> bool:
        """Whether every change between its operating points restarts it: of modes, or of a limit that no percentage
        goes by."""
        if self.lowest_limit_w is None:
            return self.preset_restarts
        return self.limit_restarts and not self.limit_is_percent

    def capabilities(self) -> Capabilities:
        """What a driver would declare for it, with the priors of how fast it settles."""
        restart_s = self.boot_s + self.warm_s + self.climb_s
        return Capabilities(
            measures_power=self.measures_power,
            throttles=True,
            stops=True,
            settle_down_s=max(self.fall_s, self.trim_s),  # a restart falls at once: to its boot
            settle_up_s=restart_s,
            restarts=self.restarts,
        )

    def identity(self, serial: str) -> Identity:
        """What a driver would find out about a unit of this model."""
        return Identity(self.make, self.model, self.firmware.value, serial=serial, rated_w=self.rated_w)


def _between(known: Sequence[tuple[Watts, float]], draw_w: Watts) -> float:
    """The hashrate at a draw by the two known ones around it; beyond them, that of the nearest."""
    for (low_w, low_hs), (high_w, high_hs) in itertools.pairwise(known):
        if draw_w <= high_w:
            share = max(0.0, (draw_w - low_w) / (high_w - low_w))
            return low_hs + (high_hs - low_hs) * share
    return known[-1][1]
