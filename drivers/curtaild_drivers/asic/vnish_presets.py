"""What VNish says of its presets and its throttle: a ladder of tunings, and a share of the one it is set to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from curtaild_drivers.asic.cgminer import hashrate, parse, watts
from curtaild_drivers.asic.firmware import STANDBY_W
from curtaild_drivers.asic.http import Response
from curtaild_drivers.asic.models import Rating
from curtaild_drivers.contract import OFF, BadReply, OperatingPoint

LIMIT = "limit"
"""The key of the points that are held by a throttle, in whole percents of the preset's power."""
PERCENTS = range(20, 101)
"""The throttles there are (its OpenAPI document, 1.3.4); 100 is none."""

_PRETTY = re.compile(r"(\d+(?:\.\d+)?)\s*watt\s*~\s*(\d+(?:\.\d+)?)\s*TH")


@dataclass(frozen=True, slots=True)
class Preset:
    """One rung: its name, whether it has been tuned on this machine, and its point where its figures are known."""

    name: str
    is_tuned: bool
    point: OperatingPoint | None


def presets(answer: Response, current: str | None, rating: Rating | None) -> list[Preset]:
    """The list of presets: bare, or (some releases) within an object. Where the current one says no figures
    ("disabled": frequency and voltage set by hand), it is taken for what the machine is rated at. Raises `BadReply`."""
    if answer.status != 200:
        raise BadReply(f"presets: HTTP {answer.status}")
    listed = parse(b'{"presets":' + answer.body + b"}").get("presets")
    if isinstance(listed, dict):
        listed = listed.get("presets")
    if not isinstance(listed, list):
        raise BadReply("presets: not a list")
    return [preset for item in listed if (preset := _preset(item, current, rating)) is not None]


def throttled(share_of: OperatingPoint) -> tuple[OperatingPoint, ...]:
    """The points a throttle holds under a preset's own: it takes hashes and watts in the same measure."""
    least, most = (
        OperatingPoint(LIMIT, share_of.draw_w * percent / 100, share_of.rate * percent / 100, divisible=percent > 20)
        for percent in (PERCENTS[0], PERCENTS[-2])
    )
    return (least, most) if least.draw_w > STANDBY_W else ()


def percent(claimed: object) -> int | None:
    """The throttle it says it keeps to, `None` where it says none that there is."""
    if isinstance(claimed, bool) or not isinstance(claimed, int):
        return None
    return claimed if claimed in PERCENTS else None


def _preset(item: object, current: str | None, rating: Rating | None) -> Preset | None:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(name, str) or name in ("", OFF, LIMIT):
        return None
    figures = _PRETTY.search(str(item.get("pretty")))
    if figures is not None:
        draw_w, rate = watts(figures[1]), hashrate(figures[2], 1e12)
    else:
        draw_w, rate = (rating.power_w, rating.rate_hs) if rating is not None and name == current else (None, None)
    is_tuned = item.get("status") == "tuned"
    if draw_w is None or rate is None or draw_w <= STANDBY_W:
        return Preset(name, is_tuned, None)
    return Preset(name, is_tuned, OperatingPoint(name, draw_w, rate))
