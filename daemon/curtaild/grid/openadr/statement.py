"""What a connection states to the core in its own name: its plan as one whole list of allocations, said anew whenever
it changes, and again where the core must hear it to leave the fail-safe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from curtaild.clock import Clock
from curtaild.core.allocation import Allocation, AllocationId, Issuer, RejectCode, ScheduleReceived
from curtaild.core.events import Ack, AckStage, LinkPhase
from curtaild.core.status import SiteStatus
from curtaild.grid.openadr.plan import Plan, Segment, remaining
from curtaild.grid.own_word import STEP_ON_STALE_SEQ
from curtaild_drivers.contract import FeederId, Seconds


class Statement:
    """The plan that `issuer` has stated last. Every list reaches from now to for ever at each feeder, under higher
    sequence numbers than the one before: so nothing of an older list shows through where it had begun already."""

    def __init__(self, issuer: Issuer, clock: Clock) -> None:
        self.issuer = issuer
        self.must_repeat = True
        self._clock = clock
        self._stated: Mapping[FeederId, tuple[Segment, ...]] = {}
        self._allocations: tuple[Allocation, ...] = ()
        self._last_seq = 0
        self._leap = STEP_ON_STALE_SEQ

    def state(self, plan: Plan, retained: bool) -> list[ScheduleReceived]:
        """The whole list where it says something else than before, or must be said again; else nothing. `retained`:
        this is no sign of life."""
        now = self._clock.monotonic()
        known = {feeder: remaining(segments, now) for feeder, segments in self._stated.items()}
        is_new = _shape(known) != _shape({feeder: remaining(each, now) for feeder, each in plan.segments.items()})
        if not is_new and (retained or not self.must_repeat):
            return []
        if is_new:
            self._stated = plan.segments
            self._allocations = self._made(plan, now)
        if not retained:
            self.must_repeat = False
        left = tuple(each for each in self._allocations if each.valid_until is None or each.valid_until > now)
        return [ScheduleReceived(self.issuer, left, retained, self._last_seq)]

    def _made(self, plan: Plan, now: Seconds) -> tuple[Allocation, ...]:
        seq = max(self._last_seq, int(self._clock.wall() * 1000))
        made: list[Allocation] = []
        for feeder, segments in plan.segments.items():
            ends = [segment.begin for segment in segments[1:]] + [math.inf]
            for segment, end in zip(segments, ends, strict=True):
                seq += 1
                made.append(
                    Allocation(
                        id=AllocationId(f"{self.issuer}/{segment.cause}/{seq}"),
                        seq=seq,
                        issuer=self.issuer,
                        feeder=feeder,
                        ceiling=segment.ceiling,
                        issued_at=now,
                        valid_from=segment.begin,
                        valid_until=None if end == math.inf else end,
                        urgency=segment.urgency,
                    )
                )
        self._last_seq = seq
        return tuple(made)

    def current(self, feeder: FeederId) -> Segment | None:
        """What is stated for now at a feeder; `None` before anything was."""
        segments = self._stated.get(feeder)
        return remaining(segments, self._clock.monotonic())[0] if segments else None

    def follow(self, status: SiteStatus) -> None:
        """Out of the fail-safe leads a fresh allocation only: there the old list must be said again."""
        self.must_repeat = status.phase in (LinkPhase.STARTING, LinkPhase.FAILSAFE)

    def heed(self, ack: Ack) -> None:
        """State it anew where the core refused it for sequence numbers out of a time when the clock was ahead."""
        if ack.stage is AckStage.REJECTED and ack.code is RejectCode.STALE_SEQ and ack.seq == self._last_seq:
            self._last_seq += self._leap
            self._leap *= 2
            self._stated, self._allocations = {}, ()
            self.must_repeat = True


def _shape(stated: Mapping[FeederId, Sequence[Segment]]) -> object:
    return {
        feeder: [(segment.begin, segment.ceiling, segment.urgency) for segment in segments]
        for feeder, segments in stated.items()
    }
