"""A real mosquitto on a free loopback port, to stop, freeze and restart at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

IN_TIME_S = 60.0
BINARY = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """One broker of our own. Its port stays the same over `stop`, `start` and `restart`; retained messages stay over
    `restart` as well. `config` holds further lines of mosquitto.conf; without any, everybody may do everything."""

    def __init__(
        self, folder: Path, config: Sequence[str] = ("allow_anonymous true",), port: int | None = None
    ) -> None:
        self.folder = folder
        self.port = _free_port() if port is None else port
        self.config = tuple(config)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> None:
        """Start, and return once the broker says that it runs: it listens before it has read its certificates."""
        if BINARY is None:
            raise FileNotFoundError("mosquitto is not installed")
        lines = [
            f"listener {self.port} 127.0.0.1",
            "set_tcp_nodelay true",
            "persistence true",
            f"persistence_location {self.folder}/",
            *(["user root"] if os.geteuid() == 0 else []),  # else it drops root and cannot read the folder
            *self.config,
            *(["log_type information"] if any(line.startswith("log_type") for line in self.config) else []),
        ]
        path = self.folder / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as sink:
            said_before = sink.tell()
            self._process = subprocess.Popen([BINARY, "-c", str(path)], stdout=sink, stderr=sink)
        until = time.monotonic() + IN_TIME_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended with {self._process.returncode}:\n{self.log}")
            if b" running\n" in (self.folder / "mosquitto.log").read_bytes()[said_before:]:
                return
            time.sleep(0.01)  # there is no event to wait for: a line in a file is all that mosquitto says
        raise TimeoutError(f"mosquitto does not run on {self.port}:\n{self.log}")

    def stop(self) -> None:
        """End the broker; harmless if it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(IN_TIME_S)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """The broker stops in its tracks: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("mosquitto is not running")
        self._process.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
