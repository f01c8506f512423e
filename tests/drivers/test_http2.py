"""Our own HTTP/2 frames against the far end of a library that is not ours (h2), and against what breaks the rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild_drivers.asic.grpc import Answer, GrpcChannel
from curtaild_drivers.asic.http2 import Http2Connection, literal
from curtaild_drivers.asic.wire import Unanswered
from curtaild_drivers.contract import BadReply, Unreachable
from drivers.tiny_servers import HOST

Respond = Callable[[h2.connection.H2Connection, int], None]
OK, TRAILERS = [(":status", "200"), ("content-type", "application/grpc")], [("grpc-status", "0")]
MESSAGE = b"\0\0\0\0\2hi"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def greet(http: h2.connection.H2Connection, stream_id: int) -> None:
    http.send_headers(stream_id, OK)
    http.send_data(stream_id, MESSAGE)
    http.send_headers(stream_id, TRAILERS, end_stream=True)


class Peer(asyncio.Protocol):
    """A server that is h2's. `respond` is called once a request has wholly arrived."""

    def __init__(self, respond: Respond, changed: dict[h2.settings.SettingCodes | int, int]) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.changed, self.is_heeded = changed, asyncio.Event()
        self.respond = respond
        self.asked: list[dict[str, str]] = []
        self.acked: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.http.initiate_connection()
        self.http.update_settings(self.changed)
        self.transport.write(self.http.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.asked.append({str(name): str(value) for name, value in event.headers})
            elif isinstance(event, h2.events.StreamEnded):
                self.respond(self.http, event.stream_id)
            elif isinstance(event, h2.events.PingAckReceived):
                self.acked.append(event.ping_data)
            elif isinstance(event, h2.events.SettingsAcknowledged) and event.changed_settings.keys() & self.changed:
                self.is_heeded.set()
        self.transport.write(self.http.data_to_send())


@asynccontextmanager
async def meeting(
    respond: Respond = greet, changed: dict[h2.settings.SettingCodes | int, int] | None = None
) -> AsyncIterator[tuple[GrpcChannel, list[Peer]]]:
    peers: list[Peer] = []

    def made() -> Peer:
        peers.append(Peer(respond, changed or {}))
        return peers[-1]

    server = await asyncio.get_running_loop().create_server(made, HOST, 0)
    channel = GrpcChannel(HOST, server.sockets[0].getsockname()[1])
    yield channel, peers
    channel.hang_up()
    server.close()


async def called(channel: GrpcChannel, token: str | None = None) -> Answer:
    return await channel.call("/a/B", b"question", asyncio.get_running_loop().time() + 30.0, token)


async def test_what_we_send_is_what_a_strict_peer_reads() -> None:
    token = "t" * 4_000  # its length takes three bytes
    async with meeting() as (channel, peers):
        assert (await called(channel, token)).message == b"hi"
        assert (await called(channel)).headers["content-type"] == "application/grpc"
        host = f"{HOST}:{channel._port}"
    first, second = peers[0].asked
    assert first == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/a/B",
        ":authority": host,
        "te": "trailers",
        "content-type": "application/grpc",
        "authorization": token,
    }
    assert second == {name: value for name, value in first.items() if name != "authorization"}


async def test_many_answers_of_many_frames_on_one_connection() -> None:
    """Ours come to 6 MiB: far more than either side may send before it hears that it was read."""
    body = b"\0" + (200_000).to_bytes(4, "big") + b"x" * 200_000

    def respond(http: h2.connection.H2Connection, stream_id: int) -> None:
        http.send_headers(stream_id, OK)
        for at in range(0, len(body), 16_384):
            http.send_data(stream_id, body[at : at + 16_384])
        http.send_headers(stream_id, TRAILERS, end_stream=True)

    async with meeting(respond) as (channel, peers):
        for _ in range(30):
            assert len((await called(channel)).message) == 200_000
    assert len(peers) == 1


async def test_headers_that_go_on_in_another_frame_and_a_priority_before_them() -> None:
    def respond(http: h2.connection.H2Connection, stream_id: int) -> None:
        http.send_headers(stream_id, [*OK, ("x", "y" * 40_000)])
        http.send_data(stream_id, MESSAGE, pad_length=30)
        http.send_headers(stream_id, TRAILERS, end_stream=True)

    async with meeting(respond) as (channel, _):
        answer = await called(channel)
    assert (answer.message, len(answer.headers["x"])) == (b"hi", 40_000)


