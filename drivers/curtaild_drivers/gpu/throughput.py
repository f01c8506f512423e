"""The site's word on what a node gets done: a file that its own programs keep writing, one number in it, in any unit.

The file is read in a thread of its own. A number counts once, while it is fresh, and only if the limit had stood still
for a while when it was written. What is learned is kept on the disk.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from curtaild_drivers.contract import Seconds
from curtaild_drivers.gpu.curve import Curve
from curtaild_drivers.gpu.lane import Lane
from curtaild_drivers.gpu.learning import LearnedCurve

log = logging.getLogger(__name__)

FRESH_S: Seconds = 60.0
"""A number older than this says nothing of now."""
STANDS_STILL_S: Seconds = 20.0
"""So long after a change of the limit, what is written may still be a mean with what was before."""
SAME = 0.01
"""Limits this close, as fractions of full GPU power, are the same."""
NEWS = 0.02
"""A curve that differs by less of full throughput is not worth a new look at what the node offers."""
_MOST_BYTES = 64
_MOST_KEPT_BYTES = 100_000
_AHEAD_S = 5.0


class FedCurve:
    """One node's curve, beginning with the site file's or the published one (`prior`)."""

    def __init__(self, file: Path, kept: Path, prior: Curve) -> None:
        """`file` is what the site writes, `kept` where what was learned is kept."""
        self._file = file
        self._kept = kept
        self._prior = tuple((float(power), float(rate)) for power, rate in prior)
        self._lane = Lane("throughput", "the disk")
        self._learned = LearnedCurve(self._prior)
        self._told: Curve = self._prior
        self._on_disk: Curve = self._prior
        self._is_loaded = False
        self._seen_ns: int | None = None
        self._fraction: float | None = None
        self._since: Seconds = 0.0
        self._is_missed = False

    @property
    def has_learned(self) -> bool:
        """Whether the curve differs from what was last told."""
        return self._learned.differs_from(self._told) >= NEWS

    def tell(self) -> Curve:
        """The curve as it is known now."""
        self._told = self._learned.curve
        return self._told

    def note(self, fraction: float | None) -> None:
        """The limit in force, as a fraction of full GPU power; `None` where the node does not work under one. Waits for
        nothing: the file is looked at aside."""
        now = time.monotonic()
        if fraction is None or self._fraction is None or abs(fraction - self._fraction) > SAME:
            self._fraction, self._since = fraction, now
        if fraction is not None:
            since = self._since
            self._lane.post(lambda: self._look(fraction, since))

    def close(self) -> None:
        self._lane.close()

    # ---- in the thread ------------------------------------------------------------------------

    def _look(self, fraction: float, since: Seconds) -> None:
        self._load()
        try:
            with self._file.open("rb") as file:
                written_ns = os.fstat(file.fileno()).st_mtime_ns
                achieved = _number(file.read(_MOST_BYTES + 1))
        except (OSError, ValueError) as error:
            self._miss(error)
            return
        if self._is_missed:
            self._is_missed = False
            log.info("throughput is read from %s again", self._file)
        now, age_s = time.monotonic(), time.time() - written_ns / 1e9
        if written_ns == self._seen_ns or not -_AHEAD_S <= age_s <= FRESH_S or now - age_s < since + STANDS_STILL_S:
            return
        self._seen_ns = written_ns
        learned = self._learned.seen(fraction, achieved, now)
        if learned.differs_from(self._on_disk) >= NEWS:
            self._keep(learned.curve)
        self._learned = learned  # told only once it is kept

    def _miss(self, error: Exception) -> None:
        if not self._is_missed:
            self._is_missed = True
            log.warning("no throughput in %s, so nothing is learned of the curve: %s", self._file, error)

    def _load(self) -> None:
        """What an earlier run learned, unless the site's own word has changed since."""
        if self._is_loaded:
            return
        self._is_loaded = True
        try:
            with self._kept.open("rb") as file:
                prior, curve = _parsed(json.loads(file.read(_MOST_KEPT_BYTES)))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            log.warning("what was learned of the curve before cannot be read from %s: %s", self._kept, error)
            return
        if prior == self._prior:
            self._learned = LearnedCurve(curve)
            self._on_disk = curve

    def _keep(self, curve: Curve) -> None:
        self._on_disk = curve
        fresh = self._kept.with_name(self._kept.name + ".new")
        try:
            fresh.write_text(json.dumps({"prior": self._prior, "curve": curve}), encoding="utf-8")
            os.replace(fresh, self._kept)
        except OSError as error:
            log.warning("what was learned of the curve cannot be kept in %s: %s", self._kept, error)


def _number(text: bytes) -> float:
    """Raises `ValueError`."""
    if len(text) > _MOST_BYTES:
        raise ValueError("it is longer than a number")
    return float(text)


def _parsed(document: Any) -> tuple[Curve, Curve]:
    """Raises `ValueError`."""
    try:
        prior, curve = (
            tuple((float(power), float(rate)) for power, rate in document[name]) for name in ("prior", "curve")
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no curve in it: {error!r}") from None
    rates = [rate for _, rate in curve]
    falls = rates == sorted(rates, reverse=True) and all(0 < rate <= 1 for rate in rates)
    if not falls or [power for power, _ in prior] != [power for power, _ in curve]:
        raise ValueError("its curve is none")
    return prior, curve
