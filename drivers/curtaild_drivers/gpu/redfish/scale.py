"""Between the limits that a BMC takes and the node's watts at the wall, both ways. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from curtaild_drivers.contract import OperatingPoints, Unsupported, Watts
from curtaild_drivers.gpu.curve import BASE_FRACTION, Curve, node_points
from curtaild_drivers.gpu.redfish.limits import UNLIMITED, LimitState
from curtaild_drivers.gpu.redfish.settings import RedfishSettings

_BASE_PER_GPU_W: Watts = 225.0
"""A node of eight draws about 1.8 kW beside its GPUs (8 × H100: 8.5 kW against 5.6 kW of GPUs)."""
_LEAST_SHARE = 0.5
"""How far under its most a node is limited, where nobody names a least; assumed: lower limits are not kept."""


@dataclass(frozen=True, slots=True)
class Scale:
    """`gpus` limits of one GPU each, or 0: one limit of the whole node. Watts at the wall are
    `base_w` + `overhead` · Σ limits, or that one limit."""

    gpus: int
    least_w: Watts
    most_w: Watts
    base_w: Watts
    overhead: float
    most_each_w: Watts

    @classmethod
    def of(
        cls, limits: Collection[LimitState], of_gpus: bool, settings: RedfishSettings, rated_w: Watts | None
    ) -> Self:
        """Raises `Unsupported` where nobody says the node's most."""
        gpus = len(limits) if of_gpus else 0
        each = [state.most_w for state in limits if state.most_w is not None]
        least_each = [state.least_w for state in limits if state.least_w is not None]
        if gpus:
            base_w = settings.base_w if settings.base_w is not None else gpus * _BASE_PER_GPU_W
            overhead = settings.gpu_factor
            allowed_w = base_w + overhead * gpus * min(each) if len(each) == gpus else None
            floor_w = base_w + overhead * gpus * max(least_each) if len(least_each) == gpus else None
        else:
            base_w, overhead = settings.base_w or 0.0, 1.0
            allowed_w, floor_w = min(each, default=None), max(least_each, default=None)
        known = [most_w for most_w in (allowed_w, rated_w) if most_w is not None]
        if not known:
            raise Unsupported("the BMC does not say the node's most: set rated_w in the site file")
        most_w = min(known)
        if not gpus and settings.base_w is None:
            base_w = BASE_FRACTION * most_w
        least_w = settings.least_w or floor_w or _LEAST_SHARE * most_w
        return cls(gpus, least_w, most_w, base_w, overhead, min(each, default=most_w))

    def points(self, off_w: Watts | None, curve: Curve) -> OperatingPoints:
        """Raises `Unsupported` where the site file's words and the BMC's do not go together."""
        step_w = self.overhead * self.gpus if self.gpus else 1.0
        try:
            return node_points(self.least_w, self.most_w, self.base_w, off_w, curve, step_w)
        except ValueError as error:
            raise Unsupported(f"{error}: see least_w, base_w, off_w and rated_w in the site file") from None

    def fraction(self, node_w: Watts) -> float:
        """Of the GPUs' full power, under a limit of the whole node; 0 where the site's words leave them none."""
        return (node_w - self.base_w) / (self.most_w - self.base_w) if self.most_w > self.base_w else 0.0

    def each_w(self, node_w: Watts) -> Watts:
        """The whole watts of each limit for which the node stays at or under `node_w`."""
        each_w = (node_w - self.base_w) / (self.overhead * self.gpus) if self.gpus else node_w
        return float(math.floor(each_w + 1e-6))

    def node_w(self, limits: Collection[LimitState]) -> Watts | None:
        """The node's limit that these make; without any in force its most, and `None` where one is not known."""
        total_w = 0.0
        for state in limits:
            if state.set_w is None:
                return None
            if state.set_w is UNLIMITED:
                if not self.gpus:
                    return self.most_w
                total_w += self.most_each_w
            else:
                total_w += state.set_w
        if not limits:
            return None
        return self.base_w + self.overhead * total_w if self.gpus else total_w
