"""Power limits as Redfish writes them down, in three shapes: within EnvironmentMetrics, as a Control, within Power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from curtaild_drivers.contract import Watts
from curtaild_drivers.gpu.redfish.document import MOST_W, Json, first, number, part, watts


class Shape(Enum):
    """Where in a resource the limit stands."""

    ENVIRONMENT = "EnvironmentMetrics"  # PowerLimitWatts: an excerpt of a Control
    CONTROL = "Control"  # the resource itself
    POWER = "Power"  # PowerControl[0].PowerLimit: the old schema, deprecated and alive


class Unlimited(Enum):
    """No limit in force, said by the BMC itself: not the same as not saying."""

    UNLIMITED = "unlimited"


UNLIMITED = Unlimited.UNLIMITED


@dataclass(frozen=True, slots=True)
class LimitState:
    """What a resource says of its limit. `set_w` is `None` where it does not say, `least_w` and `most_w` where it does
    not bound it."""

    set_w: Watts | Unlimited | None
    least_w: Watts | None
    most_w: Watts | None


def limit_state(shape: Shape, body: Json) -> LimitState | None:
    """What `body` says of its limit, `None` where it has none (or one that is not in watts)."""
    if shape is Shape.POWER:
        limit = first(body.get("PowerControl")).get("PowerLimit")
        if not isinstance(limit, dict) or "LimitInWatts" not in limit:
            return None
        return LimitState(_set_w(limit, "LimitInWatts"), None, None)
    control = body if shape is Shape.CONTROL else part(body, "PowerLimitWatts")
    bounded = "SetPoint" in control or "AllowableMax" in control
    if not bounded or control.get("ControlType", "Power") != "Power":
        return None
    if control.get("SetPointUnits", "W") not in ("W", "Watt", "Watts"):
        return None  # BlueField counts in percent
    is_off = control.get("ControlMode") == "Disabled"  # the set point then only waits to be let in (OpenBMC)
    set_w = UNLIMITED if is_off else _set_w(control, "SetPoint")
    return LimitState(set_w, watts(control.get("AllowableMin")), watts(control.get("AllowableMax")))


def _set_w(limit: Json, key: str) -> Watts | Unlimited | None:
    """`null` is no limit (Dell, HPE, Lenovo), and so is 0 (Cray)."""
    if key not in limit:
        return None
    if limit[key] is None or number(limit[key]) == 0:
        return UNLIMITED
    return watts(limit[key])


def limit_change(shape: Shape, mode: str | None, limit_w: Watts) -> Json:
    """What to write for a limit, in whole watts and never above it: every BMC takes those, iDRAC and OpenBMC take
    nothing else. `mode` is the control mode in which the BMC keeps a limit, where it must be told."""
    whole_w = math.floor(limit_w + 1e-6)
    if shape is Shape.POWER:
        return {"PowerControl": [{"PowerLimit": {"LimitInWatts": whole_w}}]}
    control: Json = {"SetPoint": whole_w}
    if mode is not None:
        control["ControlMode"] = mode
    return control if shape is Shape.CONTROL else {"PowerLimitWatts": control}


def power_w(body: Json) -> Watts | None:
    """The watts that a resource tells: EnvironmentMetrics, Power, the sensor of a Control, or a Sensor itself."""
    claims = (
        part(body, "PowerWatts").get("Reading"),
        first(body.get("PowerControl")).get("PowerConsumedWatts"),
        part(body, "Sensor").get("Reading"),
        body.get("Reading") if body.get("ReadingUnits") == "W" else None,
    )
    return next((found for claim in claims if (found := watts(claim)) is not None), None)


def supplied_w(metrics: Json) -> Watts | None:
    """What one power supply takes from the grid (PowerSupplyMetrics): 0 for one that only stands by."""
    claimed = number(part(metrics, "InputPowerWatts").get("Reading"))
    return claimed if claimed is not None and 0 <= claimed <= MOST_W else None


def temperature_c(body: Json) -> float | None:
    """Where it comes along with the watts."""
    claimed = number(part(body, "TemperatureCelsius").get("Reading"))
    return claimed if claimed is not None and -50 < claimed < 200 else None
