"""Four policies, each written from its published description, with the description's own figures where it has some."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from random import Random

from bench.policies.rival import Rival
from curtaild.rehearse.emulated import Emulated
from curtaild_drivers.contract import DeviceId, OperatingPoint, Seconds, Watts


class OnOff(Rival):
    """Everything or nothing: off as soon as the limit is under what the site would draw.

    What mining sites that obey a `{"target": 0 | 100}` message do (MaestroOS and its consumers; the message has no
    other values).
    """

    def decide(self, now: Seconds) -> Mapping[DeviceId, OperatingPoint]:
        full_w = sum(points.highest.draw_w for points in self.points.values())
        if self.limit_w >= full_w:
            return {device: points.highest for device, points in self.points.items()}
        return {device: points.lowest for device, points in self.points.items()}


class FrozenList(Rival):
    """A fixed number of kW, taken from whole machines, the least efficient first, by a list made when the event begins
    and not touched until it ends; looked at every 30 s; given back in batches.

    As fleet managers describe their curtailment (Proto Fleet's curtailment worker: a target in kW, candidates by
    efficiency, frozen at the start, a tick of 30 s, batches at the end). The batch is ours: a tenth of the site.
    """

    TICK_S = 30.0
    BATCH_SHARE = 0.1

    def __init__(self, emulated: Emulated) -> None:
        super().__init__(emulated)
        self._next_at: Seconds = 0.0
        self._followed_w = self.limit_w
        self._efficiency = {
            device: points.highest.rate / points.highest.draw_w for device, points in self.points.items()
        }

    def decide(self, now: Seconds) -> Mapping[DeviceId, OperatingPoint]:
        if now < self._next_at:
            return {}
        self._next_at = now + self.TICK_S
        running = [device for device, point in self.setpoint.items() if not point.is_off]
        if self.limit_w < self._followed_w:
            self._followed_w = self.limit_w
            return self._taken(running)
        self._followed_w = self.limit_w
        return self._given_back()

    def _taken(self, running: list[DeviceId]) -> dict[DeviceId, OperatingPoint]:
        ask_w = (self.metered_w or 0.0) - self.limit_w
        chosen: dict[DeviceId, OperatingPoint] = {}
        for device in sorted(running, key=lambda name: self._efficiency[name]):
            if ask_w <= 0:
                break
            chosen[device] = self.points[device].lowest
            ask_w -= self.drawn_w[device]
        return chosen

    def _given_back(self) -> dict[DeviceId, OperatingPoint]:
        """Best first, a batch at a time, as far as nameplates fit."""
        free_w = self.limit_w - (self.metered_w or 0.0)
        waking_w = sum(
            point.draw_w - self.drawn_w[device]
            for device, point in self.setpoint.items()
            if not point.is_off and self.drawn_w[device] < 0.5 * point.draw_w
        )
        free_w -= waking_w
        chosen: dict[DeviceId, OperatingPoint] = {}
        asleep = [device for device, point in self.setpoint.items() if point.is_off]
        for device in sorted(asleep, key=lambda name: -self._efficiency[name])[: self._batch]:
            free_w -= self.points[device].highest.draw_w
            if free_w < 0:
                break
            chosen[device] = self.points[device].highest
        return chosen

    @property
    def _batch(self) -> int:
        return max(1, round(self.BATCH_SHARE * len(self.points)))


class ThreeBands(Rival):
    """Sample every 3 s; above 99 % of the limit cut to 95 %, lowest priority first, the largest draws of a group first;
    under 90 % let all caps go.

    Dynamo (Wu et al., "Dynamo: Facebook's Data Center-Wide Power Management System", ISCA 2016): leaf controllers with
    a capping threshold, a capping target and an uncapping threshold, priority groups, high-bucket-first, 3 s sampling.
    """

    TICK_S, CAP, TARGET, UNCAP = 3.0, 0.99, 0.95, 0.90
    BUCKET_W = 200.0
    SETTLE_S = 6.0
    """The paper's servers settle within two seconds; a cut is left alone for two samples here too."""

    def __init__(self, emulated: Emulated) -> None:
        super().__init__(emulated)
        self._next_at: Seconds = 0.0
        self._cut_until: Seconds = 0.0

    def decide(self, now: Seconds) -> Mapping[DeviceId, OperatingPoint]:
        if now < self._next_at or self.metered_w is None:
            return {}
        self._next_at = now + self.TICK_S
        if self.metered_w > self.CAP * self.limit_w and now >= self._cut_until:
            self._cut_until = now + self.SETTLE_S
            return self._cut(self.metered_w - self.TARGET * self.limit_w)
        if self.metered_w < self.UNCAP * self.limit_w and now >= self._cut_until:
            return {device: points.highest for device, points in self.points.items()}
        return {}

    def _cut(self, cut_w: Watts) -> dict[DeviceId, OperatingPoint]:
        """Lower the devices of the lowest group bucket by bucket, until the cut is found; then the next group's."""
        caps_w = {device: min(self.drawn_w[device], self.setpoint[device].draw_w) for device in self.points}
        for _, group in groupby(sorted(caps_w, key=lambda name: self.priority[name]), lambda name: self.priority[name]):
            members = list(group)
            level_w = max(caps_w[device] for device in members)
            while cut_w > 0 and level_w > 0:
                level_w -= self.BUCKET_W
                for device in members:
                    lowered_w = max(level_w, self.points[device].lowest.draw_w)
                    if caps_w[device] > lowered_w and cut_w > 0:
                        cut_w -= caps_w[device] - lowered_w
                        caps_w[device] = lowered_w
        return {
            device: self.at_most(device, cap_w)
            for device, cap_w in caps_w.items()
            if cap_w < min(self.drawn_w[device], self.setpoint[device].draw_w)
        }


class RandomisedUnthrottling(Rival):
    """Above 98 % of the limit: every device's draw times 0.75; each second below: every throttled device may rise,
    with a chance that brings it back within minutes.

    Thunderbolt (Li et al., "Thunderbolt: Throughput-Optimized, Quality-of-Service-Aware Power Capping at Scale", OSDI
    2020): randomised unthrottling, multiplicative decrease. A device that is lowered is left alone until its poll has
    seen it: theirs answer within a second.
    """

    THRESHOLD, FACTOR = 0.98, 0.75
    UNTHROTTLE_PER_S = 1 / 120
    PATIENCE_S = 12.0

    def __init__(self, emulated: Emulated) -> None:
        super().__init__(emulated)
        self._chance = Random(1)
        self._lowered_at: Seconds = -1e9

    def decide(self, now: Seconds) -> Mapping[DeviceId, OperatingPoint]:
        if self.metered_w is None:
            return {}
        if self.metered_w > self.THRESHOLD * self.limit_w:
            if now - self._lowered_at < self.PATIENCE_S:
                return {}
            self._lowered_at = now
            return {device: self.at_most(device, self.FACTOR * w.draw_w) for device, w in self.setpoint.items()}
        return {
            device: self.points[device].highest
            for device, point in self.setpoint.items()
            if point != self.points[device].highest and self._chance.random() < self.UNTHROTTLE_PER_S
        }
