"""How long answers take: of a device to a command, of the site to an allocation. Times are monotonic seconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from curtaild.core.allocation import AllocationId
from curtaild.core.events import Ack, AckStage, ActuationChanged, ActuationId, ActuationStage, AllocationTaken
from curtaild_drivers.contract import DeviceId, Seconds

MOST_ALLOCATIONS = 4_096
"""The oldest is forgotten beyond this: a grid that never ends its allocations must not grow the daemon."""

_ENDS = frozenset({ActuationStage.CONFIRMED, ActuationStage.REFUSED, ActuationStage.DIVERGED, ActuationStage.CANCELLED})


class ActuationTimes:
    """Remembers the newest command of each device until its end. An unknown outcome is no end: it may be confirmed."""

    def __init__(self) -> None:
        self._issued: dict[DeviceId, tuple[ActuationId, Seconds]] = {}

    def since_issue(self, event: ActuationChanged) -> Seconds | None:
        """Time from the issue of this actuation to `event`; `None` for the issue itself and where it was not seen."""
        if event.stage is ActuationStage.ISSUED:
            self._issued[event.device] = (event.id, event.at)
            return None
        issued = self._issued.get(event.device)
        if issued is None or issued[0] != event.id:
            return None
        if event.stage in _ENDS:
            del self._issued[event.device]
        return max(0.0, event.at - issued[1])


@dataclass(slots=True)
class _Response:
    received_at: Seconds
    valid_from: Seconds
    was_shed_for: bool = False
    was_reached: bool = False

    def since_start(self, moment: Seconds) -> Seconds:
        return max(0.0, moment - max(self.received_at, self.valid_from))


class ResponseTimes:
    """Follows each allocation from its receipt to its first shed command and to its limit being reached.

    Restores are left out: they are paced on purpose. So is an allocation that was reached without a shed, and
    whatever is shed for one after it was first reached (a pump that starts an hour later says nothing of the answer).
    """

    def __init__(self) -> None:
        self._open: OrderedDict[AllocationId, _Response] = OrderedDict()

    def taken(self, event: AllocationTaken) -> None:
        """A schedule sent again keeps the first receipt and takes over the new window."""
        allocation = event.allocation
        known = self._open.get(allocation.id)
        if known is not None:
            known.valid_from = allocation.valid_from
            return
        self._open[allocation.id] = _Response(event.at, allocation.valid_from)
        if len(self._open) > MOST_ALLOCATIONS:
            self._open.popitem(last=False)

    def first_shed(self, event: ActuationChanged) -> Seconds | None:
        """Time to this command if it is the first shed for its allocation, else `None`."""
        if event.stage is not ActuationStage.ISSUED or event.is_raise or event.allocation_id is None:
            return None
        response = self._open.get(event.allocation_id)
        if response is None or response.was_shed_for or response.was_reached:
            return None
        response.was_shed_for = True
        return response.since_start(event.at)

    def reached(self, event: Ack) -> Seconds | None:
        """Time to the limit being reached if `event` says so for the first time after a shed, else `None`."""
        if event.allocation_id is None:
            return None
        if event.stage is AckStage.ENDED:
            self._open.pop(event.allocation_id, None)
            return None
        if event.stage is not AckStage.REACHED:
            return None
        response = self._open.get(event.allocation_id)
        if response is None or response.was_reached:
            return None
        response.was_reached = True
        return response.since_start(event.at) if response.was_shed_for else None
