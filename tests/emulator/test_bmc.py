"""Emulated BMCs as their makers' guides describe them: resources, sessions, ETags, caps, resets; over real TLS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from curtaild_emulator import NODE_MODELS
from curtaild_emulator.bmc.profiles import PROFILES
from emulator.asking import ANY
from emulator.redfish_asking import ROOT, Client, client_of, settled_w
from emulator.redfish_shapes import check, check_error

H100 = NODE_MODELS["hgx-h100"]
FLOOR_W, MOST_W = 3_640, 8_240
LIMIT = {"PowerControl": [{"PowerLimit": {"LimitInWatts": 5_000}}]}
BY_METRICS = {"PowerLimitWatts": {"SetPoint": 5_000, "ControlMode": "Automatic"}}
NODE_CAPS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "dell-idrac9": (("Chassis", "0", "Power"), LIMIT),
    "hpe-ilo": (("Chassis", "0", "Power"), LIMIT),
    "ami": (("Chassis", "0", "Power"), LIMIT),
    "lenovo-xcc": (("Chassis", "0", "Controls", "0"), {"SetPoint": 5_000, "ControlMode": "Manual"}),
    "cray": (("Chassis", "0", "Controls", "8"), {"SetPoint": 5_000, "ControlMode": "Automatic"}),
    "openbmc": (("Chassis", "0", "EnvironmentMetrics"), BY_METRICS),
}
GPUS = ("Systems", "1", "Processors")


async def crawl(client: Client) -> dict[str, str]:
    """Every resource that links lead to, checked; its type by its path."""
    kinds: dict[str, str] = {}
    waiting = [ROOT]
    while waiting:
        path = waiting.pop()
        body = await client.get(path)
        assert body["@odata.id"] == path
        kinds[path] = check(body)
        waiting += [found for found in links(body) if found not in kinds and "#" not in found]
    return kinds


def links(body: Any) -> list[str]:
    if isinstance(body, list):
        return [path for item in body for path in links(item)]
    if not isinstance(body, dict):
        return []
    own = [body["@odata.id"]] if len(body) == 1 and "@odata.id" in body else []
    return own + [path for item in body.values() for path in links(item)]


@pytest.mark.parametrize("bmc", sorted(PROFILES))
async def test_every_resource_has_the_shape_of_its_type(bmc: str) -> None:
    async with client_of(bmc) as client:
        kinds = await crawl(client)
    assert {"ServiceRoot", "ComputerSystem", "Chassis", "Processor", "SessionService", "TaskService"} <= {
        *kinds.values()
    }
    assert list(kinds.values()).count("Processor") == 8


@pytest.mark.parametrize("bmc", sorted(NODE_CAPS))
async def test_a_node_s_cap_is_written_where_the_maker_keeps_it_and_lifted_again(bmc: str) -> None:
    steps, body = NODE_CAPS[bmc]
    async with client_of(bmc) as client:
        path = await client.follow(*steps)
        before = json.dumps(body).replace("5000", "null")
        told = await client.patch(path, body)
        assert told.status == PROFILES[bmc].patched
        assert settled_w(client) == pytest.approx(5_000.0)
        assert "5000" in json.dumps(await client.get(path))
        lift = before.replace('"Manual"', '"Disabled"').replace('"Automatic"', '"Disabled"')
        assert (await client.patch(path, json.loads(lift))).status == PROFILES[bmc].patched
        assert settled_w(client) > 7_500.0


async def test_an_hgx_baseboard_caps_each_gpu() -> None:
    async with client_of("nvidia-dgx") as client:
        gpus = [member["@odata.id"] for member in (await client.get(await client.follow(*GPUS)))["Members"]]
        assert gpus[0].endswith("/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1")
        for gpu in gpus:
            path = (await client.get(gpu))["EnvironmentMetrics"]["@odata.id"]
            assert (await client.patch(path, {"PowerLimitWatts": {"SetPoint": 300}})).status == 204
        assert settled_w(client) == pytest.approx(H100.node_w(300.0))
        metrics = await client.get(path)
        assert metrics["PowerLimitWatts"] == {
            "AllowableMin": 200,
            "AllowableMax": 700,
            "ControlMode": "Automatic",
            "SetPoint": 300,
        }
        assert metrics["PowerWatts"]["Reading"] == 300.0
        board = await client.get(await client.follow("Chassis", "1", "EnvironmentMetrics"))
        assert board["PowerWatts"]["Reading"] == 2_400.0


async def test_a_cray_blade_has_a_control_for_each_gpu_beside_the_node_s() -> None:
    async with client_of("cray") as client:
        members = (await client.get(await client.follow("Chassis", "0", "Controls")))["Members"]
        names = [member["@odata.id"].rpartition("/")[2] for member in members]
        assert names == [*(f"Accelerator{n}PowerLimit" for n in range(8)), "NodePowerLimit"]
        gpu = members[3]["@odata.id"]
        assert (await client.patch(gpu, {"SetPoint": 250, "ControlMode": "Automatic"})).status == 204
        assert client.bmc.node.gpu_caps_w == [700.0, 700.0, 700.0, 250, 700.0, 700.0, 700.0, 700.0]
        assert (await client.patch(gpu, {"ControlMode": "Disabled"})).status == 204
        control = await client.get(gpu)
        assert (control["SetPoint"], control["ControlMode"], control["AllowableMax"]) == (None, "Disabled", 700)
        assert client.bmc.node.gpu_caps_w == [700.0] * 8


async def test_the_baseboard_is_unreadable_while_the_host_is_off() -> None:
    async with client_of("nvidia-dgx") as client:
        path = await client.follow(*GPUS, "0", "EnvironmentMetrics")
        etag = (await client.ask("GET", path)).headers["ETag"]
        client.bmc.node.cut_power(client.farm.now())
        settled_w(client)
        assert (await client.ask("GET", path)).status == 500
        assert (await client.ask("PATCH", path, {"PowerLimitWatts": {"SetPoint": 300}}, If_Match=etag)).status == 500
        system = await client.get(await client.follow("Systems", "0"))
        assert (system["Id"], system["PowerState"]) == ("DGX", "Off")


READINGS = {
    "nvidia-dgx": "EnvironmentMetrics",
    "dell-idrac9": "Power",
    "hpe-ilo": "Power",
    "lenovo-xcc": "EnvironmentMetrics",
    "cray": "EnvironmentMetrics",
    "openbmc": "EnvironmentMetrics",
    "ami": "Power",
}


@pytest.mark.parametrize(("bmc", "where"), sorted(READINGS.items()))
async def test_power_is_read_at_the_chassis(bmc: str, where: str) -> None:
    async with client_of(bmc) as client:
        body = await client.get(await client.follow("Chassis", "0", where))
        told_w = body["PowerControl"][0]["PowerConsumedWatts"] if where == "Power" else body["PowerWatts"]["Reading"]
        assert told_w == pytest.approx(client.farm.true_power_w("node-1"), rel=0.05)
        assert isinstance(told_w, int if bmc == "dell-idrac9" else float)


@pytest.mark.parametrize(
    ("bmc", "vendor", "product"),
    [
        ("nvidia-dgx", "AMI", "AMI Redfish Server"),
        ("dell-idrac9", "Dell", "Integrated Dell Remote Access Controller"),
        ("hpe-ilo", "HPE", "ProLiant XL675d Gen10 Plus"),
        ("openbmc", None, None),
    ],
)
async def test_the_root_says_who_made_it_to_anybody(bmc: str, vendor: str | None, product: str | None) -> None:
    async with client_of(bmc) as client:
        client.headers = {}
        root = await client.get(f"{ROOT}/")
        assert (root.get("Vendor"), root.get("Product")) == (vendor, product)
        assert (await client.get("/redfish"))["v1"] == f"{ROOT}/"
        told = await client.ask("GET", root["Systems"]["@odata.id"])
        assert (told.status, check_error(told.body)) == (401, ["NoValidSession"])
        assert "WWW-Authenticate" in told.headers


# --- sessions ------------------------------------------------------------------------------------


async def log_in(client: Client, password: str = "emulated") -> Any:
    user = client.bmc.profile.user
    return await client.ask("POST", f"{ROOT}/SessionService/Sessions", {"UserName": user, "Password": password})


async def test_a_session_s_token_opens_the_door_until_it_is_closed() -> None:
    async with client_of("hpe-ilo") as client:
        client.headers = {}
        told = await log_in(client)
        assert (told.status, check(told.body)) == (201, "Session")
        client.headers = {"X-Auth-Token": told.headers["X-Auth-Token"]}
        assert "Session" in (await crawl(client)).values()
        assert (await client.ask("DELETE", told.headers["Location"])).status == 204
        assert (await client.ask("GET", f"{ROOT}/Systems")).status == 401


async def test_sessions_are_few_and_end_when_unused() -> None:
    async with client_of("dell-idrac9") as client:
        tokens = [(await log_in(client)).headers["X-Auth-Token"] for _ in range(8)]
        told = await log_in(client)
        assert (told.status, check_error(told.body)) == (503, ["SessionLimitExceeded"])
        client.bmc.sessions.timeout_s = 0.0
        client.headers = {"X-Auth-Token": tokens[0]}
        assert (await client.ask("GET", f"{ROOT}/Systems")).status == 401
        client.bmc.sessions.timeout_s = 1_800.0
        assert (await log_in(client)).status == 201


async def test_a_wrong_password_is_rejected() -> None:
    async with client_of("dell-idrac9") as client:
        assert (await log_in(client, "calvin")).status == 401
        client.knows_password("calvin")
        assert (await client.ask("GET", f"{ROOT}/Systems")).status == 401
        told = await client.ask("POST", f"{ROOT}/SessionService/Sessions", {"UserName": "root"})
        assert (told.status, check_error(told.body)) == (400, ["PropertyMissing"])


# --- what a write must look like -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bmc", "body", "message"),
    [
        ("dell-idrac9", {"PowerControl": [{"PowerLimit": {"LimitInWatts": 5_000.5}}]}, "PropertyValueTypeError"),
        ("dell-idrac9", {"PowerControl": [{"PowerLimit": {"LimitInWatts": 5_000.0}}]}, "PropertyValueTypeError"),
        ("dell-idrac9", {"PowerControl": [{"PowerLimit": {"LimitInWatts": "5000"}}]}, "PropertyValueTypeError"),
        ("dell-idrac9", {"PowerControl": [{"PowerLimit": {"LimitInWatts": 100}}]}, "PropertyValueOutOfRange"),
        ("dell-idrac9", {"PowerControl": {"PowerLimit": {"LimitInWatts": 5_000}}}, "PropertyValueTypeError"),
        ("hpe-ilo", {"PowerControl": [{"PowerLimit": {"LimitWatts": 5_000}}]}, "PropertyUnknown"),
        ("hpe-ilo", {"PowerControl": [{"PowerLimit": {}}]}, "PropertyMissing"),
        ("lenovo-xcc", {"SetPoint": 5_000, "ControlMode": "Disabled"}, "PropertyValueConflict"),
        ("lenovo-xcc", {"SetPoint": None, "ControlMode": "Manual"}, "PropertyValueConflict"),
        ("lenovo-xcc", {"SetPoint": 5_000, "ControlMode": "Automatic"}, "PropertyValueNotInList"),
        ("cray", {"SetPoint": MOST_W + 1, "ControlMode": "Automatic"}, "PropertyValueOutOfRange"),
        ("cray", {}, "PropertyMissing"),
        ("openbmc", {"PowerLimitWatts": 5_000}, "PropertyValueTypeError"),
        ("openbmc", {"PowerLimitWatts": {"SetPoint": True}}, "PropertyValueTypeError"),
        ("openbmc", {"PowerLimitWatts": {"SetPoint": 5_000, "Reading": 1}}, "PropertyUnknown"),
        ("openbmc", [], "MalformedJSON"),
    ],
)
async def test_what_the_maker_s_bmc_would_refuse_is_refused_in_words(bmc: str, body: object, message: str) -> None:
    async with client_of(bmc) as client:
        path = await client.follow(*NODE_CAPS[bmc][0])
        told = await client.ask("PATCH", path, body)
        assert (told.status, check_error(told.body)) == (400, [message])
        assert client.bmc.node.node_cap_w is None


async def test_only_idrac_wants_whole_watts() -> None:
    async with client_of("hpe-ilo") as client:
        path = await client.follow("Chassis", "0", "Power")
        told = await client.patch(path, {"PowerControl": [{"PowerLimit": {"LimitInWatts": 5_000.5}}]})
        assert (told.status, client.bmc.node.node_cap_w) == (200, 5_000.5)


async def test_on_openbmc_a_set_point_alone_caps_nothing() -> None:
    async with client_of("openbmc") as client:
        path = await client.follow("Chassis", "0", "EnvironmentMetrics")
        assert (await client.patch(path, {"PowerLimitWatts": {"SetPoint": 5_000}})).status == 204
        assert settled_w(client) > 7_500.0
        limit = (await client.get(path))["PowerLimitWatts"]
        assert (limit["SetPoint"], limit["ControlMode"]) == (5_000, "Disabled")
        assert (await client.patch(path, {"PowerLimitWatts": {"ControlMode": "Automatic"}})).status == 204
        assert settled_w(client) == pytest.approx(5_000.0)
        assert (await client.patch(path, {"PowerLimitWatts": {"SetPoint": 6_000}})).status == 204
        assert settled_w(client) == pytest.approx(6_000.0)


@pytest.mark.parametrize("bmc", ["ami", "nvidia-dgx"])
async def test_where_an_etag_is_demanded_it_must_be_there_and_fresh(bmc: str) -> None:
    body: object = LIMIT if bmc == "ami" else {"PowerLimitWatts": {"SetPoint": 300}}
    async with client_of(bmc) as client:
        path = await client.follow(*(("Chassis", "0", "Power") if bmc == "ami" else (*GPUS, "0", "EnvironmentMetrics")))
        told = await client.ask("PATCH", path, body)
        assert (told.status, check_error(told.body)) == (428, ["PreconditionRequired"])
        stale = (await client.ask("GET", path)).headers["ETag"]
        assert (await client.get(path))["@odata.etag"] == stale  # reading changes nothing
        assert (await client.ask("PATCH", path, body, If_Match=stale)).status == 204
        told = await client.ask("PATCH", path, body, If_Match=stale)
        assert (told.status, check_error(told.body)) == (412, ["PreconditionFailed"])
        assert (await client.ask("PATCH", path, body, If_Match="*")).status == 204


async def test_elsewhere_an_etag_is_heeded_where_it_is_given() -> None:
    async with client_of("dell-idrac9") as client:
        path = await client.follow("Chassis", "0", "Power")
        assert (await client.ask("PATCH", path, LIMIT)).status == 200
        assert (await client.ask("PATCH", path, LIMIT, If_Match='W/"0-0"')).status == 412


async def test_what_is_not_there_and_what_cannot_be_written() -> None:
    async with client_of("hpe-ilo") as client:
        told = await client.ask("GET", f"{ROOT}/Chassis/1/Controls")
        assert (told.status, check_error(told.body)) == (404, ["ResourceMissingAtURI"])
        told = await client.ask("PATCH", f"{ROOT}/Systems/1", {"PowerState": "Off"})
        assert (told.status, check_error(told.body)) == (405, ["OperationNotAllowed"])


# --- power states ------------------------------------------------------------------------------------


async def reset(client: Client, kind: str) -> Any:
    action = (await client.get(await client.follow("Systems", "0")))["Actions"]["#ComputerSystem.Reset"]
    assert kind in action["ResetType@Redfish.AllowableValues"]
    return await client.ask("POST", action["target"], {"ResetType": kind})


async def power_state(client: Client) -> str:
    return str((await client.get(await client.follow("Systems", "0")))["PowerState"])


async def test_a_graceful_shutdown_takes_its_time() -> None:
    async with client_of("lenovo-xcc") as client:
        assert (await reset(client, "GracefulShutdown")).status == 204
        assert await power_state(client) == "PoweringOff"
        assert settled_w(client) == pytest.approx(H100.standby_w)
        assert await power_state(client) == "Off"
        assert (await reset(client, "On")).status == 204
        assert await power_state(client) == "PoweringOn"
        assert settled_w(client) > 7_500.0


@pytest.mark.parametrize(("bmc", "again"), [("dell-idrac9", 409), ("hpe-ilo", 400), ("openbmc", 204)])
async def test_switching_off_what_is_off(bmc: str, again: int) -> None:
    async with client_of(bmc) as client:
        assert (await reset(client, "ForceOff")).status == 204
        assert await power_state(client) == "Off"
        assert (await reset(client, "ForceOff")).status == again
        assert settled_w(client) == pytest.approx(H100.standby_w)


async def test_a_reset_of_no_known_kind_is_refused() -> None:
    async with client_of("cray") as client:
        target = f"{ROOT}/Systems/Node0/Actions/ComputerSystem.Reset"
        for body, message in (({"ResetType": "Off"}, "PropertyValueNotInList"), ({}, "PropertyMissing")):
            told = await client.ask("POST", target, body)
            assert (told.status, check_error(told.body)) == (400, [message])


async def test_a_farm_of_nodes_counts_on_its_meter_and_obeys_its_control_api() -> None:
    fleet = {"id": "n", "model": "hgx-a100", "bmc": "cray", "feeder": "site", "address": "127.66.1.1", "count": 3}
    async with client_of("dell-idrac9", node_fleets=[fleet]) as client:
        farm = client.farm
        assert farm.bmc_addresses["n-3"] == "127.66.1.3"
        total_w = sum(farm.true_power_w(name) for name in farm.bmcs)
        assert farm.plant.read_meter("site", farm.now()).power_w == pytest.approx(total_w)
        base = f"http://127.0.0.1:{farm.ports.control}"
        async with client.session.post(f"{base}/work", json={"device": "n-1", "share": 0.0}) as reply:
            assert (await reply.json())["state"] == "idle"
        async with client.session.post(f"{base}/faults", json={"device": "n-1", "fault": "hung_os"}) as reply:
            assert (await reply.json())["faults"] == ["hung_os"]
        async with client.session.get(f"{base}/devices") as reply:
            assert [row["device"] for row in await reply.json()] == ["node-1", "n-1", "n-2", "n-3"]
        async with client.session.post(f"{base}/faults", json={"device": "n-1", "fault": "tired"}) as reply:
            assert reply.status == 400
        async with client.session.post(f"{base}/work", json={"device": "nobody", "share": 1.0}) as reply:
            assert reply.status == 404
        assert ANY.redfish == 0 < farm.ports.redfish
