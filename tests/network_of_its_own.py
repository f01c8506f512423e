"""A network namespace for the process that asks: its own loopback, nothing else, every port free. Linux, as root."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from functools import cache

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


@cache
def can_have_one() -> bool:
    """Tried in a child, which keeps it."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    child = os.fork()
    if child == 0:
        try:
            enter_one()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def enter_one() -> None:
    """This thread, and all it starts from now on. Raises `OSError` where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", answer, 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
