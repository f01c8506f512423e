"""Programs, events, reports, vens, resources over HTTP, as the OpenAPI definition of OpenADR 3.1.0 has them."""

from __future__ import annotations

from typing import Any

import pytest

from curtaild.grid.openadr_vtn.objects import MOST_OBJECTS
from openadr.vtn_rig import VEN, Json, a_program, a_ven, an_event, capacity_limit, made, talking

METADATA = {"id", "createdDateTime", "modificationDateTime", "objectType"}


async def test_an_object_comes_back_with_the_vtns_metadata() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        said = {**capacity_limit(10), "programID": program_id, "eventName": "envelope", "priority": 0}
        theirs = {"id": "mine", "objectType": "REPORT", "createdDateTime": "2000-01-01T00:00:00Z", "private": 1}
        event = await made(talk.bl, "/events", **said, **theirs)
        assert {key: event[key] for key in event.keys() - METADATA} == said, "and what no schema names is left out"
        assert event["objectType"] == "EVENT"
        assert event["id"] != "mine"
        assert event["createdDateTime"] == event["modificationDateTime"] == "2026-11-21T12:00:00.000Z"
        talk.clock.at = 60.0
        changed = (await talk.bl("PUT", f"/events/{event['id']}", {**said, "priority": 1})).body
        assert (changed["priority"], changed["modificationDateTime"]) == (1, "2026-11-21T12:01:00.000Z")
        assert {key: changed[key] for key in ("id", "createdDateTime")} == {
            key: event[key] for key in ("id", "createdDateTime")
        }
        assert (await talk.ven("GET", f"/events/{event['id']}")).body == changed
        gone = await talk.bl("DELETE", f"/events/{event['id']}")
        assert (gone.status, gone.body) == (200, changed)
        assert (await talk.ven("GET", f"/events/{event['id']}")).status == 404


EVENT: dict[str, Any] = {"programID": "…", **capacity_limit(10)}


REFUSED: list[tuple[str, Json, str]] = [
    ("/programs", {}, "programName"),
    ("/programs", {"programName": ""}, "programName"),
    ("/programs", {"programName": "x" * 129}, "programName"),
    ("/programs", {"programName": "p", "programDescriptions": [{"URL": "nowhere"}]}, "URL"),
    ("/programs", [], "body"),
    ("/events", {}, "programID"),
    ("/events", {**EVENT, "programID": "a/b"}, "programID"),
    ("/events", {**EVENT, "priority": -1}, "priority"),
    ("/events", {**EVENT, "priority": True}, "priority"),
    ("/events", {**EVENT, "duration": "1 hour"}, "duration"),
    ("/events", {**EVENT, "duration": "P"}, "duration"),
    ("/events", {**EVENT, "duration": "PT"}, "duration"),
    ("/events", {**EVENT, "intervalPeriod": {"start": "tomorrow"}}, "start"),
    ("/events", {**EVENT, "intervalPeriod": {"start": "2026-02-30T00:00:00Z"}}, "start"),
    ("/events", {**EVENT, "intervalPeriod": {"start": "2026-02-03T00:00:00"}}, "start"),
    ("/events", {**EVENT, "intervals": [{"payloads": []}]}, "intervals.0.id"),
    ("/events", {**EVENT, "intervals": [{"id": 0}]}, "intervals.0.payloads"),
    ("/events", {**EVENT, "intervals": [{"id": 0, "payloads": [{"type": "PRICE"}]}]}, "payloads.0.values"),
    ("/events", {**EVENT, "intervals": [{"id": 0, "payloads": [{"type": "PRICE", "values": [[]]}]}]}, "values.0"),
    (
        "/events",
        {**EVENT, "reportDescriptors": [{"payloadType": "USAGE", "reportIntervals": "MANY"}]},
        "reportIntervals",
    ),
    ("/events", {**EVENT, "targets": [{"type": "GROUP"}]}, "targets.0"),
    ("/vens", {"venName": "v", "clientID": "c"}, "objectType"),
    ("/vens", {"objectType": "VEN_VEN_REQUEST", "venName": "v"}, "objectType"),
]


