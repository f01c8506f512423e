"""Answers the grid: where each allocation stands, and when a feeder is over its limit though the grace is over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from curtaild.core.allocation import Allocation, AllocationId
from curtaild.core.events import Ack, AckStage, BreachChanged, BreachId, BreachStage, Event
from curtaild.core.limits import Limit
from curtaild.core.policy import Policy
from curtaild_drivers.contract import FeederId, Seconds, Watts

CONFIRMED_AFTER_S = 5.0  # a breach, and its end, must last this long: one noisy sample is neither
ESCALATED_AFTER_S = 60.0
ESCALATED_OVER_FRACTION = 0.2


class Standing(NamedTuple):
    """How one feeder stands this cycle (W). `drawn_w`: its meter, else what is reserved.

    `lasting_w`: the same without the meter's noise, but a few seconds late: a breach is judged by it."""

    limit_w: Watts
    drawn_w: Watts
    lasting_w: Watts
    metered_w: Watts | None
    applied_w: Watts
    floor_w: Watts
    deficit_w: Watts


StandingOf: TypeAlias = Callable[[FeederId], Standing | None]
"""How a feeder stands; `None` where there is no such feeder any more."""


@dataclass(slots=True)
class _Track:
    allocation: Allocation
    stage: AckStage
    begun_at: Seconds


@dataclass(slots=True)
class _Breach:
    over_since: Seconds | None = None
    under_since: Seconds | None = None
    id: BreachId | None = None
    stage: BreachStage = BreachStage.RESOLVED
    worst_over_w: Watts = 0.0


@dataclass(slots=True)
class Compliance:
    """`epoch` tells this run's breaches from those of earlier runs. `limit_w`: by which each feeder was last judged."""

    epoch: str
    limit_w: dict[FeederId, Watts] = field(default_factory=dict)
    _tracks: dict[AllocationId, _Track] = field(default_factory=dict)
    _breaches: dict[FeederId, _Breach] = field(default_factory=dict)
    _breach_count: int = 0
    _grace_until: dict[FeederId, Seconds] = field(default_factory=dict)
    _over: set[FeederId] = field(default_factory=set)
    _escalated: set[FeederId] = field(default_factory=set)

    def follow(
        self,
        in_force: Iterable[Allocation],
        held: Collection[AllocationId],
        standing_of: StandingOf,
        changed: Collection[FeederId],
        now: Seconds,
    ) -> list[Event]:
        """`applying` when an allocation begins, `reached` or `shortfall` by what is drawn, `ended` when it is over: one
        of those `held` that a newer one only covers for a while is not. `changed`: the feeders that may stand otherwise
        than in the last cycle."""
        events: list[Event] = []
        current = {allocation.id: allocation for allocation in in_force}
        kept = current.keys() | held
        for gone in [track for track in self._tracks.values() if track.allocation.id not in kept]:
            del self._tracks[gone.allocation.id]
            standing = standing_of(gone.allocation.feeder)
            events.append(_ack(AckStage.ENDED, gone.allocation, standing, now, "expired or replaced"))
        for allocation in current.values():
            track = self._tracks.get(allocation.id)
            if track is not None and track.stage is AckStage.REACHED:
                continue  # what happens after it was reached is told as a breach
            if track is not None and allocation.feeder not in changed and allocation.reach_by_s is None:
                continue
            standing = standing_of(allocation.feeder)
            if standing is None:
                continue
            if track is None:
                track = self._tracks[allocation.id] = _Track(allocation, AckStage.APPLYING, now)
                events.append(_ack(AckStage.APPLYING, allocation, standing, now))
            stage, reason = _stage_now(track, standing, now)
            if stage is not track.stage:
                track.stage = stage
                events.append(_ack(stage, allocation, standing, now, reason))
        return events

    def watch(
        self,
        standing_of: StandingOf,
        changed: Collection[FeederId],
        may_be_over: Iterable[FeederId],
        policy: Policy,
        reach_by_s: Mapping[FeederId, Seconds],
        now: Seconds,
    ) -> list[Event]:
        """Breaches: active → escalated → resolved, under one id. Looked at are, of the feeders that `changed` as in
        `follow`, those whose limit is another than `limit_w` or which `may_be_over` it; and those that are or were
        over: for them time goes on, except where a breach is escalated and can only end."""
        events: list[Event] = []
        for feeder in sorted(self._over.union(may_be_over, self._escalated.intersection(changed))):
            standing = standing_of(feeder)
            if standing is None:
                self._over.discard(feeder)
                self._escalated.discard(feeder)
                continue
            before_w = self.limit_w.get(feeder)
            if before_w is None or standing.limit_w < before_w:
                self._grace_until[feeder] = now + reach_by_s.get(feeder, policy.response_s)
            self.limit_w[feeder] = standing.limit_w
            breach = self._breaches.setdefault(feeder, _Breach())
            events += self._watch_feeder(feeder, breach, standing, policy, now)
        return events

    def _watch_feeder(
        self, feeder: FeederId, breach: _Breach, standing: Standing, policy: Policy, now: Seconds
    ) -> list[Event]:
        over_w = standing.lasting_w - standing.limit_w
        is_over = over_w > policy.margin_w(standing.limit_w)
        can_only_end = is_over and breach.stage is BreachStage.ESCALATED
        _place(self._escalated, feeder, can_only_end)
        _place(self._over, feeder, not can_only_end and (is_over or breach.over_since is not None))
        if is_over:
            breach.under_since = None
        elif over_w <= 0 and breach.under_since is None:
            breach.under_since = now
        if is_over and now >= self._grace_until[feeder]:
            breach.over_since = breach.over_since if breach.over_since is not None else now
        elif breach.id is None:
            breach.over_since = None
        stage = self._breach_stage(breach, over_w, standing, now)
        if breach.id is not None:
            breach.worst_over_w = max(breach.worst_over_w, over_w)
        if stage is breach.stage:
            return []
        if breach.id is None:
            self._breach_count += 1
            breach.id = BreachId(f"{self.epoch}-{self._breach_count}")
            breach.worst_over_w = over_w
        breach.stage = stage
        since = breach.over_since if breach.over_since is not None else now
        event = BreachChanged(
            now, breach.id, feeder, stage, standing.limit_w, max(0.0, over_w), breach.worst_over_w, since
        )
        if stage is BreachStage.RESOLVED:
            self._breaches[feeder] = _Breach()
        return [event]

    @staticmethod
    def _breach_stage(breach: _Breach, over_w: Watts, standing: Standing, now: Seconds) -> BreachStage:
        is_resolved = breach.under_since is not None and now - breach.under_since >= CONFIRMED_AFTER_S
        if breach.over_since is None or now - breach.over_since < CONFIRMED_AFTER_S or is_resolved:
            return BreachStage.RESOLVED
        is_grave = over_w >= ESCALATED_OVER_FRACTION * standing.limit_w
        if breach.stage is BreachStage.ESCALATED or is_grave or now - breach.over_since >= ESCALATED_AFTER_S:
            return BreachStage.ESCALATED
        return BreachStage.ACTIVE

    def active_breaches(self) -> dict[FeederId, BreachStage]:
        return {feeder: breach.stage for feeder, breach in self._breaches.items() if breach.id is not None}


