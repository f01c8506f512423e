"""What goes wrong in a rehearsal: misbehaving devices, meter noise, wrong sensors, telemetry lost for a while."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from curtaild_config.problems import suggest
from curtaild_drivers.contract import DeviceId, Seconds
from curtaild_emulator import Fault, Plant
from curtaild_emulator.noise import Noise

MISDEEDS = (
    Fault.ACK_NO_OBEY,
    Fault.HANG_WRITE_APPLIED,
    Fault.DRIFT_BACK,
    Fault.OFFLINE_SILENT,
    Fault.HALF_OBEY,
    Fault.RESUME_NEVER,
    Fault.NAN_POWER,
    Fault.WRONG_PASSWORD,
    Fault.REBOOT_ON_LIMIT,
    Fault.WAKES_OTHER_MODE,
)
"""What misbehaving devices do, dealt out in turn: each was seen on hardware or in independent emulations."""

DAY_S = 86_400.0


class BadTroubles(ValueError):
    """`--faults` that says nothing usable; the text is for the person who typed it."""


@dataclass(frozen=True, slots=True)
class Troubles:
    """`devices`: share of the devices that misbehave, each in one way, from the start. `meter_noise`: standard
    deviation of one meter sample, as a fraction. `bias`: how wrong devices' own watts are at most, each by a
    constant. `loss_s`: no device and no meter answers for so long, once every `loss_every_s`."""

    devices: float = 0.0
    meter_noise: float = 0.005
    bias: float | None = None
    loss_s: Seconds = 0.0
    loss_every_s: Seconds = 3_600.0

    @classmethod
    def parse(cls, text: str) -> Troubles:
        """`devices=0.1,meter_noise=0.005,bias=0.03,loss_s=60`; fractions also as 10%. Raises `BadTroubles`."""
        return cls.of(cls.named(text))

    @classmethod
    def named(cls, text: str) -> dict[str, float]:
        """What the text names, and nothing else. Raises `BadTroubles`."""
        known = {field.name for field in fields(cls)}
        found: dict[str, float] = {}
        for part in filter(None, (word.strip() for word in text.split(","))):
            name, separator, value = (word.strip() for word in part.partition("="))
            if name not in known:
                raise BadTroubles(f"{name!r} is no fault; {suggest(name, known)}")
            if not separator:
                raise BadTroubles(f"{name!r} lacks its value: write {name}=0.1")
            found[name] = _number(name, value)
        return found

    @classmethod
    def of(cls, found: Mapping[str, float]) -> Troubles:
        """The troubles with these values, all checked. Raises `BadTroubles`."""
        most: dict[str, float] = {
            "devices": 1.0,
            "meter_noise": 0.5,
            "bias": 0.5,
            "loss_s": 86_400.0,
            "loss_every_s": 86_400.0,
        }
        for name, value in found.items():
            if name not in most:
                raise BadTroubles(f"{name!r} is no fault; {suggest(name, most)}")
            if not 0.0 <= value <= most[name]:
                raise BadTroubles(f"{name} = {value:g} is outside 0..{most[name]:g}")
        troubles = replace(cls(), **found)
        if troubles.loss_s and troubles.loss_every_s <= troubles.loss_s:
            raise BadTroubles("loss_every_s must exceed loss_s, else nothing is ever heard")
        return troubles

    def sensor_errors(self, devices: Sequence[DeviceId], seed: int) -> dict[DeviceId, float]:
        """How far each device's own watts are off; nothing said where the emulator's own spread is to hold."""
        if self.bias is None:
            return {}
        chance = Noise(seed, "sensor errors")
        return {device: chance.uniform(-self.bias, self.bias) for device in devices}

    def misdeeds(self, devices: Sequence[DeviceId], seed: int) -> dict[DeviceId, Fault]:
        """Which devices misbehave, and how."""
        chance = Noise(seed, "misdeeds")
        drawn = sorted(devices, key=lambda _: chance.uniform())
        chosen = drawn[: round(self.devices * len(drawn))]
        return {device: MISDEEDS[number % len(MISDEEDS)] for number, device in enumerate(chosen)}

    def spoil(self, plant: Plant, seed: int) -> dict[DeviceId, Fault]:
        """Switch the faults on in `plant`; which device does what."""
        misdeeds = self.misdeeds(plant.device_ids, seed)
        for device, fault in misdeeds.items():
            plant.set_fault(device, fault, True)
        return misdeeds

    def is_lost(self, at_s: Seconds) -> bool:
        """Whether nothing is heard at `at_s` of the play: in the middle of each period."""
        if not self.loss_s:
            return False
        return abs(at_s % self.loss_every_s - self.loss_every_s / 2) <= self.loss_s / 2


def _number(name: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadTroubles(f"{name}={text} is no number; write {name}=0.1 or {name}=10%")
    return value
