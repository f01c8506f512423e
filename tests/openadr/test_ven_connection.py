"""The connection to a VTN at work: signs of life, silences, reports, and how it says that it stands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from curtaild.clock import SystemClock
from curtaild.core.allocation import GridMessage, HeartbeatReceived, MessageRejected, RejectCode, ScheduleReceived
from curtaild.core.limits import Limit
from curtaild.grid.fields import timestamp
from curtaild.grid.openadr import OpenAdrConnection, OpenAdrDialect, Polling, connection
from grid.authority import Authority
from grid.rig import PATIENCE_S, Sort, a_status
from loop_clock import comes_true
from openadr.canned import Canned, canned, problem
from openadr.ven import PROGRAM, RULES, event, limits, period

CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def _reports_are_looked_for_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TICK_S", 0.05)


@dataclass
class Connected:
    """A connection that runs, and what it delivers."""

    server: Canned
    line: OpenAdrConnection
    delivered: asyncio.Queue[GridMessage] = field(default_factory=asyncio.Queue)

    async def next(self, sort: type[Sort]) -> Sort:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.delivered.get()
                if isinstance(message, sort):
                    return message


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Canned]:
    async with canned(Authority(tmp_path / "ca")) as running:
        running.answers |= {"GET /programs": [PROGRAM], "GET /events": []}
        yield running


@asynccontextmanager
async def connected(server: Canned, poll_s: float = 0.05, **rules: Any) -> AsyncIterator[Connected]:
    dialect = OpenAdrDialect("vtn", replace(RULES, **rules), CLOCK)
    polling = Polling(server.access(), "thar-1", 1e6, (), poll_s, is_notified=False, mqtt_client_id="thar-1")
    delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
    line = OpenAdrConnection("vtn", dialect, polling, CLOCK, delivered.put_nowait)
    task = asyncio.create_task(line.run())
    try:
        yield Connected(server, line, delivered)
    finally:
        task.cancel()
        await asyncio.wait((task,), timeout=PATIENCE_S)
        assert task.cancelled(), task.exception()


def now_event(*kilowatts: float, **words: Any) -> dict[str, Any]:
    written = timestamp(CLOCK.wall() - 5)
    times = {
        "createdDateTime": written,
        "modificationDateTime": written,
        "intervalPeriod": period("0001-01-01", "P9999Y"),
    }
    return event(intervals=limits(*kilowatts), **{**times, **words})


async def test_each_reading_is_a_sign_of_life_and_a_failure_is_none(
    server: Canned, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["GET /events"] = [now_event(500)]
    async with connected(server) as site:
        stated = await site.next(ScheduleReceived)
        assert stated.allocations[0].ceiling == Limit(5e5)
        for _ in range(3):
            await site.next(HeartbeatReceived)
        (state,) = site.line.states
        assert (state.connected, state.url, state.reconnects_total) == (True, server.url, 0)
        server.answers["GET /programs"] = lambda _: problem(500, "on fire")
        await comes_true(lambda: not site.line.states[0].connected)
        while not site.delivered.empty():
            site.delivered.get_nowait()
        failed = server.count("GET /programs")
        await comes_true(lambda: server.count("GET /programs") >= failed + 2)
        assert site.delivered.empty()
        assert "answers 500, 'on fire'" in str(site.line.states[0].last_error)
        server.answers["GET /programs"] = [PROGRAM]
        await site.next(HeartbeatReceived)
        (state,) = site.line.states
        assert (state.connected, state.reconnects_total, state.last_error) == (True, 1, None)
    assert sum("is lost" in line for line in caplog.messages) == 1
    assert sum("cannot be made" in line for line in caplog.messages) == 0, "told once"


async def test_a_reading_that_cannot_be_taken_is_told_once_and_is_no_sign_of_life(server: Canned) -> None:
    async with connected(server, programs=frozenset(("Other",))) as site:
        refusal = await site.next(MessageRejected)
        assert (refusal.code, refusal.retained, refusal.issuer) == (RejectCode.UNAUTHORIZED, True, "openadr//vtn")
        await comes_true(lambda: server.count("GET /programs") >= 3)
        assert site.delivered.empty()
        assert site.line.states[0].rejected_total == {RejectCode.UNAUTHORIZED: 1}


async def test_a_vtn_that_shows_too_much_is_asked_for_what_is_not_over(server: Canned) -> None:
    old = [event(f"old-{number}", intervals=limits(1)) for number in range(1_100)]

    def shown(request: web.Request) -> list[Any]:
        skip = int(request.query["skip"])
        return [now_event(500)] if request.query.get("active") == "true" else old[skip : skip + 50]

    server.answers["GET /events"] = shown
    async with connected(server) as site:
        stated = await site.next(ScheduleReceived)
        assert stated.allocations[0].ceiling == Limit(5e5)


async def test_a_vtn_that_is_an_hour_off_is_not_followed(server: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["GET /events"] = [now_event(500)]
    monkeypatch.setattr(CLOCK, "wall", lambda: SystemClock().wall() + 3_600, raising=False)
    async with connected(server) as site:
        refusal = await site.next(MessageRejected)
        assert refusal.code is RejectCode.CLOCK_SKEW
        assert "behind the site's" in refusal.reason


async def test_an_event_that_is_refused_is_counted_and_the_vtn_is_alive(server: Canned) -> None:
    server.answers["GET /events"] = [now_event(-1)]
    async with connected(server) as site:
        assert (await site.next(MessageRejected)).code is RejectCode.NOT_A_LIMIT
        await site.next(HeartbeatReceived)
        assert site.line.states[0].rejected_total == {RejectCode.NOT_A_LIMIT: 1}


async def test_reports_are_sent_and_one_that_is_refused_holds_up_no_other(server: Canned) -> None:
    descriptor = {"frequency": 0, "reportIntervals": "OPEN_INTERVALS"}
    asked = [{"payloadType": kind, **descriptor} for kind in ("OPERATING_STATE", "READING")]
    server.answers["GET /events"] = [now_event(500, reportDescriptors=asked)]
    answers = iter([problem(503), problem(400), {"id": "report-1"}])
    server.answers["POST /reports"] = lambda _: next(answers)
    async with connected(server) as site:
        await site.next(HeartbeatReceived)
        site.line.dialect.status(replace(a_status(), at=CLOCK.monotonic()), None)
        await comes_true(lambda: server.count("POST /reports") == 3)
        sent = [json.loads(body) for what, _, body in server.heard if what == "POST /reports"]
        assert [each["payloadDescriptors"][0]["payloadType"] for each in sent] == ["OPERATING_STATE"] * 2 + ["READING"]
        assert sent[2]["resources"][0]["intervals"][0]["payloads"][0] == {"type": "READING", "values": [990.00004]}
        await comes_true(lambda: site.line.states[0].connected)
        assert site.line.states[0].dropped_total == 1


async def test_what_the_vtn_would_not_give_is_told_once(server: Canned, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(server) as site:
        for _ in range(2):
            await site.next(HeartbeatReceived)
    assert [line for line in caplog.messages if "it keeps no ven" in line] == [
        f"{server.url}: it keeps no ven thar-1 for us: {server.url}/vens answers 404, 'Not Found'"
    ]
