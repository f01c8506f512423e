"""A farm of ten thousands under the real daemon: what the benches that need one share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from bench.book import Book, addresses
from bench.peers import Cost, Peer, PeerFailed
from bench.responder import FloorCost, Responder, floor_over, responder_on
from bench.site import Daemon, Layout, daemon_on
from bench.table import Result
from curtaild_drivers.contract import Seconds

ANSWER_S = 0.02
"""How long an emulated device takes to answer."""
FLOOR_AT_ONCE = 256
PEER_AT_ONCE = 256
"""Calls a peer has under way; without a bound its first device acts when nearly all have."""


@dataclass(slots=True)
class Bench:
    """What all benches work with. `profile` is where cProfile's statistics of a daemon go, if anywhere."""

    folder: Path
    programs: dict[str, Path]
    book: Book
    result: Result
    progress: Progress
    profile: Path | None = None

    def fresh_folder(self, name: str) -> Path:
        folder = self.folder / f"{len(list(self.folder.iterdir())):02d}-{name}"
        folder.mkdir()
        return folder

    async def floor(self, devices: int, what: str) -> FloorCost:
        """The C floor over the whole farm: `what` is "hot" or "stop"."""
        return await floor_over(self.programs["floor"], self.book.plan(devices, what), FLOOR_AT_ONCE)

    async def cost_of(self, peer: Peer, devices: int, *steps: str) -> dict[str, Cost]:
        """A peer over the first `devices` of the farm; empty, with a line in the result, where it cannot be run."""
        if peer.why_not is not None:
            return {}
        where = [one for _, one in addresses(devices)]
        try:
            costs = await peer.run(where, ("identify", *steps), at_once=PEER_AT_ONCE)
        except PeerFailed as error:
            self.result.not_run.append(str(error))
            return {}
        for step in steps:
            cost = costs.get(step)
            if cost is None:
                self.result.not_run.append(f"{peer.name} {step}: it ended before")
            elif cost.failed:
                self.result.notes.append(f"{peer.name} {step}: {cost.failed} of {devices} devices failed")
        return costs

    async def check(self, devices: Responder, name: str) -> None:
        """Tell of questions that no page of the book answers: those figures are not to be believed."""
        report = await devices.report()
        if report.unknown or report.dropped:
            self.result.notes.append(
                f"{name}: {report.unknown} questions had no answer in the book, {report.dropped} were dropped"
            )


@dataclass(frozen=True, slots=True)
class Farm:
    """A responder full of devices, and the daemon that knows them all."""

    layout: Layout
    name: str
    devices: Responder
    daemon: Daemon


@asynccontextmanager
async def devices_of(bench: Bench, count: int) -> AsyncIterator[Responder]:
    """`count` devices that answer, and nobody who asks."""
    folder = bench.fresh_folder(f"devices-{count}")
    bench.book.write(folder / "book", count, ANSWER_S)
    async with responder_on(bench.programs["responder"], folder / "book", folder / "responder.log") as devices:
        yield devices
        await bench.check(devices, f"{count:,} devices")


@asynccontextmanager
async def farm_of(bench: Bench, layout: Layout, devices: Responder) -> AsyncIterator[Farm]:
    """The daemon over these devices, once it has read them all. Raises `CannotRun`."""
    name = f"{layout.devices:,} devices"
    task = bench.progress.add_task(f"{name}: the daemon learns them", total=layout.devices)
    folder = bench.fresh_folder(f"daemon-{layout.devices}")
    async with daemon_on(
        layout, folder, profile=bench.profile, on_known=lambda known: bench.progress.update(task, completed=known)
    ) as daemon:
        bench.progress.remove_task(task)
        yield Farm(layout, name, devices, daemon)


def percent_of_a_core(cpu_s: Seconds, over_s: Seconds) -> float:
    """CPU seconds used in a stretch of time, as a share of one core."""
    return 100.0 * cpu_s / over_s
