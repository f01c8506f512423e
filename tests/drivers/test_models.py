"""The table of ratings: every spelling of a model, and never the rating of a namesake."""

from __future__ import annotations

import pytest

from curtaild_drivers.asic.models import rating


@pytest.mark.parametrize(
    ("spelled", "power_w", "terahashes"),
    [
        ("Antminer S19j Pro", 3050, 100),
        ("S19J PRO", 3050, 100),
        ("ANTMINER S21", 3500, 200),
        ("S19 XP (Stock)", 3010, 140),
        ("Antminer S19 XP Hydro", 5304, 255),
        ("Antminer S19 Pro+ Hyd.", 5445, 198),
        ("M50_VH30", 3306, 114),
        ("WhatsMiner M30S++ VG30", 3472, 112),
        ("M60SVK30", 3441, 186),
        ("AvalonMiner 1566", 3420, 185),
        ("Avalon Q", 1674, 90),
    ],
)
def test_a_model_is_known_however_it_is_spelled(spelled: str, power_w: float, terahashes: float) -> None:
    found = rating(spelled)
    assert found is not None
    assert (found.power_w, found.rate_hs) == (power_w, terahashes * 1e12)


@pytest.mark.parametrize("spelled", ["", "S19 Hydro", "S21 Immersion", "M50S+", "S9", "Avalon 1066", "S1900"])
def test_a_namesake_is_not_the_model(spelled: str) -> None:
    assert rating(spelled) is None
