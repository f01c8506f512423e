"""The faults that a VEN must live with can be made to happen, and the VTN itself survives its clients."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from curtaild.grid.openadr_vtn import Vtn, problem
from grid.authority import Authority
from openadr.vtn_rig import CLIENTS, Caller, a_program, an_event, talking


async def test_over_tls_only_who_trusts_its_authority_gets_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    async with Vtn("127.0.0.1", 0, CLIENTS, tls=context) as vtn, aiohttp.ClientSession() as session:
        assert vtn.url.startswith("https://127.0.0.1:")
        async with session.get(f"{vtn.url}/auth/server", ssl=trusting) as answer:
            assert (await answer.json())["tokenURL"] == f"{vtn.url}/auth/token"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"{vtn.url}/auth/server")


async def test_a_meddler_answers_in_the_vtns_place_or_keeps_everybody_waiting() -> None:
    async with talking() as talk:
        program_id = await a_program(talk)
        await an_event(talk, program_id)
        asked, held = asyncio.Event(), asyncio.Event()

        async def overloaded(request: web.Request) -> web.StreamResponse | None:
            return problem(503, "overloaded") if request.path.endswith("/events") else None

        async def slow(request: web.Request) -> web.StreamResponse | None:
            asked.set()
            await held.wait()
            return None

        talk.vtn.meddler = overloaded
        assert (await talk.ven("GET", "/events")).status == 503
        assert (await talk.ven("GET", "/programs")).status == 200
        talk.vtn.meddler = slow
        waiting = asyncio.create_task(talk.ven("GET", "/events"))
        await asked.wait()
        assert not waiting.done()
        held.set()
        assert (await waiting).status == 200


async def test_a_vtn_that_starts_anew_has_forgotten_tokens_and_objects() -> None:
    async with talking() as talk:
        await a_program(talk)
        port = int(talk.vtn.url.split(":")[2].split("/")[0])
        token = talk.bl.token
    async with Vtn("127.0.0.1", port, CLIENTS, tls=None) as vtn, aiohttp.ClientSession() as session:
        again = Caller(session, vtn.url, CLIENTS[0])
        again.token = token
        assert (await again("GET", "/programs")).status == 401
        again.token = None
        assert (await again("GET", "/programs")).body == []


async def test_a_failure_of_its_own_is_a_problem_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: web.Request) -> web.StreamResponse | None:
        raise ZeroDivisionError

    async with talking() as talk:
        talk.vtn.meddler = broken
        answer = await talk.bl.raw("GET", "/auth/server")
        assert (answer.status, answer.body["title"]) == (500, "Internal Server Error")
        assert "ZeroDivisionError" in caplog.text
        assert "ZeroDivisionError" not in str(answer.body)
        talk.vtn.meddler = None
        assert (await talk.bl("GET", "/programs")).status == 200
