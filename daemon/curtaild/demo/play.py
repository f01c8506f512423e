"""The grid operator's play: full, 60 %, 30 %, 0, release with a ramp, silence until the fail-safe holds, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Self

from curtaild.core.events import LinkPhase
from curtaild.demo.pace import Pace
from curtaild.demo.site import SITE
from curtaild.demo.stage import LOOK_EVERY_S, Stage
from curtaild.demo.trace import StepMark
from curtaild.grid.native import Topics
from curtaild.grid.operator import Answer, Operator, operator_access
from curtaild.narrate import watts
from curtaild_drivers.broker.mqtt import ConnectionFailed
from curtaild_drivers.contract import Seconds, Watts

ISSUER = "operator"
PREFIX = "curtaild/v1"
GRACE_SHARE = 0.4
RAMP_SHARE = 0.35
FULL_SHARE = 1.08


@dataclass(frozen=True, slots=True)
class Step:
    """`share` of the full draw is asked for; `None` releases. `part` of the play's time."""

    name: str
    part: float
    share: float | None = None
    is_silent: bool = False
    has_ramp: bool = False


STEPS: Sequence[Step] = (
    Step("full", 6, FULL_SHARE),
    Step("60 %", 9, 0.6),
    Step("30 %", 9, 0.3),
    Step("0 %", 9, 0.0),
    Step("release", 18, None, has_ramp=True),
    Step("silence", 14, is_silent=True),
    Step("back", 31, FULL_SHARE),
)
"""The last is long: a stock Antminer put to sleep by "0 %" is believed asleep after a minute, and only then woken."""


@dataclass(slots=True)
class Progress:
    """How far the play has come; screens read it."""

    seconds: Seconds
    began_at: Seconds | None = None
    step: int | None = None
    mark: StepMark | None = None
    """The step being played."""
    marks: list[StepMark] = field(default_factory=list)
    said: list[tuple[Seconds, str]] = field(default_factory=list)
    """What operator and site told each other, in plain words, by monotonic time."""

    @property
    def current(self) -> Step | None:
        return None if self.step is None else STEPS[self.step]

    def say(self, words: str) -> None:
        self.said.append((time.monotonic(), words))


class Play:
    """The operator at work: the block states the full allocation and keeps the heart beating; `run` plays the steps."""

    def __init__(self, stage: Stage, pace: Pace, progress: Progress) -> None:
        self._stage = stage
        self._pace = pace
        self._progress = progress
        self._limit_w = FULL_SHARE * stage.demand_w
        self._names: dict[str, str] = {}
        self._heart: asyncio.Task[None] | None = None
        self._last_beat_at: Seconds = 0.0
        self._stack = AsyncExitStack()
        access = operator_access("127.0.0.1", stage.broker_port)
        self._operator = Operator(access, Topics(PREFIX, SITE), ISSUER)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._operator)
            stack.push_async_callback(self._fall_silent)
            for work in (self._listen(), self._watch_link()):
                stack.push_async_callback(_end, asyncio.create_task(work))
            self._heart = asyncio.create_task(self._beat())
            await self._allocate("full", self._limit_w)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """All steps, one after another."""
        progress = self._progress
        progress.began_at = time.monotonic()
        parts = sum(step.part for step in STEPS)
        ends_at = progress.began_at
        for number, step in enumerate(STEPS):
            ends_at += step.part / parts * progress.seconds
            progress.step = number
            mark = await self._begin(step, ends_at)
            progress.mark = mark
            await asyncio.sleep(max(0.0, ends_at - time.monotonic()))
            progress.marks.append(mark)
        progress.step = None

    async def _begin(self, step: Step, ends_at: Seconds) -> StepMark:
        from_w, rating_w = self._limit_w, self._stage.rating_w
        asked_at = time.monotonic()
        ramp_w_per_min = None
        if step.is_silent:
            await self._fall_silent()
            asked_at = self._last_beat_at
            due_at = asked_at + self._pace.heartbeat_timeout_s
            self._limit_w = self._stage.failsafe_w
            self._progress.say(
                f"operator: falls silent; the fail-safe limit of {watts(self._limit_w)} is due after "
                f"{self._pace.heartbeat_timeout_s:g} s without a heartbeat"
            )
        else:
            if self._heart is None:
                self._heart = asyncio.create_task(self._beat())
            if step.has_ramp:
                ramp_w_per_min = self._stage.demand_w / (RAMP_SHARE * (ends_at - asked_at)) * 60
            limit_w = None if step.share is None else step.share * self._stage.demand_w
            grace_s = GRACE_SHARE * (ends_at - asked_at) if limit_w is not None and limit_w < from_w else None
            await self._allocate(step.name, limit_w, grace_s, ramp_w_per_min)
            due_at = asked_at
            self._limit_w = rating_w if limit_w is None else limit_w
        return StepMark(
            name=step.name,
            asked_at=asked_at,
            due_at=due_at,
            ends_at=ends_at,
            limit_w=self._limit_w,
            from_w=from_w,
            grace_s=GRACE_SHARE * (ends_at - due_at),
            demand_w=self._stage.demand_w,
            floor_w=self._stage.floor_w,
            ramp_w_per_min=ramp_w_per_min,
        )

    async def _allocate(
        self, name: str, limit_w: Watts | None, reach_by_s: Seconds | None = None, ramp_w_per_min: float | None = None
    ) -> None:
        said = await self._operator.allocate(limit_w, reach_by_s=reach_by_s, max_ramp_up_w_per_min=ramp_w_per_min)
        self._names[said] = name
        asked = "released" if limit_w is None else f"at most {watts(limit_w)}"
        within = f", within {reach_by_s:.1f} s" if reach_by_s is not None else ""
        ramp = f", rising no faster than {watts(ramp_w_per_min)} per minute" if ramp_w_per_min is not None else ""
        self._progress.say(f"operator: {name}: {asked}{within}{ramp}")

    # ---- heartbeats and answers ---------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await self._operator.heartbeat()
            self._last_beat_at = time.monotonic()
            await asyncio.sleep(self._pace.heartbeat_s)

    async def _fall_silent(self) -> None:
        heart, self._heart = self._heart, None
        if heart is not None:
            await _end(heart)

    async def _listen(self) -> None:
        async for ack in self._operator.acks():
            name = self._names.get(str(ack.get("id")))
            stage = str(ack.get("stage"))
            if name is not None and stage in _STAGES:
                self._progress.say(f"site: {name}: {_answer(ack, _STAGES[stage])}")

    async def _watch_link(self) -> None:
        """What the site tells nobody on the wire while the grid is silent."""
        known: LinkPhase | None = None
        while True:
            status = self._stage.status
            if status is not None and status.phase is not known:
                if known is not None:
                    self._progress.say(f"daemon: link {known.value} → {status.phase.value}: {status.phase_reason}")
                known = status.phase
            await asyncio.sleep(LOOK_EVERY_S)


_STAGES = {
    "accepted": "accepted",
    "rejected": "rejected",
    "applying": "follows",
    "reached": "reached",
    "shortfall": "falls short",
}
"""Acks in plain words; that an allocation has ended says only that the next has begun."""


def _answer(ack: Answer, words: str) -> str:
    if ack.get("reason"):
        words += f": {ack['reason']}"
    if isinstance(ack.get("metered_w"), (int, float)):
        words += f" ({watts(ack['metered_w'])} metered)"
    return words


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel it; what it failed of is the line's end, which the next allocation tells."""
    task.cancel()
    with suppress(asyncio.CancelledError, ConnectionFailed):
        await task
