"""What the site looks like at one moment: plain data for `/status`, `/metrics`, the grid's status and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from curtaild.core.events import ActuationStage, Condition, LinkPhase
from curtaild.core.limits import Ceiling
from curtaild_drivers.contract import DeviceId, FeederId, RunState, Seconds, Watts


class FeederStatus(NamedTuple):
    """`limit_w` is the ceiling in force with the rating counted (W). `reserved_w` and `auxiliary_w` together are what
    the feeder may be drawing as far as we know; `planned_w` what its devices will draw once all actuations
    settle. `metered_w` is the last valid meter power, `None` without a meter. `curtailed_w`: what the devices would
    draw unlimited minus what they may."""

    id: FeederId
    parent: FeederId | None
    rating_w: Watts
    limit_w: Watts
    ceiling: Ceiling
    limit_source: str
    metered_w: Watts | None
    meter_is_fresh: bool
    meter_age_s: Seconds | None
    measured_w: Watts
    reserved_w: Watts
    planned_w: Watts
    auxiliary_w: Watts
    headroom_w: Watts
    deficit_w: Watts
    curtailed_w: Watts
    devices: int


class DeviceStatus(NamedTuple):
    """`setpoint` is the key of the point the daemon wants, `confirmed` that of the last confirmed one. `drawn_at`: when
    the last reading was asked that proved its draw, on the clock of `SiteStatus.at`. `fault`: what it says is the
    matter with it, in its own words."""

    id: DeviceId
    feeder: FeederId
    state: RunState
    power_w: Watts | None
    reserved_w: Watts
    rated_w: Watts
    rate: float | None
    temperature_c: float | None
    setpoint: str | None
    setpoint_w: Watts | None
    confirmed: str | None
    actuation: ActuationStage | None
    is_stale: bool
    drawn_at: Seconds | None
    conditions: tuple[Condition, ...]
    fault: str | None = None

    @property
    def is_at_fault(self) -> bool:
        """Whether it says that something is the matter with it, by its state or in words."""
        return self.fault is not None or self.state is RunState.FAULT

    def age_s(self, at: Seconds) -> Seconds | None:
        """How old its last proof of a draw is; `None` before the first."""
        return max(0.0, at - self.drawn_at) if self.drawn_at is not None else None


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """`flexible_down_w`/`flexible_up_w`: how far the devices' draw could be lowered / raised if the grid asked.
    `heartbeat_age_s` is `None` until the first heartbeat."""

    at: Seconds
    phase: LinkPhase
    phase_reason: str
    root: FeederId
    heartbeat_age_s: Seconds | None
    allocation_id: str | None
    flexible_up_w: Watts
    flexible_down_w: Watts
    actuations_in_flight: int
    next_limit_change_at: Seconds | None
    feeders: Sequence[FeederStatus]
    devices: Sequence[DeviceStatus]

    @property
    def site(self) -> FeederStatus:
        """The root feeder: what the grid bills."""
        return next(feeder for feeder in self.feeders if feeder.id == self.root)
