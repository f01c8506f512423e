"""Where the watts went that were allowed and not drawn: held for what may rise, kept as a margin, not given out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from curtaild.core.site import Site
from curtaild_drivers.contract import DeviceId, Seconds, Watts


@dataclass(slots=True)
class Losses:
    """Energy in J over a play; the parts add up to what was allowed and not drawn, so a part may be negative.

    `waking`: reserved for raises under way beyond what they draw yet. `falling`: for sheds under way. `settled`: for
    settled devices beyond what they draw. `unknown`: for devices of which nobody knows where they are set. `auxiliary`:
    reckoned for fans and losses beyond what they take. `unseen`: for the error of readings that no meter has checked.
    `margin`: kept under the limit. `not_given_out`: free by the core's own reckoning.
    """

    waking: float = 0.0
    falling: float = 0.0
    settled: float = 0.0
    unknown: float = 0.0
    auxiliary: float = 0.0
    unseen: float = 0.0
    margin: float = 0.0
    not_given_out: float = 0.0

    def parts(self) -> dict[str, float]:
        """By name, in J."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def count(
        self, site: Site, drawn_w: Mapping[DeviceId, Watts], allowed_w: Watts, true_w: Watts, dt_s: Seconds
    ) -> None:
        """Add `dt_s` of a moment at which `allowed_w` was allowed and `true_w` drawn, `drawn_w` by the devices."""
        waking_w = falling_w = settled_w = unknown_w = 0.0
        for name, device in site.devices.items():
            held_w = device.reserved_w - drawn_w[name]
            if device.actuation is not None:
                if device.actuation.is_raise:
                    waking_w += held_w
                else:
                    falling_w += held_w
            elif device.setpoint is not None:
                settled_w += held_w
            else:
                unknown_w += held_w
        devices_true_w = sum(drawn_w.values())
        sums = site.tallies[site.tree.root]
        margin_w = site.policy.margin_w(allowed_w)
        self.waking += waking_w * dt_s
        self.falling += falling_w * dt_s
        self.settled += settled_w * dt_s
        self.unknown += unknown_w * dt_s
        self.auxiliary += (sums.auxiliary_w - (true_w - devices_true_w)) * dt_s
        self.unseen += (sums.total_reserved_w - sums.reserved_w - sums.auxiliary_w) * dt_s
        self.margin += margin_w * dt_s
        self.not_given_out += (allowed_w - margin_w - sums.total_reserved_w) * dt_s
