"""Polling for a long time: does memory stay flat, does any descriptor leak, does the event loop keep its word?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bench import machine
from bench.farm import Bench, devices_of, farm_of, percent_of_a_core
from bench.lags import SLEEP_S
from bench.site import Layout
from bench.table import Lag, Row
from curtaild_drivers.contract import Seconds

SLICES = 12
SAMPLES_A_SLICE = 20
GROWTH_BAR = 0.02
"""From the second slice to the last: the first is still warming up."""
LAG_BAR_S = 0.02
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sample:
    at: Seconds
    cpu_s: Seconds
    resident_mib: float
    descriptors: int


async def soak_rows(bench: Bench, layout: Layout, for_s: Seconds) -> None:
    """`layout`'s devices polled for `for_s`, told in twelve slices of that time."""
    async with devices_of(bench, layout.devices) as devices, farm_of(bench, layout, devices) as farm:
        task = bench.progress.add_task(f"{farm.name}: polled for {for_s:,.0f} s", total=for_s)
        samples = [_sample(farm.daemon.pid)]
        began = samples[0].at
        while (passed_s := time.monotonic() - began) < for_s:
            await asyncio.sleep(min(for_s / (SLICES * SAMPLES_A_SLICE), for_s - passed_s))
            samples.append(_sample(farm.daemon.pid))
            bench.progress.update(task, completed=samples[-1].at - began)
        bench.progress.remove_task(task)
        edges = [began + number * for_s / SLICES for number in range(SLICES + 1)]
        lags = [await farm.daemon.lag_s(begin, end) for begin, end in pairwise(edges)]
        peak_mib = farm.daemon.peak_mib()
    slices = [[one for one in samples if begin <= one.at <= end] for begin, end in pairwise(edges)]
    what = f"polling {layout.devices:,} devices for {for_s / 60:,.0f} min"
    used_s = samples[-1].cpu_s - samples[0].cpu_s
    whole = Lag.of([lag for part in lags for lag in part], SLEEP_S)
    mib = [median(one.resident_mib for one in part) for part in slices]
    descriptors = [
        min(one.descriptors for one in part) for part in slices
    ]  # a leak raises the least; a poll only the most
    bench.result.rows += [
        Row(f"{what}: memory's growth", "%", 100 * _growth(mib), bar=100 * GROWTH_BAR, memory_mib=peak_mib),
        Row(f"{what}: descriptors' growth", "%", 100 * _growth(descriptors), bar=100 * GROWTH_BAR),
        Row(
            f"{what}: loop lag, p99",
            "s",
            whole.p99_s if whole is not None else None,
            bar=LAG_BAR_S,
            cpu_s=used_s,
            lag=whole,
        ),
    ]
    bench.result.notes += [
        f"{what}: {percent_of_a_core(used_s, for_s):.0f} % of a core; resident {_bars(mib)} {mib[0]:.1f} → "
        f"{mib[-1]:.1f} MiB; descriptors {_bars(descriptors)} {descriptors[0]:.0f} → {descriptors[-1]:.0f}, at most "
        f"{max(one.descriptors for one in samples)}",
        *(
            f"  until {edge - began:6,.0f} s: {part_mib:6.1f} MiB, {part_descriptors:5.0f} descriptors at least, "
            f"loop lag {Lag.of(part, SLEEP_S) or '–'} ms"
            for edge, part_mib, part_descriptors, part in zip(edges[1:], mib, descriptors, lags, strict=True)
        ),
    ]


def _sample(pid: int) -> Sample:
    return Sample(time.monotonic(), machine.cpu_s(pid), machine.resident_mib(pid), machine.descriptors(pid))


def _growth(slices: Sequence[float]) -> float:
    """How much more in the last slice than in the second; less is none."""
    return max(0.0, slices[-1] / slices[1] - 1.0)


def _bars(slices: Sequence[float]) -> str:
    """From zero to the most, so that a flat line looks flat."""
    return "".join(_BARS[round((len(_BARS) - 1) * value / max(slices))] for value in slices)
