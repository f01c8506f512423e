"""A network of the benches' own: emulated devices live on 127.x.y.z at the ports that miners use, and must meet nobody
else's. The whole run moves into a fresh network namespace, which needs no root where user namespaces are allowed."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

_MARK = "CURTAILD_BENCH_NETWORK"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def is_own() -> bool:
    """Whether this process runs in a network of its own."""
    return os.environ.get(_MARK) == "own"


def why_not() -> str | None:
    """Why no network of our own can be had, `None` where it can."""
    unshare = _unshare()
    if unshare is None:
        return "unshare (util-linux) is not installed"
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no network namespace: {tried.stderr.strip()}"


def move_in(arguments: Sequence[str]) -> None:
    """Become `python -m bench arguments` in a network of its own; does not return."""
    unshare = _unshare()
    assert unshare is not None, "ask why_not first"
    command = [*unshare, sys.executable, "-m", "bench", *arguments]
    os.execvpe(command[0], command, {**os.environ, _MARK: "own"})


def raise_loopback() -> None:
    """A fresh namespace has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0)))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _unshare() -> list[str] | None:
    path = shutil.which("unshare")
    if path is None:
        return None
    return [path, "--net"] if os.geteuid() == 0 else [path, "--user", "--map-root-user", "--net"]
