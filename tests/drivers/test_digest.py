"""Digest authentication against a server that checks it, and HTTP from servers that do not deserve the name."""

from __future__ import annotations

import asyncio
import time

import pytest

from curtaild_drivers.asic.digest import DigestClient
from curtaild_drivers.asic.http import Response
from curtaild_drivers.contract import AuthFailed, BadReply
from drivers.tiny_servers import HOST, digest_http


def soon() -> float:
    return asyncio.get_running_loop().time() + 120.0


async def test_the_challenge_is_met_and_its_nonce_used_again() -> None:
    async with digest_http(lambda asked: {"page": asked.page}) as server:
        web = DigestClient(HOST, server.port, "root", "root")
        for _ in range(3):
            answer = await web.request("GET", "/cgi-bin/get_miner_conf.cgi", soon())
            assert (answer.status, answer.body) == (200, b'{"page": "get_miner_conf.cgi"}')


async def test_a_stale_nonce_costs_one_more_request_and_no_double_write() -> None:
    async with digest_http(lambda asked: {}, nonce_uses=1) as server:
        web = DigestClient(HOST, server.port, "root", "root")
        for number in range(3):
            await web.request("POST", "/cgi-bin/set_miner_conf.cgi", soon(), b'{"n":%d}' % number)
        assert [asked.body["n"] for asked in server.asked] == [0, 1, 2]


async def test_a_wrong_password_is_said_and_not_tried_for_ever() -> None:
    async with digest_http(lambda asked: {}, password="secret") as server:
        with pytest.raises(AuthFailed, match="root") as caught:
            await DigestClient(HOST, server.port, "root", "wrong-one").request("GET", "/x", soon())
        assert "wrong-one" not in str(caught.value)
        assert server.asked == []


@pytest.mark.parametrize("header", [b"Basic realm=x", b'Digest nonce="1", algorithm=SHA-256', b"Digest realm=x"])
async def test_other_kinds_of_authentication_are_refused(header: bytes) -> None:
    raw = b"HTTP/1.1 401 No\r\nWWW-Authenticate: %s\r\nContent-Length: 0\r\n\r\n" % header
    with pytest.raises(AuthFailed):
        await asked_of(raw)


async def asked_of(raw: bytes, piece: int = 1 << 20) -> Response:
    """What the client makes of `raw` (the scripted server only wants a JSON question, so it is given one)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(raw), piece):
            writer.write(raw[at : at + piece])
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(handle, HOST, 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        return await DigestClient(HOST, port, "root", "root").request("GET", "/x", soon())


async def test_chunks_are_joined() -> None:
    raw = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n3;x=y\r\n:1}\r\n0\r\n\r\n'
    assert (await asked_of(raw, piece=1)).body == b'{"a":1}'


async def test_an_answer_without_length_ends_with_the_connection() -> None:
    assert (await asked_of(b"HTTP/1.0 200 OK\r\n\r\n{}")).body == b"{}"


@pytest.mark.parametrize(
    "raw",
    [
        b"{}\0",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000,
    ],
)
async def test_what_is_not_http_is_a_bad_reply(raw: bytes) -> None:
    with pytest.raises(BadReply):
        await asked_of(raw)


async def test_a_hundred_thousand_tiny_chunks_hold_nobody_up() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 43_000 + b"0\r\n\r\n"
    begun = time.process_time()
    assert len((await asked_of(raw)).body) == 43_000
    assert time.process_time() - begun < 2.5, "a twentieth of a second, unless the rest is moved for each chunk"
