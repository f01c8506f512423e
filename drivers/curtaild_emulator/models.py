"""The physics of each device model: what it draws, how fast it changes, what a restart costs.

Draws and hashrates are the makers' figures; times and standby draws are priors from the field, and where the field
is silent, assumptions. They are there to be disbelieved: the daemon must learn the truth of each unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

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


@dataclass(frozen=True, slots=True)
class Preset:
    """A named mode or profile of the firmware and the watts it holds."""

    key: str
    draw_w: Watts


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """One model under one firmware.

    `wire_name` is how it names itself. `presets` rise in draw and end with what it runs at when left alone, at
    `rated_w`. `lowest_limit_w` is the least power limit it holds, `None` where it takes none. `fall_s` is the time to
    standby after a stop; `trim_s` to follow a change that needs no restart. A restart sits `boot_s` at `boot_w`, holds
    `warm_w` for `warm_s` while temperatures settle, then climbs a full swing in `climb_s`. `api_version` is the
    maker's, where it decides which fields there are. `born_with` are the faults every unit has.
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
    preset_restarts: bool = False
    measures_power: bool = True
    born_with: frozenset[Fault] = frozenset()

    def rate_hs(self, draw_w: Watts) -> float:
        """Hashes per second at a draw: concave, nothing at standby, so that J/TH is best at the low end."""
        share = (draw_w - self.standby_w) / (self.rated_w - self.standby_w)
        share = max(0.0, min(1.2, share))
        return self.rated_hs * share * (1.0 + _CONCAVITY * (1.0 - share))

    def preset_w(self, key: str) -> Watts | None:
        """The nominal draw of a preset, `None` where the firmware has none of that name."""
        return next((preset.draw_w for preset in self.presets if preset.key == key), None)

    @property
    def limit_step_w(self) -> Watts:
        """The least change of limit it can follow: Whatsminers take whole percents."""
        return self.rated_w / 100.0

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

    def capabilities(self) -> Capabilities:
        """What a driver would declare for it, with the priors of how fast it settles."""
        restart_s = self.boot_s + self.warm_s + self.climb_s
        return Capabilities(
            measures_power=self.measures_power,
            throttles=True,
            stops=True,
            settle_down_s=restart_s if self.preset_restarts else max(self.fall_s, self.trim_s),
            settle_up_s=restart_s,
        )

    def identity(self, serial: str) -> Identity:
        """What a driver would find out about a unit of this model."""
        return Identity(self.make, self.model, self.firmware.value, serial=serial, rated_w=self.rated_w)


def _antminer(name: str, model: str, rated_w: Watts, terahashes: float, low_w: Watts) -> DeviceModel:
    """Bitmain's own firmware: three modes, no power sensor, a restart of the mining process at every change."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=f"Antminer {model}",
        firmware=Firmware.ANTMINER,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=30.0,
        presets=(Preset("low", low_w), Preset("normal", rated_w)),
        fall_s=20.0,
        trim_s=20.0,
        boot_s=45.0,
        boot_w=60.0,
        warm_s=40.0,
        warm_w=0.3 * rated_w,
        climb_s=240.0,
        preset_restarts=True,
        measures_power=False,
        born_with=frozenset({Fault.EMPTY_SUMMARY_ASLEEP}),
    )


def _whatsminer(
    name: str, model: str, firmware: Firmware, rated_w: Watts, terahashes: float, api_version: str
) -> DeviceModel:
    """MicroBT's firmware: percentages follow fast, an absolute limit restarts it and holds 800–1,000 W first."""
    return DeviceModel(
        name=name,
        make="WhatsMiner",
        model=model,
        # units of one model differ in the last digit of their type, which the maker's tools blank out
        wire_name=f"{model[:-1]}1".replace(" ", "_"),
        firmware=firmware,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=60.0,
        presets=(Preset("low", 0.7 * rated_w), Preset("normal", rated_w)),
        fall_s=12.0,
        trim_s=10.0,
        boot_s=40.0,
        boot_w=70.0,
        warm_s=75.0,
        warm_w=900.0,
        climb_s=120.0,
        lowest_limit_w=0.35 * rated_w,
        api_version=api_version,
        preset_restarts=True,
        # its documentation says Number, its parser reads the string
        born_with=frozenset({Fault.NUMERIC_PERCENT_REFUSED} if firmware is Firmware.WHATSMINER_V3 else ()),
    )


def _luxos(name: str, model: str, rated_w: Watts, terahashes: float, ladder: Mapping[str, float]) -> DeviceModel:
    """LuxOS: a ladder of profiles changed on the fly, sleeps within seconds, wakes like a boot."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=f"Antminer {model}",
        firmware=Firmware.LUXOS,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=25.0,
        presets=tuple(Preset(key, share * rated_w) for key, share in ladder.items()),
        fall_s=4.0,
        trim_s=20.0,
        boot_s=60.0,
        boot_w=40.0,
        warm_s=30.0,
        warm_w=0.3 * rated_w,
        climb_s=60.0,
    )


_S19_LADDER = {"285MHz": 0.47, "365MHz": 0.58, "445MHz": 0.70, "525MHz": 0.81, "605MHz": 0.92, "675MHz": 1.0}
_S21_LADDER = {"250MHz": 0.45, "310MHz": 0.56, "370MHz": 0.68, "430MHz": 0.80, "465MHz": 0.90, "490MHz": 1.0}

MODELS: Mapping[str, DeviceModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            _antminer("antminer-s19", "S19", 3250.0, 95.0, 2350.0),
            _antminer("antminer-s19j-pro", "S19j Pro", 3050.0, 100.0, 2200.0),
            _antminer("antminer-s21", "S21", 3500.0, 200.0, 2600.0),
            _whatsminer("whatsminer-m50", "M50 VH30", Firmware.WHATSMINER_V2, 3306.0, 114.0, "2.0.7"),
            _whatsminer("whatsminer-m50s", "M50S VH50", Firmware.WHATSMINER_V2, 3328.0, 128.0, "2.0.5"),
            _whatsminer("whatsminer-m60", "M60 VK30", Firmware.WHATSMINER_V3, 3422.0, 172.0, "3.0.3"),
            _whatsminer("whatsminer-m60s", "M60S VK30", Firmware.WHATSMINER_V3, 3441.0, 186.0, "3.0.1"),
            _luxos("luxos-s19", "S19", 3250.0, 95.0, _S19_LADDER),
            _luxos("luxos-s21", "S21", 3500.0, 200.0, _S21_LADDER),
        )
    }
)
"""Every emulated model by the name farm files use."""
