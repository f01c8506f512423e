"""The peers, each in a process of its own (one may abort at its exit): what they were asked and what it cost."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from curtaild_drivers.contract import Seconds


@dataclass(frozen=True, slots=True)
class Cost:
    """One step of a peer over all its devices. `began_ns` is CLOCK_MONOTONIC; `failed` are calls that raised or said
    that they did not succeed."""

    began_ns: int
    seconds: Seconds
    cpu_s: Seconds
    done: int
    failed: int
    peak_mib: float


class PeerFailed(RuntimeError):
    """A peer ended without its result; the text is the end of what it said."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program `bench.<module>` that needs the distribution `needs` (an import name)."""

    name: str
    module: str
    needs: str
    steps: tuple[str, ...]

    @property
    def why_not(self) -> str | None:
        """Why it cannot be run, `None` where it can."""
        is_there = importlib.util.find_spec(self.needs) is not None
        return None if is_there else f"{self.name} is not installed (dependency group bench)"

    async def rehearse(self, addresses: Sequence[str]) -> None:
        """All of its steps once, so that a recorder hears every question. What it cannot do, it cannot."""
        await self.run(addresses, self.steps, at_once=0)

    async def run(
        self, addresses: Sequence[str], steps: Iterable[str], *, at_once: int, deadline_s: Seconds = 600.0
    ) -> dict[str, Cost]:
        """The steps one after another over all addresses, `at_once` of them under way (0: all). Raises `PeerFailed`."""
        order = json.dumps({"addresses": list(addresses), "steps": list(steps), "at_once": at_once})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", f"bench.{self.module}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # pyasic joins commands in the order of a set
        )
        try:
            async with asyncio.timeout(deadline_s):
                out, said = await process.communicate(order.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise PeerFailed(f"{self.name} did not end within {deadline_s:g} s") from None
        costs = _costs(out)
        if not costs:
            raise PeerFailed(f"{self.name} ended with {process.returncode}: {said.decode(errors='replace')[-400:]}")
        return costs


def _costs(out: bytes) -> dict[str, Cost]:
    found: dict[str, Cost] = {}
    for line in out.decode(errors="replace").splitlines():
        if line.startswith('{"step"'):
            told: dict[str, Any] = json.loads(line)
            step = told.pop("step")
            found[step] = Cost(**told)
    return found


PYASIC = Peer("pyasic", "peer_pyasic", "pyasic", ("identify", "read", "data", "stop"))
PYASIC_RS = Peer("pyasic-rs", "peer_pyasic_rs", "pyasic_rs", ("identify", "read", "data", "stop"))