async def test_what_the_schemas_refuse_is_a_bad_request_that_says_why() -> None:
    async with talking() as talk:
        for path, body, at_fault in REFUSED:
            answer = await talk.bl("POST", path, body)
            assert answer.status == 400, body
            assert (answer.body["title"], answer.body["status"]) == ("Bad Request", 400)
            assert at_fault in answer.body["detail"]
            assert (await talk.bl("GET", path)).body == [], "nothing was made of it"


async def test_what_is_no_json_is_a_bad_request_too() -> None:
    async with talking() as talk:
        token = (await talk.bl.ask_token()).body["access_token"]
        for text in ("{", "", '{"programName": NaN}', "[" * 100_000, '{"programName": "\\ud800"}'):
            answer = await talk.bl.raw("POST", "/programs", data=text, headers={"Authorization": f"Bearer {token}"})
            assert (answer.status, answer.body["status"]) == (400, 400), text[:20]


async def test_values_keep_their_types() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        for values in ([0.17], [5], ["The grid is in an emergency"], [True], [{"x": 1.0, "y": 2}], []):
            said = {"intervals": [{"id": 0, "payloads": [{"type": "PRIVATE", "values": values}]}]}
            event = await an_event(talk, program_id, **said)
            (kept,) = (payload["values"] for payload in event["intervals"][0]["payloads"])
            assert kept == values
            assert list(map(type, kept)) == list(map(type, values))


async def test_names_are_unique_and_references_lead_somewhere() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        assert (await talk.bl("POST", "/programs", {"programName": "curtailment"})).status == 409
        assert (await talk.bl("PUT", f"/programs/{program_id}", {"programName": "curtailment"})).status == 200
        assert (await talk.bl("POST", "/events", {"programID": "nobodys"})).status == 409
        report: Json = {"eventID": "nobodys", "clientName": "site", "resources": []}
        assert (await talk.ven("POST", "/reports", report)).status == 409
        ven_id = await a_ven(talk, VEN)
        twice = {"objectType": "VEN_VEN_REQUEST", "venName": "site of ven-a"}
        assert (await talk.other_ven("POST", "/vens", twice)).status == 409
        resource = {"objectType": "VEN_RESOURCE_REQUEST", "venID": ven_id, "resourceName": "row-1"}
        assert (await talk.ven("POST", "/resources", resource)).status == 201
        assert (await talk.ven("POST", "/resources", resource)).status == 409


async def test_a_program_takes_its_events_along_and_a_ven_its_resources() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        event = await an_event(talk, program_id)
        ven_id = await a_ven(talk, VEN)
        resource = {"objectType": "VEN_RESOURCE_REQUEST", "venID": ven_id, "resourceName": "row-1"}
        resource_id = (await made(talk.ven, "/resources", **resource))["id"]
        await talk.bl("DELETE", f"/programs/{program_id}")
        await talk.ven("DELETE", f"/vens/{ven_id}")
        assert (await talk.bl("GET", f"/events/{event['id']}")).status == 404
        assert (await talk.bl("GET", f"/resources/{resource_id}")).status == 404


async def test_pages_are_cut_by_skip_and_limit_and_never_exceed_fifty() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        ids = [(await an_event(talk, program_id))["id"] for _ in range(53)]
        assert (await talk.ven("GET", "/events")).ids == ids[:50], "the oldest first, and no more without being asked"
        assert (await talk.ven("GET", "/events", skip=50, limit=50)).ids == ids[50:]
        assert (await talk.ven("GET", "/events", skip=5, limit=2)).ids == ids[5:7]
        assert (await talk.ven("GET", "/events", skip=53)).ids == []
        assert (await talk.ven("GET", "/events", limit=0)).ids == []
        for wrong in ({"limit": 51}, {"limit": -1}, {"skip": -1}, {"skip": "x"}, {"limit": "1e3"}, {"active": "yes"}):
            assert (await talk.ven("GET", "/events", **wrong)).status == 400


