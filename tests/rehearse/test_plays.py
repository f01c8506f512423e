"""What the grid may say: the signals that come along, days by the sun, and files with everything that can be wrong."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from curtaild.core.allocation import Urgency
from curtaild.core.feeders import FeederSpec
from curtaild.rehearse.days import day_of, sun_elevation
from curtaild.rehearse.play import Capacity
from curtaild.rehearse.playfile import BadPlay, read_events, read_signal
from curtaild.rehearse.signals import SIGNALS
from curtaild.rehearse.troubles import BadTroubles, Troubles
from curtaild_drivers.contract import FeederId

CAPACITY = Capacity(demand_w=110_000.0, floor_w=10_000.0)
FEEDERS = {FeederId("site"): FeederSpec(FeederId("site"), None, 2e5)}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_fits_the_site_and_is_always_the_same(name: str) -> None:
    play = SIGNALS[name](CAPACITY)
    assert play == SIGNALS[name](CAPACITY)
    assert play.name == name
    moments = [order.at_s for order in play.orders]
    assert moments == sorted(moments)
    assert moments[-1] < play.duration_s
    limits_w = [order.limit_w for order in play.orders if order.limit_w is not None]
    assert all(CAPACITY.floor_w <= limit_w <= CAPACITY.demand_w for limit_w in limits_w)
    assert max(limits_w) - min(limits_w) > 0.1 * CAPACITY.demand_w or name == "load-shedding"


def test_regulation_rests_nowhere_and_leaps_never() -> None:
    limits_w = [order.limit_w or 0.0 for order in SIGNALS["regulation"](CAPACITY).orders]
    steps = [abs(after - before) / CAPACITY.demand_w for before, after in pairwise(limits_w)]
    assert max(steps) < 0.08
    assert sum(step > 1e-6 for step in steps) > 0.99 * len(steps)


@pytest.mark.parametrize(
    ("day", "hour", "elevation"),
    [
        (date(2026, 6, 21), 12.0, 0.990),  # 90° − 31.5° + 23.45° = 81.95°
        (date(2026, 12, 21), 12.0, 0.574),  # 35.05°
        (date(2026, 3, 21), 6.0, 0.0),  # the equinox's sunrise
        (date(2026, 6, 21), 0.0, -0.574),
    ],
)
def test_the_sun_stands_where_it_does(day: date, hour: float, elevation: float) -> None:
    assert sun_elevation(day, hour) == pytest.approx(elevation, abs=0.01)


def test_a_summer_day_has_more_at_noon_and_less_in_the_evening_than_a_winter_one() -> None:
    def limit_w(day: date, hour: float) -> float:
        orders = day_of(day, CAPACITY).orders
        return next(order.limit_w or 0.0 for order in reversed(orders) if order.at_s <= hour * 3600)

    summer, winter = date(2026, 6, 21), date(2026, 12, 21)
    assert limit_w(summer, 12) > limit_w(winter, 12) > limit_w(winter, 3)
    assert limit_w(summer, 20.5) < limit_w(winter, 20.5) < limit_w(winter, 3)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_an_events_file_says_what_an_allocation_can(tmp_path: Path) -> None:
    text = """
name = "drill"
duration_s = 3600
[models]
luxos = "luxos-s21"
[faults]
devices = 0.1
[[event]]
at_s = 600
share = 0.5
lasts_s = 900
announced_s = 300
reach_by_s = 60
class = "emergency"
[[event]]
at_s = 60
limit_w = 0
"""
    file = read_events(written(tmp_path, "events.toml", text))
    play = file.play(CAPACITY, FEEDERS)
    first, second = play.orders
    assert (play.name, play.duration_s, file.models, file.faults) == (
        "drill",
        3600,
        {"luxos": "luxos-s21"},
        {"devices": 0.1},
    )
    assert (first.at_s, first.limit_w) == (60.0, 0.0)
    assert (second.limit_w, second.lasts_s, second.announced_s, second.reach_by_s) == (60_000.0, 900.0, 300.0, 60.0)
    assert second.urgency is Urgency.EMERGENCY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[event]]\nat_s = 1\nlimit_kw = 5\n", 'event[1].limit_kw: unknown key; did you mean "limit_w"?'),
        ("[[event]]\nlimit_w = 5\n", "event[1].at_s: is required"),
        ("[[event]]\nat_s = 1\nlimit_w = -5\n", "event[1].limit_w: should be greater than or equal to 0 (is -5)"),
        ("[[event]]\nat_s = 1\nlimit_w = true\n", "should be a number, not true or false"),
        ("[[event]]\nat_s = 1\nlimit_w = nan\n", "event[1].limit_w"),
        ("[[event]]\nat_s = 1\nlimit_w = 5\nshare = 0.5\n", "exclude each other"),
        ("events = []\n", 'did you mean "event"?'),
        ("at_s 5", "no TOML"),
    ],
)
def test_a_bad_events_file_is_told_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadPlay) as bad:
        read_events(written(tmp_path, "events.toml", text))
    assert said in str(bad.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = "[[event]]\nat_s = -1\n[[event]]\nat_s = 2\nshare = 7\n"
    with pytest.raises(BadPlay, match=r"2 thing\(s\) to mend"):
        read_events(written(tmp_path, "events.toml", text))


def test_a_feeder_that_the_site_has_not_is_refused(tmp_path: Path) -> None:
    file = read_events(written(tmp_path, "e.toml", '[[event]]\nat_s = 1\nlimit_w = 5\nfeeder = "sight"\n'))
    with pytest.raises(BadPlay, match='did you mean "site"'):
        file.play(CAPACITY, FEEDERS)


def test_a_signal_is_a_table_of_moments_and_limits(tmp_path: Path) -> None:
    file = read_signal(written(tmp_path, "signal.csv", "at_s, limit_w\n0, 50000\n\n300,\n600,0\n"))
    play = file.play(CAPACITY, FEEDERS)
    assert [(order.at_s, order.limit_w) for order in play.orders] == [(0, 50_000), (300, None), (600, 0)]
    assert play.duration_s == 1_500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 should be a head"),
        ("time,limit_w\n0,1\n", "'time'"),
        ("at_s,limit_w\n0,many\n5,nan\n", "line 2: limit_w"),
        ("at_s,limit_w\n", "it holds no limit"),
        ("at_s,share\n0,1.5\n", "line 2: share"),
    ],
)
def test_a_bad_signal_is_told_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadPlay) as bad:
        read_signal(written(tmp_path, "signal.csv", text))
    assert said in str(bad.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadPlay, match="No such file"):
        read_events(tmp_path / "none.toml")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadPlay, match="no text"):
        read_signal(tmp_path / "binary.csv")


def test_faults_are_read_as_fractions_or_percents() -> None:
    assert Troubles.parse("devices=10%, bias=0.03,loss_s=60") == Troubles(devices=0.1, bias=0.03, loss_s=60.0)
    assert Troubles.parse("") == Troubles()
    troubles = Troubles.parse("loss_s=60,loss_every_s=600")
    assert [troubles.is_lost(at_s) for at_s in (0.0, 269.0, 271.0, 329.0, 331.0, 900.0)] == [
        False,
        False,
        True,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device=1%", 'did you mean "devices"?'),
        ("devices", "lacks its value"),
        ("devices=ten", "is no number"),
        ("devices=nan", "is no number"),
        ("devices=2", "outside 0..1"),
        ("loss_s=60,loss_every_s=30", "nothing is ever heard"),
    ],
)
def test_faults_that_say_nothing_usable_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadTroubles) as bad:
        Troubles.parse(text)
    assert said in str(bad.value)
