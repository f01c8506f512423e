"""Each make's way to tell watts and take a limit, on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from curtaild_drivers.contract import OFF, OperatingPoint, Outcome, RunState
from curtaild_drivers.gpu.curve import LIMIT
from gpu_redfish.makes import MAKES, SUPPLIES, gpu_metrics, hgx, idrac, ilo, openbmc, service, with_supplies, xcc
from gpu_redfish.tiny_bmc import opened, tiny_bmc


def limit(draw_w: float) -> OperatingPoint:
    return OperatingPoint(LIMIT, draw_w, 0.9, divisible=True)


IDRAC_POWER = "/redfish/v1/Chassis/System.Embedded.1/Power"
XCC_CONTROL = "/redfish/v1/Chassis/1/Controls/PowerLimit"
CRAY_CONTROL = "/redfish/v1/Chassis/Node0/Controls/NodePowerLimit"
OPENBMC_METRICS = "/redfish/v1/Chassis/chassis/EnvironmentMetrics"

WRITES = {
    "idrac": (IDRAC_POWER, {"PowerControl": [{"PowerLimit": {"LimitInWatts": 6000}}]}),
    "ilo": ("/redfish/v1/Chassis/1/Power", {"PowerControl": [{"PowerLimit": {"LimitInWatts": 6000}}]}),
    "xcc": (XCC_CONTROL, {"SetPoint": 6000, "ControlMode": "Manual"}),
    "openbmc": (OPENBMC_METRICS, {"PowerLimitWatts": {"SetPoint": 6000, "ControlMode": "Automatic"}}),
}


@pytest.mark.parametrize("make", MAKES)
async def test_it_is_recognised_by_what_it_says_of_itself(make: str) -> None:
    async with tiny_bmc(MAKES[make]()) as bmc, opened(bmc, rated_w=9000.0) as node:
        identity = await node.identify()
    assert identity.firmware == make
    assert (identity.model, identity.version, identity.serial) == ("an 8-GPU node", "1.2.3", "SN-1")


@pytest.mark.parametrize("make", WRITES)
async def test_a_limit_is_written_in_its_way_in_whole_watts_and_read_back(make: str) -> None:
    path, body = WRITES[make]
    async with tiny_bmc(MAKES[make]()) as bmc, opened(bmc, rated_w=9000.0) as node:
        before = await node.read()
        assert await node.apply(limit(6000.9)) is Outcome.ACKNOWLEDGED
        after = await node.read()
        assert await node.apply(limit(6000.0)) is Outcome.ALREADY_THERE
    assert bmc.changes() == [("PATCH", path, body)]
    assert before.power_w == pytest.approx(8400, abs=1)
    assert before.limit_w == 9000.0, "none in force: its most"
    assert (after.limit_w, after.point_key, after.state) == (6000.0, LIMIT, RunState.RUNNING)


async def test_a_cray_has_no_limit_at_zero() -> None:
    async with tiny_bmc(MAKES["cray"]()) as bmc, opened(bmc) as node:
        points = await node.operating_points()
        before = await node.read()
        await node.apply(limit(1500.0))
        after = await node.read()
    assert (points.lowest.draw_w, points.highest.draw_w) == (764.0, 2754.0)
    assert (before.power_w, before.limit_w, after.limit_w) == (2500.0, 2754.0, 1500.0)
    assert bmc.changes() == [("PATCH", CRAY_CONTROL, {"SetPoint": 1500, "ControlMode": "Automatic"})]


async def test_an_hgx_shares_the_nodes_limit_among_its_gpus() -> None:
    """8,240 W = 8 × 225 W + 1.15 × 8 × 700 W; a GPU takes 200 to 700 W, in whole watts."""
    async with tiny_bmc(hgx()) as bmc, opened(bmc) as node:
        identity = await node.identify()
        points = await node.operating_points()
        before = await node.read()
        assert await node.apply(limit(6000.0)) is Outcome.ACKNOWLEDGED
        after = await node.read()
    assert (identity.rated_w, points.lowest.draw_w) == (8240.0, 3640.0)
    assert points.step_w == pytest.approx(9.2)
    assert (before.power_w, before.limit_w) == (8240.0, 8240.0), "the whole node, not the baseboard within it"
    assert bmc.changes() == [("PATCH", gpu_metrics(gpu), {"PowerLimitWatts": {"SetPoint": 456}}) for gpu in range(1, 9)]
    assert after.limit_w == pytest.approx(1800 + 9.2 * 456), "not above what was asked"


@pytest.mark.parametrize("make", ["idrac", "ilo", "xcc", "openbmc"])
async def test_where_one_resource_tells_both_the_hot_read_is_one_get(make: str) -> None:
    async with tiny_bmc(MAKES[make]()) as bmc, opened(bmc, rated_w=9000.0) as node:
        await node.read()
        bmc.asked.clear()
        for _ in range(3):
            await node.read()
    assert bmc.gets() == [WRITES[make][0]] * 3


async def test_an_hgx_is_asked_for_its_gpus_limits_only_when_they_are_old_or_were_changed() -> None:
    async with tiny_bmc(hgx()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.asked.clear()
        await node.read()
        assert bmc.gets() == ["/redfish/v1/Chassis/DGX/EnvironmentMetrics"]
        await node.apply(limit(5000.0))
        bmc.asked.clear()
        await node.read()
    assert len(bmc.gets()) == 1 + 1 + 8, "watts, power state, limits"


LIFTS: dict[str, tuple[str, Any]] = {
    "idrac": (IDRAC_POWER, {"PowerControl": [{"PowerLimit": {"LimitInWatts": None}}]}),
    "xcc": (XCC_CONTROL, {"SetPoint": None, "ControlMode": "Disabled"}),
    "cray": (CRAY_CONTROL, {"ControlMode": "Disabled"}),
    "openbmc": (OPENBMC_METRICS, {"PowerLimitWatts": {"ControlMode": "Disabled"}}),
}


@pytest.mark.parametrize("make", LIFTS)
async def test_at_full_the_limit_is_lifted_where_the_site_wants_that(make: str) -> None:
    async with tiny_bmc(MAKES[make]()) as bmc, opened(bmc, rated_w=9000.0, at_full="lift") as node:
        most = (await node.operating_points()).highest
        await node.apply(limit(1500.0 if make == "cray" else 6000.0))
        assert await node.apply(most) is Outcome.ACKNOWLEDGED
        assert (await node.read()).limit_w == most.draw_w
        assert await node.apply(most) is Outcome.ALREADY_THERE
    assert bmc.changes()[1:] == [("PATCH", *LIFTS[make])]


async def test_at_full_it_is_given_its_most_otherwise() -> None:
    async with tiny_bmc(idrac()) as bmc, opened(bmc, rated_w=9000.0) as node:
        await node.apply((await node.operating_points()).highest)
    assert bmc.changes() == [("PATCH", IDRAC_POWER, {"PowerControl": [{"PowerLimit": {"LimitInWatts": 9000}}]})]


async def test_the_points_are_the_curve_between_the_least_and_the_most() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, rated_w=8000.0, base_w=1000.0) as node:
        points = (await node.operating_points()).points
    assert [(point.key, point.draw_w, round(point.rate, 3)) for point in points] == [
        (LIMIT, 3000.0, 0.411),
        (LIMIT, 4500.0, 0.72),
        (LIMIT, 5200.0, 0.86),
        (LIMIT, 5900.0, 0.92),
        (LIMIT, 6600.0, 0.96),
        (LIMIT, 8000.0, 1.0),
    ]


async def test_the_least_is_half_where_nobody_names_one() -> None:
    async with tiny_bmc(xcc()) as bmc, opened(bmc) as node:
        points = await node.operating_points()
    assert (points.lowest.draw_w, points.highest.draw_w) == (4500.0, 9000.0)


async def test_a_profile_that_the_site_names_is_not_doubted() -> None:
    """A make that nobody here knows, with a Power resource."""
    documents = ilo()
    documents["/redfish/v1/"]["Vendor"] = documents["/redfish/v1/Systems/1"]["Manufacturer"] = "Contoso"
    documents["/redfish/v1/Chassis/1"]["Manufacturer"] = "Contoso"
    documents["/redfish/v1/Managers/BMC"]["Model"] = "X"
    async with tiny_bmc(documents) as bmc:
        async with opened(bmc, rated_w=9000.0) as node:
            assert (await node.identify()).firmware == "power", "by where its limit stands"
        async with opened(bmc, rated_w=9000.0, profile="ilo") as node:
            assert (await node.identify()).firmware == "ilo"


async def test_of_several_nodes_the_named_one() -> None:
    documents = {**service("HPE", "Node0", "Node0", {}), **MAKES["cray"]()}
    documents["/redfish/v1/Systems/Node1"] = {"Model": "the other one", "Links": {"Chassis": []}}
    documents["/redfish/v1/Systems"]["Members"].append({"@odata.id": "/redfish/v1/Systems/Node1"})
    async with tiny_bmc(documents) as bmc, opened(bmc, system="Node1", rated_w=2000.0) as node:
        assert (await node.identify()).model == "the other one"


async def test_pages_of_a_collection_are_turned() -> None:
    documents = idrac()
    first = documents["/redfish/v1/Chassis"]
    documents["/redfish/v1/Chassis"] = {"Members": [], "Members@odata.nextLink": "/redfish/v1/Chassis/more"}
    documents["/redfish/v1/Chassis/more"] = first
    documents["/redfish/v1/Systems/System.Embedded.1"]["Links"] = {}
    async with tiny_bmc(documents) as bmc, opened(bmc, rated_w=9000.0) as node:
        assert (await node.read()).power_w == 8400


async def test_where_only_power_supplies_tell_watts_they_are_added_up() -> None:
    """One that merely stands by takes nothing; one that does not say leaves the sum unknown, and none is no supply."""
    documents = with_supplies(openbmc(), 2_800.0, 2_790.5, 0.0, None)
    documents[f"{SUPPLIES}/3"]["Status"]["State"] = "Absent"
    async with tiny_bmc(documents) as bmc, opened(bmc) as node:
        first = await node.read()
        assert await node.apply(limit(6_000.0)) is Outcome.ACKNOWLEDGED
        bmc.put(f"{SUPPLIES}/0/Metrics", "InputPowerWatts", "Reading", value=1_900.0)
        after = await node.read()
        bmc.asked.clear()
        await node.read()
        assert bmc.gets() == [f"{SUPPLIES}/{place}/Metrics" for place in range(3)]
        bmc.put(f"{SUPPLIES}/1/Metrics", "InputPowerWatts", "Reading", value=None)
        silent = await node.read()
    assert (first.power_w, first.limit_w) == (5_590.5, 9_000.0)
    assert (after.power_w, after.limit_w) == (4_690.5, 6_000.0)
    assert (silent.power_w, silent.limit_w) == (None, 6_000.0)


@pytest.mark.parametrize("taken_w", [(), (None, None), (-5.0, 1e9)])
async def test_power_supplies_that_tell_no_watts_leave_them_unknown(taken_w: tuple[float | None, ...]) -> None:
    async with tiny_bmc(with_supplies(openbmc(), *taken_w)) as bmc, opened(bmc) as node:
        reading = await node.read()
    assert (reading.power_w, reading.limit_w) == (None, 9_000.0)


async def test_zero_watts_are_unknown_and_a_temperature_comes_along() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        assert (await node.read()).temperature_c == 27
        bmc.put(OPENBMC_METRICS, "PowerWatts", "Reading", value=0)
        assert (await node.read()).power_w is None


async def test_off_is_not_offered_unless_the_site_opted_in() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        assert not node.capabilities.stops
        assert (await node.operating_points()).lowest.key != OFF
