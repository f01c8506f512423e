"""The cheap first look at an address: does any of a few ports take a TCP connection? Nothing is sent.

Bounded by its caller: one call holds one socket per port for `timeout_s` at most.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Sequence
from enum import Enum

from curtaild_drivers.contract import Seconds

SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EINVAL}
)
"""What this host lacks, not the other: sockets, ports, room in the table of neighbours (a whole /16 on one wire is
more than the kernel keeps). It is asked again, and never taken for silence."""
_SHORTAGE_PAUSE_S = 0.25
_MOST_TRIES = 40


class Touch(Enum):
    """What an address did, the most telling port counting."""

    OPEN = "open"
    REFUSED = "refused"  # somebody is there, and none of these ports is open
    SILENT = "silent"
    NO_ROUTE = "no route"  # this host knows no way there, or its own firewall forbids it
    NOT_ASKED = "not asked"  # this host was short of sockets or neighbours all the time


_RANK = {Touch.OPEN: 0, Touch.REFUSED: 1, Touch.NOT_ASKED: 2, Touch.NO_ROUTE: 3, Touch.SILENT: 4}


async def touch(address: str, ports: Sequence[int], timeout_s: Seconds) -> Touch:
    """Tries all `ports` side by side; the first that opens ends it. Raises nothing."""
    tries = {asyncio.ensure_future(_try(address, port, timeout_s)) for port in ports}
    seen: list[Touch] = []
    try:
        while tries:
            done, tries = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
            seen += [task.result() for task in done]
            if Touch.OPEN in seen:
                break
    finally:
        for task in tries:
            task.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    return min(seen, key=_RANK.__getitem__)


async def _try(address: str, port: int, timeout_s: Seconds) -> Touch:
    for _ in range(_MOST_TRIES):
        try:
            async with asyncio.timeout(timeout_s):
                await _connect(address, port)
        except TimeoutError:
            return Touch.SILENT
        except ConnectionError:  # refused, or accepted and reset at once
            return Touch.REFUSED
        except OSError as error:
            if error.errno in SHORTAGES:
                await asyncio.sleep(_SHORTAGE_PAUSE_S)
                continue
            unreachable = (errno.ENETUNREACH, errno.EACCES, errno.EPERM)
            return Touch.NO_ROUTE if error.errno in unreachable else Touch.SILENT
        else:
            return Touch.OPEN
    return Touch.NOT_ASKED


async def _connect(address: str, port: int) -> None:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, (address, port))
