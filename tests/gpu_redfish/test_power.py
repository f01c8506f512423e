"""On and off: only where the site opted in, gently first, and what the BMC says of it."""

from __future__ import annotations

import pytest
from aiohttp import web

from curtaild_drivers.contract import (
    OFF,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.gpu.curve import LIMIT
from gpu_redfish.makes import RESET, gpu_metrics, hgx, idrac, openbmc
from gpu_redfish.tiny_bmc import Asked, TinyBmc, hang, opened, tiny_bmc

SYSTEM = "/redfish/v1/Systems/system"
METRICS = "/redfish/v1/Chassis/chassis/EnvironmentMetrics"
SWITCH = RESET.format("system")
OFF_POINT = OperatingPoint(OFF, 150.0, 0.0)
SIX_KW = OperatingPoint(LIMIT, 6000.0, 0.9, divisible=True)


def obeys(bmc: TinyBmc, deaf_to: str = "") -> None:
    """A host that does at once what its switch is told."""

    async def switch(asked: Asked) -> web.StreamResponse:
        if asked.body["ResetType"] != deaf_to:
            turns_on = asked.body["ResetType"] == "On"
            bmc.put(SYSTEM, "PowerState", value="On" if turns_on else "Off")
            bmc.put(METRICS, "PowerWatts", "Reading", value=2500.0 if turns_on else 140.0)
        return web.Response(status=204)

    bmc.behaviours["POST", SWITCH] = switch


def resets(bmc: TinyBmc) -> list[str]:
    return [body["ResetType"] for method, path, body in bmc.changes() if path == SWITCH]


async def test_off_and_on_again() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, power_off="graceful") as node:
        obeys(bmc)
        points = await node.operating_points()
        assert (points.lowest.key, points.lowest.draw_w) == (OFF, 150.0)
        assert (await node.read()).state is RunState.RUNNING
        assert await node.apply(OFF_POINT) is Outcome.ACKNOWLEDGED
        asleep = await node.read()
        assert (asleep.state, asleep.point_key, asleep.limit_w, asleep.power_w) == (RunState.ASLEEP, OFF, None, 140.0)
        assert await node.apply(OFF_POINT) is Outcome.ALREADY_THERE
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        awake = await node.read()
        assert (awake.state, awake.limit_w) == (RunState.RUNNING, 6000.0)
    methods = [(method, path) for method, path, _ in bmc.changes()]
    assert methods == [("POST", SWITCH), ("PATCH", METRICS), ("POST", SWITCH)], "its limit stands before it starts"
    assert resets(bmc) == ["GracefulShutdown", "On"]


async def test_a_site_that_did_not_opt_in_switches_nothing() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        with pytest.raises(Unsupported, match="never"):
            await node.apply(OFF_POINT)
        bmc.put(SYSTEM, "PowerState", value="Off")  # by somebody else
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        assert resets(bmc) == []
        assert (await node.read()).state is RunState.ASLEEP


async def test_while_the_operating_system_has_time_it_is_asked_once() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, power_off="forced", force_off_after_s=600) as node:
        obeys(bmc, deaf_to="GracefulShutdown")
        for _ in range(3):
            assert await node.apply(OFF_POINT) is Outcome.ACKNOWLEDGED
        assert resets(bmc) == ["GracefulShutdown"]
        assert (await node.read()).state is RunState.RUNNING, "asked is not off"
        assert node.capabilities.settle_down_s * 2 >= 600, "the daemon waits as long"


async def test_after_its_time_it_is_forced_where_the_site_opted_in_to_that() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, power_off="forced", force_off_after_s=0) as node:
        obeys(bmc, deaf_to="GracefulShutdown")
        await node.apply(OFF_POINT)
        await node.apply(OFF_POINT)
        assert resets(bmc) == ["GracefulShutdown", "ForceOff"]
        assert (await node.read()).state is RunState.ASLEEP


async def test_after_its_time_it_is_asked_again_where_force_is_not_allowed() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, power_off="graceful", force_off_after_s=0) as node:
        obeys(bmc, deaf_to="GracefulShutdown")
        await node.apply(OFF_POINT)
        await node.apply(OFF_POINT)
        assert resets(bmc) == ["GracefulShutdown"] * 2


async def test_a_shutdown_whose_answer_is_lost_is_not_sent_twice() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, power_off="forced") as node:
        await node.read()
        bmc.behaviours["POST", SWITCH] = hang
        with pytest.raises(OutcomeUnknown):
            await node.apply(OFF_POINT)
        assert await node.apply(OFF_POINT) is Outcome.ACKNOWLEDGED
        assert resets(bmc) == ["GracefulShutdown"]


