"""Writes down how a device was probed, as JSON lines fit to be shared: what identifies a site is left out or masked.

Nothing of the wire is kept, so no password, token or pool can be in it but by a device's own words; those are masked.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from curtaild.survey.exercise import Step
from curtaild_drivers.contract import Capabilities, Identity, OperatingPoint, OperatingPoints, Reading

_LONGEST_TEXT = 400
_TOP_LEVEL = "com|net|org|io|xyz|farm|pool|local|lan|internal|home"
_LABELS = (
    "user|username|worker|account|login|owner|pass|password|pwd|token|session|session_id|sessionid|secret|wallet|pool|"
    "serial|sn|stratum"
)
_MASKS = (
    (re.compile(r"\b\w[\w+.-]*://\S+"), "<url>"),
    (re.compile(r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b"), "<mac>"),
    (re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), "<address>"),
    (re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])"), "<address>"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<account>"),
    (re.compile(rf"\b(?:[a-z0-9-]+\.)+(?:{_TOP_LEVEL})(?::\d+)?\b", re.IGNORECASE), "<host>"),
    (re.compile(rf"\b({_LABELS})\b(\W{{1,4}})[^\s,;)}}\]]+", re.IGNORECASE), r"\1\2<masked>"),
    (re.compile(r"\b(?:0x)?[A-Za-z0-9+/=]{24,}"), "<long word>"),
)
"""In this order. Wallets, keys and hashes are long words; a worker is told by the word before it."""


class CannotWrite(Exception):
    """The transcript has no place. One line, for a person."""


class Transcript:
    """A transcript in writing. `secrets` are texts that must not appear, whatever they look like."""

    def __init__(self, stream: TextIO, secrets: Iterable[str]) -> None:
        self._stream = stream
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 3}, key=len, reverse=True)
        self._began = time.monotonic()

    @classmethod
    def create(cls, path: Path, secrets: Iterable[str]) -> Transcript:
        """A new file at `path`. Raises `CannotWrite`, also where there is one already."""
        try:
            return cls(path.open("x", encoding="utf-8"), secrets)
        except FileExistsError:
            raise CannotWrite(f"{path} exists already; name another file") from None
        except OSError as error:
            raise CannotWrite(f"{path} cannot be written: {error.strerror}") from None

    def hide(self, secret: str) -> None:
        """One more text that must not appear."""
        if len(secret) >= 3:
            self._secrets = sorted({*self._secrets, secret}, key=len, reverse=True)

    def close(self) -> None:
        self._stream.close()

    # ---- what is written ----------------------------------------------------------------------

    def identity(self, identity: Identity) -> None:
        """All but the serial."""
        self.hide(identity.serial)
        self._line(
            "identity",
            make=identity.make,
            model=identity.model,
            firmware=identity.firmware,
            version=identity.version,
            rated_w=identity.rated_w,
        )

    def abilities(self, able: Capabilities) -> None:
        self._line(
            "capabilities",
            measures_power=able.measures_power,
            throttles=able.throttles,
            stops=able.stops,
            settle_down_s=able.settle_down_s,
            settle_up_s=able.settle_up_s,
        )

    def points(self, points: OperatingPoints) -> None:
        self._line("points", step_w=points.step_w, points=[_point(point) for point in points.points])

    def command(self, point: OperatingPoint) -> None:
        self._line("command", point=_point(point))

    def reading(self, reading: Reading) -> None:
        self._line("reading", **_reading(reading))

    def step(self, step: Step, restores: bool = False) -> None:
        self._line(
            "restored" if restores else "step",
            point=_point(step.point),
            answer=step.answer,
            answered_s=round(step.answered_s, 3),
            confirmed_s=_rounded(step.confirmed_s),
            settled_s=_rounded(step.settled_s),
            power_w=step.power_w,
        )

    def trouble(self, text: str) -> None:
        self._line("trouble", text=text)

    def _line(self, what: str, **told: Any) -> None:
        line = {"at_s": round(time.monotonic() - self._began, 3), "what": what, **self._masked(told)}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, Mapping):
            return {key: self._masked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item) for item in value]
        return value

    def masked(self, text: str) -> str:
        """`text` without what identifies a site."""
        for secret in self._secrets:
            text = text.replace(secret, "<masked>")
        text = text[: 10 * _LONGEST_TEXT]
        for pattern, mask in _MASKS:
            text = pattern.sub(mask, text)
        return text[:_LONGEST_TEXT]


def _point(point: OperatingPoint) -> dict[str, Any]:
    return {"key": point.key, "draw_w": round(point.draw_w, 1), "rate": point.rate, "divisible": point.divisible}


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "state": reading.state.value,
        "power_w": reading.power_w,
        "rate": reading.rate,
        "point_key": reading.point_key,
        "limit_w": reading.limit_w,
        "temperature_c": reading.temperature_c,
        "fault": reading.fault,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
