"""A whole scan: a cheap touch of every address, then the question who it is to those that took a connection. Both are
bounded, and an address is done only when all that can be known of it is.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from curtaild.survey.touch import Touch, touch
from curtaild_drivers.asic.finding import TELLING_PORTS, Finding, find
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.contract import Seconds
from curtaild_drivers.registry import OpenContext

DEFAULT_CONCURRENCY = 2_000
MOST_CONCURRENCY = 16_000
DEFAULT_TIMEOUT_S: Seconds = 1.5
"""The kernel asks anew after 1 s: one lost packet hides nobody."""
IDENTIFY_AT_ONCE = 128
_SOCKETS_PER_IDENTIFYING = 8
_MOST_WAITING = 4 * IDENTIFY_AT_ONCE
_SPARE_DESCRIPTORS = 64

Access = Callable[[str], tuple[AsicSettings, OpenContext]]
"""The settings and secrets an address is asked with: those of its group in the site file, or the scan's own."""


@dataclass(slots=True)
class Tally:
    """What a scan has seen. `done` addresses from the start of the list on need not be asked again; `touched` counts
    what those did. `findings` may be ahead."""

    done: int = 0
    touched: Counter[Touch] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def miners(self) -> dict[str, Finding]:
        return {address: finding for address, finding in self.findings.items() if finding.identity is not None}


class Scan:
    """One scan of `addresses` from number `tally.done` on, which is kept up to date as it goes."""

    def __init__(
        self,
        addresses: Sequence[str],
        access: Access,
        tally: Tally,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout_s: Seconds = DEFAULT_TIMEOUT_S,
        ports: Sequence[int] = TELLING_PORTS,
    ) -> None:
        self.addresses = addresses
        self.tally = tally
        self._access = access
        self._timeout_s = timeout_s
        self._ports = ports
        self._touchers = max(1, concurrency // len(ports))
        self._next = iter(range(tally.done, len(addresses)))
        self._finished: dict[int, Touch] = {}
        self._to_identify: asyncio.Queue[int] = asyncio.Queue(_MOST_WAITING)

    async def run(self) -> None:
        """Until every address is done, or cancelled: the tally then says how far it came."""
        begun = self.tally.done
        identifying = [asyncio.create_task(self._identify()) for _ in range(IDENTIFY_AT_ONCE)]
        touching = [
            asyncio.create_task(self._touch(self._next))
            for _ in range(min(self._touchers, len(self.addresses) - begun))
        ]
        try:
            await asyncio.gather(*touching)
            await self._to_identify.join()
        finally:
            for task in (*touching, *identifying):
                task.cancel()
            await asyncio.gather(*touching, *identifying, return_exceptions=True)

    async def _touch(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            seen = await touch(self.addresses[number], self._ports, self._timeout_s)
            if seen is Touch.OPEN:
                await self._to_identify.put(number)
            else:
                self._finish(number, seen)

    async def _identify(self) -> None:
        while True:
            number = await self._to_identify.get()
            address = self.addresses[number]
            settings, context = self._access(address)
            try:
                # its own deadlines end it; this one holds where a library of others forgets its own
                async with asyncio.timeout(3 * settings.identify_deadline_s):
                    self.tally.findings[address] = await find(address, settings, context)
            except TimeoutError:
                self.tally.findings[address] = Finding(None, "takes connections and never ends an answer")
            self._finish(number, Touch.OPEN)
            self._to_identify.task_done()

    def _finish(self, number: int, seen: Touch) -> None:
        self._finished[number] = seen
        while (next_seen := self._finished.pop(self.tally.done, None)) is not None:
            self.tally.touched[next_seen] += 1
            self.tally.done += 1


def affordable(concurrency: int) -> int:
    """The concurrency this process may have, after asking the kernel for as many descriptors as it gives."""
    needed = concurrency + IDENTIFY_AT_ONCE * _SOCKETS_PER_IDENTIFYING + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(len(TELLING_PORTS), concurrency - max(0, needed - soft))
