"""What a model draws and computes when it runs as built: priors, until the daemon has learned this very unit.

Source: the makers' own data sheets (Bitmain, MicroBT), each model's usual variant, at 25 °C; R in the sense of "what
the vendor reports". A site that knows better says `rated_w`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from curtaild_drivers.contract import Watts

_TH = 1e12


@dataclass(frozen=True, slots=True)
class Rating:
    """Rated wall power in W and hashrate in H/s."""

    power_w: Watts
    rate_hs: float


_RATINGS: dict[str, tuple[float, float]] = {
    # Bitmain: W, TH/s
    "S19": (3250, 95),
    "S19PRO": (3250, 110),
    "S19PRO+HYD": (5445, 198),
    "S19J": (3100, 90),
    "S19JPRO": (3050, 100),
    "S19JPRO+": (3355, 122),
    "S19JXP": (3247, 151),
    "S19KPRO": (2760, 120),
    "S19XP": (3010, 140),
    "S19XPHYD": (5304, 255),
    "S19XP+HYD": (5301, 279),
    "T19": (3150, 84),
    "S21": (3500, 200),
    "S21PRO": (3510, 234),
    "S21+": (3564, 216),
    "S21+HYD": (5925, 395),
    "S21HYD": (5360, 335),
    "S21XP": (3645, 270),
    "S21XPHYD": (5676, 473),
    "T21": (3610, 190),
    # MicroBT: W, TH/s
    "M30S": (3344, 88),
    "M30S+": (3400, 100),
    "M30S++": (3472, 112),
    "M31S": (3344, 76),
    "M31S+": (3360, 80),
    "M50": (3306, 114),
    "M50S": (3276, 126),
    "M50S++": (3300, 150),
    "M53": (6554, 226),
    "M53S": (6760, 260),
    "M56": (5550, 194),
    "M56S": (5550, 212),
    "M60": (3422, 172),
    "M60S": (3441, 186),
    "M60S++": (3600, 226),
    "M63": (6646, 334),
    "M63S": (7215, 390),
    "M66": (5572, 280),
    "M66S": (5513, 298),
    # Auradine: W, TH/s
    "AT1500": (3300, 150),
    # Canaan: W, TH/s
    "AVALON1246": (3420, 90),
    "AVALON1346": (3300, 110),
    "AVALON1366": (3250, 130),
    "AVALON1466": (3230, 150),
    "AVALON1566": (3420, 185),
    "AVALON15194": (3420, 194),
    "AVALONQ": (1674, 90),
    "AVALONMINI3": (800, 37.5),
    "AVALONNANO3S": (140, 6),
}

_NOISE = re.compile(r"ANTMINER|WHATSMINER|BITMAIN|MICROBT|\(.*?\)|[^A-Z0-9+]")
_WHATSMINER_VARIANT = re.compile(r"V[A-Z]{0,2}\d{0,3}$")


@lru_cache(maxsize=256)
def rating(model: str) -> Rating | None:
    """The rating of a model as a device or a person spells it ("Antminer S19j Pro", "M50S_VH30"); `None` where the
    table does not know it. Never that of a similar name: a hydro unit draws half as much again as its air-cooled
    namesake."""
    name = _NOISE.sub("", model.upper()).replace("HYDRO", "HYD").replace("PLUS", "+").replace("AVALONMINER", "AVALON")
    known = _RATINGS.get(name) or _RATINGS.get(_WHATSMINER_VARIANT.sub("", name))
    return Rating(known[0], known[1] * _TH) if known else None
