"""Sets the stage: a folder, the broker, the farm, the daemon; and keeps looking at both ends while the play runs."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from curtaild.cli.look import NoDaemon, fetch_status
from curtaild.core.status import SiteStatus
from curtaild.demo import site
from curtaild.demo.children import Child, DemoFailed
from curtaild.demo.pace import Pace
from curtaild.demo.trace import Sample
from curtaild_drivers.contract import RunState, Seconds, Watts

LOOK_EVERY_S: Seconds = 0.5
READY_TIMEOUT_S: Seconds = 120.0


@dataclass(slots=True)
class Stage:
    """What is running, and what is known of it. `samples` grow with the farm's truth."""

    folder: Path
    broker_port: int
    url: str
    """Where the daemon's /status and /metrics are."""
    speed: float
    demand_w: Watts
    floor_w: Watts
    failsafe_w: Watts
    rating_w: Watts
    devices: int
    samples: list[Sample] = field(default_factory=list)
    status: SiteStatus | None = None

    @property
    def latest(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    def unproven(self) -> int:
        """Devices asleep that measure no watts and whose shed is not believed yet."""
        listed = self.status.devices if self.status is not None else ()
        return sum(
            device.state is RunState.ASLEEP and device.power_w is None and device.actuation is not None
            for device in listed
        )


@dataclass(slots=True)
class _Parts:
    """The children, and the tasks that watch them."""

    children: list[Child] = field(default_factory=list)
    watching: list[asyncio.Task[DemoFailed]] = field(default_factory=list)


@asynccontextmanager
async def open_stage(devices: int, pace: Pace, *, keep: bool) -> AsyncIterator[tuple[Stage, _Parts]]:
    """Everything but the daemon is there when the block begins. Raises `DemoFailed`, `OSError`."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="curtaild-demo-"))
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        network = 64 + secrets.randbelow(128)
        plan = site.farm_plan(devices, pace.speed, network)
        plan_file = folder / "farm.json"
        plan_file.write_text(plan.model_dump_json(indent=1))
        parts = _Parts()
        stack.push_async_callback(_stop, parts)
        for what, arguments in (("broker", ()), ("farm", (str(plan_file),))):
            parts.children.append(await Child.start(what, *arguments, folder=folder))
        broker, farm = parts.children
        broker_port = int((await broker.first_line())["port"])
        ports = await farm.first_line()
        listen = f"127.{network}.2.1:{_free_port(f'127.{network}.2.1')}"
        text = site.site_file(plan, ports, broker_port, listen, pace, folder / "curtaild.db")
        (folder / "site.toml").write_text(text)
        demand_w = site.demand_w(plan)
        stage = Stage(
            folder=folder,
            broker_port=broker_port,
            url=f"http://{listen}",
            speed=pace.speed,
            demand_w=demand_w,
            floor_w=site.floor_w(plan),
            failsafe_w=round(site.FAILSAFE_SHARE * demand_w),
            rating_w=round(site.RATING_OF_DEMAND * demand_w),
            devices=devices,
        )
        for work in (_follow_farm(farm, stage), _follow_daemon(stage)):
            stack.push_async_callback(_cancel, asyncio.create_task(work))
        yield stage, parts


async def start_daemon(stage: Stage, parts: _Parts) -> None:
    """`curtaild run`, the very same program; returns once every device is known to it. Raises `DemoFailed`."""
    daemon = await Child.start("daemon", "run", "--config", str(stage.folder / "site.toml"), folder=stage.folder)
    parts.children.append(daemon)
    for child in parts.children:
        parts.watching.append(asyncio.create_task(child.ended()))
    ready = asyncio.create_task(_know_all(stage))
    try:
        await asyncio.wait((ready, *parts.watching), timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        raise_if_ended(parts)
        if not ready.done():
            raise DemoFailed(f"the daemon did not know its {stage.devices} devices within {READY_TIMEOUT_S:g} s")
    finally:
        await _cancel(ready)


def raise_if_ended(parts: _Parts) -> None:
    for watching in parts.watching:
        if watching.done():
            raise watching.result()


async def _know_all(stage: Stage) -> None:
    """Until the daemon hears the grid, reads the meter and knows where every device is set."""
    while True:
        status = stage.status
        if (
            status is not None
            and status.phase.value == "limited"
            and status.site.meter_is_fresh
            and all(device.confirmed is not None for device in status.devices)
        ):
            return
        await asyncio.sleep(0.1)


async def _follow_farm(farm: Child, stage: Stage) -> None:
    async for line in farm.lines():
        stage.samples.append(Sample.told(line, site.ROOT))


async def _follow_daemon(stage: Stage) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(NoDaemon):  # not yet, or it has ended, which is told elsewhere
                stage.status = await fetch_status(session, stage.url)
            await asyncio.sleep(LOOK_EVERY_S)


async def _stop(parts: _Parts) -> None:
    """The daemon first: it leaves its devices as they are."""
    for watching in parts.watching:
        await _cancel(watching)
    for child in reversed(parts.children):
        await child.stop()


async def _cancel(task: asyncio.Task[DemoFailed] | asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


def _free_port(address: str) -> int:
    """A port of `address` that nobody uses; the address is this demo's own, so nobody takes it meanwhile."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
