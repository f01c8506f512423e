"""The command line of the benches: which to run, how large, and where the table goes."""

from __future__ import annotations

import argparse
import gc
import signal as signals
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from bench import network
from bench.answer import answer_rows
from bench.book import Book
from bench.compiled import CannotCompile, compile_all
from bench.core_cycle import core_rows
from bench.emulated import emulated_row
from bench.farm import Bench, devices_of, farm_of
from bench.gpu import gpu_rows
from bench.machine import Machine
from bench.peers import PYASIC, PYASIC_RS
from bench.policies.compare import WEATHER, compare
from bench.polling import polling_rows, watch_polling
from bench.recorder import record
from bench.rehearsal import rehearsal_rows
from bench.scrape import scrape_rows
from bench.shed import shed_rows, watch_shed
from bench.sick import sick_rows, slack_rows
from bench.site import CannotRun, Layout
from bench.soak import soak_rows
from bench.table import Result
from curtaild.rehearse.signals import SIGNALS
from curtaild.rehearse.solver import NoSolver

BENCHES = {
    "farm": "10,000 devices polled every 10 s, then shed: CPU, memory, loop lag; C floor and pyasic beside it",
    "large": "the same with 30,000 devices every 30 s",
    "answer": "publish → accepted and publish → first command, while 10,000 devices are polled",
    "sick": "10,000 devices of which 15 % hang, refuse or are silent: the others' shed, and the deficit at 0 W",
    "slack": "500 emulated devices, as sick: how soon the others hold a limit of 60 % of the draw",
    "emulated": "a shed end to end on the emulated farm with its physics, 500 devices",
    "scrape": "/metrics with 10,000 devices beside prometheus_client's own gauges and handler",
    "soak": "only where named: 10,000 devices polled for an hour (--for S): memory, descriptors, loop lag",
    "core": "one cycle of the core with 30,000 devices: cold, shed of half, unchanged",
    "rehearse": "an hour of a site of 300 devices rehearsed, on signals of many commands and of few",
    "gpu": "a reading of eight GPUs whose driver takes 20 ms a call, and what it does to the event loop",
    "policies": "control quality beside four published policies and a solver's bound, on every signal: docs/control.md",
}
NEED_A_FARM = {"farm", "large", "answer", "sick", "slack", "emulated", "soak"}
ONLY_WHERE_NAMED = {"soak"}


