"""An allocation that a dialect states in its own name, because the wire it reads has no allocations of its own."""

from __future__ import annotations

from curtaild.clock import Clock
from curtaild.core.allocation import Allocation, AllocationId, AllocationReceived, Issuer, RejectCode
from curtaild.core.events import Ack, AckStage, LinkPhase
from curtaild.core.limits import Ceiling
from curtaild.core.status import SiteStatus
from curtaild_drivers.contract import FeederId, Seconds

STEP_ON_STALE_SEQ = 1_000_000
"""How far the sequence numbers leap where the core knows higher ones, because the site's clock was ahead once: a
quarter of an hour in milliseconds, doubled each time."""


class OwnWord:
    """The ceiling that `issuer` states for `feeder`: one at a time, without an end, under rising sequence numbers."""

    def __init__(self, issuer: Issuer, feeder: FeederId, clock: Clock) -> None:
        self.issuer = issuer
        self.must_repeat = False
        self._feeder = feeder
        self._clock = clock
        self._stated: Allocation | None = None
        self._last_seq = 0
        self._leap = STEP_ON_STALE_SEQ

    def state(self, ceiling: Ceiling, heard_at: Seconds) -> bool:
        """Whether that is a new word. `heard_at` (monotonic s): when the grid last gave reason for it."""
        if self._stated is not None and self._stated.ceiling == ceiling:
            return False
        self._last_seq = max(self._last_seq + 1, int(self._clock.wall() * 1000))
        self._stated = Allocation(
            id=AllocationId(f"{self.issuer}/{self._last_seq}"),
            seq=self._last_seq,
            issuer=self.issuer,
            feeder=self._feeder,
            ceiling=ceiling,
            issued_at=heard_at,
            valid_from=self._clock.monotonic(),
            valid_until=None,
        )
        return True

    def message(self, retained: bool) -> AllocationReceived | None:
        """What is stated, for the core; `retained`: this is no sign of life."""
        if self._stated is None:
            return None
        self.must_repeat = False
        return AllocationReceived(self._stated, retained)

    def follow(self, status: SiteStatus) -> None:
        """Out of the fail-safe leads a fresh allocation only: there the old one must be said again."""
        self.must_repeat = status.phase in (LinkPhase.STARTING, LinkPhase.FAILSAFE)

    def heed(self, ack: Ack) -> None:
        """State it anew where the core refused it for a sequence number out of a time when the clock was ahead."""
        if ack.stage is AckStage.REJECTED and ack.code is RejectCode.STALE_SEQ and self._stated is not None:
            if ack.allocation_id != self._stated.id:
                return
            self._last_seq += self._leap
            self._leap *= 2
            self._stated = None
