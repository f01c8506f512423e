"""What a driver says of itself for people: what it can do on each kind of device, and how far that has been proven.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Maturity(Enum):
    """How far the code for one kind of device has been proven; docs/hardware.md defines the words."""

    EMULATED = "emulated"
    PEER = "independent peer"
    HARDWARE = "hardware"


@dataclass(frozen=True, slots=True)
class Support:
    """One kind of device, in a person's words.

    `firmware` is `Identity.firmware` as the driver tells it; empty where the driver has one kind only. `proven` says by
    what and how far. `quirks` are what the device does otherwise than one would think, each one sentence.
    """

    firmware: str
    device: str
    maturity: Maturity
    proven: str
    reads_watts: str
    throttled_by: str
    stopped_by: str
    auth: str
    ports: str
    quirks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
