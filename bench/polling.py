"""Polling: what share of a core it takes to read every device in its rhythm."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from rich.progress import TaskID

from bench.farm import Bench, Farm, percent_of_a_core
from bench.lags import SLEEP_S
from bench.peers import PYASIC, PYASIC_RS, Peer
from bench.table import Lag, Row
from curtaild_drivers.contract import Seconds

MEMORY_BAR_MIB = {10_000: 300.0}
CPU_BAR_PERCENT = {10_000: 25.0, 30_000: 30.0}


@dataclass(frozen=True, slots=True)
class Polling:
    """The daemon while it does nothing but poll; `devices_cpu_s` is the responder's. For `waited_s` others had the
    cores while the daemon was ready to run."""

    cpu_s: Seconds
    watched_s: Seconds
    memory_mib: float
    lag: Lag | None
    devices_cpu_s: Seconds
    requests: int
    waited_s: Seconds


async def watch_polling(bench: Bench, farm: Farm, watch_s: Seconds) -> Polling:
    """A whole round goes by first: it asks more than a reading does."""
    task = bench.progress.add_task(f"{farm.name}: polling", total=farm.layout.poll_s + watch_s)
    await _pass(bench, task, farm.layout.poll_s)
    before, cpu_s, began = await farm.devices.report(), farm.daemon.cpu_s(), time.monotonic()
    waited_s = farm.daemon.waited_s()
    await _pass(bench, task, watch_s)
    after, used_s, ended = await farm.devices.report(), farm.daemon.cpu_s() - cpu_s, time.monotonic()
    waited_s = farm.daemon.waited_s() - waited_s
    lag = Lag.of(await farm.daemon.lag_s(began, ended), SLEEP_S)
    bench.progress.remove_task(task)
    asked, devices_cpu_s = after.requests - before.requests, after.cpu_s - before.cpu_s
    return Polling(used_s, ended - began, farm.daemon.peak_mib(), lag, devices_cpu_s, asked, waited_s)


async def polling_rows(bench: Bench, farm: Farm, polling: Polling, peer_devices: int) -> None:
    """Ours beside the floor over the same farm, and the peers over a part of it (0: none), scaled to its size."""
    count, poll_s, name = farm.layout.devices, farm.layout.poll_s, farm.name
    floor = await bench.floor(count, "hot")
    costs = {peer.name: await _share_of_core(bench, peer, peer_devices, count / poll_s) for peer in (PYASIC, PYASIC_RS)}
    what = f"polling {name} every {poll_s:g} s"
    bench.result.rows.append(
        Row(
            what=f"{what}: of a core",
            unit="%",
            ours=percent_of_a_core(polling.cpu_s, polling.watched_s),
            bar=CPU_BAR_PERCENT.get(count),
            peer=costs[PYASIC.name].get("read"),
            peer_name="pyasic, 2 fields",
            floor=percent_of_a_core(floor.cpu_s, poll_s),
            floor_name="C",
            cpu_s=polling.cpu_s,
            memory_mib=polling.memory_mib,
            lag=polling.lag,
        )
    )
    bench.result.rows.append(Row(f"{what}: memory", "MiB", polling.memory_mib, bar=MEMORY_BAR_MIB.get(count)))
    bench.result.notes += [
        f"{what}: {polling.requests / polling.watched_s:,.0f} questions/s; the emulated devices took "
        f"{percent_of_a_core(polling.devices_cpu_s, polling.watched_s):.0f} % of a core; for "
        f"{polling.waited_s:.2f} of {polling.watched_s:.0f} s the daemon waited for a core",
        *(
            f"{what}: {peer} {step} would take {share:.0f} % of a core (measured on {peer_devices:,} devices)"
            for peer, steps in costs.items()
            for step, share in steps.items()
        ),
    ]


async def _share_of_core(bench: Bench, peer: Peer, peer_devices: int, per_s: float) -> dict[str, float]:
    """What each way of reading would take of a core at so many readings a second."""
    if not peer_devices:
        return {}
    task = bench.progress.add_task(f"{peer.name} reads {peer_devices:,} devices", total=None)
    costs = await bench.cost_of(peer, peer_devices, "read", "data")
    bench.progress.remove_task(task)
    return {step: 100.0 * costs[step].cpu_s / peer_devices * per_s for step in ("read", "data") if step in costs}


async def _pass(bench: Bench, task: TaskID, seconds: Seconds) -> None:
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        await asyncio.sleep(min(1.0, left_s))
        bench.progress.advance(task, 1.0)
