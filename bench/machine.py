"""The machine the figures come from, and what a process on it has used."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_QUIET_SHARE = 0.2
"""A load average above this share of the cores at the start is somebody else's work in our figures."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`load` is the one-minute load average before the first bench."""

    cores: int
    model: str
    python: str
    has_uvloop: bool
    load: float

    @classmethod
    def here(cls) -> Machine:
        return cls(
            cores=len(os.sched_getaffinity(0)),
            model=_cpu_model(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            has_uvloop=importlib.util.find_spec("uvloop") is not None,
            load=os.getloadavg()[0],
        )

    @property
    def is_quiet(self) -> bool:
        return self.load <= _QUIET_SHARE * self.cores

    def __str__(self) -> str:
        loop = "uvloop" if self.has_uvloop else "no uvloop"
        return f"{self.cores} cores, {self.model}, {self.python}, {loop}, load average {self.load:.2f} at the start"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def waited_s(pid: int) -> float:
    """How long (s) a process's first thread has been ready to run while others had the cores."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="utf-8").split()[1]) / 1e9


def peak_mib(pid: int | str) -> float:
    """The most memory a process has had resident so far, in MiB; `"self"` is this one."""
    return _status_mib(pid, "VmHWM")


def resident_mib(pid: int | str) -> float:
    """The memory that a process has resident now, in MiB."""
    return _status_mib(pid, "VmRSS")


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _status_mib(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} has no {name}")


def tail(log: Path, characters: int = 1500) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-characters:] if log.exists() else "(it said nothing)"
