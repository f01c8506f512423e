"""Whatever JSON a BMC sends, of whatever shape: a reading or a driver error, and no watts out of thin air."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curtaild_drivers.contract import OFF, DriverError, OperatingPoint, Reading
from curtaild_drivers.gpu.curve import LIMIT
from gpu_redfish.makes import MAKES, Documents, openbmc, with_supplies
from gpu_redfish.tiny_bmc import SESSIONS, Asked, opened, tiny_bmc

LEAVES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
LEAVES |= st.sampled_from([10**400, -1, "NaN", "On", "Off", "/redfish/v1/", "/redfish/v1/../x", "http://x/redfish/v1/"])
WORDS = """
@odata.id @odata.etag Members Members@odata.nextLink Links Systems Chassis Managers Sessions Power EnvironmentMetrics
Controls PowerControl PowerLimit LimitInWatts PowerConsumedWatts PowerWatts Reading PowerLimitWatts SetPoint
AllowableMin AllowableMax ControlMode ControlType SetPointUnits Sensor PowerState Status Health BootProgress LastState
Actions #ComputerSystem.Reset target ResetType@Redfish.AllowableValues Vendor Product Oem Manufacturer Model error
message @Message.ExtendedInfo MessageId Message TemperatureCelsius Processors PowerSubsystem PowerSupplies Metrics
InputPowerWatts
"""
KEYS = st.sampled_from(WORDS.split())
SHAPES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=15
)


def is_sane(reading: Reading) -> bool:
    numbers = (reading.power_w, reading.limit_w, reading.temperature_c)
    return all(number is None or math.isfinite(number) for number in numbers) and (
        (reading.power_w is None or reading.power_w > 0) and (reading.limit_w is None or reading.limit_w > 0)
    )


SHAPED: dict[str, Callable[[], Documents]] = {**MAKES, "supplies": lambda: with_supplies(openbmc(), 2_800.0, 2_800.0)}


@pytest.mark.parametrize("make", SHAPED)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.integers(0, 10_000), shape=SHAPES, turns_bad_at=st.integers(0, 40))
async def test_any_answer_at_all(make: str, place: int, shape: Any, turns_bad_at: int) -> None:
    """One document of the BMC is replaced by the shape, from the start or later on."""
    documents = copy.deepcopy(SHAPED[make]())
    path = sorted(documents)[place % len(documents)]
    raw = json.dumps(shape).encode()
    async with tiny_bmc(documents) as bmc, opened(bmc, power_off="forced", force_off_after_s=0, rated_w=9e3) as node:

        async def behave(asked: Asked) -> web.StreamResponse:
            return web.Response(body=raw) if len(bmc.asked) > turns_bad_at else bmc.answer(asked)

        bmc.behaviours["GET", path] = behave
        bmc.behaviours["PATCH", path] = behave
        for call in (node.identify, node.operating_points, node.read, node.read):
            try:
                answer = await call()
            except DriverError:
                continue
            assert not isinstance(answer, Reading) or is_sane(answer)
        for key, draw_w in ((LIMIT, 6000), (OFF, 150), (OFF, 150), (LIMIT, 8000)):
            try:
                await node.apply(OperatingPoint(key, draw_w, 1.0))
            except DriverError:
                continue
        assert bmc.most_open == 1
        assert bmc.logins <= 2
        assert all(asked.path.startswith("/redfish/") for asked in bmc.asked if asked.path != SESSIONS)
