"""The responder as a process of its own: started on a book, asked what it has seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.book import PORTS
from bench.machine import tail
from curtaild_drivers.contract import Seconds, Watts


@dataclass(frozen=True, slots=True)
class Report:
    """What the devices have seen. `stops` are the moments (CLOCK_MONOTONIC, ns) at which each stopped device was told,
    and at which it had answered (0: not yet), by the first; `well` those of the devices that stay well when others
    ail."""

    cpu_s: Seconds
    requests: int
    unknown: int
    dropped: int
    stops: list[tuple[int, int]]
    well: list[tuple[int, int]]


class Responder:
    """Use `responder_on(program, book)`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def stopped(self) -> int:
        """How many devices have been told to stop, and have answered."""
        return int((await self._ask("stopped")).split()[1])

    async def well(self) -> tuple[int, int]:
        """Of those that stay well when others ail: how many have been told to stop and have answered, and all."""
        stopped, _, count = (await self._ask("stopped")).split()
        return int(stopped), int(count)

    async def drawn_w(self) -> Watts:
        """What all draw in truth."""
        return float(await self._ask("watts"))

    async def report(self) -> Report:
        told = json.loads(await self._ask("report"))
        stops = sorted((told_ns, answered_ns, is_well) for told_ns, answered_ns, is_well in told["stops"])
        told["stops"] = [(told_ns, answered_ns) for told_ns, answered_ns, _ in stops]
        told["well"] = [(told_ns, answered_ns) for told_ns, answered_ns, is_well in stops if is_well]
        return Report(**told)

    async def reset(self) -> None:
        """All devices awake and well, none ever told anything."""
        await self._do("reset")

    async def ail(self) -> None:
        """From now on 5 % hang, 5 % reset every connection, and 5 % are silent: not even a connection opens."""
        await self._do("ail")

    async def _do(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        await self.stopped()

    async def _ask(self, what: str) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n".encode())
        return await self._process.stdout.readline()


@asynccontextmanager
async def responder_on(program: Path, book: Path, log: Path) -> AsyncIterator[Responder]:
    """Answers at the miners' own ports while the block runs. Raises `RuntimeError` if it does not start."""
    wires = [f"{port}:{wire}" for wire, port in PORTS.items()]
    with log.open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *(str(program), str(book), *wires),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            limit=64 * 1024 * 1024,
        )
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError(f"the responder did not start: {tail(log)}")
    try:
        yield Responder(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class FloorCost:
    """What the sockets alone cost: `cpu_s` for all devices, the last of them answered after `last_s`."""

    answered: int
    failed: int
    first_s: Seconds
    last_s: Seconds
    cpu_s: Seconds


async def floor_over(program: Path, plan: str, at_once: int) -> FloorCost:
    """One question to every device of the plan by the C floor."""
    process = await asyncio.create_subprocess_exec(
        *(str(program), str(at_once)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(plan.encode())
    return FloorCost(**json.loads(out))
