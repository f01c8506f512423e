"""A site for the benches: its file, a real mosquitto, the real daemon as its own process, and the grid operator."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench import machine
from bench.book import KINDS, METER, address, shares
from bench.lags import FLUSH_EVERY_S, lags_between
from curtaild.grid.native import Topics
from curtaild.grid.operator import Answer, Operator, operator_access
from curtaild_drivers.contract import Seconds, Watts

NAME = "bench"
HEARTBEAT_S = 5.0
READY_TIMEOUT_S = 500.0


class CannotRun(RuntimeError):
    """What a bench needs is missing or did not come up; the text says what and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`devices` of mixed kinds read every `poll_s`, in rows of about `row_devices` under one metered site."""

    devices: int
    poll_s: Seconds
    row_devices: int = 100
    meter: str = '{ power = { address = 0, function = "holding", type = "float32", unit = "W" } }'
    """Settings of the site's meter; the responder says watts in whatever register it is asked for."""

    @property
    def rows(self) -> int:
        return max(1, self.devices // self.row_devices)

    def rating_w(self) -> Watts:
        return 8_000.0 * self.devices

    def site_file(self, broker_port: int, listen: str, ledger: Path) -> str:
        """TOML. The devices' firmware is written down, so that nothing is probed; nothing is limited by itself."""
        lines = [
            f'[site]\nname = "{NAME}"',
            f'[grid]\nbrokers = ["mqtt://127.0.0.1:{broker_port}"]',
            f"failsafe_limit_w = {self.rating_w()}\nfailsafe_hold_s = 0",
            f'[telemetry]\nlisten = "{listen}"',
            f'[ledger]\npath = "{ledger}"',
            f'[[feeder]]\nid = "site"\nrating_w = {self.rating_w()}',
            f'meter = {{ address = "{METER}", poll_s = 1, stale_after_s = 5, settings = {self.meter} }}',
        ]
        lines += [
            f'[[feeder]]\nid = "{row}"\nparent = "site"\nrating_w = {self.rating_w()}' for row in self.row_names()
        ]
        for kind, (row, first, last) in self._groups():
            lines += [
                f'[[devices]]\nname = "{row}-{KINDS[kind].firmware}"\ndriver = "asic"\nfeeder = "{row}"',
                f'addresses = ["{address(kind, first)}-{address(kind, last)}"]',
                f"poll_s = {self.poll_s}\nstale_after_s = {max(60.0, 6 * self.poll_s)}\nmin_off_s = 0",
                f'settings = {{ firmware = "{KINDS[kind].firmware}" }}',
            ]
        return "\n".join(lines) + "\n"

    def row_names(self) -> list[str]:
        return [f"row-{row:03d}" for row in range(self.rows)]

    def _groups(self) -> Iterator[tuple[int, tuple[str, int, int]]]:
        """Each row's share of each kind: first and last number."""
        for kind, many in enumerate(shares(self.devices)):
            for row, name in enumerate(self.row_names()):
                first, last = row * many // self.rows + 1, (row + 1) * many // self.rows
                if first <= last:
                    yield kind, (name, first, last)


@dataclass(slots=True)
class Daemon:
    """The process under test. `answers` are the site's acks with the moment (monotonic ns) each was heard."""

    pid: int
    url: str
    lags: Path
    log: Path
    operator: Operator
    broker_port: int
    answers: list[tuple[int, Answer]] = field(default_factory=list)

    def cpu_s(self) -> Seconds:
        return machine.cpu_s(self.pid)

    def waited_s(self) -> Seconds:
        return machine.waited_s(self.pid)

    def peak_mib(self) -> float:
        return machine.peak_mib(self.pid)

    async def lag_s(self, begin: Seconds, end: Seconds) -> list[Seconds]:
        """How late its sleeper woke between two monotonic moments. Waits until the file has them."""
        await asyncio.sleep(max(0.0, end + 2 * FLUSH_EVERY_S - time.monotonic()))
        return lags_between(self.lags, begin, end)

    async def acked(self, allocation_id: str, stage: str, within_s: Seconds = 30.0) -> int:
        """When (monotonic ns) this ack was heard. Raises `CannotRun` if it is not."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for heard_ns, answer in self.answers:
                if answer["id"] == allocation_id and answer["stage"] == stage:
                    return heard_ns
            await asyncio.sleep(0.02)
        raise CannotRun(f"no ack {stage!r} within {within_s:g} s:\n{machine.tail(self.log)}")


@asynccontextmanager
async def daemon_on(
    layout: Layout, folder: Path, *, profile: Path | None = None, on_known: Callable[[int], None] = lambda known: None
) -> AsyncIterator[Daemon]:
    """The daemon at work: it hears the grid, and has read every device. The devices must be answering already;
    `on_known` hears how many of them it knows. Raises `CannotRun`."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(_mosquitto(folder))
        listen = f"127.0.0.1:{_free_port()}"
        site_file, lags, log = folder / "site.toml", folder / "lags", folder / "daemon.log"
        site_file.write_text(layout.site_file(port, listen, folder / "curtaild.db"), encoding="utf-8")
        command = ["-m", "bench.watched", str(lags), str(profile or "-"), "run", "--config", str(site_file)]
        process = await _child(stack, [sys.executable, *command], log)
        operator = await stack.enter_async_context(
            Operator(operator_access("127.0.0.1", port), Topics("curtaild/v1", NAME), "npcc")
        )
        await stack.enter_async_context(operator.heartbeats(HEARTBEAT_S))
        daemon = Daemon(process.pid, f"http://{listen}", lags, log, operator, port)
        listening = asyncio.create_task(_listen(daemon))
        stack.callback(listening.cancel)
        await operator.release()
        await _until_known(daemon, process, layout, on_known)
        yield daemon


async def _until_known(
    daemon: Daemon, process: asyncio.subprocess.Process, layout: Layout, on_known: Callable[[int], None]
) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise CannotRun(f"the daemon has ended:\n{machine.tail(daemon.log)}")
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{daemon.url}/status") as answer:
                    status = json.loads(await answer.read()) if answer.status == 200 else {"devices": []}
                known = sum(device["confirmed"] is not None for device in status["devices"])
                on_known(known)
                if known == layout.devices and status["phase"] in ("limited", "unlimited") and _is_metered(status):
                    return
            await asyncio.sleep(max(0.25, layout.devices / 5_000))  # a large fleet's status costs the daemon CPU
    raise CannotRun(f"the daemon does not know its devices after {READY_TIMEOUT_S:g} s:\n{machine.tail(daemon.log)}")


def _is_metered(status: dict[str, Any]) -> bool:
    return any(feeder["id"] == "site" and feeder["meter_is_fresh"] for feeder in status["feeders"])


async def _listen(daemon: Daemon) -> None:
    async for answer in daemon.operator.acks():
        daemon.answers.append((time.monotonic_ns(), answer))


@asynccontextmanager
async def _mosquitto(folder: Path) -> AsyncIterator[int]:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise CannotRun("mosquitto is not installed (apt install mosquitto)")
    port = _free_port()
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true", "persistence false"]
    if os.geteuid() == 0:
        lines.append("user root")
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    async with AsyncExitStack() as stack:
        process = await _child(stack, [program, "-c", str(folder / "mosquitto.conf")], folder / "mosquitto.log")
        while not _answers(port):
            if process.returncode is not None:
                raise CannotRun(f"mosquitto has ended:\n{machine.tail(folder / 'mosquitto.log')}")
            await asyncio.sleep(0.02)
        yield port


async def _child(stack: AsyncExitStack, command: list[str], log: Path) -> asyncio.subprocess.Process:
    """A process that is ended, first kindly, when the stack closes."""
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink
        )

    async def end() -> None:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(20.0):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    stack.push_async_callback(end)
    return process


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
