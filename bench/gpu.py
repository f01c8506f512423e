"""One reading of a node of eight GPUs whose driver takes 20 ms for each call: how long, and how long the event loop was
held up by it. NVIDIA's own bindings, over the tests' stub of its library (tests/nvml_stub), in this process.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from bench.machine import peak_mib
from bench.site import CannotRun
from bench.table import Lag, Row
from curtaild_drivers.contract import Seconds
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.nvml import NvmlHost
from curtaild_drivers.gpu.nvml_card import AVERAGE, ENERGY, ENFORCED, INSTANT, REQUESTED
from curtaild_drivers.gpu.settings import NvmlSettings

GPUS = 8
CALL_S = 0.02
RHYTHM_S = 0.1
"""Between two readings: ten times as often as a device in motion is read."""
READ_BAR_S, STALL_BAR_S = 0.030, 0.002
SLEEP_S = 0.001
_TESTS = Path(__file__).parents[1] / "tests"


async def gpu_rows(readings: int, folder: Path, progress: Progress) -> list[Row]:
    """Raises `CannotRun` where the stub cannot be built."""
    gpus = _stub(folder)
    task = progress.add_task("GPU readings", total=readings)
    with gpus.here():
        gpus.latency_s = CALL_S
        in_turn_s = _in_turn()
        node = GpuNode("localhost", NvmlSettings(state_file=folder / "gpu-state.json"), NvmlHost())
        try:
            await node.read()
            idle = await _lags(asyncio.sleep(0.1 * readings))
            took_s: list[Seconds] = []
            cpu_s = time.process_time()
            lags = await _lags(_read(node, readings, took_s, lambda: progress.advance(task)))
            cpu_s = time.process_time() - cpu_s
            own_s = [await _own_s(node) for _ in range(readings)]
        finally:
            await node.close()
    progress.remove_task(task)
    took_s.sort()
    what = f"reading a node of {GPUS} GPUs, {CALL_S * 1e3:g} ms a call"
    return [
        Row(f"{what}: p50 of {readings}", "s", statistics.median(took_s), floor=CALL_S, floor_name="one call"),
        Row(
            f"{what}: p99",
            "s",
            took_s[min(readings - 1, int(0.99 * readings))],
            bar=READ_BAR_S,
            peer=in_turn_s,
            peer_name="nvidia-ml-py, in turn",
            floor=CALL_S,
            floor_name="one call",
            cpu_s=cpu_s,
            memory_mib=peak_mib("self"),
            lag=Lag.of(lags, SLEEP_S),
        ),
        Row(
            f"{what}: the loop's stall, p99",
            "s",
            _p99(lags),
            bar=STALL_BAR_S,
            floor=_p99(idle),
            floor_name="no readings",
        ),
        Row(f"{what}: the loop's own work, p50", "s", statistics.median(own_s)),
    ]


async def _read(node: GpuNode, readings: int, took_s: list[Seconds], advance: Callable[[], None]) -> None:
    for _ in range(readings):
        began = time.perf_counter()
        reading = await node.read()
        took_s.append(time.perf_counter() - began)
        if reading.fault is not None:
            raise CannotRun(f"the emulated node is not well: {reading.fault}")
        advance()
        await asyncio.sleep(max(0.0, RHYTHM_S - took_s[-1]))


async def _own_s(node: GpuNode) -> Seconds:
    """CPU time of the loop's thread for a whole reading, nothing beside it: no other program's work is in it."""
    began = time.thread_time()
    await node.read()
    return time.thread_time() - began


async def _lags(work: Any) -> list[Seconds]:
    """How late a sleeper of a millisecond was woken while `work` went on."""
    task, lags = asyncio.ensure_future(work), list[Seconds]()
    while not task.done():
        began = time.perf_counter()
        await asyncio.sleep(SLEEP_S)
        lags.append(max(0.0, time.perf_counter() - began - SLEEP_S))
    await task
    return lags


def _p99(lags: list[Seconds]) -> Seconds:
    lag = Lag.of(lags, SLEEP_S)
    assert lag is not None, "the sleeper has slept at least once"
    return lag.p99_s


def _in_turn() -> Seconds:
    """The very calls of one reading, one GPU after the other, by the bindings alone."""
    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(GPUS)]
    fields = [(field, 0) for field in (AVERAGE, INSTANT, ENERGY, ENFORCED, REQUESTED)]
    took_s = []
    for _ in range(3):
        began = time.perf_counter()
        for handle in handles:
            pynvml.nvmlDeviceGetFieldValues(handle, fields)
        took_s.append(time.perf_counter() - began)
    pynvml.nvmlShutdown()
    return statistics.median(took_s)


def _stub(folder: Path) -> Any:
    """Eight emulated H100. Raises `CannotRun`."""
    if str(_TESTS) not in sys.path:
        sys.path.append(str(_TESTS))
    library, gpus = (importlib.import_module(f"nvml_stub.{name}") for name in ("library", "gpus"))
    try:
        return gpus.StubGpus(folder / "gpus", (gpus.H100,) * GPUS)
    except (library.NoCompiler, RuntimeError) as error:
        raise CannotRun(str(error)) from None
