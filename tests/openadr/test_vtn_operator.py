"""The operator's own hand: programs, events and reports by a business logic client."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from curtaild.grid.openadr_vtn import Vtn
from curtaild.grid.openadr_vtn.business import BusinessLogic, VtnFailed
from curtaild.grid.openadr_vtn.events import (
    When,
    cancelled,
    capacity_limit,
    dispatch_setpoint,
    event_of,
    grid_emergency,
    simple_level,
)
from grid.authority import Authority
from openadr.vtn_rig import BL, CLIENTS, NOON, VEN, Talk, made, talking


def hand(talk: Talk) -> BusinessLogic:
    return BusinessLogic(talk.vtn.url, BL.client_id, BL.secret)


@pytest.mark.parametrize(
    ("what", "payload", "units"),
    [
        (capacity_limit(500_000), {"type": "IMPORT_CAPACITY_LIMIT", "values": [500.0]}, "KW"),
        (dispatch_setpoint(0), {"type": "DISPATCH_SETPOINT", "values": [0.0]}, "KW"),
        (simple_level(3), {"type": "SIMPLE", "values": [3]}, None),
        (grid_emergency("a line is down"), {"type": "ALERT_GRID_EMERGENCY", "values": ["a line is down"]}, None),
    ],
)
async def test_what_an_operator_states_is_an_event_that_a_ven_reads(
    what: dict[str, Any], payload: dict[str, Any], units: str | None
) -> None:
    async with talking() as talk, hand(talk) as operator:
        program_id = await operator.program("curtailment")
        assert await operator.program("curtailment") == program_id, "found again, not made twice"
        stated = await operator.state(event_of(program_id, what, When(), NOON, name="by hand", priority=0))
        (event,) = (await talk.ven("GET", "/events", active="true")).body
        assert event == stated
        assert event["intervals"] == [{"id": 0, "payloads": [payload]}]
        (descriptor,) = event["payloadDescriptors"]
        assert (descriptor["payloadType"], descriptor.get("units")) == (payload["type"], units)
        assert (event["eventName"], event["priority"]) == ("by hand", 0)
        assert [each["payloadType"] for each in event["reportDescriptors"]] == ["DEMAND", "OPERATING_STATE"]


@pytest.mark.parametrize(
    ("when", "period"),
    [
        (When(), {"start": "0001-01-01", "duration": "P9999Y"}),
        (When(lasts_s=90), {"start": "2026-11-21T12:00:00.000Z", "duration": "PT90S"}),
        (When(lasts_s=5_000_000.5), {"start": "2026-11-21T12:00:00.000Z", "duration": "PT5000000.5S"}),
        (
            When(begins=NOON + 60, randomize_s=30),
            {"start": "2026-11-21T12:01:00.000Z", "duration": "P9999Y", "randomizeStart": "PT30S"},
        ),
    ],
)
def test_only_what_never_ends_starts_at_the_beginning_of_time(when: When, period: dict[str, str]) -> None:
    assert when.period(NOON) == period


async def test_an_event_is_cancelled_by_a_span_of_nothing_or_by_its_deletion() -> None:
    async with talking() as talk, hand(talk) as operator:
        program_id = await operator.program("curtailment")
        body = event_of(program_id, capacity_limit(1), When(), NOON, asks_reports=False)
        first, second = [(await operator.state(body))["id"] for _ in range(2)]
        await operator.change(first, cancelled(body))
        assert (await talk.ven("GET", "/events", active="true")).ids == [second]
        await operator.delete(second)
        assert (await talk.ven("GET", "/events")).ids == [first]
        assert (await operator.event(first))["intervalPeriod"] == {"start": "0001-01-01", "duration": "PT0S"}


async def test_a_ven_is_enrolled_once_and_its_targets_can_change() -> None:
    async with talking() as talk, hand(talk) as operator:
        ven_id = await operator.enrol(VEN.client_id, "site", ["north"])
        assert await operator.enrol(VEN.client_id, "site", ["south"]) == ven_id
        (ven,) = (await talk.ven("GET", "/vens")).body
        assert (ven["id"], ven["targets"]) == (ven_id, ["south"])


async def test_all_pages_are_read_and_an_expired_token_is_renewed() -> None:
    async with talking(token_lifetime_s=60) as talk, hand(talk) as operator:
        program_id = await operator.program("curtailment")
        event_id = (await operator.state({"programID": program_id}))["id"]
        for number in range(51):
            await made(talk.ven, "/reports", eventID=event_id, clientName=f"row-{number}", resources=[])
        talk.clock.at = 61.0
        names = [report["clientName"] async for report in operator.objects("reports", eventID=event_id)]
        assert names == [f"row-{number}" for number in range(51)]


async def test_what_goes_wrong_is_said_without_the_secret(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    async with Vtn("127.0.0.1", 0, CLIENTS, tls=context) as vtn:
        for url, secret, tls, why in (
            (vtn.url, "wrong", trusting, "no token for bl: 401 'invalid_client'"),
            (vtn.url, BL.secret, None, "certificate verify failed"),
            ("https://127.0.0.1:1", BL.secret, trusting, "Cannot connect to host 127.0.0.1:1"),
            (vtn.url + "/elsewhere", BL.secret, trusting, "no token for bl: 404"),
        ):
            async with BusinessLogic(url, BL.client_id, secret, tls) as operator:
                with pytest.raises(VtnFailed, match=re.escape(why)) as failed:
                    await operator.program("curtailment")
            assert secret not in str(failed.value)
        async with BusinessLogic(vtn.url, BL.client_id, BL.secret, trusting) as operator:
            with pytest.raises(VtnFailed, match="409 'programID: no such program'"):
                await operator.state({"programID": "nobodys"})
