"""The modbus driver against a meter that keeps to the protocol (pymodbus' own server)."""

from __future__ import annotations

import asyncio
import struct
import time
from importlib.metadata import entry_points
from typing import Any

import pytest

from curtaild_drivers import registry
from curtaild_drivers.contract import BadReply, Meter, Unreachable
from curtaild_drivers.meter import DRIVER
from curtaild_drivers.meter.modbus import parse_address
from curtaild_drivers.registry import OpenContext
from drivers_meter.far_ends import honest_meter


def meter_at(address: str, **settings: Any) -> Meter:
    assert DRIVER.open_meter is not None
    return DRIVER.open_meter(address, DRIVER.settings.model_validate({"timeout_s": 60} | settings), OpenContext())


def words(layout: str, *values: float) -> list[int]:
    data = struct.pack(">" + layout, *values)
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


POWER = {"address": 100, "function": "holding", "type": "float32", "unit": "kW"}
ENERGY_BEHIND = {"address": 102, "function": "holding", "type": "uint32", "unit": "Wh"}


async def test_sdm630_is_read_at_the_registers_of_its_manual() -> None:
    async with honest_meter(inputs={52: words("f", 8_125.5), 72: words("f", 2.0)}) as far:
        meter = meter_at(far.address, preset="eastron-sdm630")
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (8_125.5, 7.2e6)
        assert far.questions == [(4, 52, 2), (4, 72, 2)], "nothing between the two is mapped for sure"
        await meter.close()


async def test_pm5xxx_is_read_one_below_the_numbers_of_its_list() -> None:
    async with honest_meter(holding={3059: words("f", 12_500.0), 3203: words("q", 10)}) as far:
        meter = meter_at(far.address, preset="schneider-pm5xxx")
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (12_500_000.0, 36_000.0)
        await meter.close()


@pytest.mark.parametrize("energy_first", [False, True])
async def test_adjacent_registers_come_in_one_request(energy_first: bool) -> None:
    energy, power = words("I", 1_000), words("f", 12.5)
    stored = energy + power if energy_first else power + energy
    place = {"power": 102, "energy": 100} if energy_first else {"power": 100, "energy": 102}
    async with honest_meter(holding={100: stored}) as far:
        meter = meter_at(
            far.address,
            power=POWER | {"address": place["power"]},
            energy=ENERGY_BEHIND | {"address": place["energy"]},
        )
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (12_500.0, 3.6e6)
        assert far.questions == [(3, 100, 4)]
        await meter.close()


async def test_same_addresses_of_two_functions_are_two_requests() -> None:
    async with honest_meter(holding={100: words("f", 1.0)}, inputs={102: words("I", 2_000)}) as far:
        meter = meter_at(far.address, power=POWER, energy=ENERGY_BEHIND | {"function": "input"})
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (1_000.0, 7.2e6)
        assert far.questions == [(3, 100, 2), (4, 102, 2)]
        await meter.close()


@pytest.mark.parametrize("power_kw", [float("nan"), float("inf"), -0.5, 6e6])
async def test_nonsense_is_unknown_and_the_energy_is_kept(power_kw: float) -> None:
    async with honest_meter(holding={100: words("fI", power_kw, 1_000)}) as far:
        meter = meter_at(far.address, power=POWER, energy=ENERGY_BEHIND)
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (None, 3.6e6)
        await meter.close()


async def test_zero_watts_are_zero_watts() -> None:
    async with honest_meter(holding={100: words("f", 0.0)}) as far:
        meter = meter_at(far.address, power=POWER)
        assert (await meter.read()).power_w == 0.0
        await meter.close()


async def test_power_survives_an_energy_register_that_the_meter_lacks() -> None:
    async with honest_meter(holding={100: words("f", 12.5)}) as far:
        meter = meter_at(far.address, power=POWER, energy=ENERGY_BEHIND | {"address": 500})
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (12_500.0, None)
        await meter.close()


async def test_a_modbus_exception_names_the_registers_and_keeps_the_connection() -> None:
    async with honest_meter(holding={200: words("f", 1.0)}) as far:
        meter = meter_at(far.address, power=POWER)
        for _ in range(2):
            with pytest.raises(BadReply, match=r"holding registers 100\+2: Modbus exception 2 \(illegal address\)"):
                await meter.read()
        assert far.connections == 1
        await meter.close()


async def test_the_unit_behind_a_gateway_is_asked() -> None:
    async with honest_meter(holding={100: words("f", 3.0)}, unit=7) as far:
        meter = meter_at(far.address, power=POWER, unit_id=7)
        assert (await meter.read()).power_w == 3_000.0
        await meter.close()


async def test_one_connection_serves_many_readings() -> None:
    async with honest_meter(holding={100: words("f", 12.5)}) as far:
        meter = meter_at(far.address, power=POWER)
        readings = [(await meter.read()).power_w for _ in range(20)]
        assert readings == [12_500.0] * 20
        assert (far.connections, len(far.questions)) == (1, 20)
        await meter.close()


async def test_readings_asked_at_once_take_turns() -> None:
    async with honest_meter(holding={100: words("fI", 12.5, 1_000)}) as far:
        meter = meter_at(far.address, power=POWER, energy=ENERGY_BEHIND)
        readings = await asyncio.gather(*(meter.read() for _ in range(10)))
        assert {(reading.power_w, reading.energy_j) for reading in readings} == {(12_500.0, 3.6e6)}
        assert far.connections == 1
        await meter.close()


async def test_taken_at_is_the_moment_of_asking() -> None:
    async with honest_meter(holding={100: words("f", 12.5)}) as far:
        meter = meter_at(far.address, power=POWER)
        before = time.monotonic()
        first = await meter.read()
        between = time.monotonic()
        second = await meter.read()
        assert before <= first.taken_at <= between <= second.taken_at <= time.monotonic()
        await meter.close()


async def test_a_meter_that_restarts_is_found_again_by_the_next_reading() -> None:
    async with honest_meter(holding={100: words("f", 12.5)}) as far:
        meter = meter_at(far.address, power=POWER)
        await meter.read()
        port = far.port
    with pytest.raises(Unreachable):
        await meter.read()
    async with honest_meter(holding={100: words("f", 13.0)}, port=port) as far:
        assert (await meter.read()).power_w == 13_000.0
        assert far.connections == 1
        await meter.close()


async def test_a_closed_port_is_unreachable() -> None:
    with pytest.raises(Unreachable, match=r"no connection to 127\.0\.51\.9:9"):
        await meter_at("127.0.51.9:9", power=POWER).read()


async def test_the_driver_is_found_by_its_entry_point() -> None:
    (point,) = entry_points(group=registry.GROUP, name="modbus")
    assert point.load() is DRIVER
    assert DRIVER.open_device is None


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.0.0.5", ("10.0.0.5", 502)),
        ("10.0.0.5:1502", ("10.0.0.5", 1502)),
        ("meter-1.site.lan:502", ("meter-1.site.lan", 502)),
        ("[fe80::1]:503", ("fe80::1", 503)),
    ],
)
def test_addresses(address: str, found: tuple[str, int]) -> None:
    assert parse_address(address) == found


@pytest.mark.parametrize("address", ["", ":502", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:70000", "a b", "http://x", "::1"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="is no meter address: write host:port"):
        meter_at(address, power=POWER)
