"""Tells systemd how the daemon is doing (sd_notify(3)), over the datagram socket that it names in the environment.

Where there is no systemd, every call does nothing. No call ever raises or waits: a service manager that does not
listen must not cost a cycle.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from curtaild_drivers.contract import Seconds


class Notifier:
    """The line to the service manager. `watchdog_interval_s` is within how long the next `watchdog` is due, `None`
    where nobody waits for one; call at half of it or sooner."""

    def __init__(self, address: str | bytes | None, watchdog_interval_s: Seconds | None = None) -> None:
        self.watchdog_interval_s = watchdog_interval_s
        self._address = address
        self._socket: socket.socket | None = None
        if address is not None:
            with suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Notifier:
        """From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. They are left for others in this process to read;
        children are spawned with an environment of their own."""
        variables = os.environ if environment is None else environment
        return cls(_address(variables.get("NOTIFY_SOCKET", "")), _watchdog_interval_s(variables))

    @property
    def is_connected(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is finished."""
        self._send("READY=1", status)

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow, whether or not it was taken."""
        # systemd 253 pairs this with its reload request by the monotonic time; older ones ignore the second line.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("", text)

    def watchdog(self) -> None:
        """The daemon is alive: call it only from where the work has just succeeded."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> None:
        """The daemon has begun to stop."""
        self._send("STOPPING=1", status)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str, status: str = "") -> None:
        if self._socket is None or self._address is None:
            return
        if status:
            line = " ".join(status.split())  # a newline in it would start another assignment
            message = f"{message}\nSTATUS={line}".lstrip()
        with suppress(OSError):
            self._socket.sendto(message.encode(errors="replace"), self._address)


def _address(name: str) -> str | bytes | None:
    """A path, or an abstract address, which systemd writes with "@" in the place of the NUL byte that it starts with.
    Other kinds (vsock, for virtual machines) are not for services."""
    if name.startswith("/"):
        return name
    if name.startswith("@") and len(name) > 1:
        return b"\0" + os.fsencode(name[1:])
    return None


def _watchdog_interval_s(variables: Mapping[str, str]) -> Seconds | None:
    try:
        interval_us = int(variables["WATCHDOG_USEC"])
        meant_for = int(variables.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return interval_us / 1e6 if interval_us > 0 and meant_for == os.getpid() else None