async def test_every_term_of_a_query_must_match() -> None:
    async with talking() as talk:
        one, other = await a_program(talk), await a_program(talk, programName="another")
        event, second = await an_event(talk, one), await an_event(talk, other)
        assert (await talk.ven("GET", "/events", programID=one)).ids == [event["id"]]
        assert (await talk.ven("GET", "/events", programID="nobodys")).ids == []
        reports = [
            (await made(talk.ven, "/reports", eventID=each["id"], clientName=name, resources=[]))["id"]
            for each, name in ((event, "row-1"), (event, "row-2"), (second, "row-1"))
        ]
        assert (await talk.bl("GET", "/reports", eventID=event["id"])).ids == reports[:2]
        assert (await talk.bl("GET", "/reports", programID=other)).ids == reports[2:]
        assert (await talk.bl("GET", "/reports", programID=one, clientName="row-1")).ids == reports[:1]
        ven_id = await a_ven(talk, VEN)
        assert (await talk.bl("GET", "/vens", venName="site of ven-a")).ids == [ven_id]
        assert (await talk.bl("GET", "/vens", venName="another")).ids == []


@pytest.mark.parametrize(
    ("timing", "is_active"),
    [
        ({"intervalPeriod": {"start": "2026-11-21T11:00:00Z", "duration": "PT30M"}}, False),
        ({"intervalPeriod": {"start": "2026-11-21T11:00:00Z", "duration": "PT90M"}}, True),
        ({"intervalPeriod": {"start": "2026-11-22T11:00:00+05:00", "duration": "PT1S"}}, True),
        ({"intervalPeriod": {"start": "2020-01-01T00:00:00Z", "duration": "P9999Y"}}, True),
        ({"intervalPeriod": {"start": "0001-01-01", "duration": "P9999Y"}}, True),
        ({"intervalPeriod": {"start": "0001-01-01", "duration": "PT0S"}}, False),
        ({"intervalPeriod": {"start": "2026-11-21T11:00:00Z", "duration": "PT20M"}, "intervals": 4}, True),
        ({"intervalPeriod": {"start": "2026-11-21T11:00:00Z", "duration": "PT20M"}, "intervals": 3}, False),
        ({"intervalPeriod": {"start": "2026-11-21T11:00:00Z", "duration": "PT20M"}, "duration": "P1D"}, True),
        ({"intervalPeriod": {"start": "2026-11-21T11:00:00Z", "duration": "P1D"}, "duration": "PT30M"}, False),
    ],
)
async def test_events_that_have_transpired_are_left_out_where_asked(timing: dict[str, Any], is_active: bool) -> None:
    payloads = [{"type": "SIMPLE", "values": [1]}]
    intervals = [{"id": number, "payloads": payloads} for number in range(timing.get("intervals", 1))]
    async with talking() as talk:
        event = await an_event(talk, await a_program(talk), **{**timing, "intervals": intervals})
        assert (await talk.ven("GET", "/events")).ids == [event["id"]]
        assert (await talk.ven("GET", "/events", active="true")).ids == ([event["id"]] if is_active else [])


async def test_paths_and_methods_that_do_not_exist_are_problems() -> None:
    async with talking() as talk:
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("DELETE", "/events", 405),
            ("GET", "/programs/unknown", 404),
            ("GET", "/notifiers/mqtt/topics/events", 404),
        ):
            answer = await talk.bl(method, path)
            assert (answer.status, answer.body["status"]) == (status, status)
            assert answer.headers["Content-Type"].startswith("application/json"), "as the definition has it"


async def test_more_than_a_megabyte_is_not_read() -> None:
    async with talking() as talk:
        answer = await talk.bl("POST", "/programs", {"programName": "p", "private": "x" * 1_100_000})
        assert (answer.status, answer.body["title"]) == (413, "Request Entity Too Large")


async def test_reports_never_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_OBJECTS, "PROGRAM", 1)
    monkeypatch.setitem(MOST_OBJECTS, "REPORT", 2)
    async with talking() as talk:
        program_id = await a_program(talk)
        assert (await talk.bl("POST", "/programs", {"programName": "one more"})).status == 507
        event = await an_event(talk, program_id)
        ids = [
            (await made(talk.ven, "/reports", eventID=event["id"], clientName="site", resources=[]))["id"]
            for _ in range(3)
        ]
        assert (await talk.bl("GET", "/reports")).ids == ids[1:], "the oldest gives way"
