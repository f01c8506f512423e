"""The answer to one allocation while all devices are polled: to the `accepted` ack, to the first device's command."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from bench.echo import echo_over
from bench.farm import Bench, Farm
from bench.lags import SLEEP_S
from bench.site import CannotRun
from bench.table import Lag, Row
from curtaild_drivers.contract import Seconds

REST_S = 0.5
"""Between two allocations."""
FIRST_TIMEOUT_S = 10.0
ACK_BAR_S = 0.05
COMMAND_BAR_S = 0.1


async def answer_rows(bench: Bench, farm: Farm, allocations: int) -> None:
    """One small row after another is told to draw nothing; at rest no device is told anything. Beside each, as floor,
    the way there and back through the same broker and disk."""
    daemon, devices = farm.daemon, farm.devices
    rows = farm.layout.row_names()[:allocations]
    task = bench.progress.add_task(f"{farm.name}: allocations", total=len(rows))
    acked_s: list[Seconds] = []
    told_s: list[Seconds] = []
    echoed_s: list[Seconds] = []
    strays = 0
    began, cpu_s = time.monotonic(), daemon.cpu_s()
    async with echo_over(daemon.broker_port, daemon.log.parent) as echo:
        for row in rows:
            await asyncio.sleep(REST_S / 2)
            echoed_s.append(await echo())
            await asyncio.sleep(REST_S / 2)
            known = len((await devices.report()).stops)
            published_ns = time.monotonic_ns()
            allocation = await daemon.operator.allocate(0.0, feeder=row)
            acked_s.append((await daemon.acked(allocation, "accepted") - published_ns) / 1e9)
            first_ns = await _first_told(farm, known)
            if first_ns < published_ns:
                strays += 1
            else:
                told_s.append((first_ns - published_ns) / 1e9)
            bench.progress.advance(task)
    used_s, ended = daemon.cpu_s() - cpu_s, time.monotonic()
    lag = Lag.of(await daemon.lag_s(began, ended), SLEEP_S)
    bench.progress.remove_task(task)
    if strays:
        bench.result.notes.append(f"{farm.name}: {strays} commands came before their allocation, and do not count")
    what = f"publish → {{}}, {farm.name} polled"
    bench.result.notes.append(
        f"{farm.name} polled: at worst {max(acked_s) * 1e3:.0f} ms to accepted, "
        f"{max(told_s) * 1e3:.0f} ms to the first command"
    )
    for name, found_s, bar_s, floor_s in (
        ("accepted", acked_s, ACK_BAR_S, echoed_s),
        ("first command", told_s, COMMAND_BAR_S, []),
    ):
        median, late = (
            Row(
                f"{what.format(name)}: {label} of {len(found_s)}",
                "s",
                _quantile(share, found_s),
                floor=_quantile(share, floor_s) if floor_s else None,
                floor_name="broker, disk" if floor_s else "",
            )
            for label, share in (("p50", 0.5), ("p99", 0.99))
        )
        bench.result.rows += [
            median,
            replace(late, bar=bar_s, cpu_s=used_s, memory_mib=daemon.peak_mib(), lag=lag),
        ]


async def _first_told(farm: Farm, known: int) -> int:
    """When (monotonic ns) the first device after the `known` ones was told."""
    deadline = time.monotonic() + FIRST_TIMEOUT_S
    while time.monotonic() < deadline:
        stops = (await farm.devices.report()).stops
        if len(stops) > known:
            return stops[known][0]
        await asyncio.sleep(0.05)
    raise CannotRun(f"no device was told anything within {FIRST_TIMEOUT_S:g} s of an allocation")


def _quantile(share: float, found_s: list[Seconds]) -> Seconds:
    return sorted(found_s)[min(len(found_s) - 1, int(share * len(found_s)))]