async def test_a_bmc_that_only_forces() -> None:
    documents = openbmc()
    documents[SYSTEM]["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] = ["On", "ForceOff"]
    async with tiny_bmc(documents) as bmc:
        obeys(bmc)
        async with opened(bmc, power_off="graceful") as node:
            with pytest.raises(Unsupported, match="offers no GracefulShutdown; it offers ForceOff, On"):
                await node.apply(OFF_POINT)
        async with opened(bmc, power_off="forced") as node:
            await node.apply(OFF_POINT)
        assert resets(bmc) == ["ForceOff"]


async def test_a_limit_that_is_refused_while_off_starts_nothing() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, power_off="graceful") as node:
        await node.read()
        bmc.put(SYSTEM, "PowerState", value="Off")
        bmc.put(METRICS, "PowerWatts", "Reading", value=140.0)
        await node.read()
        bmc.behaviours["PATCH", METRICS] = lambda asked: web.Response(status=409)
        with pytest.raises(Refused):
            await node.apply(SIX_KW)
        assert resets(bmc) == []


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_gpus_that_are_there_only_while_the_node_is_on(status: int) -> None:
    """It starts without them, and the readings tell what it keeps."""
    async with tiny_bmc(hgx()) as bmc, opened(bmc, power_off="graceful") as node:
        await node.operating_points()
        for gpu in range(1, 9):
            bmc.behaviours["GET", gpu_metrics(gpu)] = lambda asked: web.Response(status=status)
        bmc.put("/redfish/v1/Systems/DGX", "PowerState", value="Off")
        bmc.put("/redfish/v1/Chassis/DGX/EnvironmentMetrics", "PowerWatts", "Reading", value=140.0)
        assert (await node.read()).state is RunState.ASLEEP
        bmc.behaviours["POST", RESET.format("DGX")] = lambda asked: web.Response(status=204)
        assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
        assert bmc.changes() == [("POST", RESET.format("DGX"), {"ResetType": "On"})]
        bmc.behaviours.clear()
        bmc.put("/redfish/v1/Systems/DGX", "PowerState", value="On")
        assert (await node.read()).limit_w == 8240.0, "not what it was started for"


async def test_a_node_found_off_that_hides_its_limits() -> None:
    """It is asked again, unless the site file says enough to start it."""
    documents = hgx()
    gone = {gpu_metrics(gpu): documents.pop(gpu_metrics(gpu)) for gpu in range(1, 9)}
    documents["/redfish/v1/Systems/DGX"]["PowerState"] = "Off"
    async with tiny_bmc(documents) as bmc:
        async with opened(bmc, power_off="graceful") as node:
            with pytest.raises(Unreachable, match="off and its BMC shows no power limit"):
                await node.operating_points()
            bmc.documents |= gone
            assert (await node.operating_points()).highest.draw_w == 8240.0
        for path in gone:
            del bmc.documents[path]
        async with opened(bmc, power_off="graceful", least_w=3640, rated_w=8240.0) as node:
            assert [point.key for point in (await node.operating_points()).points][:2] == [OFF, LIMIT]
            bmc.behaviours["POST", RESET.format("DGX")] = lambda asked: web.Response(status=204)
            assert await node.apply(SIX_KW) is Outcome.ACKNOWLEDGED
            bmc.documents |= gone
            bmc.put("/redfish/v1/Systems/DGX", "PowerState", value="On")
            await node.read()
            assert (await node.read()).limit_w == 8240.0


async def test_a_node_whose_limits_never_show_is_not_searched_at_each_reading() -> None:
    documents = openbmc()
    del documents[METRICS]["PowerLimitWatts"]
    async with tiny_bmc(documents) as bmc, opened(bmc, power_off="graceful") as node:
        await node.read()
        bmc.asked.clear()
        await node.read()
        await node.read()
        assert bmc.gets() == [METRICS] * 2


STATES = [
    ({"PowerState": "On"}, RunState.RUNNING),
    ({"PowerState": "On", "BootProgress": {"LastState": "OSRunning"}}, RunState.RUNNING),
    ({"PowerState": "On", "BootProgress": {"LastState": "OSBootStarted"}}, RunState.RUNNING),
    ({"PowerState": "On", "BootProgress": {"LastState": "MemoryInitializationStarted"}}, RunState.STARTING),
    ({"PowerState": "PoweringOn"}, RunState.STARTING),
    ({"PowerState": "PoweringOff"}, RunState.RUNNING),
    ({"PowerState": "Off"}, RunState.ASLEEP),
    ({"PowerState": "On", "Status": {"Health": "Critical"}}, RunState.FAULT),
    ({"PowerState": "On", "Status": {"Health": "Warning"}}, RunState.RUNNING),
    ({"PowerState": "Off", "Status": {"Health": "Critical"}}, RunState.ASLEEP),
    ({"PowerState": "Paused"}, RunState.UNKNOWN),
    ({"PowerState": None}, RunState.UNKNOWN),
    ({"PowerState": 1, "Status": []}, RunState.UNKNOWN),
]


@pytest.mark.parametrize(("says", "state"), STATES)
async def test_what_it_does_is_what_its_system_says(says: dict[str, object], state: RunState) -> None:
    documents = openbmc()
    documents[SYSTEM] |= says
    async with tiny_bmc(documents) as bmc, opened(bmc) as node:
        reading = await node.read()
    assert reading.state is state
    assert (reading.fault is not None) == (says.get("Status") == {"Health": "Critical"})


async def test_watts_that_contradict_the_power_state_have_it_asked_anew() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.read()
        bmc.put(SYSTEM, "PowerState", value="Off")
        assert (await node.read()).state is RunState.RUNNING, "nothing says that it may be news"
        bmc.put(METRICS, "PowerWatts", "Reading", value=120.0)
        assert (await node.read()).state is RunState.ASLEEP


async def test_a_reading_stands_without_a_power_state() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc) as node:
        await node.identify()
        del bmc.documents[SYSTEM]
        reading = await node.read()
    assert (reading.state, reading.power_w, reading.limit_w) == (RunState.UNKNOWN, 8400.5, 9000.0)


async def test_a_bmc_that_does_not_say_its_most_wants_the_sites_word() -> None:
    async with tiny_bmc(idrac()) as bmc:
        async with opened(bmc) as node:
            with pytest.raises(Unsupported, match="set rated_w"):
                await node.operating_points()
        async with opened(bmc, rated_w=100.0, power_off="graceful") as node:
            with pytest.raises(Unsupported, match="see least_w, base_w, off_w and rated_w"):
                await node.operating_points()
