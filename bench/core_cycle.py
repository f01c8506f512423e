"""The core alone: what one `step` costs with 30,000 devices. No sockets, no loop, virtual time.

Cold is the first cycle after every device was described and read; the shed is that of half the site at once, and before
it the choice alone of whom it takes; unchanged is the cycle of every second, with the second's share of readings and
with nothing at all. Then a third of the devices, in racks of ten, get a limit for one rack after another. All of it is
CPU time of one thread, which waits for nobody.
"""

from __future__ import annotations

import gc
import statistics
import time

from bench.machine import peak_mib
from bench.table import Row
from curtaild.app import GC_THRESHOLD
from curtaild.core.allocation import (
    Allocation,
    AllocationId,
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
)
from curtaild.core.budget import free_room
from curtaild.core.cycle import Command, absorb, step
from curtaild.core.device import DeviceSpec
from curtaild.core.events import ActuationStage
from curtaild.core.feeders import FeederSpec, FeederTree
from curtaild.core.inputs import Answer, DeviceNews, Inputs
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.policy import Policy
from curtaild.core.shed import shed
from curtaild.core.site import Site
from curtaild.inbox import PART
from curtaild_drivers.contract import (
    OFF,
    DeviceId,
    FeederId,
    MeterReading,
    OperatingPoint,
    OperatingPoints,
    Reading,
    RunState,
    Seconds,
    Watts,
)

SITE = FeederId("site")
ROW_DEVICES = 100
POLL_S = 30
COLD_BAR_S, UNCHANGED_BAR_S = 0.1, 0.005
SLIDER_POINTS = OperatingPoints(
    (
        OperatingPoint(OFF, 50.0, 0.0),
        OperatingPoint("limit", 1_320.0, 4.5e13),
        OperatingPoint("limit", 3_300.0, 1.1e14, True),
    ),
    step_w=33.0,
)
MODE_POINTS = OperatingPoints(
    (OperatingPoint(OFF, 30.0, 0.0), OperatingPoint("low", 2_290.0, 8.2e13), OperatingPoint("normal", 3_050.0, 1e14))
)
PROFILE_POINTS = OperatingPoints(
    (
        OperatingPoint(OFF, 25.0, 0.0),
        *(OperatingPoint(f"{n}", 1_500.0 + 250.0 * n, 9e13 + 1.3e13 * n) for n in range(9)),
    )
)
OFFERED = (SLIDER_POINTS, MODE_POINTS, PROFILE_POINTS)


