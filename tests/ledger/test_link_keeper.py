"""What is written of the grid link's memory, and that a start finds in it what the link knew."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild.core.allocation import Allocation, AllocationId, AllocationReceived, Issuer, ScheduleReceived
from curtaild.core.limits import Limit
from curtaild.core.link import Link, LinkMemory, LinkPolicy
from curtaild.memory import HELD, KNOWN, LINK, LinkKeeper, MemoryDamaged, link_memory
from curtaild_drivers.contract import FeederId

SITE = FeederId("site")
GRID = Issuer("grid")


@dataclass
class Clocks:
    now: float = 100.0
    ahead: float = 1_795_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.ahead


@dataclass
class Desk:
    """A link, and a disk to which goes what its keeper asks for."""

    clock: Clocks = field(default_factory=Clocks)
    disk: dict[str, str] = field(default_factory=dict)
    link: Link = field(init=False)
    keeper: LinkKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.starts()

    def starts(self) -> None:
        policy = LinkPolicy(SITE, frozenset({SITE}), 1_000.0, heartbeat_timeout_s=1e9)
        self.link = Link(policy, self.clock.now, link_memory(self.disk, self.clock))
        self.keeper = LinkKeeper(self.disk)

    def keeps(self) -> set[str]:
        """What was written or deleted."""
        changed = self.keeper.documents(self.link.memory, self.clock)
        for key, text in changed.items():
            if text is None:
                del self.disk[key]
            else:
                self.disk[key] = text
        return set(changed)

    def hears(self, seq: int, name: str, ends_in_s: float | None = None) -> None:
        self.link.receive(AllocationReceived(self.allocation(seq, name, 0.0, ends_in_s)), self.clock.now)

    def hears_schedule(self, seq: int, items: list[tuple[int, str, float]]) -> None:
        allocations = [self.allocation(item, name, in_s, in_s + 50.0) for item, name, in_s in items]
        self.link.receive(ScheduleReceived(GRID, tuple(allocations), seq=seq), self.clock.now)

    def allocation(self, seq: int, name: str, begins_in_s: float, ends_in_s: float | None) -> Allocation:
        return Allocation(
            id=AllocationId(name),
            seq=seq,
            issuer=GRID,
            feeder=SITE,
            ceiling=Limit(500.0 + seq),
            issued_at=self.clock.now,
            valid_from=self.clock.now + begins_in_s,
            valid_until=self.clock.now + ends_in_s if ends_in_s is not None else None,
        )

    def goes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.link.advance(self.clock.now)


def as_known(memory: LinkMemory) -> object:
    """What must come back, times to the millisecond."""
    held = {
        one.id: (one.seq, one.ceiling, round(one.valid_from, 3), one.valid_until and round(one.valid_until, 3))
        for one in memory.allocations
    }
    return held, memory.scheduled, memory.last_seq, memory.schedule_seq, list(memory.known_ids.items())


def test_an_allocation_costs_what_is_new_in_it() -> None:
    desk = Desk()
    desk.hears(1, "a", ends_in_s=10.0)
    desk.hears(2, "b")
    assert desk.keeps() == {LINK, HELD + "a", HELD + "b", KNOWN + "a", KNOWN + "b"}
    desk.hears(3, "c", ends_in_s=1_000.0)
    assert desk.keeps() == {LINK, HELD + "c", KNOWN + "c"}
    desk.goes(20.0)
    assert desk.keeps() == {LINK, HELD + "a"}
    assert HELD + "a" not in desk.disk
    assert desk.keeps() == {LINK}
    assert len(desk.disk[LINK]) < 200


def test_what_may_not_have_been_written_is_written_anew() -> None:
    desk = Desk()
    desk.hears(1, "a", ends_in_s=10.0)
    desk.hears(2, "b")
    desk.keeps()
    desk.goes(20.0)
    desk.keeper.forget()
    assert desk.keeps() == {LINK, HELD + "a", HELD + "b", KNOWN + "a", KNOWN + "b"}
    assert HELD + "a" not in desk.disk
    before = as_known(desk.link.memory)
    desk.starts()
    assert as_known(desk.link.memory) == before


def test_a_start_finds_what_was_kept_and_writes_no_id_again() -> None:
    desk = Desk()
    for seq in range(1, 30):
        desk.hears(seq, f"id-{seq}")
        desk.goes(1.0)
    desk.keeps()
    before = as_known(desk.link.memory)
    desk.starts()
    assert as_known(desk.link.memory) == before
    assert desk.keeps() == {LINK, HELD + "id-29"}
    desk.hears(30, "id-30")
    desk.keeps()
    desk.starts()
    assert list(desk.link.memory.known_ids)[-2:] == ["id-29", "id-30"]


def test_a_clock_that_was_set_has_all_wall_times_written_anew() -> None:
    desk = Desk()
    desk.hears(1, "a", ends_in_s=1_000.0)
    desk.keeps()
    desk.clock.ahead += 3_600.0
    assert desk.keeps() == {LINK, HELD + "a"}
    desk.starts()
    assert desk.link.memory.allocations[0].valid_until == pytest.approx(1_100.0)


def test_what_an_earlier_version_kept_is_read_and_kept_anew() -> None:
    desk = Desk()
    desk.hears(1, "a", ends_in_s=10.0)
    desk.hears(2, "b", ends_in_s=1_000.0)
    desk.goes(11.0)
    desk.keeps()
    before = as_known(desk.link.memory)
    link = json.loads(desk.disk[LINK])
    link["allocations"] = [json.loads(desk.disk[HELD + "b"])]
    link["known_ids"] = [["a", 1], ["b", 2]]
    desk.disk.clear()
    desk.disk[LINK] = json.dumps(link)
    desk.starts()
    assert as_known(desk.link.memory) == before
    assert desk.keeps() == {LINK, HELD + "b", KNOWN + "a", KNOWN + "b"}
    desk.starts()
    assert as_known(desk.link.memory) == before


@pytest.mark.parametrize("key", [HELD + "a", KNOWN + "a", LINK])
def test_what_cannot_be_read_is_not_started_without(key: str) -> None:
    desk = Desk()
    desk.hears(1, "a")
    desk.keeps()
    desk.disk[key] = '{"half": '
    with pytest.raises(MemoryDamaged):
        link_memory(desk.disk, desk.clock)
    if key.startswith(KNOWN):
        with pytest.raises(MemoryDamaged):
            LinkKeeper(desk.disk)


NAMES = st.sampled_from("abcdefgh")
SAYINGS = st.one_of(
    st.tuples(st.just("hears"), NAMES, st.sampled_from([None, 5.0, 60.0])),
    st.tuples(st.just("schedule"), st.lists(st.tuples(NAMES, st.sampled_from([0.0, 10.0, 70.0])), max_size=4)),
    st.tuples(st.just("goes"), st.sampled_from([1.0, 7.0, 100.0])),
    st.just(("keeps",)),
    st.just(("starts",)),
)


@given(st.lists(SAYINGS, max_size=40))
def test_the_disk_says_what_the_link_knows_whatever_it_heard(sayings: list[tuple[object, ...]]) -> None:
    desk = Desk()
    for seq, saying in enumerate(sayings, 1):
        match saying:
            case ("hears", str(name), None | float() as ends_in_s):
                desk.hears(seq, name, ends_in_s)
            case ("schedule", list(items)):
                desk.hears_schedule(seq, [(seq, name, in_s) for name, in_s in items])
            case ("goes", float(seconds)):
                desk.goes(seconds)
            case ("keeps",):
                desk.keeps()
            case _:
                desk.keeps()
                desk.starts()
    desk.keeps()
    kept = link_memory(desk.disk, desk.clock)
    assert kept is not None
    assert as_known(kept) == as_known(desk.link.memory)