class Steps(Progress):
    """Bars on a terminal; elsewhere a line as each step begins."""

    def add_task(self, description: str, *arguments: Any, **more: Any) -> TaskID:
        if not self.console.is_terminal:
            self.console.print(description, highlight=False)
        return super().add_task(description, *arguments, **more)


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 1 where something could not be measured."""
    parser = _parser()
    order = parser.parse_args(arguments)
    chosen = order.benches or [name for name in BENCHES if name not in ONLY_WHERE_NAMED]
    unknown = [name for name in chosen if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {', '.join(map(repr, unknown))}; there are: {', '.join(BENCHES)}")
    if NEED_A_FARM & set(chosen):
        if network.is_own():
            network.raise_loopback()
        elif (reason := network.why_not()) is None:
            network.move_in(arguments)
        else:
            order.no_network = reason
    console = Console(stderr=True)
    result = Result(Machine.here())
    console.print(str(result.machine), highlight=False)
    if not result.machine.is_quiet:
        console.print("[yellow]This machine is not quiet: others' work will be in the figures.[/]")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="curtaild-bench-") as folder,
        Steps(*columns, console=console) as progress,
    ):
        signals.signal(signals.SIGTERM, signals.default_int_handler)
        try:
            uvloop.run(_run(order, chosen, result, progress, Path(folder)))
        except KeyboardInterrupt:
            result.not_run.append("all that is missing: it was interrupted")
    result.show(Console(width=None if sys.stdout.isatty() else 160))
    if order.json is not None:
        result.write(order.json)
    return 1 if any(row.ours is None for row in result.rows) or not (result.rows or result.policies) else 0


async def _run(order: argparse.Namespace, chosen: list[str], result: Result, progress: Progress, folder: Path) -> None:
    small = order.quick
    bench: Bench | None = None
    for name in (name for name in BENCHES if name in chosen):
        try:
            if name in NEED_A_FARM:
                bench = bench or await _bench(order, result, progress, folder)
                await _FARM_BENCHES[name](bench, order)
            elif name == "scrape":
                task = progress.add_task("/metrics", total=None)
                result.rows += await scrape_rows(order.devices or (1_000 if small else 10_000))
                progress.remove_task(task)
            elif name == "gpu":
                result.rows += await gpu_rows(5 if small else 100, folder, progress)
            elif name == "rehearse":
                task = progress.add_task(name, total=None)
                signals = ("steps",) if small else ("steps", "solar", "load-shedding")
                devices = min(order.devices or (20 if small else 300), 500)
                result.rows += rehearsal_rows(devices, signals, partial(_describe, progress, task))
                progress.remove_task(task)
            elif name == "policies":
                _policies(order, result, progress)
            else:
                task = progress.add_task("core cycle", total=None)
                result.rows += core_rows(order.devices or (3_000 if small else 30_000), unchanged=15 if small else 60)
                progress.remove_task(task)
        except (CannotRun, CannotCompile) as error:
            result.not_run.append(f"{name}: {error}")
        gc.collect()


def _describe(progress: Progress, task: TaskID, text: str) -> None:
    progress.update(task, description=text)


def _policies(order: argparse.Namespace, result: Result, progress: Progress) -> None:
    """In virtual time: how fast this machine is says nothing here."""
    task = progress.add_task("policies", total=None)
    devices = min(order.devices or (20 if order.quick else 50), 500)
    for signal in ("emergency",) if order.quick else SIGNALS:
        for weather in WEATHER:
            try:
                result.policies += compare(
                    weather, signal, devices, lambda text: progress.update(task, description=f"policies: {text}")
                )
            except NoSolver as error:
                raise CannotRun(str(error)) from error
    progress.remove_task(task)


async def _bench(order: argparse.Namespace, result: Result, progress: Progress, folder: Path) -> Bench:
    """What the farm benches share: a network, two programs, a book."""
    if order.no_network is not None:
        raise CannotRun(order.no_network)
    programs = compile_all(folder)
    peers = [] if order.no_peers else [PYASIC, PYASIC_RS]
    result.not_run += [peer.why_not for peer in peers if peer.why_not is not None]
    if order.no_peers:
        result.not_run.append("pyasic, pyasic-rs: --no-peers")
    task = progress.add_task("recording what each firmware answers", total=None)
    book: Book = await record([peer for peer in peers if peer.why_not is None], lambda step: None)
    progress.remove_task(task)
    return Bench(folder, programs, book, result, progress, order.profile)


async def _farm(bench: Bench, order: argparse.Namespace, layout: Layout, *, with_peers: bool) -> None:
    async with devices_of(bench, layout.devices) as devices:
        async with farm_of(bench, layout, devices) as farm:
            polling = await watch_polling(bench, farm, 1.0 if order.quick else max(20.0, layout.poll_s))
            shed = await watch_shed(bench, farm)
        await devices.reset()
        peer_devices = min(layout.devices, 100 if order.quick else 1_000) if with_peers else 0
        await polling_rows(bench, farm, polling, peer_devices)
        await shed_rows(bench, farm, shed, with_peer=with_peers)


def _ten_thousand_polled(order: argparse.Namespace) -> Layout:
    return Layout(order.devices or (500 if order.quick else 10_000), 1.0 if order.quick else 10.0)


async def _ten_thousand(bench: Bench, order: argparse.Namespace) -> None:
    layout = _ten_thousand_polled(order)
    await _farm(bench, order, layout, with_peers=not order.no_peers)


async def _thirty_thousand(bench: Bench, order: argparse.Namespace) -> None:
    layout = Layout(
        3 * order.devices if order.devices else (1_500 if order.quick else 30_000), 3.0 if order.quick else 30.0
    )
    await _farm(bench, order, layout, with_peers=False)


async def _answer(bench: Bench, order: argparse.Namespace) -> None:
    layout = Layout(order.devices or (500 if order.quick else 10_000), 1.0 if order.quick else 10.0, row_devices=10)
    async with devices_of(bench, layout.devices) as devices, farm_of(bench, layout, devices) as farm:
        await answer_rows(bench, farm, 10 if order.quick else 300)


async def _sick(bench: Bench, order: argparse.Namespace) -> None:
    await sick_rows(bench, _ten_thousand_polled(order))


async def _slack(bench: Bench, order: argparse.Namespace) -> None:
    await slack_rows(bench, order.devices or (50 if order.quick else 500))


async def _soak(bench: Bench, order: argparse.Namespace) -> None:
    await soak_rows(bench, _ten_thousand_polled(order), 30.0 if order.quick else order.for_s)


async def _emulated(bench: Bench, order: argparse.Namespace) -> None:
    await emulated_row(bench, order.devices or (50 if order.quick else 500))


_FARM_BENCHES = {
    "farm": _ten_thousand,
    "large": _thirty_thousand,
    "answer": _answer,
    "sick": _sick,
    "slack": _slack,
    "emulated": _emulated,
    "soak": _soak,
}


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:9} {what}" for name, what in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=f"{__doc__}\n\nbenches (all, unless named):\n{listed}",
        epilog='example: make bench ARGS="farm core --json figures.json". How to read the table: docs/performance.md',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benches", nargs="*", metavar="BENCH", help="which to run")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the devices: does it run, not how fast")
    parser.add_argument("--devices", type=_count, help="another number of devices (large takes three times as many)")
    parser.add_argument(
        "--for", type=float, default=3600.0, metavar="S", dest="for_s", help="how long soak polls, in s"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave pyasic and pyasic-rs out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="cProfile of the daemon's shed; it is slower so")
    parser.set_defaults(no_network=None)
    return parser


def _count(text: str) -> int:
    count = int(text)
    if not 10 <= count <= 200_000:
        raise argparse.ArgumentTypeError("from 10 to 200,000 devices")
    return count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
