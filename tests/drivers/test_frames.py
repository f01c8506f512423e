"""The kept connection of Whatsminer API v3: used again, given up in time, and never trusted with a stale answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from curtaild_drivers.asic.frames import FrameChannel, _Connection
from curtaild_drivers.asic.wire import Unanswered
from curtaild_drivers.contract import BadReply, Unreachable
from drivers.tiny_servers import HOST
from loop_clock import comes_true, put_forward

Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


async def echo(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(frame(b"to " + body))


@dataclass
class FarEnd:
    """A device that hands each question to `serve`, and knows its connections."""

    port: int = 0
    serve: Serve = echo
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "little")
                body = await reader.readexactly(size)
                self.asked.append(body)
                await self.serve(body, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.ended.set()
        finally:
            writer.close()


@asynccontextmanager
async def far_end() -> AsyncIterator[tuple[FarEnd, FrameChannel]]:
    end = FarEnd()
    server = await asyncio.start_server(end.connection, HOST, 0)
    end.port = server.sockets[0].getsockname()[1]
    channel = FrameChannel(HOST, end.port)
    try:
        yield end, channel
    finally:
        channel.hang_up()
        server.close()
        for writer in end.writers:
            writer.close()


async def ask(channel: FrameChannel, body: bytes, *, harmless: bool = True, seconds: float = 50.0) -> bytes:
    return await channel.ask(body, asyncio.get_running_loop().time() + seconds, harmless)


async def proven(channel: FrameChannel) -> None:
    for body in (b"one", b"two"):
        assert await ask(channel, body) == b"to " + body


async def test_all_questions_go_over_one_connection() -> None:
    async with far_end() as (end, channel):
        await proven(channel)
        assert await ask(channel, b"stop", harmless=False) == b"to stop"
        assert len(end.writers) == 1


async def test_an_answer_in_single_bytes_among_heartbeats() -> None:
    async def drip(body: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in b"\0\0\0\0" + frame(b"to " + body) + b"\0\0\0\0":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with far_end() as (end, channel):
        end.serve = drip
        await proven(channel)
        assert len(end.writers) == 1


async def test_a_late_answer_is_not_taken_for_that_to_the_next_question() -> None:
    release = asyncio.Event()

    async def first_is_late(body: bytes, writer: asyncio.StreamWriter) -> None:
        if body == b"late":
            put_forward()
            await release.wait()
        await echo(body, writer)

    async with far_end() as (end, channel):
        await proven(channel)
        end.serve = first_is_late
        with pytest.raises(Unanswered):
            await ask(channel, b"late")
        release.set()
        assert await ask(channel, b"next") == b"to next"
        assert len(end.writers) == 2, "the connection that owed an answer was dropped"


async def test_so_is_it_when_the_question_was_given_up() -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def held(body: bytes, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await release.wait()
        await echo(body, writer)

    async with far_end() as (end, channel):
        await proven(channel)
        end.serve = held
        given_up = asyncio.ensure_future(ask(channel, b"given up"))
        await arrived.wait()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        release.set()
        assert await ask(channel, b"next") == b"to next"


async def test_words_nobody_asked_for_end_the_connection() -> None:
    async with far_end() as (end, channel):
        await proven(channel)
        end.writers[0].write(frame(b"surprise"))
        await end.ended.wait()
        assert await ask(channel, b"next") == b"to next"


async def test_more_than_the_answer_ends_the_connection() -> None:
    async def twice(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(b"to " + body) + frame(b"and more"))

    async with far_end() as (end, channel):
        end.serve = twice
        await proven(channel)
        assert len(end.writers) == 2


async def test_a_device_that_has_hung_up_is_called_again() -> None:
    async with far_end() as (end, channel):
        await proven(channel)
        end.writers[0].close()
        await comes_true(lambda: channel._idle is not None and not channel._idle.is_open)
        assert await ask(channel, b"stop", harmless=False) == b"to stop"


async def test_a_device_that_closes_after_each_answer_costs_no_command_its_outcome() -> None:
    async def once(body: bytes, writer: asyncio.StreamWriter) -> None:
        await echo(body, writer)
        writer.close()

    async with far_end() as (end, channel):
        end.serve = once
        for number in range(20):
            body = b"%d" % number
            assert await ask(channel, body, harmless=number % 2 == 0) == b"to " + body
        assert len(end.asked) == len(set(end.asked)), "no command was sent twice"


@pytest.mark.parametrize("harmless", [True, False])
async def test_a_question_meets_the_end_of_a_kept_connection(harmless: bool) -> None:
    """A reading is put again; a command is not, for it may have been taken."""

    async def take_it_and_end(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()
        end.serve = echo

    async with far_end() as (end, channel):
        await proven(channel)
        end.serve = take_it_and_end
        if harmless:
            assert await ask(channel, b"summary") == b"to summary"
        else:
            with pytest.raises(Unanswered):
                await ask(channel, b"stop", harmless=False)
        assert end.asked[2:] == ([b"summary", b"summary"] if harmless else [b"stop"])


async def test_a_question_that_hangs_delays_no_other_and_one_connection_remains() -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def one_hangs(body: bytes, writer: asyncio.StreamWriter) -> None:
        if body == b"hangs":
            arrived.set()
            await release.wait()
        await echo(body, writer)

    async with far_end() as (end, channel):
        await proven(channel)
        end.serve = one_hangs
        hanging = asyncio.ensure_future(ask(channel, b"hangs"))
        await arrived.wait()
        assert await ask(channel, b"stop", harmless=False) == b"to stop"
        release.set()
        assert await hanging == b"to hangs"
        await end.ended.wait()
        assert len(end.writers) == 2


async def test_nothing_is_kept_once_it_is_hung_up() -> None:
    async with far_end() as (end, channel):
        await proven(channel)
        channel.hang_up()
        await end.ended.wait()
        end.ended.clear()
        assert await ask(channel, b"late comer") == b"to late comer"
        await end.ended.wait()


class _ClosedAtOnce(FrameChannel):
    """To a device that takes a connection and has closed it before a word was said."""

    async def _connected(self, until: float) -> _Connection:
        connection = await super()._connected(until)
        connection.abort()
        return connection


@pytest.mark.parametrize("harmless", [True, False])
async def test_a_connection_that_is_closed_at_once_sends_nothing(harmless: bool) -> None:
    async with far_end() as (end, _):
        with pytest.raises(Unreachable) as told:
            await ask(_ClosedAtOnce(HOST, end.port), b"stop", harmless=harmless)
    assert not isinstance(told.value, Unanswered), "it never left"
    assert end.asked == []


async def test_no_time_left_sends_nothing() -> None:
    async with far_end() as (end, channel):
        await proven(channel)
        with pytest.raises(Unreachable) as caught:
            await ask(channel, b"stop", harmless=False, seconds=-1.0)
        assert not isinstance(caught.value, Unanswered)
        assert b"stop" not in end.asked


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\x7f", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x09\0\0\0half"])
async def test_what_is_no_frame_is_a_bad_reply(raw: bytes) -> None:
    async def nonsense(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    async with far_end() as (end, channel):
        end.serve = nonsense
        with pytest.raises(BadReply):
            await ask(channel, b"question")
