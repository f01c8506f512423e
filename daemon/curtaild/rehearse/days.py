"""Whole days, composed from where the sun stands and when people switch their lights on.

The place is the middle of Pakistan's Punjab (31.5° N), whose grid has a surplus at noon and none in the evening; the
reasoning holds wherever rooftop solar has grown faster than demand.
"""

from __future__ import annotations

import math
from datetime import date
from random import Random

from curtaild.rehearse.play import Capacity, Order, Play

LATITUDE_DEG = 31.5
DAY_S = 86_400.0
RESTATED_S = 300.0
"""A dispatch centre restates its allocations every five minutes."""
_MIDSUMMER = date(2026, 6, 21)


def sun_elevation(day: date, hour: float, latitude_deg: float = LATITUDE_DEG) -> float:
    """The sine of the sun's elevation at a solar hour (12: noon); negative at night.

    Cooper's declination, 23.45° · sin(2π (284 + n) / 365) with n the day of the year, good to about a degree.
    """
    declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + day.timetuple().tm_yday) / 365)
    latitude = math.radians(latitude_deg)
    hour_angle = math.radians(15.0 * (hour - 12.0))
    return math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(
        hour_angle
    )


def day_of(day: date, capacity: Capacity) -> Play:
    """A whole day: what surplus the sun leaves, less the evening's peak, under passing clouds.

    Surplus = night base + solar − the evening's and morning's demand. At night wind, water and must-run plants leave
    45 %; the sun adds up to 80 % in proportion to its elevation, clouds take away up to a third of that for minutes;
    the evening peak (18–23 h, more in summer) takes 40 %, the morning's (6–9 h) 10 %. Seeded by the day.
    """
    chance = Random(day.toordinal())
    summer = 0.5 + 0.5 * sun_elevation(day, 12.0)
    cloud = 0.0
    orders: list[Order] = []
    said: float | None = None
    for number in range(int(DAY_S / RESTATED_S)):
        hour = number * RESTATED_S / 3_600.0
        cloud += 0.25 * (max(0.0, chance.gauss(0.0, 0.35)) - cloud)
        solar = 0.8 * max(0.0, sun_elevation(day, hour)) * (1.0 - min(0.33, cloud))
        evening = 0.4 * summer * math.exp(-(((hour - 20.5) / 1.8) ** 2))
        morning = 0.1 * math.exp(-(((hour - 7.5) / 1.0) ** 2))
        share = round(min(1.0, max(0.0, 0.45 + solar - evening - morning)), 2)
        if share != said:
            orders.append(Order(number * RESTATED_S, capacity.at(share)))
            said = share
    return Play(f"day-{day.isoformat()}", f"the surplus of {day:%d %B %Y} at {LATITUDE_DEG:g}° N", tuple(orders), DAY_S)


def solar_day(capacity: Capacity) -> Play:
    """Midsummer from 5 to 19 h of solar time: a limit that is the sun's alone, restated every five minutes.

    Nothing is granted beyond what panels give: the floor at dawn, everything by mid-morning, clouds between.
    """
    chance = Random(_MIDSUMMER.toordinal())
    began_h, ended_h = 5.0, 19.0
    cloud = 0.0
    orders: list[Order] = []
    for number in range(int((ended_h - began_h) * 3_600 / RESTATED_S)):
        hour = began_h + number * RESTATED_S / 3_600.0
        cloud += 0.3 * (max(0.0, chance.gauss(0.0, 0.6)) - cloud)
        sun = max(0.0, sun_elevation(_MIDSUMMER, hour)) * (1.0 - min(0.6, cloud))
        orders.append(Order(number * RESTATED_S, capacity.at(round(min(1.0, 1.3 * sun), 3))))
    return Play("solar", "from dawn to dusk on what the sun gives", tuple(orders), (ended_h - began_h) * 3_600.0)


def load_shedding_day(capacity: Capacity) -> Play:
    """Eleven hours of a load-shedding rota: an hour of power, then an hour at 15 %, known half an hour before.

    Pakistan's distribution companies shed feeders by the hour and publish the rota; a flexible load that can be told a
    number is left a little to keep its cooling and its network alive.
    """
    orders: list[Order] = [Order(0.0, None)]
    for hour in range(1, 11, 2):
        orders.append(Order(3_600.0 * hour, capacity.at(0.15), announced_s=1_800.0, reach_by_s=60.0))
        orders.append(Order(3_600.0 * (hour + 1), None, announced_s=1_800.0))
    return Play("load-shedding", "an hour on, an hour at 15 %, known half an hour before", tuple(orders), 11 * 3_600.0)
