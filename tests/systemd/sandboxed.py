"""Stands in for the daemon to try the unit's sandbox from within: exits with a sentence if something is not as it
should be, else reports ready and follows signals as the daemon does."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from curtaild.ledger import Record
from curtaild.sd_notify import Notifier
from curtaild.store import Store


def must_fail(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except OSError:
        return
    sys.exit(f"the sandbox lets it {what}")


def try_the_walls() -> None:
    must_fail("write to /etc", lambda: Path("/etc/curtaild/here").write_text(""))
    must_fail("write to /opt", lambda: Path("/opt/curtaild/here").write_text(""))
    must_fail("look into homes", lambda: list(Path("/root").iterdir()))
    must_fail("read another's secrets", lambda: Path("/etc/shadow").read_text())
    must_fail("open a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    must_fail("open a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    must_fail("become root", lambda: os.setuid(0))
    must_fail("raise its priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
    must_fail("see disks", lambda: os.stat("/dev/loop-control"))


def try_the_libraries() -> None:
    """The ones that might want memory that is both writable and executable."""
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)
    if callback(1) != 2:
        sys.exit("ctypes does not work")
    Cipher(algorithms.AES(b"k" * 32), modes.ECB()).encryptor().update(b"x" * 16)  # as the Whatsminer v2 token does


def try_the_credential() -> None:
    if Path(os.environ["CREDENTIALS_DIRECTORY"], "mqtt-password").read_text() != "correct horse":
        sys.exit("the credential is not there")


async def serve() -> None:
    notifier = Notifier.from_environment()
    if not notifier.is_connected or notifier.watchdog_interval_s is None:
        sys.exit("systemd did not say where to notify, or how often")
    store = Store.open(Path(os.environ["STATE_DIRECTORY"], "curtaild.db"))
    starts = int(store.documents().get("starts", "0")) + 1
    await store.commit([Record(0.0, "start", {"number": starts})], {"starts": str(starts)})

    loop = asyncio.get_running_loop()
    reload, stop = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    notifier.ready(f"start {starts}")
    waiting = asyncio.create_task(stop.wait())
    while not stop.is_set():
        await asyncio.wait({waiting}, timeout=notifier.watchdog_interval_s / 4)
        notifier.watchdog()
        if reload.is_set():
            reload.clear()
            notifier.reloading()
            notifier.ready(f"start {starts}, read again")
    notifier.stopping()
    await store.close()


if __name__ == "__main__":
    try_the_walls()
    try_the_libraries()
    try_the_credential()
    uvloop.run(serve())