class PaperSite:
    """Devices on paper that obey at once, each a little different in draw from the next."""

    def __init__(self, count: int, row_devices: int = ROW_DEVICES) -> None:
        rows = [FeederId(f"row-{row:03d}") for row in range(-(-count // row_devices))]
        rating_w = 8_000.0 * count
        tree = FeederTree(
            [
                FeederSpec(id=SITE, parent=None, rating_w=rating_w, auxiliary_w=50_000.0, meter_stale_after_s=10.0),
                *(
                    FeederSpec(id=row, parent=SITE, rating_w=rating_w, auxiliary_w=0.0, meter_stale_after_s=None)
                    for row in rows
                ),
            ]
        )
        specs = [
            DeviceSpec(
                DeviceId(f"device-{n:05d}"),
                rows[n // row_devices],
                OFFERED[n % 3].highest.draw_w,
                OFFERED[n % 3],
                stale_after_s=4.0 * POLL_S,
                min_off_s=0.0,
            )
            for n in range(count)
        ]
        self.now: Seconds = 1_000.0
        self.names = [spec.id for spec in specs]
        self.points: dict[DeviceId, OperatingPoint] = {spec.id: OFFERED[n % 3].highest for n, spec in enumerate(specs)}
        self.unit = {name: 0.97 + 0.06 * (n * 7919 % 1_000) / 1_000 for n, name in enumerate(self.names)}
        link = Link(LinkPolicy(SITE, frozenset(tree.specs), rating_w, 120.0, 0.0, True), self.now)
        self.site = Site(tree, specs, link, Policy(restart_jitter_s=0.0), self.now, "bench")
        self._seq = 0
        self._commands: list[Command] = []
        self._turn = 0

    def draw_w(self) -> Watts:
        return sum(self.points[name].draw_w * self.unit[name] for name in self.names)

    def readings(self, names: list[DeviceId]) -> list[tuple[DeviceId, Reading]]:
        """What honest devices report now."""
        found: list[tuple[DeviceId, Reading]] = []
        for name in names:
            point = self.points[name]
            state = RunState.ASLEEP if point.is_off else RunState.RUNNING
            limit_w = point.draw_w if point.key == "limit" else None
            draw_w = point.draw_w * self.unit[name]
            found.append((name, Reading(self.now, state, draw_w, point.rate, point.key, limit_w)))
        return found

    def polled(self) -> list[DeviceId]:
        """This second's share of the round."""
        self._turn = (self._turn + 1) % POLL_S
        return self.names[self._turn :: POLL_S]

    def states(self, limit_w: Watts | None, feeder: FeederId = SITE) -> GridMessage:
        self._seq += 1
        return AllocationReceived(
            Allocation(
                id=AllocationId(f"a{self._seq}"),
                seq=self._seq,
                issuer=Issuer("grid"),
                feeder=feeder,
                ceiling=UNLIMITED if limit_w is None else Limit(limit_w),
                issued_at=self.now,
                valid_from=self.now,
                valid_until=None,
            )
        )

    def timed_step(self, inputs: Inputs) -> tuple[Seconds, int]:
        """One second later; CPU s that `step` took, and how many commands it gave. The devices obey."""
        begin = time.thread_time()
        decision = step(self.site, inputs, self.now)
        took_s = time.thread_time() - begin
        self._commands = list(decision.commands)
        for command in self._commands:
            self.points[command.device] = command.target
        return took_s, len(self._commands)

    def second(self, *said: GridMessage, read: list[DeviceId]) -> Inputs:
        """Time goes on by one second, in which these devices were read and the last commands answered."""
        self.now += 1.0
        answers = [
            Answer(command.device, command.actuation, ActuationStage.ANSWERED, self.now - 0.5)
            for command in self._commands
        ]
        meter_w = self.draw_w() * (1.0 + 0.001 * (self._turn % 7 - 3)) + 50_000.0
        return Inputs(
            grid=[HeartbeatReceived(), *said],
            answers=answers,
            readings=self.readings(read),
            meters=[(SITE, MeterReading(self.now, meter_w))],
        )


def rack_row(count: int, times: int) -> Row:
    """A limit for one rack of ten after another, where every second a tenth of all devices was read and absorbed: the
    cycle that the first command waits for."""
    paper = PaperSite(count, row_devices=10)
    paper.timed_step(paper.second(paper.states(None), read=[]))
    for _ in range(2 * POLL_S):
        paper.timed_step(paper.second(read=paper.polled()))
    took_s: list[Seconds] = []
    for number, rack in enumerate(list(paper.site.tree.specs)[1 : times + 1]):
        said = paper.second(paper.states(0.0, rack), read=paper.names[number % 10 :: 10])
        absorb(paper.site, DeviceNews(answers=said.answers), paper.now)
        for first in range(0, len(said.readings), PART):
            absorb(paper.site, DeviceNews(readings=said.readings[first : first + PART]), paper.now)
        cycle_s, _ = paper.timed_step(Inputs(grid=said.grid, meters=said.meters))
        took_s.append(cycle_s)
    what = f"core cycle, {count:,} devices in {count // 10:,} racks: a limit for one rack"
    return Row(what, "s", statistics.median(took_s))


def _choice_s(paper: PaperSite) -> Seconds:
    """CPU s to choose who is shed so that the site draws half, without giving the commands; nothing is changed."""
    room = free_room(paper.site, paper.now)
    room.over_w[SITE] = 0.5 * paper.draw_w()
    begin = time.thread_time()
    moves, _ = shed(paper.site.roster.can_fall, paper.site.tree, room, paper.now)
    took_s = time.thread_time() - begin
    assert len(moves) > len(paper.names) // 3, "what shall draw half is a third of the devices at least"
    return took_s


def core_rows(count: int, unchanged: int) -> list[Row]:
    """Cold, unchanged (`unchanged` cycles of it) and a shed of half, at `count` devices."""
    paper = PaperSite(count)
    gc.collect()
    gc.freeze()  # as the daemon does it once it is ready
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    paper.timed_step(paper.second(paper.states(None), read=[]))
    cold_s, _ = paper.timed_step(paper.second(read=paper.names))
    for _ in range(POLL_S + 10):  # the boot's grace passes, every device is known and at rest
        paper.timed_step(paper.second(read=paper.polled()))
    read_s = [paper.timed_step(paper.second(read=paper.polled()))[0] for _ in range(unchanged)]
    idle_s = [paper.timed_step(paper.second(read=[]))[0] for _ in range(unchanged)]
    paper.timed_step(paper.second(read=paper.names))
    choice_s = _choice_s(paper)
    shed_s, commands = paper.timed_step(paper.second(paper.states(0.5 * paper.draw_w()), read=[]))
    what = f"core cycle, {count:,} devices"
    rows = [
        Row(f"{what}: all of them read", "s", cold_s, bar=COLD_BAR_S),
        Row(f"dispatch alone, {count:,} devices: who is shed, of half of it", "s", choice_s, bar=COLD_BAR_S),
        Row(f"{what}: shed of half, {commands:,} commands", "s", shed_s, bar=COLD_BAR_S, memory_mib=peak_mib("self")),
        Row(
            f"{what}: unchanged, {count // POLL_S:,} readings",
            "s",
            statistics.median(read_s),
            bar=UNCHANGED_BAR_S,
        ),
        Row(f"{what}: unchanged, nothing read", "s", statistics.median(idle_s), bar=UNCHANGED_BAR_S),
        rack_row(count // 3, 50),
    ]
    gc.unfreeze()
    gc.set_threshold(*before)
    return rows
