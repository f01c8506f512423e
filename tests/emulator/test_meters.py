"""Feeder meters, read by pymodbus in each make's registers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pymodbus.client import AsyncModbusTcpClient

from curtaild_emulator import EmulatedFarm, FarmPlan, FeederPlan, MeterFault, Passwords
from curtaild_emulator.plan import DevicePlan, LayoutName
from emulator.asking import ANY, is_shut, settle

METER = "127.63.0.1"


@asynccontextmanager
async def metered(layout: LayoutName) -> AsyncIterator[tuple[EmulatedFarm, AsyncModbusTcpClient]]:
    """A farm of one device under one noiseless meter, and a client connected to the meter."""
    plan = FarmPlan(
        latency_s=0.0,
        ports=ANY,
        passwords=Passwords(),
        feeders=(FeederPlan(id="site", auxiliary_w=500.0, meter_noise=0.0, address=METER, layout=layout),),
        devices=(DevicePlan(id="a", model="luxos-s21", feeder="site", address="127.63.0.9"),),
    )
    async with EmulatedFarm(plan) as farm:
        client = AsyncModbusTcpClient(METER, port=farm.ports.modbus, timeout=60, retries=0)
        assert await client.connect()
        try:
            yield farm, client
        finally:
            client.close()


async def power_w(client: AsyncModbusTcpClient, layout: LayoutName) -> float:
    """Total active power as the make's manual says to read it."""
    kinds = client.DATATYPE
    if layout == "sdm630":
        reply = await client.read_input_registers(52, count=2)
        return float(client.convert_from_registers(reply.registers, kinds.FLOAT32))  # type: ignore[arg-type]
    if layout == "pm5000":
        reply = await client.read_holding_registers(3059, count=2)
        return 1000.0 * float(client.convert_from_registers(reply.registers, kinds.FLOAT32))  # type: ignore[arg-type]
    reply = await client.read_holding_registers(0x5B14, count=2)
    return float(client.convert_from_registers(reply.registers, kinds.INT32)) / 100.0  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["sdm630", "pm5000", "abb-b"])
async def test_power_is_what_flows_into_the_feeder(layout: LayoutName) -> None:
    async with metered(layout) as (farm, client):
        awake_w = await power_w(client, layout)
        assert awake_w == pytest.approx(farm.true_power_w("a") + 500.0, rel=1e-4)
        farm.plant.miner("a").sleep(farm.now())
        settle(farm)
        assert await power_w(client, layout) == pytest.approx(525.0, abs=0.1)


async def test_energy_counts_up_in_each_make_s_unit() -> None:
    async with metered("pm5000") as (farm, client):
        farm.skip(60.0)
        reply = await client.read_holding_registers(3203, count=4)
        high, *_, low = reply.registers
        assert high == 0
        assert low == pytest.approx(farm.plant.true_feeder_energy_j("site") / 3600.0, abs=1.0)
        assert low > 50


async def test_a_meter_s_faults() -> None:
    async with metered("sdm630") as (farm, client):
        farm.set_meter_fault("site", MeterFault.NAN)
        assert math.isnan(await power_w(client, "sdm630"))
        farm.set_meter_fault("site", MeterFault.NEGATIVE)
        assert await power_w(client, "sdm630") < -3_000.0
        farm.set_meter_fault("site", MeterFault.FROZEN)
        frozen_w = await power_w(client, "sdm630")
        farm.plant.miner("a").sleep(farm.now())
        settle(farm)
        assert await power_w(client, "sdm630") == frozen_w > 3_000.0
        farm.set_meter_fault("site", None)
        assert await power_w(client, "sdm630") == pytest.approx(525.0)


async def test_a_dead_meter_does_not_answer() -> None:
    async with metered("sdm630") as (farm, client):
        farm.set_meter_fault("site", MeterFault.DEAD)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await power_w(client, "sdm630")


async def test_what_it_does_not_have_is_an_exception() -> None:
    async with metered("sdm630") as (_, client):
        assert (await client.read_holding_registers(52, count=2)).exception_code == 1
        assert (await client.read_input_registers(9_000, count=2)).exception_code == 2
        assert (await client.read_input_registers(52, count=2, device_id=7)).exception_code == 11


async def test_an_unknown_meter_address_is_closed_at_once() -> None:
    async with metered("sdm630") as (farm, _):
        assert await is_shut(farm, "127.63.0.77", farm.ports.modbus)
