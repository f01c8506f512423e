"""An OpenADR VEN over HTTPS: tokens, pages, and answers that are too long, too slow, packed, elsewhere or nonsense. All
of it ends in one sentence that says what is wrong, and none of it where a secret may not go."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from curtaild.grid.openadr import vtn as wire
from curtaild.grid.openadr.objects import Ven
from curtaild.grid.openadr.reading import Reading
from curtaild.grid.openadr.vtn import Vtn, VtnAccess, VtnFailed
from curtaild_drivers.broker.mqtt import Obstacle
from grid.authority import Authority
from grid.dsx import HandClock
from openadr.canned import Canned, canned, problem, tokens
from openadr.ven import PROGRAM, event

CREDENTIALS = {"client_id": "thar-1", "client_secret": "s3cret&=/+"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Canned]:
    async with canned(authority) as running:
        yield running


async def failure(access: VtnAccess, path: str = "/events") -> VtnFailed:
    """Why a request fails; it must."""
    with pytest.raises(VtnFailed) as caught:
        async with Vtn(access, HandClock()) as vtn:
            await vtn.get(path)
    assert "s3cret" not in caught.value.reason
    return caught.value


# ---- tokens -----------------------------------------------------------------------------------


async def test_a_token_by_client_credentials_where_the_vtn_says(server: Canned) -> None:
    tokens(server)
    server.answers["GET /events"] = []
    clock = HandClock()
    async with Vtn(server.access(**CREDENTIALS, scope="read_targets"), clock) as vtn:
        assert (await vtn.get("/events")).body == []
        await vtn.get("/events")
        clock.moved_s = 2_881
        await vtn.get("/events")
    assert [server.count(what) for what in ("GET /auth/server", "POST /auth/token", "GET /events")] == [1, 2, 3]
    _, headers, form = server.heard[1]
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert form == (
        b"grant_type=client_credentials&client_id=thar-1&client_secret=s3cret%26%3D%2F%2B&scope=read_targets"
    )
    sent = [headers.get("Authorization") for what, headers, _ in server.heard if what == "GET /events"]
    assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    assert all("Authorization" not in headers for what, headers, _ in server.heard if "auth" in what)


async def test_a_token_the_vtn_does_not_want_any_more_is_renewed_once(server: Canned) -> None:
    tokens(server)
    answers = iter([problem(401), [], problem(401), problem(401, "expired")])
    server.answers["GET /events"] = lambda _: next(answers)
    async with Vtn(server.access(**CREDENTIALS), HandClock()) as vtn:
        assert (await vtn.get("/events")).body == []
        assert vtn.token == "token-2"
        with pytest.raises(VtnFailed) as caught:
            await vtn.get("/events")
    assert (caught.value.status, caught.value.obstacle) == (401, Obstacle.SETUP)
    assert "answers 401, 'expired'" in caught.value.reason


async def test_credentials_that_are_refused_are_named(server: Canned) -> None:
    tokens(server)
    server.answers["POST /auth/token"] = lambda _: web.json_response({"error": "invalid_client"}, status=401)
    found = await failure(server.access(**CREDENTIALS))
    assert "no token for client_id 'thar-1'" in found.reason
    assert "answers 401, 'invalid_client' (see client_secret_file)" in found.reason


async def test_a_token_endpoint_that_nobody_tells_is_asked_for(server: Canned) -> None:
    found = await failure(server.access(**CREDENTIALS))
    assert "tells of no token endpoint" in found.reason
    assert "answers 404, 'Not Found' (see token_url)" in found.reason
    tokens(server)
    server.answers |= {"GET /auth/server": None, "GET /events": []}
    async with Vtn(server.access(**CREDENTIALS, token_url=f"{server.url}/auth/token"), HandClock()) as vtn:
        assert (await vtn.get("/events")).body == []


async def test_without_credentials_nothing_is_asked_for(server: Canned) -> None:
    server.answers["GET /events"] = []
    async with Vtn(server.access(), HandClock()) as vtn:
        await vtn.get("/events")
        assert vtn.token is None
    assert server.asked == ["GET /events"]


async def test_the_secret_goes_nowhere_without_tls(server: Canned) -> None:
    server.answers["GET /auth/server"] = {"tokenURL": "http://127.0.0.1:1/token"}
    found = await failure(server.access(**CREDENTIALS))
    assert "is not https://: no secret goes there" in found.reason


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": 7, "token_type": "Bearer"},
        {"access_token": "a\nb", "token_type": "Bearer"},
        {"access_token": "a", "token_type": "mac"},
        {"access_token": "a" * 20_000, "token_type": "Bearer"},
        [],
    ],
)
async def test_what_is_no_token_is_not_used(server: Canned, answer: Any) -> None:
    tokens(server)
    server.answers["POST /auth/token"] = lambda _: web.json_response(answer)
    assert "the token endpoint's answer is not taken" in (await failure(server.access(**CREDENTIALS))).reason


# ---- hostile answers --------------------------------------------------------------------------


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def packed(_: web.Request) -> web.Response:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]", 1)
    return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("answer", "obstacle", "reason"),
    [
        (lambda _: web.Response(body=b"[" + b" " * 1_100_000 + b"]"), Obstacle.NETWORK, "longer than 1048576 bytes"),
        (packed, Obstacle.NETWORK, "packed, though we asked for it plain"),
        (drip, Obstacle.NETWORK, "no whole answer"),
        (hang_up, Obstacle.NETWORK, "hung up without an answer"),
        (lambda _: web.Response(body=b"[" * 50_000), Obstacle.NETWORK, "nested too deeply"),
        (lambda _: web.Response(body=b"[" * 100 + b"]" * 100), Obstacle.NETWORK, "nested too deeply"),
        (lambda _: web.Response(body=b'[],"answer":[]'), Obstacle.NETWORK, ""),
        (lambda _: web.Response(body=b"<html>"), Obstacle.NETWORK, "not JSON"),
        (lambda _: web.Response(body=b"[NaN]"), Obstacle.NETWORK, "NaN and Infinity are not JSON"),
        (lambda _: web.Response(body=b"\xff"), Obstacle.NETWORK, "not UTF-8"),
        (
            lambda _: web.Response(status=307, headers={"Location": "https://elsewhere.example/"}),
            Obstacle.SETUP,
            "redirects to 'https://elsewhere.example/', which is not followed",
        ),
        (lambda _: problem(403, "not yours"), Obstacle.SETUP, "answers 403, 'not yours'"),
        (None, Obstacle.SETUP, "answers 404, 'Not Found'"),
        (lambda _: web.Response(status=500, body=b"\xff" * 99), Obstacle.NETWORK, "answers 500"),
    ],
)
async def test_a_bad_answer_is_named_and_bounded(
    server: Canned, answer: Any, obstacle: Obstacle, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "REQUEST_TIMEOUT_S", 0.3 if answer is drip else 60.0)
    server.answers["GET /events"] = answer
    if reason:
        found = await failure(server.access())
        assert reason in found.reason, found.reason
        assert found.obstacle is obstacle
    else:
        async with Vtn(server.access(), HandClock()) as vtn:
            assert (await vtn.get("/events")).body == [], "a doubled key is the second"


@pytest.mark.parametrize(("asked", "waits_s"), [("7", 7.0), ("99999", 60.0), ("soon", None), ("-1", None)])
async def test_a_vtn_that_is_busy_may_ask_for_some_patience(server: Canned, asked: str, waits_s: float | None) -> None:
    server.answers["GET /events"] = lambda _: problem(503, **{"Retry-After": asked})
    found = await failure(server.access())
    assert (found.status, found.retry_after_s, found.is_refusal) == (503, waits_s, False)


async def test_who_cannot_be_reached_and_why(server: Canned, tmp_path: Path) -> None:
    server.answers["GET /events"] = []
    stranger = Authority(tmp_path / "stranger")
    found = await failure(VtnAccess(server.url, ca_file=stranger.ca_file))
    assert "certificate of https://127.0.0.1" in found.reason
    assert "is not accepted" in found.reason
    assert "(see ca_file)" in found.reason
    assert "is not accepted" in (await failure(VtnAccess(server.url))).reason, "the host's own store knows it not"
    by_name = VtnAccess(server.url.replace("127.0.0.1", "localhost"), ca_file=server.ca_file)
    assert "is not accepted" in (await failure(by_name)).reason, "a certificate for another name"
    assert "cannot connect" in (await failure(VtnAccess("https://127.0.0.1:1", ca_file=server.ca_file))).reason
    unknown = await failure(VtnAccess("https://nowhere.invalid", ca_file=server.ca_file))
    assert "the name in https://nowhere.invalid/events cannot be resolved" in unknown.reason
    missing = await failure(VtnAccess(server.url, ca_file=tmp_path / "none.pem"))
    assert "cannot use ca_file" in missing.reason


# ---- pages ------------------------------------------------------------------------------------


def pages(objects: list[Any], limit: int = 50) -> Any:
    def answer(request: web.Request) -> Any:
        skip, asked = int(request.query["skip"]), int(request.query["limit"])
        return objects[skip : skip + min(limit, asked)]

    return answer


async def read(server: Canned, *targets: str) -> tuple[list[Any], list[Any]]:
    async with Vtn(server.access(), HandClock()) as vtn:
        snapshot = await Reading(vtn, HandClock(), print).snapshot(targets, is_active_only=False)
    return [*snapshot.programs], [*snapshot.events]


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 99, 100, 149, 500])
async def test_all_pages_are_read(server: Canned, count: int) -> None:
    events = [event(f"e-{number}") for number in range(count)]
    server.answers |= {"GET /programs": [PROGRAM], "GET /events": pages(events)}
    assert await read(server) == ([PROGRAM], events)


@pytest.mark.parametrize("wants_all", [True, False])
async def test_targets_are_asked_for_besides_what_has_none(server: Canned, wants_all: bool) -> None:
    """Whether a VTN shows what has one of the targets named, or only what has all of them."""
    shown = {"open": [], "north": ["north"], "both": ["north", "row/1"], "row": ["row/1", "theirs"]}

    def answer(request: web.Request) -> Any:
        named = set(request.query.getall("targets", []))
        fits = named.issubset if wants_all else named.intersection
        return [event(name, targets=has) for name, has in shown.items() if (fits(has) if named else not has)]

    server.answers |= {"GET /programs": [], "GET /events": answer}
    _, events = await read(server, "north", "row/1")
    assert [each["id"] for each in events] == ["open", "north", "both", "row"]


async def test_a_vtn_that_knows_no_pages_is_read_as_it_is(server: Canned) -> None:
    for count in (50, 70):
        events = [event(f"e-{number}") for number in range(count)]
        server.answers |= {"GET /programs": [], "GET /events": lambda _, all_of_them=events: all_of_them}
        assert (await read(server))[1] == events


async def test_what_moves_between_two_pages_is_read_again(server: Canned) -> None:
    """An event is deleted while the list is read: the one that slips over the edge must not get lost."""
    events = [event(f"e-{number}") for number in range(80)]
    asked = 0

    def answer(request: web.Request) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            del events[0]
        return pages(events)(request)

    server.answers |= {"GET /programs": [], "GET /events": answer}
    assert (await read(server))[1] == events
    assert len(events) == 79


async def test_a_list_without_end_or_rest_is_no_reading(server: Canned) -> None:
    server.answers["GET /programs"] = []
    server.answers["GET /events"] = pages([event(f"e-{number}") for number in range(1_100)])
    with pytest.raises(VtnFailed, match="more than 1000 objects"):
        await read(server)
    server.answers["GET /events"] = pages([event(f"e-{number}", padding="x" * 18_000) for number in range(300)])
    with pytest.raises(VtnFailed, match="longer than 4194304 bytes together"):
        await read(server)
    order = iter(range(1_000_000))
    server.answers["GET /events"] = lambda _: [event(f"e-{next(order)}") for _ in range(50)]
    with pytest.raises(VtnFailed, match="changes while it is read, 3 times in a row"):
        await read(server)
    server.answers["GET /events"] = {"events": []}
    with pytest.raises(VtnFailed, match="expected a list, got dict"):
        await read(server)


# ---- the ven object, and where notifications are had -------------------------------------------

OWN = {"id": "ven-1", "venName": "thar-1", "targets": ["group-1"], "objectType": "BL_VEN_REQUEST"}


async def ven(server: Canned, known: Ven | None = None) -> tuple[Ven | None, list[str]]:
    told: list[str] = []
    async with Vtn(server.access(), HandClock()) as vtn:
        return await Reading(vtn, HandClock(), told.append).ven("thar-1", 2e6, known), told


async def test_our_ven_is_found_or_made(server: Canned) -> None:
    server.answers["GET /vens"] = [{**OWN, "venName": "other"}, OWN]
    assert await ven(server) == (Ven("ven-1", "thar-1", ("group-1",)), [])
    server.answers |= {"GET /vens": [], "POST /vens": lambda _: web.json_response({**OWN, "targets": None}, status=201)}
    assert await ven(server) == (Ven("ven-1", "thar-1", ()), ["registered as ven thar-1"])
    assert server.heard[-1][2] == (
        b'{"objectType": "VEN_VEN_REQUEST", "venName": "thar-1", '
        b'"attributes": [{"type": "MAX_POWER_CONSUMPTION", "values": [2000.0]}]}'
    )


@pytest.mark.parametrize(("status", "reason"), [(403, "answers 403"), (409, "answers 409"), (404, "answers 404")])
async def test_a_vtn_that_keeps_no_ven_for_us_is_followed_all_the_same(
    server: Canned, status: int, reason: str
) -> None:
    server.answers |= {"GET /vens": [], "POST /vens": lambda _: problem(status)}
    before = Ven("ven-0", "thar-1", ("group-0",))
    found, (told,) = await ven(server, before)
    assert found is before, "what it granted is not forgotten"
    assert reason in told


async def test_a_vtn_in_trouble_is_not_taken_for_one_that_grants_nothing(server: Canned) -> None:
    server.answers["GET /vens"] = lambda _: problem(500)
    with pytest.raises(VtnFailed):
        await ven(server, Ven("ven-0", "thar-1", ("group-0",)))


TOPICS = {"topics": {"CREATE": "e/c", "UPDATE": "e/u", "DELETE": "e/d", "ALL": "e/+"}}


async def notifications(server: Canned, binding: Any) -> Any:
    server.answers["GET /notifiers"] = {"WEBHOOK": True, "MQTT": binding}
    told: list[str] = []
    async with Vtn(server.access(), HandClock()) as vtn:
        reading = Reading(vtn, HandClock(), told.append)
        return await reading.notifications(Ven("ven-1", "thar-1", ()), ["program-1"]), told


async def test_topics_are_those_the_vtn_tells(server: Canned) -> None:
    server.answers["GET /notifiers/mqtt/topics/vens/ven-1/events"] = TOPICS
    server.answers["GET /notifiers/mqtt/topics/programs/program-1/events"] = {
        "topics": {"UPDATE": "p/u", "DELETE": "p/d"}
    }
    binding = {
        "URIS": ["mqtt://plain.example", "mqtts://a.example", "mqtts://[::1]:8884"],
        "serialization": "JSON",
        "authentication": {"method": "OAUTH2_BEARER_TOKEN", "username": "{clientID}"},
    }
    (found, topics), told = await notifications(server, binding)
    assert (found.places, found.username) == ((("a.example", 8883), ("::1", 8884)), "{clientID}")
    assert topics == ("e/c", "e/u", "e/d", "p/u", "p/d")
    assert told == []


ANONYMOUS = {"method": "ANONYMOUS"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"URIS": ["mqtt://a.example"]}, "without TLS we do not listen"),
        ({"URIS": [7]}, "URIS must be addresses"),
        ({"URIS": ["mqtts://a.example:99999"]}, "a port that is none"),
        ({"URIS": ["mqtts://[a"]}, "not a URL"),
        ({"serialization": "CBOR"}, "serialization must be JSON"),
        ({"authentication": {"method": "KERBEROS"}}, "'KERBEROS' is unknown"),
        ({"authentication": {"method": "CERTIFICATE", "caCert": ""}}, "caCert must be a PEM text"),
        ({"authentication": None}, "authentication must be an object"),
    ],
)
async def test_notifications_that_cannot_be_used_are_told(server: Canned, change: Any, reason: str) -> None:
    binding = {"URIS": ["mqtts://a.example"], "serialization": "JSON", "authentication": ANONYMOUS, **change}
    found, (told,) = await notifications(server, binding)
    assert found is None
    assert reason in told


async def test_topics_with_wildcards_are_not_subscribed_to(server: Canned) -> None:
    server.answers["GET /notifiers/mqtt/topics/vens/ven-1/events"] = {
        "topics": {"CREATE": "#", "UPDATE": "u", "DELETE": "d"}
    }
    binding = {"URIS": ["mqtts://a.example"], "serialization": "JSON", "authentication": ANONYMOUS}
    found, (told,) = await notifications(server, binding)
    assert found is None
    assert "must be one topic" in told


async def test_a_vtn_without_notifications_is_polled(server: Canned) -> None:
    assert await notifications(server, None) == (None, [])
    server.answers.pop("GET /notifiers")
    async with Vtn(server.access(), HandClock()) as vtn:
        assert await Reading(vtn, HandClock(), print).notifications(None, []) is None
