"""What a metered feeder draws beside its devices: meter − Σ devices, filtered, upper edge.

It rises at once and falls only after a while: a device that drops by itself shows at the meter seconds before its own
reading says so, and what it no longer draws is no headroom.

Frozen while actuations are unconfirmed: the meter and the devices are then seen at different moments, and one step
would be counted twice. Even so the meter is believed where it shows more than everything reserved.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from curtaild.core.feeders import FeederSpec
from curtaild_drivers.contract import MeterReading, Seconds, Watts

SMOOTHING = 0.4  # share of the newest sample in the smoothed meter power: about four seconds at one sample a second
LEAST_WEIGHT = 0.1
NOISE_ALONE = 1.5  # so much more than the leaps' variance may twenty samples of mere noise show
STUCK_AFTER = 6  # times `stale_after`: a real feeder's power and energy do not stand still for so long
REMEMBERED_S = 150.0  # what it said of its devices' sensors outlives a switch that restarts in a minute or two
SETTLING_SAMPLES = 2  # after an actuation the estimate starts anew from this many samples' worth of trust


@dataclass(slots=True)
class MeteredFeeder:
    """One feeder's meter and the estimate it feeds."""

    spec: FeederSpec
    reading: MeterReading | None = None
    power_w: Watts | None = None
    read_at: Seconds | None = None
    changed_at: Seconds = -math.inf
    """When its answer was last another than before: a gateway repeats old values under new times."""
    smoothed_w: Watts = 0.0
    is_fresh: bool = False
    is_remembered: bool = False
    """Lost a moment ago. It is no meter any more, but how far its devices' own watts are off holds on: that is constant
    per unit."""
    mean_w: Watts | None = None
    variance_w2: float = 0.0
    noise_w2: float = 0.0
    """Half the mean square of the leaps between two samples: of nothing but noise, that is its variance."""
    last_w: Watts = 0.0
    samples: int = 0
    counted_at: Seconds = -math.inf
    """The moment of the last sample that went into the estimate: devices settled before it have been seen."""
    floor_w: Watts = -math.inf
    held: deque[tuple[Seconds, Watts, Watts]] = field(default_factory=deque)
    """The estimates of the last while: when, their mean, their spread. The highest of them counts."""
    is_estimated: bool = False
    _peaks: deque[tuple[Seconds, Watts]] = field(default_factory=deque)
    """Of `held` those with mean and spread that no later one reaches, so that the first is the highest of all."""
    since: Seconds = math.inf
    """The first counted sample of an unbroken series: an estimate younger than a round of polls is none."""

    def observe(self, reading: MeterReading) -> bool:
        """Take a sample; whether it is one (NaN, negative and absurd ones prove nothing)."""
        power_w = reading.power_w
        if power_w is None or not math.isfinite(power_w) or power_w < 0 or power_w > 100 * self.spec.rating_w:
            return False
        if self.read_at is not None and reading.taken_at <= self.read_at:
            return False
        self.smoothed_w = (1 - SMOOTHING) * self.smoothed_w + SMOOTHING * power_w if self.is_fresh else power_w
        before = self.reading
        if before is None or (before.power_w, before.energy_j) != (power_w, reading.energy_j):
            self.changed_at = reading.taken_at
        self.reading, self.power_w, self.read_at = reading, power_w, reading.taken_at
        return True

    def refresh(self, now: Seconds) -> bool:
        """Whether `is_fresh` changed. A stale meter is no meter, and one that repeats itself for long is stuck."""
        stale_after_s = self.spec.meter_stale_after_s
        age_s = self.age_s(now)
        was_fresh = self.is_fresh
        self.is_fresh = (
            stale_after_s is not None
            and age_s is not None
            and age_s <= stale_after_s
            and now - self.changed_at <= STUCK_AFTER * stale_after_s
        )
        is_recent = age_s is not None and now - self.changed_at <= REMEMBERED_S
        self.is_remembered = is_recent and self.is_estimated and not self.is_fresh
        return self.is_fresh != was_fresh

    @property
    def settled_w(self) -> Watts:
        """The newest sample where it is lower than the smoothed power: a shed shows at once, a noisy peak does not."""
        return min(self.smoothed_w, self.power_w) if self.power_w is not None else self.smoothed_w

    def age_s(self, now: Seconds) -> Seconds | None:
        return now - self.read_at if self.read_at is not None else None

    def estimate(
        self, measured_w: Watts, reserved_w: Watts, last_move_at: Seconds, is_quiet: bool, hold_s: Seconds
    ) -> None:
        """Compare the newest sample with Σ devices: `measured_w` by their readings, `reserved_w` by the most they may
        have been drawing when it was taken.

        `last_move_at`: when the last of them settled. `is_quiet`: no actuation of weight is unconfirmed below.
        `hold_s`: a round of polls, for which the highest estimate counts.
        """
        if not self.is_fresh or self.power_w is None or self.changed_at <= self.counted_at:
            return
        self.floor_w = self.settled_w - reserved_w
        if not is_quiet or self.changed_at <= last_move_at:
            return
        if last_move_at > self.counted_at:
            self.samples = min(self.samples, SETTLING_SAMPLES)
        self.samples += 1
        weight = max(1.0 / self.samples, LEAST_WEIGHT)
        beside_w = self.power_w - measured_w
        error = beside_w - (self.mean_w if self.mean_w is not None else beside_w)
        self.mean_w = (self.mean_w if self.mean_w is not None else beside_w) + weight * error
        self.variance_w2 = (1 - weight) * (self.variance_w2 + weight * error * error)
        if self.samples > 1:
            leap_w = beside_w - self.last_w
            self.noise_w2 += max(1.0 / (self.samples - 1), LEAST_WEIGHT) * (leap_w * leap_w / 2 - self.noise_w2)
        self.last_w = beside_w
        self.counted_at = self.changed_at
        self.since = min(self.since, self.counted_at)
        spread_w = self._spread_w(weight)
        self.held.append((self.counted_at, self.mean_w, spread_w))
        while self._peaks and self._peaks[-1][1] <= self.mean_w + spread_w:
            self._peaks.pop()
        self._peaks.append((self.counted_at, self.mean_w + spread_w))
        for kept in (self.held, self._peaks):
            while kept[0][0] < self.counted_at - hold_s:
                kept.popleft()
        self.is_estimated = self.is_estimated or self.counted_at - self.since >= hold_s

    def _spread_w(self, weight: float) -> Watts:
        """Two standard deviations of what the mean may be wrong by. What leaps from one sample to the next is the
        meter's own noise, and the mean has averaged over it; what swings more slowly is load, and counts in full."""
        swing_w2 = max(0.0, self.variance_w2 - NOISE_ALONE * self.noise_w2)
        return 2 * math.sqrt(swing_w2 + min(self.noise_w2, self.variance_w2) * weight / (2 - weight))

    def upper_w(self, at_share: float, least_w: Watts) -> Watts:
        """The auxiliary load to reckon with (W). `at_share` is the devices' draw over what it was when measured: an
        estimate under the site's own figure means that devices over-report, and that shrinks with their draw.
        `least_w`: further than this devices do not over-report; a meter that says so is stuck or wired wrongly."""
        prior_w = self.spec.auxiliary_w
        if not self.is_estimated:
            return max(prior_w, self.floor_w)
        if at_share >= 1.0:  # at rest always
            upper_w = self._peaks[0][1]
        else:
            upper_w = max(
                (mean_w if mean_w >= prior_w else prior_w + (mean_w - prior_w) * at_share) + spread_w
                for _, mean_w, spread_w in self.held
            )
        return max(upper_w, self.floor_w, least_w) if self.is_fresh else max(prior_w, upper_w)
