"""Breach alerts of DSX Flex: by how much, how grave, and what an infrastructure agent could still throttle."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from curtaild.clock import Clock, to_unix
from curtaild.core.events import BreachChanged, BreachStage
from curtaild.core.status import DeviceStatus, SiteStatus
from curtaild.grid import fields
from curtaild.grid.dsx.power import power
from curtaild.grid.dsx.targets import Target
from curtaild_drivers.contract import FeederId, Watts

CRITICAL_OVER_FRACTION = 0.2
MOST_HINTS = 64


def breach_id(agent: str, breach: BreachChanged) -> str:
    """The core's id in the shape of a UUIDv4, the same for the whole life of the breach."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{agent}/{breach.id}".encode()).digest()[:16], version=4))


def breach_data(
    breach: BreachChanged,
    tag: str,
    target: Target,
    identity: str,
    infrastructure_actions: Sequence[str],
    status: SiteStatus | None,
    clock: Clock,
) -> dict[str, object]:
    """The data of `grid.powerbreach.alert.v1`: active → escalated → resolved. Not above 20 % over the target it is a
    warning, above it is critical. The mildest of `infrastructure_actions` is named first, all once it has escalated."""
    measured_w = breach.limit_w + breach.over_w
    details = {"breach_id": identity, "detected_at": fields.timestamp(to_unix(clock, breach.since))}
    data: dict[str, object] = {
        "feed_tag": tag,
        "status": breach.stage.value,
        "severity": "critical" if measured_w > (1 + CRITICAL_OVER_FRACTION) * target.limit_w else "warning",
        "breach": details,
        "target": {"correlation_id": target.correlation_id, "load_constraint": power(target.limit_w)},
        "measured_load": power(measured_w),
        "infrastructure_actions": [],
    }
    if breach.stage is BreachStage.RESOLVED:
        details["resolved_at"] = fields.timestamp(to_unix(clock, breach.at))
        return data
    most = len(infrastructure_actions) if breach.stage is BreachStage.ESCALATED else 1
    data["infrastructure_actions"] = list(infrastructure_actions[:most])
    data["shed_hints"] = _hints(breach.feeder, measured_w - target.limit_w, status)
    return data


def _hints(feeder: FeederId, over_w: Watts, status: SiteStatus | None) -> list[dict[str, object]]:
    """First those that draw more than they were told, then the largest, until the excess is covered."""
    if status is None:
        return []
    below = _below(feeder, status)
    drawing = [device for device in status.devices if device.feeder in below and (device.power_w or 0.0) > 0]
    drawing.sort(key=lambda device: (-_excess_w(device), -(device.power_w or 0.0)))
    hints: list[dict[str, object]] = []
    left_w = over_w
    for device in drawing[:MOST_HINTS]:
        if left_w <= 0:
            break
        hint: dict[str, object] = {"resource_id": device.id, "resource_type": "node", "priority": len(hints) + 1}
        if _excess_w(device) > 0 and device.setpoint_w:
            hint |= {"action": "power_cap", "target_power": power(device.setpoint_w)}
            left_w -= _excess_w(device)
        else:
            hint["action"] = "suspend"
            left_w -= device.power_w or 0.0
        hints.append(hint)
    return hints


def _excess_w(device: DeviceStatus) -> Watts:
    if device.power_w is None or device.setpoint_w is None:
        return 0.0
    return max(0.0, device.power_w - 1.05 * device.setpoint_w)


def _below(feeder: FeederId, status: SiteStatus) -> set[FeederId]:
    """The feeder and all under it."""
    found: set[FeederId] = {feeder}
    while more := {other.id for other in status.feeders if other.parent in found} - found:
        found |= more
    return found
