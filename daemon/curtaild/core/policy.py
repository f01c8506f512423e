"""The site's own rules, as the core needs them."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild_drivers.contract import Seconds, Watts


@dataclass(frozen=True, slots=True)
class Policy:
    """`reading_error_fraction`: how far a device's own watts may be off (constant per unit), counted on every watt that
    no fresh meter has seen. `margin_fraction` of the limit stays unused against the meter's noise; draw within it
    moves nothing. `dead_band_fraction` of the limit must be free before anything is raised. `response_s`: how long
    after a limit begins a draw above it is no breach, unless the allocation says otherwise (`reach_by_s`).
    `energy_price_per_wh`: money per Wh; where devices have a price too, a step that earns less is not run.
    `exchange_after_s` of rest what stands is compared with what would earn most, then every `exchange_every_s`."""

    ramp_up_w_per_min: float | None = None
    dead_band_fraction: float = 0.005
    margin_fraction: float = 0.002
    reading_error_fraction: float = 0.05
    energy_price_per_wh: float | None = None
    restart_jitter_s: Seconds = 10.0
    max_starts_per_s: float = 50.0
    response_s: Seconds = 60.0
    boot_grace_s: Seconds = 10.0
    poll_slack_s: Seconds = 12.0
    exchange_after_s: Seconds = 60.0
    exchange_every_s: Seconds = 600.0

    def margin_w(self, limit_w: Watts) -> Watts:
        return self.margin_fraction * limit_w

    def dead_band_w(self, limit_w: Watts) -> Watts:
        return self.dead_band_fraction * limit_w
