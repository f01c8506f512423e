"""Our VEN and our VTN, each written from the specification alone, meet over TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from curtaild.clock import SystemClock
from curtaild.core.allocation import GridMessage, ScheduleReceived
from curtaild.core.limits import Limit
from curtaild.grid.openadr import OpenAdrConnection, OpenAdrDialect, Polling
from curtaild.grid.openadr.vtn import VtnAccess
from curtaild.grid.openadr_vtn import Client, MqttNotifier, OadrObject, Role, Vtn
from curtaild.grid.openadr_vtn.events import When, capacity_limit, event_of
from curtaild.grid.operator import operator_access
from grid.authority import Authority
from grid.rig import PATIENCE_S, a_status
from loop_clock import comes_true
from openadr.token_broker import OWN_PASSWORD, OWN_USER, token_broker
from openadr.ven import MEANING, RULES

CLOCK = SystemClock()
SITE = Client("thar-1", "the site's own secret", Role.VEN)
FAR_S = 600.0
"""A poll that far off happens once in a test."""


@dataclass
class Meeting:
    """The strictest ceiling that the VEN has stated for its root, in W, as it goes."""

    vtn: Vtn
    line: OpenAdrConnection
    delivered: asyncio.Queue[GridMessage] = field(default_factory=asyncio.Queue)

    async def limited_to(self, limit_w: float | None) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.delivered.get()
                if isinstance(message, ScheduleReceived):
                    ceilings = [each.ceiling for each in message.allocations if each.valid_from <= CLOCK.monotonic()]
                    watts = [ceiling.watts for ceiling in ceilings if isinstance(ceiling, Limit)]
                    if (min(watts) if watts else None) == limit_w:
                        return

    def program(self, **more: Any) -> str:
        made = self.vtn.objects.create("PROGRAM", {"programName": "capacity", **more})
        return str(made["id"])

    def limit(self, program_id: str, limit_w: float, **more: Any) -> OadrObject:
        """An event from now on, for ever."""
        return self.vtn.objects.create(
            "EVENT", event_of(program_id, capacity_limit(limit_w), When(), CLOCK.wall(), **more)
        )


def over_tls(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@asynccontextmanager
async def following(
    authority: Authority, vtn: Vtn, poll_s: float = 0.05, notified: bool = False
) -> AsyncIterator[Meeting]:
    """A VEN at work at this VTN."""
    rules = replace(RULES, meaning=replace(MEANING, targets={}))
    dialect = OpenAdrDialect("vtn", rules, CLOCK)
    access = VtnAccess(vtn.url, SITE.client_id, SITE.secret, ca_file=authority.ca_file)
    polling = Polling(access, "thar-1", 1e6, (), poll_s, is_notified=notified, mqtt_client_id="thar-1")
    delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
    line = OpenAdrConnection("vtn", dialect, polling, CLOCK, delivered.put_nowait)
    task = asyncio.create_task(line.run())
    try:
        yield Meeting(vtn, line, delivered)
    finally:
        task.cancel()
        await asyncio.wait((task,), timeout=PATIENCE_S)
        assert task.cancelled(), task.exception()


def ven_with(*targets: str) -> OadrObject:
    return {"venName": "thar-1", "clientID": SITE.client_id, "targets": list(targets)}


@pytest.mark.parametrize("grants_unasked", [False, True])
async def test_open_and_targeted_events_of_many_pages_are_followed(authority: Authority, grants_unasked: bool) -> None:
    """Whether the VTN wants the targets named, as the Definitions do, or not, as the User Guide has it."""
    tls = over_tls(authority)
    async with Vtn("127.0.0.1", 0, (SITE,), tls=tls, grants_unasked=grants_unasked) as vtn:
        vtn.objects.create("VEN", ven_with("north"))
        async with following(authority, vtn) as meeting:
            program_id = meeting.program()
            for number in range(60):
                meeting.limit(program_id, 900_000 + number)
            await meeting.limited_to(900_000)
            meeting.limit(program_id, 1_000, targets=["south"])
            strict = meeting.limit(program_id, 400_000, targets=["north", "south"])
            await meeting.limited_to(400_000)
            vtn.objects.delete("EVENT", strict["id"])
            await meeting.limited_to(900_000)
            vtn.objects.delete("PROGRAM", program_id)
            await meeting.limited_to(None)


async def test_a_vtn_that_starts_anew_and_empty_is_followed_again(authority: Authority) -> None:
    """Other ids, other tokens, no ven object: all is had anew, and what it no longer shows is over."""
    tls = over_tls(authority)
    async with Vtn("127.0.0.1", 0, (SITE,), tls=tls) as vtn:
        port = int(vtn.url.split(":")[2].split("/")[0])
        async with following(authority, vtn) as meeting:
            meeting.limit(meeting.program(), 500_000)
            await meeting.limited_to(500_000)
            await vtn.__aexit__(None, None, None)
            await comes_true(lambda: not meeting.line.states[0].connected)
            async with Vtn("127.0.0.1", port, (SITE,), tls=tls) as meeting.vtn:
                meeting.limit(meeting.program(), 300_000)
                await meeting.limited_to(300_000)


async def test_what_the_ven_reports_the_vtn_takes(authority: Authority) -> None:
    async with Vtn("127.0.0.1", 0, (SITE,), tls=over_tls(authority)) as vtn, following(authority, vtn) as meeting:
        event = meeting.limit(meeting.program(), 500_000)
        await meeting.limited_to(500_000)
        meeting.line.dialect.status(replace(a_status(), at=CLOCK.monotonic()), None)
        await comes_true(lambda: reports(vtn))
        (report,) = reports(vtn)
        assert (report["eventID"], report["clientName"]) == (event["id"], "thar-1")
        assert report["resources"][0]["intervals"][0]["payloads"][0]["type"] == "OPERATING_STATE"


async def test_a_report_of_an_event_that_has_just_gone_alarms_nobody(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with Vtn("127.0.0.1", 0, (SITE,), tls=over_tls(authority)) as vtn, following(authority, vtn) as meeting:
        event = meeting.limit(meeting.program(), 500_000)
        await meeting.limited_to(500_000)

        async def deleting(request: web.Request) -> web.StreamResponse | None:
            if request.method == "POST" and request.path.endswith("/reports"):
                vtn.meddler = None
                vtn.objects.delete("EVENT", event["id"])
            return None

        vtn.meddler = deleting
        meeting.line.dialect.status(replace(a_status(), at=CLOCK.monotonic()), None)
        await meeting.limited_to(None)
        await comes_true(lambda: meeting.line.states[0].dropped_total == 1)
    told = [record.levelname for record in caplog.records if "is refused" in record.getMessage()]
    assert told == ["INFO"]


def reports(vtn: Vtn) -> list[OadrObject]:
    return list(vtn.objects.seen("REPORT", SITE))


@pytest.mark.parametrize("offers_all", [True, False])
async def test_with_its_token_the_ven_hears_of_events_long_before_it_would_ask(
    authority: Authority, offers_all: bool
) -> None:
    """The broker of a VTN that takes tokens; mosquitto stands in the run of the whole site."""
    known: list[Vtn] = []
    async with token_broker(lambda token: known[0].tokens.owner(token), *authority.issue("127.0.0.1")) as port:
        access = operator_access(
            "127.0.0.1", port, is_tls=True, username=OWN_USER, password=OWN_PASSWORD, ca_file=authority.ca_file
        )
        by_token = {"method": "OAUTH2_BEARER_TOKEN", "username": "{clientID}"}
        notifier = MqttNotifier(access, [f"mqtts://127.0.0.1:{port}"], by_token, offers_all=offers_all, retain=False)
        async with Vtn("127.0.0.1", 0, (SITE,), tls=over_tls(authority), notifier=notifier) as vtn:
            known.append(vtn)
            vtn.objects.create("VEN", ven_with("north"))
            program_id = str(vtn.objects.create("PROGRAM", {"programName": "capacity"})["id"])
            async with following(authority, vtn, poll_s=FAR_S, notified=True) as meeting:
                await comes_true(lambda: [state.connected for state in meeting.line.states] == [True, True])
                event = meeting.limit(program_id, 500_000)
                await meeting.limited_to(500_000)
                targeted = meeting.limit(program_id, 400_000, targets=["north"])
                await meeting.limited_to(400_000)
                vtn.objects.delete("EVENT", targeted["id"])
                await meeting.limited_to(500_000)
                vtn.objects.update("EVENT", event, {**event, **capacity_limit(700_000)})
                await meeting.limited_to(700_000)
