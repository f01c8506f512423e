"""Who fell silent together: when the first of them is heard again, the others are asked at once.

A switch that restarts takes a whole row with it. Whoever does not answer is asked less and less often, up to two
minutes apart; without this a row would be heard again one by one, long after the switch is back, and reserved meanwhile
with all that it might draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from curtaild_drivers.contract import DeviceId, Seconds

TOGETHER_S = 60.0
"""Devices that one cause takes fail their polls within so long of each other, in whatever rhythm they are asked."""


class Outages:
    """Devices that do not answer, by when that began."""

    def __init__(self) -> None:
        self._since: dict[DeviceId, Seconds] = {}
        self._put_off: dict[int, dict[DeviceId, None]] = {}

    def failed(self, device: DeviceId, at: Seconds, is_put_off: bool) -> None:
        """A read failed that was asked `at`. `is_put_off`: the next one comes later than in its rhythm."""
        since = self._since.setdefault(device, at)
        if is_put_off:
            self._put_off.setdefault(_period(since), {})[device] = None

    def answered(self, device: DeviceId) -> Sequence[DeviceId]:
        """It is heard: who else may be back, and need not wait. Each is named once, until it has failed again."""
        since = self._since.pop(device, None)
        if since is None:
            return ()
        periods = (_period(since) + near for near in (-1, 0, 1))
        return [other for period in periods for other in self._put_off.pop(period, ()) if other != device]


def _period(at: Seconds) -> int:
    return math.floor(at / TOGETHER_S)
