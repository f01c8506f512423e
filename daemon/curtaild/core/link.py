"""The grid link's state machine: what may be drawn, as far as the grid has said.

`starting` (fail-safe) → `limited | unlimited` on heartbeat and allocation → `failsafe` on silence or when the
allocation ran out → back only on heartbeat and a fresh allocation, after a silence not before the hold is over.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
    MessageRejected,
    RejectCode,
    ScheduleReceived,
    Urgency,
)
from curtaild.core.events import Ack, AckStage, AllocationTaken, Event, LinkChanged, LinkPhase
from curtaild.core.limits import UNLIMITED, Ceiling, Limit, strictest
from curtaild_drivers.contract import FeederId, Seconds, Watts

FAILSAFE = "fail-safe"
MOST_HELD = 1024  # at once, and of one issuer no more than are free; a grid that needs more is not a grid but a fault
MOST_REMEMBERED = 4096  # ids of ended allocations, so that a late duplicate is known as one
MOST_MOMENTS = 16  # looked at one by one ahead of time
MOST_ISSUERS = 64  # whose sequence numbers are kept though they hold nothing


def _anybody(issuer: Issuer) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """`hears`: whose word counts; what others stated before they were taken out of the site file has no effect.
    `heartbeat_timeout_s`: silence until the fail-safe. Where `expects_heartbeat` is false the allocation's own age
    is the heartbeat, and `heartbeat_timeout_s` is its greatest age."""

    root: FeederId
    feeders: frozenset[FeederId]
    failsafe_w: Watts
    heartbeat_timeout_s: Seconds = 120.0
    failsafe_hold_s: Seconds = 60.0
    expects_heartbeat: bool = True
    hears: Callable[[Issuer], bool] = _anybody


@dataclass(slots=True)
class LinkMemory:
    """What survives a restart: limits, sequence numbers, the hold. Never the phase: every start is `starting`.

    `last_seq` is of single allocations, `schedule_seq` of whole lists: they come on two topics, in either order.
    """

    allocations: list[Allocation] = field(default_factory=list)
    scheduled: set[AllocationId] = field(default_factory=set)
    last_seq: dict[Issuer, int] = field(default_factory=dict)
    schedule_seq: dict[Issuer, int] = field(default_factory=dict)
    known_ids: OrderedDict[AllocationId, int] = field(default_factory=OrderedDict)
    hold_until: Seconds | None = None


class _InForce(NamedTuple):
    """What holds from `since` until `until` under `policy`: the newest valid allocation per issuer and feeder, and what
    they state, the strictest ceiling per feeder with its source."""

    since: Seconds
    until: Seconds
    policy: LinkPolicy
    allocations: list[Allocation]
    stated: dict[FeederId, tuple[Ceiling, str]]


class Link:
    """Takes the grid's messages, answers with the ceilings in force and when they next change by themselves."""

    def __init__(self, policy: LinkPolicy, now: Seconds, memory: LinkMemory | None = None) -> None:
        self.policy = policy
        self.memory = memory or LinkMemory()
        self.phase = LinkPhase.STARTING
        self.phase_reason = "started; waiting for a heartbeat and an allocation"
        self.last_heartbeat_at: Seconds | None = None
        self.last_contact_at = now
        self._was_heard = False
        self._heartbeat_is_new = False  # since the phase was last unsafe to leave
        self._allocation_is_fresh = False
        self._stated_at: Seconds = -math.inf  # when it last became so
        self._tidy_at: Seconds = -math.inf
        self._in_force: _InForce | None = None

    # ---- what the grid says -------------------------------------------------------------------

    def receive(self, message: GridMessage, now: Seconds) -> list[Event]:
        """Take one message. A refused one never changes the limit in force, and still counts as contact."""
        match message:
            case HeartbeatReceived():
                self.last_heartbeat_at = now
                self._contact(False, now)
                self._heartbeat_is_new = True
                return []
            case MessageRejected(retained=retained):
                self._contact(retained, now)
                return [_rejection(message, now)]
            case AllocationReceived(allocation=allocation, retained=retained):
                self._contact(retained, now)
                if retained and not self.policy.expects_heartbeat:
                    self._contact_then(allocation.issued_at, now)
                return self._take(allocation, now, scheduled=False)
            case ScheduleReceived(retained=retained):
                self._contact(retained, now)
                return self._take_schedule(message, now)

    def _contact(self, retained: bool, now: Seconds) -> None:
        if not retained:  # a copy kept by the broker does not prove that anybody is alive
            self.last_contact_at = now
            self._was_heard = True

    def _contact_then(self, issued_at: Seconds, now: Seconds) -> None:
        """Where no heartbeats are sent, a kept copy proves that somebody was alive when it was issued."""
        spoke_at = min(issued_at, now)
        if now < spoke_at + self.policy.heartbeat_timeout_s:
            self.last_contact_at = max(spoke_at, self.last_contact_at) if self._was_heard else spoke_at
            self._was_heard = True

    def _take(self, allocation: Allocation, now: Seconds, scheduled: bool) -> list[Event]:
        memory = self.memory
        if allocation.id in memory.known_ids:
            held = next((other for other in memory.allocations if other.id == allocation.id), None)
            if memory.known_ids[allocation.id] != allocation.seq or (held and not _says_the_same(held, allocation)):
                reason = "this id names another allocation already"
                return [_ack(AckStage.REJECTED, allocation, now, RejectCode.MALFORMED, reason)]
            if held is not None:
                self._allocation_is_fresh, self._stated_at = True, now
            return [_ack(AckStage.ACCEPTED, allocation, now, reason="already taken")]
        refusal = self._refusal(allocation, now, scheduled)
        if refusal is not None:
            return [_ack(AckStage.REJECTED, allocation, now, *refusal)]
        memory.allocations.append(allocation)
        self._tidy_at, self._in_force = -math.inf, None
        if scheduled:
            memory.scheduled.add(allocation.id)
        else:
            self._remember_seq(memory.last_seq, allocation.issuer, allocation.seq)
        memory.known_ids[allocation.id] = allocation.seq
        while len(memory.known_ids) > MOST_REMEMBERED:
            memory.known_ids.popitem(last=False)
        self._allocation_is_fresh, self._stated_at = True, now
        return [AllocationTaken(now, allocation, scheduled), _ack(AckStage.ACCEPTED, allocation, now)]

    def _remember_seq(self, seqs: dict[Issuer, int], issuer: Issuer, seq: int) -> None:
        """Keep the newest; of too many issuers the one goes that was silent longest and holds nothing."""
        seqs.pop(issuer, None)
        seqs[issuer] = seq
        if len(seqs) > MOST_ISSUERS:
            holding = {held.issuer for held in self.memory.allocations}
            idle = next((other for other in seqs if other not in holding), None)
            if idle is not None:
                del seqs[idle]

    def _refusal(self, allocation: Allocation, now: Seconds, scheduled: bool) -> tuple[RejectCode, str] | None:
        if allocation.feeder not in self.policy.feeders:
            return RejectCode.UNKNOWN_FEEDER, f"no feeder {allocation.feeder!r} at this site"
        last_seq = self.memory.last_seq.get(allocation.issuer)
        if not scheduled and last_seq is not None and allocation.seq <= last_seq:
            return RejectCode.STALE_SEQ, f"seq {allocation.seq} is not above {last_seq}, the last one taken"
        if allocation.valid_until is not None and allocation.valid_until <= now:
            return RejectCode.EXPIRED, "valid_until has passed"
        held = self.memory.allocations
        free = MOST_HELD - len(held)
        if free <= MOST_HELD // 2 and free <= sum(other.issuer == allocation.issuer for other in held):
            return RejectCode.TOO_LARGE, "as many allocations of this issuer are held as are left for all others"
        return None

    def _take_schedule(self, schedule: ScheduleReceived, now: Seconds) -> list[Event]:
        """The new list replaces what was scheduled and has not begun; what has begun stays until it ends. A lagging
        copy of an older list replaces nothing."""
        issuer, allocations = schedule.issuer, schedule.allocations
        seq = schedule.seq if schedule.seq is not None else max((entry.seq for entry in allocations), default=None)
        last_seq = self.memory.schedule_seq.get(issuer)
        if seq is not None:
            if last_seq is not None and seq < last_seq:
                reason = f"schedule {seq} is older than {last_seq}, the last one taken"
                return [Ack(now, AckStage.REJECTED, None, issuer, seq, code=RejectCode.STALE_SEQ, reason=reason)]
            self._remember_seq(self.memory.schedule_seq, issuer, seq)
        coming = {allocation.id for allocation in allocations}
        dropped = [
            held
            for held in self.memory.allocations
            if held.issuer == issuer
            and held.id in self.memory.scheduled
            and held.valid_from > now
            and held.id not in coming
        ]
        self._forget(dropped)
        for gone in dropped:
            self.memory.known_ids.pop(gone.id, None)  # a later list may put it back
        events: list[Event] = [_ack(AckStage.ENDED, gone, now, reason="no longer in the schedule") for gone in dropped]
        for allocation in sorted(allocations, key=lambda entry: entry.seq):
            events += self._take(allocation, now, scheduled=True)
        return events

    # ---- what time does -----------------------------------------------------------------------

    def advance(self, now: Seconds) -> list[Event]:
        """Let time pass: expire, notice silence, move the phase."""
        events = self._tidy(now)
        before = self.phase
        reason = self._next_phase(now)
        if reason is not None:  # also where the fail-safe begins anew: its hold must be remembered
            self.phase_reason = reason
            events.append(LinkChanged(now, before, self.phase, reason))
        return events

    def _next_phase(self, now: Seconds) -> str | None:
        """Move `phase`; the reason if anything about it changed."""
        is_silent = now >= self._silent_at
        is_covered = self._is_covered(now)
        if self.phase in (LinkPhase.LIMITED, LinkPhase.UNLIMITED):
            if is_silent:
                self._enter_failsafe(now + self.policy.failsafe_hold_s, heard=False)
                return f"no sign of the grid for {self.policy.heartbeat_timeout_s:g} s"
            if not is_covered:
                self._enter_failsafe(None, heard=True)
                return "the allocation has expired and none followed it"
            return self._follow(now)
        said_something = self._heartbeat_is_new if self.policy.expects_heartbeat else self._allocation_is_fresh
        if is_silent and (self.phase is LinkPhase.STARTING or said_something):
            self._enter_failsafe(now + self.policy.failsafe_hold_s, heard=False)
            return f"no sign of the grid for {self.policy.heartbeat_timeout_s:g} s"
        hold_until = self.memory.hold_until
        is_held = hold_until is not None and now < hold_until
        is_alive = not is_silent and (self._heartbeat_is_new if self.policy.expects_heartbeat else self._was_heard)
        if is_alive and self._allocation_is_fresh and is_covered and not is_held:
            self.memory.hold_until = None
            return self._follow(now)
        return None

    def _enter_failsafe(self, hold_until: Seconds | None, heard: bool) -> None:
        self.phase = LinkPhase.FAILSAFE
        self.memory.hold_until = hold_until
        self._heartbeat_is_new = heard
        # Heard: nothing covers now, so what covers next was taken, or begins, after this. Not heard: a copy that the
        # broker kept may have come during the very silence, and will not come again.
        came_in_silence = self.policy.expects_heartbeat and self._stated_at > self.last_contact_at
        self._allocation_is_fresh = heard or came_in_silence

    def _follow(self, now: Seconds) -> str | None:
        limited = any(isinstance(ceiling, Limit) for ceiling, _ in self._at(now).stated.values())
        phase = LinkPhase.LIMITED if limited else LinkPhase.UNLIMITED
        if phase is self.phase:
            return None
        self.phase = phase
        return "the grid's allocation holds" if limited else "the grid released the site"

    def _is_covered(self, now: Seconds) -> bool:
        """Whether an allocation for the root speaks for now. One for a row alone says nothing of the site: to leave the
        fail-safe on it would be a drift to unlimited."""
        return self.policy.root in self._at(now).stated

    def _tidy(self, now: Seconds) -> list[Event]:
        """Forget what is over; worth looking only when something was taken, begins or ends."""
        events: list[Event] = []
        if now >= self._tidy_at:
            rivals: dict[tuple[Issuer, FeederId], list[Allocation]] = {}
            for held in self.memory.allocations:
                rivals.setdefault((held.issuer, held.feeder), []).append(held)
            over = [held for held in self.memory.allocations if _is_over(held, rivals[held.issuer, held.feeder], now)]
            self._forget(over)
            events += [
                _ack(AckStage.ENDED, gone, now, reason="replaced before it began")
                for gone in over
                if gone.valid_from > now
            ]
            self._tidy_at = min(
                (moment for moment in _moments(self.memory.allocations) if moment > now), default=math.inf
            )
        return events

    def _forget(self, gone: list[Allocation]) -> None:
        self._in_force = None
        for allocation in gone:
            self.memory.allocations.remove(allocation)
            self.memory.scheduled.discard(allocation.id)

    # ---- what may be drawn --------------------------------------------------------------------

    @property
    def _silent_at(self) -> Seconds:
        """When the silence becomes too long."""
        return self.last_contact_at + self.policy.heartbeat_timeout_s

    @property
    def is_failsafe(self) -> bool:
        return self.phase in (LinkPhase.STARTING, LinkPhase.FAILSAFE)

    def ceilings(self, moment: Seconds) -> dict[FeederId, tuple[Ceiling, str]]:
        """The ceiling in force at `moment` and its source, per feeder that somebody speaks for; always the root."""
        stated = dict(self._at(moment).stated)
        root = self.policy.root
        if self.is_failsafe:
            failsafe: Ceiling = Limit(self.policy.failsafe_w)
            ceiling, source = stated.get(root, (UNLIMITED, FAILSAFE))
            stricter = strictest(failsafe, ceiling)
            stated[root] = (stricter, source if stricter is not failsafe else FAILSAFE)
        else:
            stated.setdefault(root, (UNLIMITED, "rating"))
        return stated

    def firm(self, moment: Seconds) -> dict[FeederId, Ceiling]:
        """The ceilings at `moment` that take even what devices' flex spares: an emergency's, and the fail-safe."""
        found: dict[FeederId, Ceiling] = {}
        for allocation in self.in_force(moment):
            if allocation.urgency is Urgency.EMERGENCY:
                known = found.get(allocation.feeder, UNLIMITED)
                found[allocation.feeder] = strictest(known, allocation.ceiling)
        if self.is_failsafe:
            root = self.policy.root
            found[root] = strictest(found.get(root, UNLIMITED), Limit(self.policy.failsafe_w))
        return found

    def in_force(self, moment: Seconds) -> Sequence[Allocation]:
        """The newest valid allocation per issuer and feeder. One for a feeder, or of an issuer, that a new site file no
        longer has is kept, without effect."""
        return self._at(moment).allocations

    def _at(self, moment: Seconds) -> _InForce:
        """What is in force at `moment`: worked out where something was taken, begins or ends."""
        known = self._in_force
        if known is None or known.policy is not self.policy or not known.since <= moment < known.until:
            allocations = self._newest(moment)
            until = min((at for at in _moments(self.memory.allocations) if at > moment), default=math.inf)
            known = self._in_force = _InForce(moment, until, self.policy, allocations, _strictest_of(allocations))
        return known

    def _newest(self, moment: Seconds) -> list[Allocation]:
        newest: dict[tuple[Issuer, FeederId], Allocation] = {}
        for held in self.memory.allocations:
            if held.covers(moment) and held.feeder in self.policy.feeders and self.policy.hears(held.issuer):
                key = (held.issuer, held.feeder)
                if key not in newest or held.seq > newest[key].seq:
                    newest[key] = held
        return list(newest.values())

    def coming(self, now: Seconds, until: Seconds) -> list[tuple[Seconds, dict[FeederId, Ceiling]]]:
        """The ceilings at each moment of (`now`, `until`] when one is known to begin or end, the next one first.

        Of very many moments, neighbours are taken as one: then the strictest ceiling of any allocation that holds at
        one of them counts from the first.
        """
        moments = sorted({moment for moment in _moments(self.memory.allocations) if now < moment <= until})
        size = math.ceil(len(moments) / MOST_MOMENTS)
        if size <= 1:
            return [
                (moment, {feeder: ceiling for feeder, (ceiling, _) in self.ceilings(moment).items()})
                for moment in moments
            ]
        groups = [moments[start : start + size] for start in range(0, len(moments), size)]
        return [(group[0], self._strictest_within(group[0], group[-1])) for group in groups]

    def _strictest_within(self, begin: Seconds, end: Seconds) -> dict[FeederId, Ceiling]:
        found: dict[FeederId, Ceiling] = {}
        for held in self.memory.allocations:
            is_within = held.valid_from <= end and (held.valid_until is None or held.valid_until > begin)
            if is_within and self.policy.hears(held.issuer):
                found[held.feeder] = strictest(found.get(held.feeder, UNLIMITED), held.ceiling)
        if self.is_failsafe:
            root = self.policy.root
            found[root] = strictest(found.get(root, UNLIMITED), Limit(self.policy.failsafe_w))
        return found

    def next_change_at(self, now: Seconds) -> Seconds | None:
        """When the ceilings or the phase may next change without another word from the grid."""
        moments = [self._silent_at, *_moments(self.memory.allocations)]
        if self.memory.hold_until is not None:
            moments.append(self.memory.hold_until)
        return min((moment for moment in moments if moment > now), default=None)


