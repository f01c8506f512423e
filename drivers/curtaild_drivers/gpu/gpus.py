"""The GPUs of this host under one library: found, looked for when they are lost, let go of.

The library's own calls run in a thread beside those of the GPUs, and nobody waits for any longer than its deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from curtaild_drivers.contract import BadReply, DriverError, Seconds
from curtaild_drivers.gpu.card import CardFacts, CardLost, Host
from curtaild_drivers.gpu.lane import Lane, moment_in
from curtaild_drivers.gpu.slot import Slot

log = logging.getLogger(__name__)

OPEN_DEADLINE_S = (
    20.0  # without persistence mode the driver loads itself first: 1.5 s on an idle host, more on a busy one
)
CLOSE_DEADLINE_S = 0.5
RENEW_S = 60.0
"""How often a lost GPU is looked for: its old handle may stay dead though it is back."""


class HostGpus:
    """`slots` has a place for each GPU that was ever found, `version` is the driver's."""

    def __init__(self, host: Host) -> None:
        self.slots: list[Slot] = []
        self.version = ""
        self._host = host
        self._lane = Lane(f"{host.make} driver")
        self._is_open = False
        self._is_warned = False
        self._renewed_at: Seconds = float("-inf")

    @property
    def make(self) -> str:
        return self._host.make

    @property
    def are_known(self) -> bool:
        """Whether the library is open and each GPU was found out about."""
        return self._is_open and all(slot.card is not None for slot in self.slots)

    @property
    def take_limits(self) -> bool:
        """Whether nothing says that they do not."""
        return all(slot.facts is None or slot.facts.takes_limit for slot in self.slots)

    @property
    def lock_clocks(self) -> bool:
        """Likewise for their clocks."""
        return all(slot.facts is None or slot.facts.locks_clocks for slot in self.slots)

    def facts(self) -> list[CardFacts]:
        """Of every GPU that could be opened. Raises the first one's error where none could."""
        facts = [slot.facts for slot in self.slots if slot.facts is not None]
        if not facts:
            raise self.slots[0].error or BadReply("no GPU could be opened")
        return facts

    async def open(self) -> None:
        """The library unless it is open, then each GPU that is not; one that cannot be opened is tried again at the
        next call. Raises `DriverError`."""
        until = moment_in(OPEN_DEADLINE_S)
        if not self._is_open:
            self.version, count = await self._lane.call(self._host.open, until)
            self._is_open = True
            self.slots += [Slot(index, self._host) for index in range(len(self.slots), count)]
        await asyncio.gather(*(slot.open(until) for slot in self.slots), return_exceptions=True)
        self._warn_of_lost_limits()

    async def drop(self) -> None:
        """Open the library anew at the next call, if none is under way in it now."""
        if all(slot.is_idle for slot in self.slots):
            for slot in self.slots:
                slot.card = None
            await attempted(self._lane, self._host.close, moment_in(CLOSE_DEADLINE_S))
            self._is_open = False

    async def look_for_the_lost(self, within_s: Seconds) -> None:
        """Once in a while; the others are not touched."""
        lost = [slot for slot in self.slots if isinstance(slot.error, CardLost) and slot.card is not None]
        if not lost or time.monotonic() - self._renewed_at < RENEW_S:
            return
        self._renewed_at, until = time.monotonic(), moment_in(within_s)
        try:
            await self._lane.call(self._host.renew, until)
        except DriverError:
            return
        await asyncio.gather(*(slot.renew(until) for slot in lost), return_exceptions=True)

    async def close(self) -> None:
        """Let go of them as they are."""
        until = moment_in(CLOSE_DEADLINE_S)
        await asyncio.gather(*(slot.close(until) for slot in self.slots))
        if self._is_open and not any(slot.is_hung for slot in self.slots):
            await attempted(self._lane, self._host.close, until)
        self._is_open = False
        self._lane.close()

    def _warn_of_lost_limits(self) -> None:
        """Once: a stopped daemon is to leave the limits as they are, and there it cannot."""
        loose = [str(slot.index) for slot in self.slots if slot.facts is not None and slot.facts.is_persistent is False]
        if loose and not self._is_warned:
            self._is_warned = True
            log.warning("persistence mode is off: when the daemon stops, GPU %s may forget its limit", ", ".join(loose))


async def attempted(lane: Lane, work: Callable[[], None], until: Seconds) -> None:
    """What nobody can do anything about if it fails."""
    try:
        await lane.call(work, until)
    except DriverError:
        return
