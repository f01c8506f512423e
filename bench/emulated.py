"""The same shed end to end on the emulated farm with its physics: smaller, for it is Python and shares the cores, but
with no recorded reply in it. The plant's own truth says who has obeyed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench import machine
from bench.book import KINDS, METER, addresses
from bench.farm import ANSWER_S, Bench
from bench.site import CannotRun, Layout, daemon_on
from bench.table import Row

CONTROL_PORT = 8770
TIMEOUT_S = 60.0


async def emulated_row(bench: Bench, count: int) -> None:
    """From the publish of 0 W to the last device that its plant calls stopped."""
    layout = Layout(count, poll_s=5.0, meter='{ preset = "eastron-sdm630" }')
    folder = bench.fresh_folder(f"emulated-{count}")
    task = bench.progress.add_task(f"{count:,} devices with their physics", total=count)
    async with (
        emulator_on(folder, count) as pid,
        daemon_on(layout, folder, on_known=lambda known: bench.progress.update(task, completed=known)) as daemon,
        aiohttp.ClientSession() as session,
    ):
        cpu_s, emulator_cpu_s, began = daemon.cpu_s(), machine.cpu_s(pid), time.monotonic()
        await daemon.operator.allocate(0.0)
        while (left := await _not_stopped(session)) and time.monotonic() < began + TIMEOUT_S:
            bench.progress.update(task, completed=count - left)
        last_s = time.monotonic() - began
        used_s, emulator_s = daemon.cpu_s() - cpu_s, machine.cpu_s(pid) - emulator_cpu_s
        memory_mib = daemon.peak_mib()
    bench.progress.remove_task(task)
    if left:
        bench.result.notes.append(f"emulated farm: {left:,} of {count:,} devices did not stop within {TIMEOUT_S:g} s")
    what = f"all of {count:,} devices have obeyed, by the emulated plant's truth"
    bench.result.rows.append(Row(what, "s", last_s if not left else None, cpu_s=used_s, memory_mib=memory_mib))
    bench.result.notes.append(
        f"emulated farm: the emulator took {emulator_s:.2f} s of CPU beside the daemon's {used_s:.2f} s"
    )


async def _not_stopped(session: aiohttp.ClientSession) -> int:
    async with session.get(f"http://127.0.0.1:{CONTROL_PORT}/devices") as answer:
        devices = await answer.json()
    return sum(device["set_to"] != "off" for device in devices)


@asynccontextmanager
async def emulator_on(folder: Path, count: int) -> AsyncIterator[int]:
    """`count` emulated devices d0, d1 … and their meter while the block runs; its process. Raises `CannotRun`."""
    plan = folder / "farm.toml"
    host, _, port = METER.partition(":")
    lines = [f"latency_s = {ANSWER_S}", f"[ports]\nmodbus = {port}\ncontrol = {CONTROL_PORT}"]
    lines.append(f'[[feeders]]\nid = "site"\naddress = "{host}"\nlayout = "sdm630"')
    for number, (kind, where) in enumerate(addresses(count)):
        lines.append(
            f'[[devices]]\nid = "d{number}"\nmodel = "{KINDS[kind].model}"\nfeeder = "site"\naddress = "{where}"'
        )
    plan.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log = folder / "emulator.log"
    with log.open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from curtaild.cli import main; main()", "emulate", str(plan)),
            stdout=said,
            stderr=said,
        )
    try:
        for _ in range(300):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", CONTROL_PORT)
            except OSError:
                await asyncio.sleep(0.1)
                if process.returncode is not None:
                    break
            else:
                writer.close()
                yield process.pid
                return
        raise CannotRun(f"the emulator did not start:\n{machine.tail(log)}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
