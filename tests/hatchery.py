"""Daemons for the price of one start: a process that has imported curtaild forks one for each site file it is told of.

Each is a process of its own, with its own site file, log and end; only the imports are shared, which on a slow machine
take longer than most of what a test wants to see. This file run is that process, `hatchery()` the test's end of it. A
request is a line of JSON: `{"site", "log", "env"}` is answered by the new daemon's process id, `{"ended"}` with such an
id by its exit code once it has ended. Linux.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from curtaild_drivers import registry

IMPORTED = ("curtaild.app", "curtaild.cli", "curtaild.cli.run", "curtaild_drivers.gpu.nvml_card")
PR_SET_PDEATHSIG = 1


class Hatchery:
    """Starts daemons, and keeps the exit code of each until it is asked for.

    `library_path`: where they look first for shared libraries. The linker reads it as a process begins, so it cannot
    be told to a daemon that is forked.
    """

    def __init__(self, library_path: str | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if library_path is None else {**os.environ, "LD_LIBRARY_PATH": library_path},
        )
        self._asking = threading.Lock()
        atexit.register(self._end)

    def start(self, site_file: Path, log_file: Path, environment: Mapping[str, str]) -> int:
        """A daemon of this site file, whose log is appended to `log_file`; its process id. `environment` is on top of
        the test's own. The first waits for what is imported."""
        return self._ask(site=str(site_file), log=str(log_file), env={**os.environ, **environment})

    def code_of(self, pid: int) -> int:
        """The exit code of a daemon, less than 0 where a signal ended it. Waits for its end; to be asked once."""
        return self._ask(ended=pid)

    def _ask(self, **words: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


@cache
def hatchery(library_path: str | None = None) -> Hatchery:
    """The one of this test process for that path. What it starts ends with it, at the latest."""
    return Hatchery(library_path)


def main() -> None:
    for name in IMPORTED:
        import_module(name)
    registry.drivers()
    assert import_module("pynvml").nvmlLib is None, "each daemon opens the library for itself"
    gc.freeze()
    for line in sys.stdin:
        told = json.loads(line)
        if "ended" in told:
            _, status = os.waitpid(told["ended"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if child == 0:
            become(told)
        print(child, flush=True)


def become(told: dict[str, Any]) -> None:
    """The daemon: never returns."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(told["log"], "ab") as sink, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    os.environ.clear()
    os.environ.update(told["env"])
    sys.argv = ["curtaild", "run", "--config", told["site"]]
    import_module("curtaild.cli").main()
    sys.exit(0)


if __name__ == "__main__":
    main()
