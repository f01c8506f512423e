"""What the peers' programs share: read the order from standard input, do each step over all devices, tell its cost."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bench.machine import peak_mib

Call = Callable[[str], Awaitable[object]]
"""One call to the device at an address. A result of `False` or `None` says that it did not succeed."""


async def obey(steps: Mapping[str, Call]) -> None:
    """Do what standard input orders, and end the process at once: a peer may crash while it is taken apart."""
    order: dict[str, Any] = json.loads(sys.stdin.read())
    for step in order["steps"]:
        print(json.dumps({"step": step, **await _over_all(steps[step], order["addresses"], order["at_once"])}))
        sys.stdout.flush()
    os._exit(0)


async def _over_all(call: Call, addresses: list[str], at_once: int) -> dict[str, float]:
    allowed = asyncio.Semaphore(at_once or len(addresses))

    async def one(address: str) -> object:
        async with allowed:
            return await call(address)

    cpu_s, began_ns = _cpu_s(), time.monotonic_ns()
    results = await asyncio.gather(*map(one, addresses), return_exceptions=True)
    ended_ns = time.monotonic_ns()
    failed = [result for result in results if result is None or result is False or isinstance(result, BaseException)]
    for result in failed[:3]:
        print(f"failed: {result!r}", file=sys.stderr)
    return {
        "began_ns": began_ns,
        "seconds": (ended_ns - began_ns) / 1e9,
        "cpu_s": _cpu_s() - cpu_s,
        "done": len(results) - len(failed),
        "failed": len(failed),
        "peak_mib": peak_mib("self"),
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