def _strictest_of(allocations: Iterable[Allocation]) -> dict[FeederId, tuple[Ceiling, str]]:
    """Across issuers the strictest, and whose it is."""
    stated: dict[FeederId, tuple[Ceiling, str]] = {}
    for allocation in allocations:
        known = stated.get(allocation.feeder)
        if known is None or strictest(known[0], allocation.ceiling) is not known[0]:
            stated[allocation.feeder] = (allocation.ceiling, allocation.id)
    return stated


def _is_over(held: Allocation, rivals: Iterable[Allocation], now: Seconds) -> bool:
    """`rivals`: those of the same issuer for the same feeder."""
    if held.valid_until is not None and held.valid_until <= now:
        return True
    return any(
        other.seq > held.seq
        and other.valid_from <= max(now, held.valid_from)
        and (other.valid_until is None or (held.valid_until is not None and other.valid_until >= held.valid_until))
        for other in rivals
    )


def _moments(allocations: Iterable[Allocation]) -> Iterator[Seconds]:
    """When they begin and end."""
    for held in allocations:
        yield held.valid_from
        if held.valid_until is not None:
            yield held.valid_until


def _says_the_same(one: Allocation, other: Allocation) -> bool:
    """Times apart, which the edge translates anew on each receipt."""
    return (one.issuer, one.feeder, one.ceiling) == (other.issuer, other.feeder, other.ceiling)


def _ack(
    stage: AckStage, allocation: Allocation, now: Seconds, code: RejectCode | None = None, reason: str | None = None
) -> Ack:
    return Ack(
        at=now,
        stage=stage,
        allocation_id=allocation.id,
        issuer=allocation.issuer,
        seq=allocation.seq,
        feeder=allocation.feeder,
        limit_w=allocation.ceiling.watts if isinstance(allocation.ceiling, Limit) else None,
        code=code,
        reason=reason,
    )


def _rejection(message: MessageRejected, now: Seconds) -> Ack:
    return Ack(
        now,
        AckStage.REJECTED,
        message.allocation_id,
        message.issuer,
        message.seq,
        code=message.code,
        reason=message.reason,
    )
