"""What a target is, and the limit that must hold behind the grid's decoders: it may move only by a message that an
independent look finds well-formed, and where messages are signed, only by one that was signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
)
from curtaild.core.events import AllocationTaken
from curtaild.core.limits import Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.grid.dialect import Dialect, Received
from curtaild_drivers.contract import FeederId
from grid.dsx import HandClock

ROOT = FeederId("main")
CLOCK = HandClock()
HELD_W = 1_000.0


@dataclass(frozen=True, slots=True)
class Target:
    """`bear` raises on what must not be; `seeds` are inputs to begin with, `words` what inputs are made of."""

    bear: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[str] = ()


def held() -> Link:
    link = Link(LinkPolicy(ROOT, frozenset({ROOT, FeederId("row-1")}), failsafe_w=10.0), CLOCK.monotonic())
    now = CLOCK.monotonic()
    for message in (HeartbeatReceived(), AllocationReceived(limit("held", HELD_W))):
        link.receive(message, now)
    link.advance(now)
    return link


def limit(name: str, watts: float) -> Allocation:
    now = CLOCK.monotonic()
    return Allocation(AllocationId(name), 1, Issuer("holds"), ROOT, Limit(watts), now, now, None)


def hear(messages: Iterable[GridMessage], may_state: Callable[[Allocation], bool]) -> None:
    """The link takes them; whatever moved it must have been stated by somebody who may."""
    link, now = held(), CLOCK.monotonic()
    before = link.ceilings(now)
    assert before[ROOT][0] == Limit(HELD_W)
    taken = [event.allocation for m in messages for event in link.receive(m, now) if isinstance(event, AllocationTaken)]
    link.advance(now)
    for allocation in taken:
        assert not isinstance(allocation.ceiling, Limit) or 0.0 <= allocation.ceiling.watts < float("inf"), allocation
        assert may_state(allocation), allocation
    assert taken or link.ceilings(now) == before
    ceiling = link.ceilings(now)[ROOT][0]
    assert isinstance(ceiling, Limit), "no stranger lifts another's limit"
    assert ceiling.watts <= HELD_W


def said(dialect: Dialect, topic: str, payload: bytes, retained: bool) -> list[GridMessage]:
    messages = list(dialect.decode(Received(topic, payload, retained)))
    return [*messages, *dialect.tick(True)]
