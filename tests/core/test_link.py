"""The grid link's logbook: what the grid says and what time does, and the ceiling that holds afterwards.

The first part has one entry for each mistake that limiting devices in the field are known to make.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

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
)
from curtaild.core.events import Ack, AckStage, AllocationTaken, Event, LinkChanged, LinkPhase
from curtaild.core.limits import UNLIMITED, Ceiling, Limit, strictest, within
from curtaild.core.link import MOST_HELD, MOST_ISSUERS, MOST_REMEMBERED, Link, LinkMemory, LinkPolicy
from curtaild.grid.native import Context, Topics, decode
from curtaild_drivers.contract import FeederId, Seconds, Watts

SITE, ROW_A, ROW_B = FeederId("site"), FeederId("row-a"), FeederId("row-b")
GRID, TSO = Issuer("grid"), Issuer("tso")
FAILSAFE_W, TIMEOUT_S, HOLD_S = 2_000.0, 120.0, 60.0
HEARTBEAT = HeartbeatReceived()
REFUSED = MessageRejected(RejectCode.NOT_A_LIMIT, "limit_w is negative")
STARTING, LIMITED, UNLIMITED_, SAFE = LinkPhase.STARTING, LinkPhase.LIMITED, LinkPhase.UNLIMITED, LinkPhase.FAILSAFE
POLICY = LinkPolicy(SITE, frozenset({SITE, ROW_A, ROW_B}), FAILSAFE_W, TIMEOUT_S, HOLD_S)


def states(
    seq: int,
    limit_w: Watts | None,
    *,
    since: Seconds = 0.0,
    until: Seconds | None = None,
    feeder: FeederId = SITE,
    issuer: Issuer = GRID,
    name: str | None = None,
    issued_at: Seconds | None = None,
) -> Allocation:
    """The grid states a ceiling (`None` releases) from `since` until `until`."""
    return Allocation(
        id=AllocationId(name if name is not None else f"{issuer}-{seq}"),
        seq=seq,
        issuer=issuer,
        feeder=feeder,
        ceiling=Limit(limit_w) if limit_w is not None else UNLIMITED,
        issued_at=issued_at if issued_at is not None else since,
        valid_from=since,
        valid_until=until,
    )


class Desk:
    """A link and a clock. `hears` is a cycle in which messages arrived; `passes` are cycles of one second without."""

    def __init__(self, start: Seconds = 0.0, memory: LinkMemory | None = None, policy: LinkPolicy = POLICY) -> None:
        self.now = start
        self.link = Link(policy, start, memory)
        self.events: list[Event] = []
        self._cycle(())

    def hears(self, *messages: GridMessage | Allocation) -> list[Event]:
        return self._cycle(
            AllocationReceived(message) if isinstance(message, Allocation) else message for message in messages
        )

    def _cycle(self, messages: Iterable[GridMessage]) -> list[Event]:
        told: list[Event] = []
        for message in messages:
            told += self.link.receive(message, self.now)
        told += self.link.advance(self.now)
        self.events += told
        return told

    def passes(self, seconds: int, heartbeats: bool = False) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self._cycle([HEARTBEAT] if heartbeats and self.now % 30 == 0 else [])

    def limit_w(self, feeder: FeederId = SITE) -> Watts:
        """The ceiling in force; infinite where nobody limits."""
        return within(self.link.ceilings(self.now).get(feeder, (UNLIMITED, ""))[0], math.inf)

    @property
    def stands(self) -> tuple[LinkPhase, Watts]:
        return self.link.phase, self.limit_w()

    def acks(self) -> list[tuple[AckStage, str | None]]:
        return [(event.stage, event.allocation_id) for event in self.events if isinstance(event, Ack)]

    def phases(self) -> list[LinkPhase]:
        return [event.after for event in self.events if isinstance(event, LinkChanged)]


def governed(limit_w: Watts | None = 5_000.0, until: Seconds | None = None) -> Desk:
    """A desk that has left `starting` on a heartbeat and allocation 1."""
    desk = Desk()
    desk.hears(HEARTBEAT, states(1, limit_w, until=until))
    assert desk.link.phase is (LIMITED if limit_w is not None else UNLIMITED_)
    return desk


def silent_for(seconds: int, desk: Desk | None = None) -> Desk:
    """A desk in the fail-safe: governed once, and then heard nothing."""
    desk = desk or governed()
    desk.passes(seconds)
    assert desk.link.phase is SAFE
    return desk


# ---- mistakes known from the field ----------------------------------------------------------------


def test_a_limit_without_an_end_does_not_expire_on_the_next_tick() -> None:
    desk = governed(5_000.0)
    desk.passes(1, heartbeats=True)
    assert desk.stands == (LIMITED, 5_000.0)
    desk.passes(7_200, heartbeats=True)
    assert desk.stands == (LIMITED, 5_000.0)


def test_the_fail_safe_is_not_left_on_a_heartbeat_alone() -> None:
    desk = silent_for(300)
    desk.hears(HEARTBEAT)
    desk.passes(3_600, heartbeats=True)
    assert desk.stands == (SAFE, FAILSAFE_W)


def test_the_fail_safe_is_not_left_on_an_allocation_alone() -> None:
    desk = silent_for(300)
    for seq in range(2, 40):
        desk.hears(states(seq, 9_000.0))
        desk.passes(30)
    assert desk.stands == (SAFE, FAILSAFE_W)


@pytest.mark.parametrize("said_before", [5_000.0, None])
def test_the_fail_safe_does_not_end_by_itself_while_the_grid_is_silent(said_before: Watts | None) -> None:
    desk = silent_for(300, governed(said_before))
    desk.passes(36_000)
    assert desk.stands == (SAFE, FAILSAFE_W)
    assert desk.phases()[-1] is SAFE


@pytest.mark.parametrize("uptime_s", [0.0, 1.0, 86_400.0 * 400])
def test_no_false_fail_safe_seconds_after_the_start(uptime_s: Seconds) -> None:
    """Silence is counted from the start, not from the epoch of the clock."""
    desk = Desk(start=uptime_s)
    desk.passes(int(TIMEOUT_S) - 1)
    assert (desk.stands, desk.phases()) == ((STARTING, FAILSAFE_W), [])
    desk.passes(1)
    assert desk.phases() == [SAFE]


@pytest.mark.parametrize("watts", [-1.0, -0.001, math.nan, math.inf, -math.inf])
def test_no_limit_can_be_negative_or_not_a_number(watts: Watts) -> None:
    with pytest.raises(ValueError, match="not a limit"):
        Limit(watts)


@pytest.mark.parametrize("watts", ["-1", "NaN", "-Infinity", "Infinity", "1e400", '"5000"', "true"])
def test_a_message_with_a_negative_limit_changes_nothing_and_is_answered(watts: str) -> None:
    class Clock:
        def wall(self) -> float:
            return 1_800_000_000.0

        def monotonic(self) -> float:
            return 0.0

    body = {"id": "x", "seq": 9, "issuer": "grid", "issued_at": "2026-11-20T11:30:00Z", "limit_w": 0,
            "valid_from": "2026-11-20T11:30:00Z", "valid_until": None}  # fmt: skip
    payload = json.dumps(body).replace('"limit_w": 0', f'"limit_w": {watts}').encode()
    topics = Topics("curtaild/v1", "thar-1")
    message = decode(topics.allocation, payload, False, Context(topics, SITE, Clock(), 300.0, 16_384))
    desk = governed(5_000.0)
    assert message is not None
    (answer,) = desk.hears(message)
    assert isinstance(answer, Ack)
    assert (answer.stage, answer.code, answer.allocation_id) == (AckStage.REJECTED, RejectCode.NOT_A_LIMIT, "x")
    assert desk.stands == (LIMITED, 5_000.0)


def test_heartbeats_that_arrive_by_two_brokers_are_one_sign_of_life() -> None:
    """Both connections carry the same words, one lags, one drops out: the state is that of a single connection."""
    desk = Desk()
    desk.hears(HEARTBEAT, HEARTBEAT, states(1, 5_000.0), states(1, 5_000.0))
    assert desk.stands == (LIMITED, 5_000.0)
    desk.hears(states(2, 3_000.0))
    desk.hears(states(1, 5_000.0))  # the lagging broker
    desk.hears(states(2, 3_000.0))
    assert desk.limit_w() == 3_000.0
    desk.passes(100)
    desk.hears(HEARTBEAT)  # one broker is gone, the other still carries heartbeats
    desk.passes(100)
    assert desk.stands == (LIMITED, 3_000.0)
    desk.passes(20)
    assert desk.stands == (SAFE, FAILSAFE_W)


def test_a_limit_of_zero_is_a_limit() -> None:
    desk = governed(0.0)
    assert desk.stands == (LIMITED, 0.0)
    assert desk.link.ceilings(desk.now)[SITE] == (Limit(0.0), "grid-1")
    desk.passes(200)
    assert desk.stands == (SAFE, 0.0)  # still valid, and lower than the fail-safe limit
    assert strictest(UNLIMITED, Limit(5.0), Limit(0.0), UNLIMITED) == Limit(0.0)
    assert (within(Limit(0.0), 7.0), within(UNLIMITED, 7.0)) == (0.0, 7.0)


# ---- silence and the way back ---------------------------------------------------------------------


def test_silence_leads_to_the_fail_safe_and_only_all_three_lead_out() -> None:
    """Heartbeat, fresh allocation, hold over: in every order, the last of them opens."""
    back = states(2, 8_000.0)
    orders: list[tuple[GridMessage | Allocation, GridMessage | Allocation]] = [(HEARTBEAT, back), (back, HEARTBEAT)]
    for words in orders:
        desk = governed()
        desk.passes(119)
        assert desk.stands == (LIMITED, 5_000.0)
        desk.passes(1)
        assert desk.stands == (SAFE, FAILSAFE_W)
        desk.passes(10)
        desk.hears(words[0])
        assert desk.link.phase is SAFE
        desk.hears(words[1])
        assert desk.link.phase is SAFE  # the hold lasts until 180
        desk.passes(49)
        assert desk.stands == (SAFE, FAILSAFE_W)
        desk.passes(1)
        assert desk.stands == (LIMITED, 8_000.0)
        assert desk.phases() == [LIMITED, SAFE, LIMITED]


def test_the_allocation_from_before_the_silence_is_not_a_fresh_one() -> None:
    desk = silent_for(200, governed(None))
    desk.passes(600, heartbeats=True)
    assert desk.stands == (SAFE, FAILSAFE_W)
    desk.hears(states(1, None))  # the same one, stated again
    assert desk.stands == (UNLIMITED_, math.inf)


@pytest.mark.parametrize("first_stated", [True, False])
def test_a_kept_copy_that_comes_during_the_silence_is_fresh(first_stated: bool) -> None:
    """A link comes back, and with it what the grid stated meanwhile, just before the silence becomes too long."""
    desk = governed()
    desk.passes(119)
    desk.hears(AllocationReceived(states(2, 8_000.0) if first_stated else states(1, 5_000.0), retained=True))
    desk.passes(1)
    assert desk.stands == (SAFE, FAILSAFE_W)
    desk.passes(600)
    assert desk.stands == (SAFE, FAILSAFE_W), "a kept copy proves nobody alive"
    desk.hears(HEARTBEAT)
    assert desk.stands == (LIMITED, 8_000.0 if first_stated else 5_000.0)


def test_a_second_silence_in_the_fail_safe_begins_the_hold_anew() -> None:
    desk = silent_for(130)
    desk.hears(HEARTBEAT)  # at 130
    desk.passes(130)  # silent again at 250
    desk.hears(HEARTBEAT, states(2, 8_000.0))
    assert desk.link.phase is SAFE
    desk.passes(49)  # 309
    assert desk.link.phase is SAFE
    desk.passes(1)
    assert desk.stands == (LIMITED, 8_000.0)


@pytest.mark.parametrize(
    ("said", "limit_w"),
    [(500.0, 500.0), (0.0, 0.0), (1_999.0, 1_999.0), (2_001.0, FAILSAFE_W), (None, FAILSAFE_W)],
)
def test_in_the_fail_safe_a_lower_allocation_still_holds(said: Watts | None, limit_w: Watts) -> None:
    desk = silent_for(200, governed(said))
    assert desk.limit_w() == limit_w


def test_a_lower_allocation_that_ends_in_the_fail_safe_leaves_the_fail_safe_limit() -> None:
    desk = silent_for(200, governed(500.0, until=300.0))
    assert desk.limit_w() == 500.0
    desk.passes(100)
    assert desk.stands == (SAFE, FAILSAFE_W)


@pytest.mark.parametrize("message", [REFUSED, states(1, 5_000.0), states(9, 1.0, feeder=FeederId("nowhere"))])
def test_whatever_the_grid_says_is_contact_even_if_it_is_refused(message: GridMessage | Allocation) -> None:
    desk = governed()
    desk.passes(100)
    desk.hears(message)
    desk.passes(119)
    assert desk.stands == (LIMITED, 5_000.0)
    desk.passes(1)
    assert desk.link.phase is SAFE


@pytest.mark.parametrize(
    "copy",
    [
        AllocationReceived(states(1, 5_000.0), retained=True),
        ScheduleReceived(GRID, (states(7, 4_000.0, since=900.0),), retained=True),
        replace(REFUSED, retained=True),
    ],
)
def test_a_copy_kept_by_the_broker_is_not_contact(copy: GridMessage) -> None:
    desk = governed()
    desk.passes(100)
    desk.hears(copy)
    desk.passes(20)
    assert desk.link.phase is SAFE


def test_a_copy_kept_by_the_broker_is_still_the_grids_word() -> None:
    """After a restart it and a heartbeat lead out of `starting`; a lower one counts at once, heartbeat or not."""
    desk = Desk()
    desk.hears(AllocationReceived(states(1, 700.0), retained=True))
    assert desk.stands == (STARTING, 700.0)
    desk.hears(HEARTBEAT)
    assert desk.stands == (LIMITED, 700.0)


# ---- the end of an allocation ---------------------------------------------------------------------


def test_an_expired_allocation_leads_to_the_fail_safe_without_a_hold() -> None:
    desk = governed(5_000.0, until=90.0)
    desk.passes(89, heartbeats=True)
    assert desk.stands == (LIMITED, 5_000.0)
    desk.passes(1, heartbeats=True)
    assert desk.stands == (SAFE, FAILSAFE_W)
    desk.passes(5, heartbeats=True)
    desk.hears(states(2, 6_000.0))
    assert desk.stands == (LIMITED, 6_000.0)


def test_an_expired_release_does_not_stay_released() -> None:
    desk = governed(None, until=90.0)
    desk.passes(90, heartbeats=True)
    assert desk.stands == (SAFE, FAILSAFE_W)


def test_after_an_expiry_the_next_window_of_the_schedule_opens_by_itself() -> None:
    """The grid was heard all the time, and has said what holds from 200 on."""
    desk = governed(5_000.0, until=100.0)
    desk.hears(ScheduleReceived(GRID, (states(2, 6_000.0, since=200.0, until=400.0),)))
    for now, stands in [(99, (LIMITED, 5_000.0)), (100, (SAFE, FAILSAFE_W)), (199, (SAFE, FAILSAFE_W)),
                        (200, (LIMITED, 6_000.0)), (400, (SAFE, FAILSAFE_W))]:  # fmt: skip
        desk.passes(now - int(desk.now), heartbeats=True)
        assert desk.stands == stands, now


def test_after_silence_a_window_that_was_scheduled_before_it_does_not_open_the_fail_safe() -> None:
    desk = governed(5_000.0, until=100.0)
    desk.hears(ScheduleReceived(GRID, (states(2, 6_000.0, since=300.0),)))
    desk.passes(150)  # expired at 100, silent from 120 on
    desk.passes(400, heartbeats=True)
    assert desk.stands == (SAFE, FAILSAFE_W)


def test_the_end_of_one_feeders_allocation_is_that_feeders_matter() -> None:
    desk = governed(5_000.0)
    desk.hears(states(2, 1_000.0, feeder=ROW_A, until=60.0))
    assert (desk.limit_w(), desk.limit_w(ROW_A), desk.limit_w(ROW_B)) == (5_000.0, 1_000.0, math.inf)
    desk.passes(60, heartbeats=True)
    assert (desk.stands, desk.limit_w(ROW_A)) == ((LIMITED, 5_000.0), math.inf)


def test_a_site_that_was_governed_as_a_whole_is_never_left_to_its_rating() -> None:
    """Only a row's allocation is left when the site's own runs out: the fail-safe limit holds for the site."""
    desk = governed(5_000.0, until=60.0)
    desk.hears(states(2, 1_000.0, feeder=ROW_A))
    desk.passes(60, heartbeats=True)
    assert (desk.stands, desk.limit_w(ROW_A)) == ((SAFE, FAILSAFE_W), 1_000.0)


def test_a_restart_does_not_forget_that_the_site_was_governed_as_a_whole() -> None:
    before = governed(5_000.0, until=60.0)
    before.passes(60)
    desk = Desk(start=70.0, memory=before.link.memory)
    desk.hears(HEARTBEAT, states(2, 1_000.0, feeder=ROW_A))
    assert desk.stands == (STARTING, FAILSAFE_W)


# ---- which word counts ----------------------------------------------------------------------------


def test_a_coming_allocation_waits_for_its_time() -> None:
    desk = governed(5_000.0)
    desk.hears(states(2, 3_000.0, since=45.0))
    desk.passes(44)
    assert desk.limit_w() == 5_000.0
    desk.passes(1)
    assert desk.limit_w() == 3_000.0


def test_a_coming_allocation_alone_does_not_leave_starting() -> None:
    desk = Desk()
    desk.hears(HEARTBEAT, states(1, 5_000.0, since=45.0))
    assert desk.stands == (STARTING, FAILSAFE_W)
    desk.passes(45, heartbeats=True)
    assert desk.stands == (LIMITED, 5_000.0)


@pytest.mark.parametrize(
    ("words", "limit_w"),
    [
        ([states(1, 4_000.0), states(2, 6_000.0)], 6_000.0),  # of one issuer the newest
        ([states(1, 4_000.0), states(1, 3_000.0, issuer=TSO)], 3_000.0),  # of several the strictest
        ([states(1, 3_000.0), states(9, 4_000.0, issuer=TSO)], 3_000.0),
        ([states(1, 4_000.0), states(1, 3_000.0, issuer=TSO), states(2, 9_000.0, issuer=TSO)], 4_000.0),
        ([states(1, None), states(1, 3_000.0, issuer=TSO)], 3_000.0),  # one releases, the other does not
        ([states(1, 3_000.0), states(2, None), states(1, 9_000.0, issuer=TSO)], 9_000.0),
        ([states(1, 3_000.0), states(2, None)], math.inf),
        ([states(1, 3_000.0), states(2, 9_000.0, until=50.0)], 9_000.0),
    ],
)
def test_of_one_issuer_the_newest_counts_and_across_issuers_the_strictest(
    words: list[Allocation], limit_w: Watts
) -> None:
    desk = Desk()
    desk.hears(HEARTBEAT, *words)
    assert desk.limit_w() == limit_w


def test_when_a_newer_allocation_ends_the_older_one_that_lasts_longer_holds_again() -> None:
    desk = governed(3_000.0)
    desk.hears(states(2, 9_000.0, until=60.0))
    assert desk.limit_w() == 9_000.0
    desk.passes(60, heartbeats=True)
    assert desk.stands == (LIMITED, 3_000.0)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (states(4, 1.0), RejectCode.STALE_SEQ),
        (states(5, 1.0, name="another"), RejectCode.STALE_SEQ),
        (states(6, 1.0, feeder=FeederId("row-z")), RejectCode.UNKNOWN_FEEDER),
        (states(6, 1.0, since=-50.0, until=-1.0), RejectCode.EXPIRED),
        (states(6, 1.0, since=-50.0, until=0.0), RejectCode.EXPIRED),
    ],
)
def test_what_is_refused_is_answered_with_its_reason_and_changes_nothing(message: Allocation, code: RejectCode) -> None:
    desk = Desk()
    desk.hears(HEARTBEAT, states(5, 5_000.0))
    (answer,) = desk.hears(message)
    assert isinstance(answer, Ack)
    assert (answer.stage, answer.code, answer.allocation_id, answer.seq) == (
        AckStage.REJECTED, code, message.id, message.seq)  # fmt: skip
    assert answer.reason
    assert desk.stands == (LIMITED, 5_000.0)
    assert desk.link.memory.last_seq == {GRID: 5}


def test_a_duplicate_gets_the_same_answer_and_is_not_written_down_twice() -> None:
    desk = governed(5_000.0)
    again = desk.hears(states(1, 5_000.0))
    assert [type(event) for event in again] == [Ack]
    assert desk.acks() == [(AckStage.ACCEPTED, "grid-1"), (AckStage.ACCEPTED, "grid-1")]
    desk.hears(states(2, 4_000.0))
    desk.hears(states(1, 5_000.0))  # late, of one long replaced
    assert desk.acks()[-1] == (AckStage.ACCEPTED, "grid-1")
    assert desk.limit_w() == 4_000.0


@pytest.mark.parametrize(
    "other",
    [
        states(2, 500.0, name="grid-1"),
        states(1, 500.0, name="grid-1"),
        states(1, 500.0, name="grid-1", issuer=TSO),
        states(1, 5_000.0, name="grid-1", feeder=ROW_A),
    ],
    ids=["another seq", "another limit", "another issuer", "another feeder"],
)
def test_another_allocation_under_a_known_id_is_not_called_accepted(other: Allocation) -> None:
    """Whoever reuses an id must learn that nobody follows it."""
    desk = governed(5_000.0)
    (answer,) = desk.hears(other)
    assert isinstance(answer, Ack)
    assert (answer.stage, answer.code) == (AckStage.REJECTED, RejectCode.MALFORMED)
    assert desk.stands == (LIMITED, 5_000.0)


def test_what_is_accepted_is_written_down_first() -> None:
    desk = Desk()
    taken, accepted = desk.hears(states(1, 5_000.0, until=60.0))
    assert isinstance(taken, AllocationTaken)
    assert (taken.allocation.id, taken.scheduled) == ("grid-1", False)
    assert isinstance(accepted, Ack)
    assert (accepted.stage, accepted.limit_w, accepted.feeder) == (AckStage.ACCEPTED, 5_000.0, SITE)


# ---- the schedule ---------------------------------------------------------------------------------

MORNING = states(11, 4_000.0, since=1_000.0, until=2_000.0)
EVENING = states(12, 3_000.0, since=5_000.0, until=6_000.0)
NIGHT = states(13, 1_000.0, since=7_000.0, until=8_000.0)


def coming(desk: Desk) -> list[str]:
    return sorted(held.id for held in desk.link.memory.allocations if held.valid_from > desk.now)


def lists(seq: int, *allocations: Allocation, retained: bool = False) -> ScheduleReceived:
    return ScheduleReceived(GRID, allocations, seq=seq, retained=retained)


def test_a_new_schedule_replaces_what_has_not_begun() -> None:
    desk = governed(5_000.0)
    desk.hears(lists(20, MORNING, EVENING))
    assert coming(desk) == [MORNING.id, EVENING.id]
    told = desk.hears(lists(21, EVENING, NIGHT))
    assert coming(desk) == [EVENING.id, NIGHT.id]
    assert [(ack.stage, ack.allocation_id) for ack in told if isinstance(ack, Ack)] == [
        (AckStage.ENDED, MORNING.id),
        (AckStage.ACCEPTED, EVENING.id),
        (AckStage.ACCEPTED, NIGHT.id),
    ]
    desk.hears(lists(22))
    assert coming(desk) == []
    assert desk.stands == (LIMITED, 5_000.0)  # an allocation outside the schedule is not touched


def test_what_has_begun_stays_until_it_ends_whatever_the_next_schedule_says() -> None:
    desk = governed(5_000.0)
    desk.hears(lists(20, states(11, 4_000.0, since=10.0, until=100.0), EVENING))
    desk.passes(10, heartbeats=True)
    desk.hears(lists(21))
    assert (desk.limit_w(), coming(desk)) == (4_000.0, [])
    desk.passes(90, heartbeats=True)
    assert desk.stands == (LIMITED, 5_000.0)


def test_what_a_newer_allocation_replaces_before_it_began_has_ended() -> None:
    desk = governed(5_000.0)
    desk.hears(lists(20, MORNING))
    told = desk.hears(states(30, 4_500.0))
    assert [(ack.stage, ack.allocation_id) for ack in told if isinstance(ack, Ack)] == [
        (AckStage.ACCEPTED, "grid-30"),
        (AckStage.ENDED, MORNING.id),
    ]
    assert coming(desk) == []


def test_one_issuers_schedule_does_not_replace_anothers() -> None:
    desk = governed(5_000.0)
    desk.hears(lists(20, MORNING))
    desk.hears(ScheduleReceived(TSO, (replace(NIGHT, issuer=TSO),), seq=1))
    assert coming(desk) == [MORNING.id, NIGHT.id]


def test_a_lagging_broker_does_not_bring_an_old_schedule_back() -> None:
    """Two brokers carry the same two lists, the second one later: nothing of the new list may be lost."""
    old, new = lists(20, MORNING), lists(21, EVENING, NIGHT)
    desk = governed(5_000.0)
    desk.hears(old)
    desk.hears(new)
    (answer,) = desk.hears(old)
    assert isinstance(answer, Ack)
    assert (answer.stage, answer.code, answer.seq) == (AckStage.REJECTED, RejectCode.STALE_SEQ, 20)
    assert coming(desk) == [EVENING.id, NIGHT.id]
    desk.hears(new)
    assert coming(desk) == [EVENING.id, NIGHT.id]


def test_an_allocation_taken_off_the_schedule_and_put_back_is_followed() -> None:
    desk = governed(5_000.0)
    for message in (lists(20, MORNING, EVENING), lists(21, EVENING), lists(22, MORNING, EVENING)):
        desk.hears(message)
    assert coming(desk) == [MORNING.id, EVENING.id]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_two_retained_topics_may_arrive_in_any_order(order: tuple[int, int]) -> None:
    """A broker sends retained messages in its own order; what holds afterwards is the same."""
    words: list[GridMessage] = [
        AllocationReceived(states(30, 5_000.0, until=900.0), retained=True),
        lists(20, MORNING, EVENING, retained=True),
    ]
    desk = Desk()
    desk.hears(HEARTBEAT, *(words[index] for index in order))
    assert (desk.stands, coming(desk)) == ((LIMITED, 5_000.0), [MORNING.id, EVENING.id])
    words = [
        AllocationReceived(states(5, 5_000.0, until=900.0), retained=True),
        lists(20, MORNING, EVENING, retained=True),
    ]
    desk = Desk()
    desk.hears(HEARTBEAT, *(words[index] for index in order))
    assert (desk.stands, coming(desk)) == ((LIMITED, 5_000.0), [MORNING.id, EVENING.id])


# ---- sites whose grid sends no heartbeat ----------------------------------------------------------

NO_HEARTBEAT = replace(POLICY, expects_heartbeat=False, heartbeat_timeout_s=900.0)


def test_without_heartbeats_the_allocations_own_age_is_the_heartbeat() -> None:
    desk = Desk(policy=NO_HEARTBEAT)
    desk.hears(states(1, 5_000.0))
    assert desk.stands == (LIMITED, 5_000.0)
    desk.passes(899)
    assert desk.stands == (LIMITED, 5_000.0)
    desk.hears(states(1, 5_000.0))  # said again: as good as a heartbeat
    desk.passes(899)
    assert desk.stands == (LIMITED, 5_000.0)
    desk.passes(1)
    assert desk.stands == (SAFE, FAILSAFE_W)
    desk.hears(states(2, 6_000.0))
    desk.passes(59)
    assert desk.link.phase is SAFE
    desk.passes(1)
    assert desk.stands == (LIMITED, 6_000.0)


@pytest.mark.parametrize(("age_s", "phase"), [(300.0, LIMITED), (899.0, LIMITED), (901.0, STARTING), (9e4, STARTING)])
def test_without_heartbeats_a_retained_copy_is_as_alive_as_it_is_young(age_s: Seconds, phase: LinkPhase) -> None:
    desk = Desk(start=1e6, policy=NO_HEARTBEAT)
    kept = states(1, 9_000.0, since=1e6 - age_s)
    desk.hears(AllocationReceived(kept, retained=True))
    assert desk.link.phase is phase
    if phase is LIMITED:
        desk.passes(int(900 - age_s))
        assert desk.link.phase is SAFE
        assert desk.now - kept.issued_at == 900


# ---- restart --------------------------------------------------------------------------------------


def test_a_restart_keeps_limits_and_sequence_but_never_the_phase() -> None:
    before = governed(5_000.0)
    before.hears(states(4, 500.0, until=1_000.0), lists(20, EVENING))
    desk = Desk(start=50.0, memory=before.link.memory)
    assert desk.stands == (STARTING, 500.0)
    assert coming(desk) == [EVENING.id]
    desk.hears(HEARTBEAT)
    assert desk.link.phase is STARTING  # what was known before the restart is not fresh
    desk.hears(states(3, 9_000.0))
    assert desk.acks()[-1] == (AckStage.REJECTED, "grid-3")
    assert desk.stands == (STARTING, 500.0)
    desk.hears(states(4, 500.0, until=1_000.0))
    assert desk.acks()[-1] == (AckStage.ACCEPTED, "grid-4")
    assert desk.stands == (LIMITED, 500.0)
    (refused,) = desk.hears(lists(19))
    assert isinstance(refused, Ack)
    assert refused.code is RejectCode.STALE_SEQ
    assert coming(desk) == [EVENING.id]


def test_a_restart_does_not_shorten_the_hold() -> None:
    before = silent_for(130)  # held until 180
    desk = Desk(start=140.0, memory=before.link.memory)
    desk.hears(HEARTBEAT, states(2, 8_000.0))
    desk.passes(39)
    assert desk.stands == (STARTING, FAILSAFE_W)
    desk.passes(1)
    assert desk.stands == (LIMITED, 8_000.0)


# ---- what is known ahead --------------------------------------------------------------------------


def test_the_next_change_is_known_to_the_second_and_happens_then() -> None:
    """Jumping from one announced moment to the next sees the same changes, at the same times, as every second does."""
    words = [
        states(1, 5_000.0, until=400.0),
        states(2, 1_000.0, feeder=ROW_A, since=33.25, until=77.5),
        states(1, 4_500.0, since=50.1, until=90.7, issuer=TSO),
        states(2, 100.0, since=300.0, issuer=TSO),
    ]
    desk = Desk()
    desk.hears(HEARTBEAT, *words)
    seen = []
    while (moment := desk.link.next_change_at(desk.now)) is not None:
        desk.now = moment
        desk.hears()
        seen.append((moment, desk.link.phase, desk.limit_w(), desk.limit_w(ROW_A)))
    assert seen == [
        (33.25, LIMITED, 5_000.0, 1_000.0),
        (50.1, LIMITED, 4_500.0, 1_000.0),
        (77.5, LIMITED, 4_500.0, math.inf),
        (90.7, LIMITED, 5_000.0, math.inf),
        (120.0, SAFE, 2_000.0, math.inf),
        (180.0, SAFE, 2_000.0, math.inf),
        (300.0, SAFE, 100.0, math.inf),
        (400.0, SAFE, 100.0, math.inf),
    ]


@settings(deadline=None)
@given(st.floats(0.0, 1e7), st.floats(1.0, 1e4))
def test_silence_begins_at_the_very_moment_that_was_announced(heard_at: Seconds, timeout_s: Seconds) -> None:
    desk = Desk(start=heard_at, policy=replace(POLICY, heartbeat_timeout_s=timeout_s))
    desk.hears(HEARTBEAT, states(1, 5_000.0))
    moment = desk.link.next_change_at(heard_at)
    assert moment is not None
    desk.now = math.nextafter(moment, 0.0)
    desk.hears()
    assert desk.link.phase is LIMITED
    desk.now = moment
    desk.hears()
    assert desk.link.phase is SAFE


def root_ahead(desk: Desk, until: Seconds) -> list[tuple[Seconds, Ceiling]]:
    return [(moment, ceilings[SITE]) for moment, ceilings in desk.link.coming(0.0, until)]


def test_the_limits_ahead_are_told_with_their_moments() -> None:
    desk = governed(5_000.0)
    desk.hears(
        lists(20, states(2, 3_000.0, since=100.0, until=200.0), states(3, 1_000.0, since=400.0, until=500.0),
              states(4, 10.0, since=50.0, until=60.0, feeder=ROW_A))
    )  # fmt: skip
    assert root_ahead(desk, 49.0) == []
    ahead = [(50.0, 5_000.0), (60.0, 5_000.0), (100.0, 3_000.0), (200.0, 5_000.0), (400.0, 1_000.0), (500.0, 5_000.0)]
    assert root_ahead(desk, 400.0) == [(moment, Limit(watts)) for moment, watts in ahead[:5]]
    assert root_ahead(desk, 9e9) == [(moment, Limit(watts)) for moment, watts in ahead]


def test_of_very_many_moments_neighbours_count_with_the_strictest_of_them() -> None:
    desk = governed(5_000.0)
    entries = [states(2 + n, 5_000.0 - n, since=100.0 + 10 * n, until=105.0 + 10 * n) for n in range(100)]
    desk.hears(lists(200, *entries))
    ahead = root_ahead(desk, 9e9)
    assert len(ahead) <= 16
    for entry in entries:
        by_then = [ceiling for moment, ceiling in ahead if moment <= entry.valid_from]
        assert isinstance(by_then[-1], Limit)
        assert isinstance(entry.ceiling, Limit)
        assert by_then[-1].watts <= entry.ceiling.watts


def test_the_lowest_limit_ahead_counts_an_older_lower_one_that_comes_back() -> None:
    desk = governed(3_000.0)
    desk.hears(states(2, 9_000.0, until=60.0))
    assert root_ahead(desk, 59.0) == []
    assert root_ahead(desk, 60.0) == [(60.0, Limit(3_000.0))]


# ---- hostile numbers ------------------------------------------------------------------------------


def test_ten_thousand_allocations_are_answered_within_bounds() -> None:
    desk = Desk()
    desk.hears(HEARTBEAT)
    for seq in range(10_000):
        answers = desk.link.receive(AllocationReceived(states(seq, 5_000.0, since=1e6 + seq, until=2e6 + seq)), 0.0)
        assert isinstance(answers[-1], Ack)
    memory = desk.link.memory
    assert len(memory.allocations) <= MOST_HELD
    assert len(memory.known_ids) <= MOST_REMEMBERED
    refused = desk.link.receive(AllocationReceived(states(99_999, 5_000.0)), 0.0)[-1]
    assert isinstance(refused, Ack)
    assert refused.code is RejectCode.TOO_LARGE


def test_who_is_taken_out_of_the_site_file_does_not_go_on_limiting() -> None:
    """What he stated without an end would otherwise hold for ever."""
    desk = governed(5_000.0)
    gone = Issuer("gone")
    desk.hears(states(1, 100.0, issuer=gone))
    assert desk.stands == (LIMITED, 100.0)
    desk.link.policy = replace(desk.link.policy, hears=lambda issuer: issuer != gone)
    desk.hears(HEARTBEAT)
    assert desk.stands == (LIMITED, 5_000.0)
    assert root_ahead(desk, 1e9) == []
    desk.link.policy = replace(desk.link.policy, hears=lambda issuer: issuer == gone)
    desk.hears(HEARTBEAT)
    assert desk.stands == (LIMITED, 100.0), "nothing was forgotten"
    desk.link.policy = replace(desk.link.policy, hears=lambda issuer: False)
    desk.hears(HEARTBEAT)
    assert desk.link.phase is LinkPhase.FAILSAFE, "nobody speaks for the site"


def test_no_issuer_takes_all_the_room() -> None:
    desk = Desk()
    for seq in range(2_000):
        desk.hears(states(seq, 5_000.0, since=1e6 + seq, until=2e6 + seq))
    desk.hears(states(1, 100.0, issuer=Issuer("another")))
    assert desk.acks()[-1][0] is AckStage.ACCEPTED
    held = [allocation.issuer for allocation in desk.link.memory.allocations]
    assert held.count(GRID) == MOST_HELD // 2
    desk.hears(states(3_000, 5_000.0, since=3e6, until=4e6))
    assert desk.acks()[-1][0] is AckStage.REJECTED


def test_ten_thousand_short_allocations_are_forgotten_as_they_end() -> None:
    desk = Desk()
    for seq in range(10_000):
        desk.now += 1.0
        desk.hears(HEARTBEAT, states(seq, 5_000.0 + seq, since=desk.now, until=desk.now + 10))
    memory = desk.link.memory
    assert desk.stands == (LIMITED, 14_999.0)
    assert len(memory.allocations) <= 10
    assert len(memory.known_ids) <= MOST_REMEMBERED
    assert len(memory.last_seq) == 1


def test_ten_thousand_issuers_are_remembered_within_bounds() -> None:
    desk = Desk()
    desk.hears(HEARTBEAT, states(1, 5_000.0))
    for number in range(10_000):
        desk.now += 1.0
        issuer = Issuer(f"nobody-{number}")
        desk.hears(HEARTBEAT, states(1, 4_000.0, since=desk.now, until=desk.now + 5, issuer=issuer))
        desk.hears(ScheduleReceived(issuer, (), seq=1))
    memory = desk.link.memory
    assert len(memory.last_seq) <= MOST_ISSUERS
    assert len(memory.schedule_seq) <= MOST_ISSUERS
    assert memory.last_seq[GRID] == 1  # who still speaks for the site is not forgotten
    desk.hears(states(1, 9_000.0, name="again"))
    assert desk.acks()[-1] == (AckStage.REJECTED, "again")


# ---- the link against a tiny oracle ---------------------------------------------------------------


@dataclass
class Oracle:
    """The same words, kept whole and looked up the slow way: nothing is ever forgotten or worked out ahead."""

    taken: list[Allocation]
    last_contact: Seconds = 0.0
    last_stated: Seconds = -math.inf
    heard: bool = False
    fresh: bool = False
    open: bool = False
    hold_until: Seconds = -math.inf

    def hears(self, message: GridMessage, now: Seconds) -> None:
        if isinstance(message, HeartbeatReceived):
            self.last_contact, self.heard = now, True
        elif isinstance(message, AllocationReceived):
            if not message.retained:
                self.last_contact = now
            said = message.allocation
            same = [known for known in self.taken if known.id == said.id]
            newest = max((known.seq for known in self.taken if known.issuer == said.issuer), default=-1)
            if same:
                if self.counts(same[0], now):
                    self.fresh, self.last_stated = True, now
            elif said.seq > newest and (said.valid_until is None or said.valid_until > now):
                self.taken.append(said)
                self.fresh, self.last_stated = True, now

    def counts(self, known: Allocation, now: Seconds) -> bool:
        """Whether it may still hold at some moment from now on."""
        moments = [now, *(m for a in self.taken for m in (a.valid_from, a.valid_until) if m is not None and m >= now)]
        return any(known in self.in_force(moment, known.feeder) for moment in moments)

    def in_force(self, moment: Seconds, feeder: FeederId) -> list[Allocation]:
        valid = [a for a in self.taken if a.feeder == feeder and a.covers(moment)]
        return [a for a in valid if not any(b.issuer == a.issuer and b.seq > a.seq for b in valid)]

    def tick(self, now: Seconds) -> None:
        silent = now >= self.last_contact + TIMEOUT_S
        covered = bool(self.in_force(now, SITE))
        if silent and (self.open or self.heard):
            self.hold_until = now + HOLD_S
            self.open = self.heard = False
            self.fresh = self.last_stated > self.last_contact
        elif self.open and not covered:
            self.open, self.heard, self.fresh, self.hold_until = False, True, True, -math.inf
        elif not self.open and not silent and self.heard and self.fresh and covered and now >= self.hold_until:
            self.open = True

    def limit_w(self, now: Seconds, feeder: FeederId) -> Watts:
        ceilings = [a.ceiling.watts for a in self.in_force(now, feeder) if isinstance(a.ceiling, Limit)]
        return min([*ceilings, *([FAILSAFE_W] if feeder == SITE and not self.open else [])], default=math.inf)


WORDS = st.one_of(
    st.just("heartbeat"),
    st.tuples(
        st.sampled_from([GRID, TSO]),
        st.sampled_from([SITE, SITE, ROW_A]),
        st.sampled_from([None, 0.0, 700.0, 2_000.0, 4_000.0, 9_000.0]),
        st.sampled_from([-20.0, 0.0, 15.0, 200.0]),
        st.sampled_from([None, 10.0, 90.0, 500.0]),
        st.booleans(),
        st.integers(0, 3),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 7, 60, 130, 400]), WORDS), min_size=3, max_size=25), st.data())
def test_the_link_agrees_with_an_oracle_that_forgets_nothing(
    trace: list[tuple[int, object]], data: st.DataObject
) -> None:
    desk, oracle = Desk(), Oracle([])
    seqs = {GRID: 10, TSO: 10}
    sent: list[Allocation] = []
    desk.hears(HEARTBEAT, first := states(1, 5_000.0))
    oracle.hears(HEARTBEAT, 0.0)
    oracle.hears(AllocationReceived(first), 0.0)
    oracle.tick(0.0)
    for pause_s, word in trace:
        for _ in range(pause_s):
            desk.passes(1)
            oracle.tick(desk.now)
            assert (desk.link.is_failsafe, desk.limit_w(), desk.limit_w(ROW_A)) == (
                not oracle.open, oracle.limit_w(desk.now, SITE), oracle.limit_w(desk.now, ROW_A))  # fmt: skip
        message: GridMessage = HEARTBEAT
        if isinstance(word, tuple):
            issuer, feeder, limit_w, starts_s, lasts_s, retained, step = word
            if step == 0 and sent:  # an old one again: duplicated or late
                allocation = sent[data.draw(st.integers(0, len(sent) - 1))]
            else:
                seqs[issuer] += step - 1 if step else 1
                since = desk.now + starts_s
                allocation = states(seqs[issuer], limit_w, since=since, feeder=feeder, issuer=issuer,
                                    until=since + lasts_s if lasts_s is not None else None,
                                    name=f"{issuer}-{seqs[issuer]}-{len(sent)}")  # fmt: skip
                sent.append(allocation)
            message = AllocationReceived(allocation, retained)
        desk.hears(message)
        oracle.hears(message, desk.now)
        oracle.tick(desk.now)
        assert (desk.link.is_failsafe, desk.limit_w(), desk.limit_w(ROW_A)) == (
            not oracle.open, oracle.limit_w(desk.now, SITE), oracle.limit_w(desk.now, ROW_A))  # fmt: skip
