"""What was drawn in an interval, as reports tell it: energy, mean and peak power, how much of it was metered."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild.core.status import FeederStatus
from curtaild_drivers.contract import Seconds, Watts

LONGEST_STEP_S = 60.0
"""A reading speaks for no longer than this; what is between is unknown."""
METERED_SHARE = 0.9
KNOWN_SHARE = 0.5
IDLE_SHARE = 0.02
"""Of a feeder's rating: a draw below this is no significant one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One feeder at one moment. `state` is one of OpenADR's operating states."""

    at: Seconds
    power_w: Watts
    is_metered: bool
    state: str


@dataclass(slots=True)
class Tally:
    """Of one interval: `known_s` of its time, `metered_s` of that by a meter."""

    known_s: Seconds = 0.0
    metered_s: Seconds = 0.0
    energy_j: float = 0.0
    peak_w: Watts = 0.0
    last: Sample | None = None

    def add(self, sample: Sample, begin: Seconds, end: Seconds) -> None:
        """`sample` held over [`begin`, `end`)."""
        length_s = max(0.0, end - begin)
        self.known_s += length_s
        self.metered_s += length_s if sample.is_metered else 0.0
        self.energy_j += sample.power_w * length_s
        self.peak_w = max(self.peak_w, sample.power_w)
        self.last = sample

    @property
    def mean_w(self) -> Watts:
        return self.energy_j / self.known_s if self.known_s > 0 else 0.0

    def quality(self, length_s: Seconds) -> str:
        """OpenADR's word for how far the data can be trusted, for an interval of `length_s`."""
        if self.known_s < KNOWN_SHARE * length_s or self.last is None:
            return "MISSING"
        return "OK" if self.metered_s >= METERED_SHARE * length_s else "ESTIMATED"


def sample_of(feeder: FeederStatus, at: Seconds, is_limited: bool) -> Sample:
    """`is_limited`: an event of the VTN limits the feeder now."""
    is_metered = feeder.meter_is_fresh and feeder.metered_w is not None
    power_w = feeder.metered_w if is_metered and feeder.metered_w is not None else feeder.measured_w
    return Sample(at, max(0.0, power_w), is_metered, _state(feeder, power_w, is_limited))


def _state(feeder: FeederStatus, power_w: Watts, is_limited: bool) -> str:
    if not is_limited:
        return "NORMAL"
    if feeder.deficit_w > 0:
        return "ERROR"  # the limit cannot be met
    return "IDLE_CURTAILED" if power_w < IDLE_SHARE * feeder.rating_w else "RUNNING_CURTAILED"
