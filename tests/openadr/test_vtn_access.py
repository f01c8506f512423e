"""Who may do what at the VTN: tokens, scopes, and which objects a VEN may see."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from openadr.vtn_rig import OTHER_VEN, VEN, Talk, a_program, a_ven, an_event, made, talking


async def test_credentials_buy_a_bearer_token() -> None:
    async with talking(token_lifetime_s=900) as talk:
        where = await talk.ven.raw("GET", "/auth/server")
        assert where.body == {"tokenURL": f"{talk.vtn.url}/auth/token"}
        answer = await talk.ven.ask_token()
        assert answer.status == 200
        assert (answer.body["token_type"], answer.body["expires_in"]) == ("Bearer", 900)
        assert answer.headers["Cache-Control"] == "no-store"
        assert "write_reports" in answer.body["scope"].split()
        basic = {"Authorization": "Basic " + b64encode(f"{VEN.client_id}:{VEN.secret}".encode()).decode()}
        by_header = await talk.ven.raw("POST", "/auth/token", data={"grant_type": "client_credentials"}, headers=basic)
        assert by_header.status == 200


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"scope": "write_events"}, 400, "invalid_scope"),
    ],
)
async def test_who_is_not_admitted_hears_why_in_the_words_of_rfc_6749(
    form: dict[str, str], status: int, error: str
) -> None:
    async with talking() as talk:
        answer = await talk.ven.ask_token(**form)
        assert (answer.status, answer.body["error"], answer.body["status"]) == (status, error, status)


async def test_a_token_request_without_credentials_is_invalid() -> None:
    async with talking() as talk:
        answer = await talk.ven.raw("POST", "/auth/token", data={"grant_type": "client_credentials"})
        assert (answer.status, answer.body["error"]) == (400, "invalid_request")
        assert "client_secret" in answer.body["error_description"]


async def test_a_token_ends_with_its_time_and_is_bought_anew() -> None:
    async with talking(token_lifetime_s=60) as talk:
        assert (await talk.ven("GET", "/events")).status == 200
        talk.clock.at = 59.9
        assert (await talk.ven("GET", "/events")).status == 200
        talk.clock.at = 60.0
        late = await talk.ven("GET", "/events")
        assert (late.status, late.body["title"]) == (401, "Unauthorized")
        assert late.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        talk.ven.token = None
        assert (await talk.ven("GET", "/events")).status == 200
        talk.vtn.tokens.forget()
        assert (await talk.ven("GET", "/events")).status == 401, "as after a restart of the VTN"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer made-up"}, {"Authorization": "Basic dmVuOg=="}])
async def test_without_a_token_nothing_is_told(header: dict[str, str]) -> None:
    async with talking() as talk:
        for path in ("/programs", "/events", "/reports", "/notifiers", "/notifiers/mqtt/topics/events"):
            assert (await talk.ven.raw("GET", path, headers=header)).status == 401


async def _every_write(talk: Talk, path: str) -> list[int]:
    program_id = await a_program(talk)
    bodies: dict[str, Any] = {
        "/programs": {"programName": "another"},
        "/events": {"programID": program_id},
        "/reports": {"eventID": (await an_event(talk, program_id))["id"], "clientName": "site", "resources": []},
    }
    return [(await caller("POST", path, bodies[path])).status for caller in (talk.bl, talk.ven)]


@pytest.mark.parametrize(
    ("path", "statuses"),
    [("/programs", [201, 403]), ("/events", [201, 403]), ("/reports", [403, 201])],
)
async def test_programs_and_events_are_the_operators_and_reports_the_vens(path: str, statuses: list[int]) -> None:
    async with talking() as talk:
        assert await _every_write(talk, path) == statuses


async def test_a_ven_sees_its_own_reports_and_vens_and_nobody_elses() -> None:
    async with talking() as talk:
        event = await an_event(talk, await a_program(talk))
        report = await made(talk.ven, "/reports", eventID=event["id"], clientName="site", resources=[])
        assert report["clientID"] == VEN.client_id, "the VTN says whose it is"
        own = await made(talk.ven, "/vens", objectType="VEN_VEN_REQUEST", venName="site")
        assert (own["clientID"], own["objectType"]) == (VEN.client_id, "VEN")
        for path, thing in (("/reports", report), ("/vens", own)):
            assert (await talk.ven("GET", path)).body == (await talk.bl("GET", path)).body == [thing]
            assert (await talk.other_ven("GET", path)).body == []
            for method in ("GET", "DELETE"):
                assert (await talk.other_ven(method, f"{path}/{thing['id']}")).status == 404


async def test_only_the_operator_grants_targets() -> None:
    async with talking() as talk:
        asked = {"objectType": "VEN_VEN_REQUEST", "venName": "site", "targets": ["north"]}
        own = await made(talk.ven, "/vens", **asked)
        assert "targets" not in own
        granting = {**asked, "objectType": "BL_VEN_REQUEST", "clientID": VEN.client_id}
        assert (await talk.ven("PUT", f"/vens/{own['id']}", granting)).status == 403
        assert (await talk.bl("PUT", f"/vens/{own['id']}", granting)).body["targets"] == ["north"]
        renamed = (await talk.ven("PUT", f"/vens/{own['id']}", {**asked, "venName": "site-1", "targets": []})).body
        assert (renamed["venName"], renamed["targets"]) == ("site-1", ["north"])


async def test_what_has_targets_is_read_by_those_who_hold_and_name_them() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        ven_id = await a_ven(talk, VEN, "north", "site-a")
        await a_ven(talk, OTHER_VEN, "south")
        open_event = await an_event(talk, program_id)
        event = await an_event(talk, program_id, targets=["north", "secret-group"])
        assert (await talk.ven("GET", "/events")).ids == [open_event["id"]], "without naming a target"
        (seen,) = (await talk.ven("GET", "/events", targets="north")).body
        assert (seen["id"], seen["targets"]) == (event["id"], ["north"]), "other targets stay hidden"
        assert (await talk.ven("GET", "/events", targets=["site-a", "north"])).ids == [event["id"]]
        assert (await talk.ven("GET", "/events", targets="site-a")).ids == []
        assert (await talk.ven("GET", "/events", targets="secret-group")).ids == [], "named, but not held"
        assert (await talk.other_ven("GET", "/events", targets=["north", "south"])).ids == []
        assert (await talk.other_ven("GET", f"/events/{event['id']}")).status == 404
        assert (await talk.ven("GET", f"/events/{event['id']}")).body["targets"] == ["north"]
        assert (await talk.bl("GET", "/events")).ids == [open_event["id"], event["id"]]
        resource = {"objectType": "BL_RESOURCE_REQUEST", "clientID": VEN.client_id, "venID": ven_id}
        await made(talk.bl, "/resources", **resource, resourceName="row-1", targets=["row-1"])
        by_resource = await an_event(talk, program_id, targets=["row-1"])
        assert (await talk.ven("GET", "/events", targets="row-1")).ids == [by_resource["id"]]


async def test_a_vtn_may_count_what_was_granted_without_being_asked() -> None:
    """The User Guide's way (8.13), where the Definitions want the targets named."""
    async with talking(grants_unasked=True) as talk:
        program_id = await a_program(talk)
        await a_ven(talk, VEN, "north")
        ids = [(await an_event(talk, program_id, **more))["id"] for more in ({}, {"targets": ["north"]})]
        assert (await talk.ven("GET", "/events")).ids == ids
        assert (await talk.other_ven("GET", "/events")).ids == ids[:1]
