"""What emulated BMCs do wrong on the wire: silence, lies, tasks, nonsense, certificates, too few connections."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import aiohttp
import pytest
import uvloop

from curtaild_emulator import BmcFault
from emulator.redfish_asking import ID, ROOT, Client, client_of, settled_w
from emulator.redfish_shapes import check, check_error

SYSTEM = f"{ROOT}/Systems/System.Embedded.1"
POWER = f"{ROOT}/Chassis/System.Embedded.1/Power"
LIMIT = {"PowerControl": [{"PowerLimit": {"LimitInWatts": 5_000}}]}
LATE_S = 40.0


async def test_a_cap_that_is_acknowledged_and_not_obeyed_is_reported_as_set() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.ACK_NO_OBEY)
        assert (await client.ask("PATCH", POWER, LIMIT)).status == 200
        assert (await client.get(POWER))["PowerControl"][0]["PowerLimit"]["LimitInWatts"] == 5_000
        assert settled_w(client) > 7_500.0


async def test_a_cap_that_is_acknowledged_and_forgotten_is_reported_as_it_was() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.WRITE_FORGOTTEN)
        assert (await client.ask("PATCH", POWER, LIMIT)).status == 200
        assert (await client.get(POWER))["PowerControl"][0]["PowerLimit"]["LimitInWatts"] is None
        assert settled_w(client) > 7_500.0


async def test_a_late_cap_is_not_there_after_the_usual_time() -> None:
    async with client_of("openbmc") as client:
        client.farm.set_bmc_fault(ID, BmcFault.CAPS_LATE)
        path = f"{ROOT}/Chassis/chassis/EnvironmentMetrics"
        await client.patch(path, {"PowerLimitWatts": {"SetPoint": 4_000, "ControlMode": "Automatic"}})
        client.farm.skip(client.bmc.profile.bites_s)
        assert client.farm.true_power_w(ID) > 5_000.0
        client.farm.skip(LATE_S)
        assert client.farm.true_power_w(ID) == pytest.approx(4_000.0, rel=0.02)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_write_may_become_a_task(fails: bool) -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.TASK_FAILS if fails else BmcFault.TASK)
        told = await client.ask("PATCH", POWER, LIMIT)
        assert (told.status, check(told.body), told.body["TaskState"]) == (202, "Task", "Running")
        monitor = told.headers["Location"]
        assert monitor == told.body["TaskMonitor"]
        waiting = await client.ask("GET", monitor)
        assert (waiting.status, "Retry-After" in waiting.headers) == (202, True)
        assert client.bmc.node.node_cap_w is None
        client.farm.skip(10.0)
        task = await client.get(told.body["@odata.id"])
        assert (check(task), task["TaskState"]) == ("Task", "Exception" if fails else "Completed")
        assert (await client.ask("GET", monitor)).status == (500 if fails else 204)
        assert client.bmc.node.node_cap_w == (None if fails else 5_000)
        tasks = await client.get(await client.follow("Tasks", "Tasks"))
        assert [check(tasks), tasks["Members"]] == ["TaskCollection", [{"@odata.id": told.body["@odata.id"]}]]


@pytest.mark.parametrize(("fault", "status"), [(BmcFault.HTTP_500, 500), (BmcFault.BUSY, 503)])
async def test_it_may_answer_with_errors_and_do_nothing(fault: BmcFault, status: int) -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, fault)
        told = await client.ask("PATCH", POWER, LIMIT)
        assert (told.status, client.bmc.node.node_cap_w) == (status, None)
        if status == 500:
            assert check_error(told.body) == ["InternalError"]
        else:
            assert int(told.headers["Retry-After"]) > 0


async def raw(client: Client, method: str, path: str, body: object = None) -> bytes:
    async with client.session.request(method, path, json=body, headers=client.headers) as reply:
        assert reply.status == 200
        return await reply.read()


async def test_garbage_is_no_json_and_the_command_was_carried_out() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.GARBAGE)
        with pytest.raises(ValueError, match="can't decode"):
            json.loads(await raw(client, "PATCH", POWER, LIMIT))
        assert client.bmc.node.node_cap_w == 5_000


async def test_an_oversized_answer_goes_on_and_on_until_the_client_hangs_up() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.OVERSIZED)
        async with client.session.get(ROOT) as reply:
            assert reply.content_length is None
            assert len(await reply.content.readexactly(4 * 1024 * 1024)) == 4 * 1024 * 1024
            reply.close()
        client.farm.set_bmc_fault(ID, BmcFault.OVERSIZED, on=False)
        assert (await client.ask("GET", SYSTEM)).status == 200


async def test_a_redirect_leads_to_another_host() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.REDIRECT)
        told = await client.ask("GET", POWER)
        assert (told.status, told.headers["Location"]) == (307, f"https://192.0.2.1{POWER}")


async def test_power_readings_may_be_null_or_no_number() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.NO_POWER_READING)
        assert (await client.get(POWER))["PowerControl"][0]["PowerConsumedWatts"] is None
        client.farm.set_bmc_fault(ID, BmcFault.NO_POWER_READING, on=False)
        client.farm.set_bmc_fault(ID, BmcFault.NAN_POWER)
        path = f"{ROOT}/Chassis/System.Embedded.1/EnvironmentMetrics"
        assert b'"Reading": NaN' in await raw(client, "GET", path)
        assert b'"PowerConsumedWatts": NaN' in await raw(client, "GET", POWER)


async def test_an_etag_may_be_stale_as_soon_as_it_was_read() -> None:
    async with client_of("ami") as client:
        client.farm.set_bmc_fault(ID, BmcFault.ETAG_MOVES)
        path = f"{ROOT}/Chassis/Self/Power"
        assert (await client.patch(path, LIMIT)).status == 204  # nobody read in between
        etag = (await client.ask("GET", path)).headers["ETag"]
        assert (await client.ask("GET", path)).headers["ETag"] != etag
        assert (await client.ask("PATCH", path, LIMIT, If_Match=etag)).status == 412


async def log_in(client: Client) -> int:
    """The status; the client goes on with the session where it got one."""
    user = client.bmc.profile.user
    told = await client.ask("POST", f"{ROOT}/SessionService/Sessions", {"UserName": user, "Password": "emulated"})
    if told.status == 201:
        client.headers = {"X-Auth-Token": told.headers["X-Auth-Token"]}
    return told.status


async def test_sessions_may_all_be_taken_while_a_password_still_does() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.SESSIONS_TAKEN)
        assert await log_in(client) == 503
        assert (await client.ask("GET", SYSTEM)).status == 200


async def test_a_session_may_be_forgotten_after_one_request() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.SESSION_FORGOTTEN)
        assert await log_in(client) == 201
        assert [(await client.ask("GET", SYSTEM)).status for _ in range(2)] == [200, 401]
        assert await log_in(client) == 201


async def test_a_changed_password_shuts_everybody_out() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.WRONG_PASSWORD)
        assert (await client.ask("GET", SYSTEM)).status == 401
        assert await log_in(client) == 401


async def test_a_hung_host_stays_on_after_a_graceful_shutdown() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.HUNG_OS)
        target = f"{SYSTEM}/Actions/ComputerSystem.Reset"
        assert (await client.ask("POST", target, {"ResetType": "GracefulShutdown"})).status == 204
        assert settled_w(client) > 7_500.0
        assert (await client.get(SYSTEM))["PowerState"] == "On"
        assert (await client.ask("POST", target, {"ResetType": "ForceOff"})).status == 204
        assert settled_w(client) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("fault", "cap_w"), [(BmcFault.HANG, None), (BmcFault.HANG_WRITE_APPLIED, 5_000)], ids=["silent", "applied"]
)
async def test_a_write_may_never_be_answered(fault: BmcFault, cap_w: float | None) -> None:
    async with client_of("dell-idrac9", connections=2) as client:
        client.farm.set_bmc_fault(ID, fault)
        write = asyncio.create_task(client.ask("PATCH", POWER, LIMIT))
        async with asyncio.timeout(60.0):
            await client.bmc.heard("PATCH", POWER)
        if fault is BmcFault.HANG_WRITE_APPLIED:
            assert (await client.get(POWER))["PowerControl"][0]["PowerLimit"]["LimitInWatts"] == cap_w
        assert client.bmc.node.node_cap_w == cap_w
        assert not write.done()
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)


async def test_a_slow_bmc_takes_forty_seconds_of_plant_time() -> None:
    async with client_of("dell-idrac9", speed=1_000.0) as client:
        client.farm.set_bmc_fault(ID, BmcFault.SLOW)
        asked_at = client.farm.now()
        await client.get(ROOT)
        assert client.farm.now() - asked_at >= LATE_S


# --- TLS and connections -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (BmcFault.OTHER_AUTHORITY, "unable to get local issuer certificate"),
        (BmcFault.OTHER_NAME, "IP address mismatch"),
        (BmcFault.EXPIRED, "certificate has expired"),
    ],
)
async def test_a_certificate_may_be_wrong(fault: BmcFault, words: str) -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, fault)
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=words):
            await client.ask("GET", ROOT)
        assert client.bmc.requests == []  # nothing was sent
        client.farm.set_bmc_fault(ID, fault, on=False)
        assert (await client.get(ROOT))["Id"] == "RootService"


async def connect(client: Client) -> asyncio.StreamWriter | None:
    """A connection that answered, still open; `None` where the BMC closed it."""
    address, port = client.farm.bmc_addresses[ID], client.farm.ports.redfish
    try:
        reader, writer = await asyncio.open_connection(address, port, ssl=client.tls)
        writer.write(f"GET {ROOT} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        line = await reader.readline()
    except (ConnectionError, ssl.SSLError):
        return None
    if not line:
        return None
    assert line == b"HTTP/1.1 200 OK\r\n"
    return writer


async def test_a_fifth_connection_is_closed_until_another_one_ends() -> None:
    async with client_of("dell-idrac9") as client:
        held = [await connect(client) for _ in range(4)]
        assert None not in held
        assert await connect(client) is None
        assert held[0] is not None
        held[0].close()
        async with asyncio.timeout(60.0):
            while (again := await connect(client)) is None:
                pass
        for writer in (*held[1:], again):
            assert writer is not None
            writer.close()


async def test_a_bmc_may_refuse_every_connection() -> None:
    async with client_of("dell-idrac9") as client:
        client.farm.set_bmc_fault(ID, BmcFault.REFUSE_CONNECTION)
        assert await connect(client) is None


async def test_the_authority_is_left_where_the_plan_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    async with client_of("cray", bmc_authority_file=str(path)) as client:
        assert client.farm.bmc_authority_file == path
        assert path.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
        assert b"PRIVATE" not in path.read_bytes()


def test_bmcs_run_under_uvloop() -> None:
    async def ask() -> None:
        async with client_of("nvidia-dgx") as client:
            client.farm.set_bmc_fault(ID, BmcFault.EXPIRED)
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await client.ask("GET", ROOT)
            client.farm.set_bmc_fault(ID, BmcFault.EXPIRED, on=False)
            assert (await client.get(ROOT))["Vendor"] == "AMI"

    uvloop.run(ask())
