"""Says in the log what devices say is the matter with themselves: a lost GPU, a second writer, a full disk. Once when
it begins, once when it changes, once when it is over.
"""

from __future__ import annotations

import logging
import re

from curtaild_drivers.contract import DeviceId, Seconds

log = logging.getLogger("curtaild")

PAUSE_S: Seconds = 60.0
"""What comes and goes with every reading is told of a device no more often."""
MOST_CHARACTERS = 1_000
_NUMBER = re.compile(r"\d+(\.\d+)?")


class FaultLog:
    """What each device was last told to have, at most one line a minute of each."""

    def __init__(self) -> None:
        self._told: dict[DeviceId, tuple[str, Seconds]] = {}

    def note(self, device: DeviceId, fault: str | None, now: Seconds) -> None:
        """Take the word of a reading. The same but for a number, such as how long it has lasted, is nothing new."""
        kind = _NUMBER.sub("#", fault) if fault is not None else ""
        told, told_at = self._told.get(device, ("", now - PAUSE_S))
        if kind == told or now - told_at < PAUSE_S:
            return
        if fault is not None:
            log.warning("%s: says of itself: %s", device, _line(fault))
        else:
            log.info("%s: no longer says that anything is the matter", device)
        self._told[device] = kind, now


def _line(fault: str) -> str:
    """Bounded, printable and on one line: some of it comes over the wire."""
    return "".join(letter if letter.isprintable() else "?" for letter in fault[:MOST_CHARACTERS])