def _place(group: set[FeederId], feeder: FeederId, belongs: bool) -> None:
    (group.add if belongs else group.discard)(feeder)


def _stage_now(track: _Track, standing: Standing, now: Seconds) -> tuple[AckStage, str | None]:
    ceiling = track.allocation.ceiling
    if not isinstance(ceiling, Limit) or standing.drawn_w <= ceiling.watts:
        return AckStage.REACHED, None
    if standing.deficit_w > 0:
        return AckStage.SHORTFALL, f"{standing.deficit_w:.0f} W cannot be shed; the floor is {standing.floor_w:.0f} W"
    reach_by_s = track.allocation.reach_by_s
    if reach_by_s is not None and now > track.begun_at + reach_by_s:
        return AckStage.SHORTFALL, f"not within {reach_by_s:g} s"
    return track.stage, None


def _ack(
    stage: AckStage,
    allocation: Allocation,
    standing: Standing | None,
    now: Seconds,
    reason: str | None = None,
) -> Ack:
    metered_w = standing.metered_w if standing else None
    if standing is not None and metered_w is not None and stage is AckStage.REACHED:
        metered_w = standing.drawn_w  # the very sample that proves it: the smoothed one lags behind a shed
    return Ack(
        at=now,
        stage=stage,
        allocation_id=allocation.id,
        issuer=allocation.issuer,
        seq=allocation.seq,
        feeder=allocation.feeder,
        limit_w=allocation.ceiling.watts if isinstance(allocation.ceiling, Limit) else None,
        applied_w=standing.applied_w if standing else None,
        metered_w=metered_w,
        floor_w=standing.floor_w if standing else None,
        reason=reason,
    )
