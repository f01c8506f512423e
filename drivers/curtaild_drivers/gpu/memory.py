"""What a GPU node must know after a crash: the limits that were in force before the first write, and the stages that
it may be in. One small JSON file, replaced as a whole and on the disk before the write that it guards. Calls block.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from curtaild_drivers.contract import Refused
from curtaild_drivers.gpu.card import Milliwatts, milliwatts_or_none

_MOST_BYTES = 1_000_000
KNOWN_STAGES = ("clocks", "suspend", "off")


class NodeMemory:
    """`limits_mw` by GPU: the requested limit found before ours. `stages`: entered, or about to be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limits_mw: dict[str, Milliwatts] = {}
        self.stages: set[str] = set()
        self._lock: int | None = None
        self._is_loaded = False
        self._saved: str | None = None
        self.is_damaged = False

    def load(self) -> None:
        """Take up what the file says, once; a file that is not there says nothing. One that makes no sense is put
        aside: whose the limits in force are is not known then (`is_damaged`). Raises `OSError`."""
        if self._is_loaded:
            return
        try:
            with self.path.open("rb") as file:
                limits_mw, stages = _parsed(json.loads(file.read(_MOST_BYTES)))
        except FileNotFoundError:
            pass
        except (ValueError, RecursionError):
            os.replace(self.path, self.path.with_name(self.path.name + ".damaged"))
            self.is_damaged = True
        else:
            self.limits_mw |= limits_mw
            self.stages |= stages
        self._is_loaded = True

    def keep(self) -> None:
        """Make all of it durable, if it changed. Raises `OSError`."""
        self.load()  # what could not be read before must not be overwritten now
        text = json.dumps({"limits_mw": self.limits_mw, "stages": sorted(self.stages)}, indent=1, sort_keys=True)
        if text == self._saved:
            return
        fresh = self.path.with_name(self.path.name + ".new")
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._saved = text

    def claim(self) -> None:
        """Be the only writer to these GPUs until `release`. Raises `Refused` where somebody else is; where no lock can
        be made at all, the GPUs are taken as free: a full disk stops no shed."""
        if self._lock is not None:
            return
        try:
            lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Refused(f"another curtaild holds these GPUs ({self.path}.lock); one writer per device") from None
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _parsed(document: Any) -> tuple[dict[str, Milliwatts], set[str]]:
    """Raises `ValueError`."""
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    limits, stages = document.get("limits_mw", {}), document.get("stages", [])
    if not isinstance(limits, dict) or not isinstance(stages, list):
        raise ValueError("limits_mw must be an object and stages a list")
    if any(milliwatts_or_none(limit) is None for limit in limits.values()):
        raise ValueError("limits_mw must be whole milliwatts")
    return {str(uuid): int(limit) for uuid, limit in limits.items()}, {name for name in stages if name in KNOWN_STAGES}
