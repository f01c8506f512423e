"""What must run before devices of a feeder may start: its fans or pumps. They are started first, and seen running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from curtaild.core.device import Device
from curtaild.core.events import InterlockChanged
from curtaild.core.feeders import FeederTree, InterlockSpec
from curtaild.core.room import Room
from curtaild_drivers.contract import FeederId, Seconds, Watts

METERED_WITHIN_S = 30.0
"""What was started is part of the auxiliary load by then, as a meter shows it."""


@dataclass(slots=True)
class Interlock:
    """As it was last seen at `seen_at`; `is_running` is `None` until then. `asked_at`: when it was last to start."""

    spec: InterlockSpec
    is_running: bool | None = None
    seen_at: Seconds | None = None
    asked_at: Seconds | None = None

    def observe(self, feeder: FeederId, is_running: bool, at: Seconds) -> list[InterlockChanged]:
        """Take what was read at `at`."""
        was_running, self.is_running, self.seen_at = self.is_running, is_running, at
        return [InterlockChanged(at, feeder, is_running)] if is_running is not was_running else []

    def allows(self, now: Seconds) -> bool:
        """Whether devices may start: not on old word."""
        is_fresh = self.seen_at is not None and now - self.seen_at <= self.spec.stale_after_s
        return is_fresh and self.is_running is True


def hold_room(interlocks: Mapping[FeederId, Interlock], tree: FeederTree, room: Room, now: Seconds) -> None:
    """Give to nobody what is about to be drawn by what was just started."""
    for feeder, interlock in interlocks.items():
        if interlock.asked_at is not None and now - interlock.asked_at < METERED_WITHIN_S:
            for member in tree.paths[feeder]:
                room.free_w[member] -= interlock.spec.draw_w


def admit(
    candidates: Iterable[Device], interlocks: Mapping[FeederId, Interlock], tree: FeederTree, room: Room, now: Seconds
) -> tuple[list[Device], list[FeederId]]:
    """Who of those that may rise need wait for nothing, and the feeders whose interlocks are to be started for the
    others: as far as there is room for what they draw and the least of the devices that wait."""
    admitted: list[Device] = []
    wanted: dict[FeederId, Watts] = {}
    for device in candidates:
        path = tree.paths[device.spec.feeder]
        stopped = [feeder for feeder in path if feeder in interlocks and not interlocks[feeder].allows(now)]
        if device.setpoint is None or not device.setpoint.is_off or not stopped:
            admitted.append(device)
            continue
        points = device.spec.points
        least_w = points.points[1].draw_w if points is not None and len(points.points) > 1 else device.spec.rated_w
        for feeder in stopped:
            wanted[feeder] = min(least_w, wanted.get(feeder, least_w))
    to_start = [
        feeder
        for feeder, least_w in wanted.items()
        if interlocks[feeder].is_running is False
        and all(room.free_w[member] >= interlocks[feeder].spec.draw_w + least_w for member in tree.paths[feeder])
    ]
    for feeder in to_start:
        interlocks[feeder].asked_at = now
        for member in tree.paths[feeder]:
            room.free_w[member] -= interlocks[feeder].spec.draw_w
    return admitted, to_start
