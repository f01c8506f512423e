"""The HTTP port on the wire: right answers, no burden to the event loop, no memory for who does not read."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
import uvloop

from curtaild.core.status import SiteStatus
from curtaild.telemetry import HealthReport, ListenError, Telemetry, TelemetryServer
from curtaild.telemetry.server import MOST_BODIES, MOST_CONNECTIONS
from curtaild.telemetry.status_json import from_json
from curtaild_config import Endpoint
from telemetry.exposed import parsed
from telemetry.sites import THE_STATUS, at_work, fleet

ANY_PORT = Endpoint("127.0.0.1", 0)
WELL = HealthReport(config_loaded=True, cycles=7, cycle_age_s=0.4)
IN_TIME_S = 60.0


@asynccontextmanager
async def serving(
    telemetry: Telemetry,
    status: SiteStatus | None = THE_STATUS,
    health: HealthReport = WELL,
    send_deadline_s: float = IN_TIME_S,
) -> AsyncIterator[TelemetryServer]:
    server = TelemetryServer(ANY_PORT, telemetry, lambda: status, lambda: health, send_deadline_s=send_deadline_s)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def reader(server: TelemetryServer) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(IN_TIME_S)
    async with aiohttp.ClientSession(server.url, timeout=timeout, auto_decompress=False) as session:
        yield session


class GatedTelemetry(Telemetry):
    """Renders when the gate opens, and counts how often it is asked to."""

    def __init__(self) -> None:
        super().__init__("1")
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.renderings = 0

    def exposition(self, openmetrics: bool = False) -> Iterator[bytes]:
        self.renderings += 1
        self.begun.set()
        assert self.gate.wait(IN_TIME_S)
        return super().exposition(openmetrics)


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_metrics_are_text_unless_openmetrics_is_asked_for() -> None:
    async with serving(at_work()) as server, reader(server) as session:
        async with session.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "Content-Encoding" not in answer.headers
            text = await answer.text()
        asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        async with session.get("/metrics", headers={**asked, "Accept-Encoding": "identity"}) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            openmetrics = await answer.text()
    for body, is_openmetrics in ((text, False), (openmetrics, True)):
        assert parsed(body, is_openmetrics)("feeder_limit_watts", feeder="site") == 12_000


async def test_bodies_are_squeezed_for_who_takes_gzip() -> None:
    async with serving(at_work()) as server, reader(server) as session:
        for path, sign in (("/metrics", b"curtaild_build_info{"), ("/status", b'"phase": "limited"')):
            async with session.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
                assert answer.headers["Content-Encoding"] == "gzip"
                squeezed = await answer.read()
            assert sign in gzip.decompress(squeezed)


async def test_the_status_comes_as_json_with_or_without_devices() -> None:
    async with serving(at_work()) as server, reader(server) as session:
        async with session.get("/status", headers={"Accept-Encoding": "identity"}) as answer:
            assert answer.content_type == "application/json"
            assert from_json(await answer.json()).devices == list(THE_STATUS.devices)
        async with session.get("/status?devices=0", headers={"Accept-Encoding": "identity"}) as answer:
            assert "devices" not in await answer.json()


async def test_before_the_first_cycle_there_is_no_status() -> None:
    async with serving(Telemetry("1"), status=None) as server, reader(server) as session:
        async with session.get("/status") as answer:
            assert answer.status == 503
            assert "no cycle" in json.loads(await answer.read())["error"]
        async with session.get("/metrics") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("report", "healthz", "readyz"),
    [
        (WELL, "ok", "ok"),
        (HealthReport(True, 0, 2.0), "ok", "no cycle has been completed yet"),
        (HealthReport(False, 7, 0.4), "ok", "the site file is not loaded"),
        (HealthReport(True, 7, 12.5), "stalled: 12.5 s since the last cycle was completed (allowed: 10 s)", "stalled"),
        (HealthReport(True, 0, 12.5), "stalled: 12.5 s since the start, and no cycle was completed", "no cycle"),
    ],
)
async def test_health_says_what_is_wrong(report: HealthReport, healthz: str, readyz: str) -> None:
    async with serving(Telemetry("1"), health=report) as server, reader(server) as session:
        for path, verdict in (("/healthz", healthz), ("/readyz", readyz)):
            async with session.get(path) as answer:
                assert answer.status == (200 if verdict == "ok" else 503)
                assert (await answer.text()).startswith(verdict)


async def test_the_first_page_leads_to_the_others_and_nothing_can_be_written() -> None:
    async with serving(at_work()) as server, reader(server) as session:
        async with session.get("/") as answer:
            page = await answer.text()
        for path in ("/metrics", "/status", "/healthz", "/readyz"):
            assert f'href="{path}' in page
            async with session.get(path) as answer:
                assert answer.status == 200
            async with session.post(path, data=b"x") as answer:
                assert answer.status == 405


# --- the port --------------------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_told_with_its_address_and_the_remedy() -> None:
    async with serving(Telemetry("1")) as first:
        port = int(first.url.rpartition(":")[2])
        second = TelemetryServer(Endpoint("127.0.0.1", port), Telemetry("1"), lambda: None, lambda: WELL)
        with pytest.raises(ListenError) as refusal:
            await second.start()
        await second.stop()
        assert f"127.0.0.1:{port}: Address already in use" in str(refusal.value)
        assert "`listen` in [telemetry]" in str(refusal.value)
        async with reader(first) as session, session.get("/healthz") as answer:
            assert answer.status == 200


async def test_an_address_of_another_host_is_told() -> None:
    server = TelemetryServer(Endpoint("192.0.2.1", 9810), Telemetry("1"), lambda: None, lambda: WELL)
    with pytest.raises(ListenError, match=r"192\.0\.2\.1:9810.*no such address"):
        await server.start()
    await server.stop()


async def test_a_stopped_server_frees_its_port_at_once_though_readers_hold_on() -> None:
    async with AsyncExitStack() as stack:
        async with serving(at_work()) as server:
            session = await stack.enter_async_context(reader(server))
            async with session.get("/healthz") as answer:
                await answer.read()  # the connection is kept alive
            port = int(server.url.rpartition(":")[2])
        again = TelemetryServer(Endpoint("127.0.0.1", port), Telemetry("1"), lambda: None, lambda: WELL)
        await again.start()
        await again.stop()


async def test_stopping_waits_neither_for_a_rendering_nor_for_its_reader() -> None:
    telemetry = GatedTelemetry()
    async with AsyncExitStack() as stack:
        stack.callback(telemetry.gate.set)
        server = await stack.enter_async_context(serving(telemetry))
        session = await stack.enter_async_context(reader(server))
        scrape = asyncio.create_task(session.get("/metrics").__aenter__())
        assert await asyncio.to_thread(telemetry.begun.wait, IN_TIME_S)
        async with asyncio.timeout(IN_TIME_S):
            await server.stop()
        with pytest.raises(aiohttp.ClientError):
            await scrape


# --- load and ill will -----------------------------------------------------------------------------------------------


async def test_scrapes_at_the_same_time_share_one_rendering_and_stall_nobody() -> None:
    telemetry = GatedTelemetry()
    async with serving(telemetry) as server, reader(server) as session, asyncio.TaskGroup() as group:

        async def scrape() -> bytes:
            async with session.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
                return await answer.read()

        scrapes = [group.create_task(scrape()) for _ in range(5)]
        assert await asyncio.to_thread(telemetry.begun.wait, IN_TIME_S)
        async with session.get("/healthz") as answer:  # answered while the rendering is held
            assert answer.status == 200
        telemetry.gate.set()
        bodies = {await each for each in scrapes}
        assert telemetry.renderings <= 2  # a scrape whose request came in after the gate opened has its own
        assert all(b"curtaild_build_info" in body for body in bodies)


async def test_a_reader_that_goes_away_takes_nothing_from_the_others() -> None:
    telemetry = GatedTelemetry()
    async with serving(telemetry) as server, reader(server) as session:
        leaving = asyncio.create_task(session.get("/metrics").__aenter__())
        assert await asyncio.to_thread(telemetry.begun.wait, IN_TIME_S)
        leaving.cancel()
        staying = asyncio.create_task(session.get("/metrics").__aenter__())
        async with session.get("/healthz"):
            telemetry.gate.set()
        answer = await staying
        assert answer.status == 200
        assert b"curtaild_build_info" in gzip.decompress(await answer.read())


async def test_who_does_not_read_is_cut_off_and_makes_room() -> None:
    telemetry = at_work()
    telemetry.update(fleet(10_000))  # 8 MB: more than the kernel takes on a reader's behalf
    async with serving(telemetry, send_deadline_s=1.0) as server, AsyncExitStack() as stack:
        for _ in range(MOST_BODIES):
            idler = stack.enter_context(socket.socket())
            idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            idler.setblocking(False)
            await asyncio.get_running_loop().sock_connect(idler, ("127.0.0.1", int(server.url.rpartition(":")[2])))
            idler.send(b"GET /metrics HTTP/1.1\r\nHost: site\r\nAccept-Encoding: identity\r\n\r\n")
        session = await stack.enter_async_context(reader(server))
        statuses: list[int] = []
        async with asyncio.timeout(IN_TIME_S):
            while statuses[-1:] != [200] or 503 not in statuses:
                async with session.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
                    statuses.append(answer.status)
                    body = await answer.read()
        assert body.count(b"curtaild_device_state{") == 10_000
        async with session.get("/healthz") as answer:
            assert answer.status == 200


async def test_a_connection_too_many_is_closed_and_leaves_the_others_alone() -> None:
    async with serving(at_work()) as server, AsyncExitStack() as stack:
        session = await stack.enter_async_context(reader(server))
        async with session.get("/healthz") as answer:
            await answer.read()
        host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
        for _ in range(MOST_CONNECTIONS - 1):
            _, held = await asyncio.open_connection(host, port)
            stack.callback(held.close)
        one_too_many, writer = await asyncio.open_connection(host, port)
        stack.callback(writer.close)
        async with asyncio.timeout(IN_TIME_S):
            with suppress(ConnectionError):  # closed by a reset or in good order
                assert await one_too_many.read() == b""
        async with session.get("/metrics") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9_999,
    ],
    ids=["TLS", "endless path", "endless headers"],
)
async def test_garbage_is_answered_or_closed_and_the_server_stays(sent: bytes) -> None:
    async with serving(at_work()) as server, reader(server) as session:
        answer, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(sent)
        async with asyncio.timeout(IN_TIME_S):
            reply = await answer.read()
        assert not reply or b" 400 " in reply.splitlines()[0]
        writer.close()
        async with session.get("/healthz") as answered:
            assert answered.status == 200


@pytest.mark.parametrize(
    "conversation",
    [
        test_bodies_are_squeezed_for_who_takes_gzip,
        test_a_port_in_use_is_told_with_its_address_and_the_remedy,
        test_a_stopped_server_frees_its_port_at_once_though_readers_hold_on,
        test_stopping_waits_neither_for_a_rendering_nor_for_its_reader,
        test_who_does_not_read_is_cut_off_and_makes_room,
        test_a_connection_too_many_is_closed_and_leaves_the_others_alone,
    ],
)
def test_the_same_on_uvloop(conversation: Callable[[], Coroutine[None, None, None]]) -> None:
    """The daemon runs on uvloop, whose transports are asyncio's by duck-typing only."""
    uvloop.run(conversation())