async def test_an_interim_answer_is_not_the_answer() -> None:
    def respond(http: h2.connection.H2Connection, stream_id: int) -> None:
        http.send_headers(stream_id, [(":status", "103"), ("link", "x")])
        greet(http, stream_id)

    async with meeting(respond) as (channel, _):
        assert "link" not in (await called(channel)).headers


async def test_a_ping_is_answered() -> None:
    def respond(http: h2.connection.H2Connection, stream_id: int) -> None:
        http.ping(b"12345678")
        greet(http, stream_id)

    async with meeting(respond) as (channel, peers):
        await called(channel)
        await called(channel)
    assert peers[0].acked[0] == b"12345678"


async def test_a_call_that_is_reset_is_unanswered_and_the_next_one_is_not() -> None:
    def respond(http: h2.connection.H2Connection, stream_id: int) -> None:
        if stream_id == 1:
            http.reset_stream(stream_id)
        else:
            greet(http, stream_id)

    async with meeting(respond) as (channel, _):
        with pytest.raises(Unanswered, match="reset"):
            await called(channel)
        assert (await called(channel)).message == b"hi"


async def test_a_connection_that_is_to_end_still_answers_what_it_took() -> None:
    def respond(http: h2.connection.H2Connection, stream_id: int) -> None:
        greet(http, stream_id)
        http.close_connection(last_stream_id=stream_id)

    async with meeting(respond) as (channel, peers):
        assert (await called(channel)).message == b"hi"
        assert (await called(channel)).message == b"hi"
    assert len(peers) == 2, "and takes no more"


async def test_a_connection_that_has_ended_says_so_at_once() -> None:
    async with meeting(lambda http, stream_id: http.close_connection(last_stream_id=0)) as (channel, _):
        with pytest.raises(Unanswered, match="ended"):
            await called(channel)


@pytest.mark.parametrize("name", ["MAX_CONCURRENT_STREAMS", "INITIAL_WINDOW_SIZE"])
async def test_a_peer_that_has_room_for_nothing_is_sent_nothing(name: str) -> None:
    async with meeting(changed={h2.settings.SettingCodes[name]: 0}) as (channel, peers):
        await channel._connected()
        await peers[0].is_heeded.wait()
        with pytest.raises(Unreachable, match="no more"):
            await called(channel)
        assert peers[0].asked == []


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def breaches() -> Iterator[tuple[str, bytes]]:
    head = literal(b"x", b"y")
    yield "begins with something else", frame(6, 0, 0, b"12345678")
    yield "a frame that is too long", SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1"
    yield "a push", SETTINGS + frame(5, 4, 1, b"\0\0\0\2" + head)
    yield "a short ping", SETTINGS + frame(6, 0, 0, b"1")
    yield "headers broken off by a body", SETTINGS + frame(1, 0, 1, head) + frame(0, 0, 1, b"x")
    yield "headers that go on in another call", SETTINGS + frame(1, 0, 1, head) + frame(9, 4, 3, head)
    yield "headers that go on from nowhere", SETTINGS + frame(9, 4, 1, head)
    yield "headers without an end", SETTINGS + frame(1, 0, 1, head) + frame(9, 0, 1, b"\0" * 16_384) * 5
    yield "two heads", SETTINGS + frame(1, 4, 1, literal(8, b"200")) + frame(1, 4, 1, head)
    yield "more padding than frame", SETTINGS + frame(0, 8, 1, b"\xff12")
    yield "no HPACK", SETTINGS + frame(1, 5, 1, b"\xff" * 40)
    yield "an answer without an end", SETTINGS + frame(1, 4, 1, literal(8, b"200")) + frame(0, 0, 1, b"x" * 16_384) * 17


@pytest.mark.parametrize(("what", "answer"), list(breaches()), ids=[what for what, _ in breaches()])
async def test_whoever_breaks_the_rules_is_hung_up_on(what: str, answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await reader.read(-1)  # until the other side hangs up
        writer.close()
        hung_up.set()

    hung_up = asyncio.Event()
    async with await asyncio.start_server(handle, HOST, 0) as server:
        channel = GrpcChannel(HOST, server.sockets[0].getsockname()[1])
        with pytest.raises(BadReply):
            await called(channel)
        await hung_up.wait()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(frames=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 4), st.binary(max_size=40))))
def test_no_frames_raise_out_of_the_connection(frames: list[tuple[int, int, int, bytes]]) -> None:
    connection = Http2Connection()
    connection.data_received(SETTINGS)
    for each in frames:
        raw = frame(*each)
        connection.data_received(raw[:7])
        connection.data_received(raw[7:])
    assert not connection._buffer
