"""The signals that come with the program, each made by code and each with its reasoning: what a grid would send.

All are stated in shares of what the site can shed, so that they fit any site. Nothing here is random without a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from random import Random
from types import MappingProxyType

from curtaild.core.allocation import Urgency
from curtaild.rehearse.days import load_shedding_day, solar_day
from curtaild.rehearse.play import Capacity, Order, Play

REGULATION_EVERY_S = 4.0
BASE_POINT_EVERY_S = 300.0
RAMP_EVERY_S = 20.0
_SEED = 20261121


def steps(capacity: Capacity) -> Play:
    """Steps down and up of all sizes, each held for ten minutes: how fast does the site follow, and what does it hold?

    Ten minutes are what reserves are given to answer at most (ERCOT's ECRS), and enough for a miner to be awake again.
    """
    shares = (0.9, 0.7, 1.0, 0.5, 0.75, 0.25, 0.6, 0.0, 1.0)
    orders = [Order(600.0 * number + 60.0, capacity.at(share)) for number, share in enumerate(shares)]
    return Play("steps", "steps of all sizes, ten minutes each", tuple(orders), 600.0 * len(shares) + 60.0)


def ramps(capacity: Capacity) -> Play:
    """Down to 30 % in a quarter of an hour, held for one, and up again as slowly, restated every 20 s.

    The shape of the ramps that Emerald AI and its utilities ran at Phoenix (−25 % on fifteen-minute ramps), deeper.
    """
    quarter_s, low = 900.0, 0.3

    def share(at_s: float) -> float:
        if at_s < quarter_s:
            return 1.0 - (1.0 - low) * at_s / quarter_s
        return low if at_s < 2 * quarter_s else low + (1.0 - low) * (at_s - 2 * quarter_s) / quarter_s

    moments = (RAMP_EVERY_S * number for number in range(int(3 * quarter_s / RAMP_EVERY_S) + 1))
    orders = [Order(60.0 + at_s, capacity.at(share(at_s))) for at_s in moments]
    return Play("ramps", "a quarter of an hour down, held, and up", tuple(orders), 3 * quarter_s + 660.0)


def regulation(capacity: Capacity) -> Play:
    """An hour of a set point every 4 s around 70 % ± 15 %, as a controllable load resource of ERCOT is sent.

    Regulation follows the grid's own error, which is what low-pass noise is: two first-order lags (30 s and 300 s) of
    white noise, which make a signal that rests nowhere, crosses its middle every few minutes, and moves at most a few
    per cent between two set points, as the published test signals of PJM (RegA) do.
    """
    chance = Random(_SEED)
    fast = slow = 0.0

    def wander() -> Iterator[float]:
        nonlocal fast, slow
        while True:
            fast += (REGULATION_EVERY_S / 30.0) * (chance.gauss(0.0, 1.0) - fast)
            slow += (REGULATION_EVERY_S / 300.0) * (chance.gauss(0.0, 3.0) - slow)
            yield 0.7 + 0.15 * math.tanh(1.2 * fast + 2.0 * slow)

    orders = [
        Order(60.0 + REGULATION_EVERY_S * number, capacity.at(share))
        for number, share in zip(range(900), wander(), strict=False)
    ]
    return Play("regulation", "a set point every 4 s around 70 % ± 15 %", tuple(orders), 3_660.0)


def base_points(capacity: Capacity) -> Play:
    """Four hours of base points every 5 min, as ERCOT's dispatch sends them to a load that bids its power price.

    The price, and with it the base point, walks: most intervals move by a few per cent, one in eight jumps.
    """
    chance = Random(_SEED + 1)
    share = 0.9
    orders = []
    for number in range(48):
        share += chance.gauss(0.0, 0.04) if chance.random() > 0.125 else chance.uniform(-0.5, 0.5)
        share = min(1.0, max(0.2, share))
        orders.append(Order(60.0 + BASE_POINT_EVERY_S * number, capacity.at(share)))
    return Play(
        "base-points", "base points every 5 min that walk and jump", tuple(orders), 48 * BASE_POINT_EVERY_S + 60.0
    )


def emergency(capacity: Capacity) -> Play:
    """Three emergency cuts out of the blue, to 40 %, to the floor and to 20 %: each to be obeyed within 60 s.

    A frequency event asks for everything in seconds and lets go after a quarter of an hour (NESO, AEMO).
    """
    cuts = ((120.0, 0.4, 900.0), (1_920.0, 0.0, 600.0), (3_420.0, 0.2, 300.0))
    orders: list[Order] = []
    for at_s, share, lasts_s in cuts:
        orders.append(Order(at_s, capacity.at(share), reach_by_s=60.0, urgency=Urgency.EMERGENCY))
        orders.append(Order(at_s + lasts_s, None))
    return Play("emergency", "three cuts out of the blue, each within a minute", tuple(orders), 4_500.0)


SIGNALS: Mapping[str, Callable[[Capacity], Play]] = MappingProxyType(
    {
        "steps": steps,
        "ramps": ramps,
        "regulation": regulation,
        "base-points": base_points,
        "emergency": emergency,
        "solar": solar_day,
        "load-shedding": load_shedding_day,
    }
)
"""Every signal by the name that `curtaild rehearse --signal` takes."""
