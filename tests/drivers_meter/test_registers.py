"""How registers become watts and joules, and which settings are refused."""

from __future__ import annotations

import struct

import pytest
from pydantic import ValidationError

from curtaild_drivers.meter.registers import EnergyRegister, ModbusMeterSettings, PowerRegister


def words(layout: str, value: float) -> list[int]:
    data = struct.pack(">" + layout, value)
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def power(**keys: object) -> PowerRegister:
    return PowerRegister.model_validate({"address": 0, "function": "holding"} | keys)


@pytest.mark.parametrize(
    ("register", "stored", "power_w"),
    [
        ({"type": "int16"}, words("h", 1234), 1234.0),
        ({"type": "uint16"}, words("H", 40_000), 40_000.0),
        ({"type": "int32"}, words("i", 12_500_000), 12_500_000.0),
        ({"type": "uint32"}, words("I", 3_000_000_000), 3e9),
        ({"type": "int64"}, words("q", 12_500_000), 12_500_000.0),
        ({"type": "uint64"}, words("Q", 12_500_000), 12_500_000.0),
        ({"type": "float32"}, words("f", 812.5), 812.5),
        ({"type": "float64"}, words("d", 812.25), 812.25),
        ({"type": "int32", "word_order": "little"}, words("i", 12_500_000)[::-1], 12_500_000.0),
        ({"type": "float32", "word_order": "little"}, words("f", 812.5)[::-1], 812.5),
        ({"type": "uint16", "scale": 0.5, "unit": "kW"}, words("H", 25), 12_500.0),
        ({"type": "float32", "unit": "MW"}, words("f", 12.5), 12_500_000.0),
        ({"type": "int16", "positive": "export"}, words("h", -700), 700.0),
        ({"type": "int16"}, words("h", 0), 0.0),
        ({"type": "float32"}, words("f", -0.0), 0.0),
    ],
)
def test_stored_numbers_become_watts(register: dict[str, object], stored: list[int], power_w: float) -> None:
    found = power(**register).power_w(stored)
    assert found == power_w
    assert str(found) == str(power_w), "a negative zero would print as one"


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        ("int16", [0x8000]),
        ("uint16", [0xFFFF]),
        ("int32", [0x8000, 0]),
        ("uint32", [0xFFFF, 0xFFFF]),
        ("int64", [0x8000, 0, 0, 0]),
        ("uint64", [0xFFFF] * 4),
        ("float32", [0xFFC0, 0]),
        ("float32", words("f", float("inf"))),
        ("float64", words("d", float("nan"))),
    ],
)
def test_a_meters_mark_for_absent_is_unknown_and_not_a_number(kind: str, stored: list[int]) -> None:
    assert power(type=kind).power_w(stored) is None


@pytest.mark.parametrize(
    ("unit", "energy_j"), [("J", 2.5), ("Wh", 9_000.0), ("kWh", 9_000_000.0), ("MWh", 9_000_000_000.0)]
)
def test_energy_becomes_joules(unit: str, energy_j: float) -> None:
    register = EnergyRegister.model_validate({"address": 0, "function": "input", "type": "float32", "unit": unit})
    assert register.energy_j(words("f", 2.5)) == energy_j
    assert register.energy_j(words("f", -1.0)) is None
    assert register.energy_j(words("f", float("nan"))) is None


POWER = {"address": 10, "function": "holding", "type": "int32"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs a preset (eastron-sdm630, schneider-pm5xxx) or a power register"),
        ({"energy": POWER}, "or a power register"),
        ({"preset": "eastron-sdm630", "power": POWER}, "leave power and energy out"),
        ({"preset": "eastron-sdm631"}, "eastron-sdm630"),
        ({"power": POWER | {"address": 65_535}}, "ends beyond register 65535"),
        ({"power": POWER | {"address": -1}}, "greater than or equal to 0"),
        ({"power": POWER | {"scale": 0}}, "greater than 0"),
        ({"power": POWER | {"type": "int24"}}, "int32"),
        ({"power": POWER, "unit_id": 256}, "less than or equal to 255"),
        ({"power": POWER, "timeout_s": 0}, "greater than 0"),
        ({"power": POWER, "baud": 9600}, "not permitted"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModbusMeterSettings.model_validate(settings)
    assert said in str(caught.value)
