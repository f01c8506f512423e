"""Many daemons for the price of one start: imports curtaild once, then forks a daemon for each line it is told.

Each is a process of its own with a site file, a log and GPUs of its own; only the start is shared. A line on the
standard input is a JSON object `{"site", "log", "gpus"}`; the answer is the process's id.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from typing import Any

import curtaild.app
import curtaild.cli
import curtaild.cli.run
from curtaild_drivers import registry
from curtaild_drivers.gpu import nvml_card
from nvml_stub.gpus import CONTROL

PR_SET_PDEATHSIG = 1
IMPORTED = (curtaild.app, curtaild.cli.run, nvml_card)


def main() -> None:
    registry.drivers()
    assert importlib.import_module("pynvml").nvmlLib is None, "each daemon opens the library for itself"
    gc.freeze()
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if child == 0:
            become(told)
        print(child, flush=True)


def become(told: dict[str, Any]) -> None:
    """The daemon: never returns, and ends with whoever told it to begin."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ[CONTROL] = told["gpus"]
    with open(told["log"], "ab") as sink, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    sys.argv = ["curtaild", "run", "--config", told["site"]]
    curtaild.cli.main()
    os._exit(0)


if __name__ == "__main__":
    main()
