"""Shedding: from the publish of a limit of 0 W to the first and the last device that has obeyed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from bench.farm import Bench, Farm
from bench.lags import SLEEP_S
from bench.peers import PYASIC
from bench.responder import Report, Responder
from bench.table import Lag, Row
from curtaild_drivers.contract import Seconds

TIMEOUT_S = 120.0
AFTER_S = 2.0
"""The loop's lag is watched for so long after the last device has obeyed: what was put off is done then."""
FIRST_BAR_S = 0.1
LAST_BAR_S = {10_000: 3.0}


@dataclass(frozen=True, slots=True)
class Shed:
    """Seconds since the publish. A device is told when the command reaches it, and has obeyed when it has answered.
    `waited_s`: so long the daemon could not run because others had the cores."""

    first_told_s: Seconds
    first_s: Seconds
    median_s: Seconds
    last_s: Seconds
    accepted_s: Seconds
    obeyed: int
    cpu_s: Seconds
    memory_mib: float
    lag: Lag | None
    devices_cpu_s: Seconds
    waited_s: Seconds


async def watch_shed(bench: Bench, farm: Farm) -> Shed:
    """Tell the site to draw nothing."""
    count = farm.layout.devices
    task = bench.progress.add_task(f"{farm.name}: shed", total=count)
    daemon, devices = farm.daemon, farm.devices
    if bench.profile is not None:
        os.kill(daemon.pid, signal.SIGUSR1)
    before, cpu_s, waited_s = await devices.report(), daemon.cpu_s(), daemon.waited_s()
    published_ns = time.monotonic_ns()
    allocation = await daemon.operator.allocate(0.0)
    while (stopped := await devices.stopped()) < count and time.monotonic_ns() < published_ns + TIMEOUT_S * 1e9:
        bench.progress.update(task, completed=stopped)
        await asyncio.sleep(0.05)
    used_s, waited_s, ended = daemon.cpu_s() - cpu_s, daemon.waited_s() - waited_s, time.monotonic()
    if bench.profile is not None:
        os.kill(daemon.pid, signal.SIGUSR2)
    after = await devices.report()
    accepted_ns = await daemon.acked(allocation, "accepted")
    lag = Lag.of(await daemon.lag_s(published_ns / 1e9, ended + AFTER_S), SLEEP_S)
    bench.progress.remove_task(task)
    told_s = [(told_ns - published_ns) / 1e9 for told_ns, _ in after.stops]
    obeyed_s = sorted((answered_ns - published_ns) / 1e9 for _, answered_ns in after.stops if answered_ns)
    if len(obeyed_s) < count:
        bench.result.notes.append(f"{farm.name}: only {len(obeyed_s):,} obeyed within {TIMEOUT_S:g} s")
    return Shed(
        first_told_s=told_s[0],
        first_s=obeyed_s[0],
        median_s=obeyed_s[len(obeyed_s) // 2],
        last_s=obeyed_s[-1],
        accepted_s=(accepted_ns - published_ns) / 1e9,
        obeyed=len(obeyed_s),
        cpu_s=used_s,
        memory_mib=daemon.peak_mib(),
        lag=lag,
        devices_cpu_s=after.cpu_s - before.cpu_s,
        waited_s=waited_s,
    )


async def shed_rows(bench: Bench, farm: Farm, shed: Shed, *, with_peer: bool) -> None:
    """Ours beside the floor that sends the same bytes, and pyasic's `stop_mining` over the same devices."""
    count, name = farm.layout.devices, farm.name
    await farm.devices.reset()
    floor = await bench.floor(count, "stop")
    peer = await _peer_stop(bench, farm.devices, count) if with_peer else None
    last = Row(
        what=f"last of {name} has obeyed, from the publish",
        unit="s",
        ours=shed.last_s,
        bar=LAST_BAR_S.get(count),
        peer=peer[1] if peer else None,
        peer_name="pyasic stop",
        floor=floor.last_s,
        floor_name="C",
        cpu_s=shed.cpu_s,
        memory_mib=shed.memory_mib,
        lag=shed.lag,
    )
    first = Row(
        what=f"first of {name} has been told",
        unit="s",
        ours=shed.first_told_s,
        bar=FIRST_BAR_S,
        peer=peer[0] if peer else None,
        peer_name="pyasic stop",
        floor=floor.first_s,
        floor_name="C, answered",
    )
    bench.result.rows += [last, first]
    bench.result.notes.append(
        f"shed of {name}: half had obeyed after {shed.median_s:.2f} s, accepted after {shed.accepted_s:.2f} s; the "
        f"emulated devices took {shed.devices_cpu_s:.2f} s of CPU, the floor {floor.cpu_s:.2f} s, the daemon "
        f"{shed.cpu_s:.2f} s, and for {shed.waited_s:.2f} s it waited for a core"
    )


async def _peer_stop(bench: Bench, devices: Responder, count: int) -> tuple[Seconds, Seconds] | None:
    """When the first and the last device were told by pyasic, from when its calls began."""
    task = bench.progress.add_task(f"pyasic stops {count:,} devices", total=None)
    await devices.reset()
    costs = await bench.cost_of(PYASIC, count, "stop")
    bench.progress.remove_task(task)
    report: Report = await devices.report()
    if "stop" not in costs or not report.stops:
        return None
    if len(report.stops) < count:
        bench.result.notes.append(
            f"pyasic stopped {len(report.stops):,} of {count:,} devices (Avalons ignore its JSON)"
        )
    began_ns = costs["stop"].began_ns
    return (report.stops[0][0] - began_ns) / 1e9, max(answered_ns - began_ns for _, answered_ns in report.stops) / 1e9
