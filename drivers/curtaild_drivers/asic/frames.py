"""Questions in frames (a 4-byte little-endian length, then the body) over a TCP connection that is kept for the next
one. Answers carry no number, so a connection has one question open at most, and one that was ever left without its
answer is dropped: a late answer is never taken for that to a later question.
"""

from __future__ import annotations

import asyncio
from typing import cast

from curtaild_drivers.asic.wire import MOST_REPLY_BYTES, Deadline, Unanswered
from curtaild_drivers.contract import BadReply, Seconds, Unreachable

_LONGEST_IDLE_S: Seconds = 60.0
"""A connection that has rested longer is not trusted with a question: a device that lost its power says no goodbye."""
_PROVEN_BY = 2
"""So many answers on one connection prove that the device keeps it."""
_HEARTBEAT = b"\0\0\0\0"


class FrameChannel:
    """Questions to one server. One connection is kept between them; while it is taken, as by a reading that hangs,
    another question goes out on a connection of its own."""

    __slots__ = ("_host", "_idle", "_is_closed", "_port")

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: _Connection | None = None
        self._is_closed = False

    async def ask(self, body: bytes, until: Seconds, is_harmless: bool) -> bytes:
        """The answer's body. A question that changes nothing (`is_harmless`) is put once more where the kept
        connection turns out to have ended; a command never is.

        `until` is a moment on the running loop's clock. Raises `Unreachable` if the question did not leave,
        `Unanswered` if it did and nothing came in time, `BadReply` for what is no whole frame of at most 256 KiB.
        """
        question = len(body).to_bytes(4, "little") + body
        kept = await self._kept(is_harmless)
        if kept is not None:
            try:
                return await self._answer(kept, question, until)
            except _NeverLeft:
                pass
            except _Ended:
                if not is_harmless:
                    raise
        return await self._answer(await self._connected(until), question, until)

    def hang_up(self) -> None:
        """Closes what is kept, and keeps nothing from now on; a question that is open is still answered."""
        self._is_closed = True
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.abort()

    async def _kept(self, is_harmless: bool) -> _Connection | None:
        """The connection that rests, where it can be trusted: with a command only after it was seen to be kept, for a
        device that closes after each answer would leave the outcome unknown."""
        if self._idle is None:
            return None
        await asyncio.sleep(0)  # an end that has already arrived is noticed before the question leaves
        idle, self._idle = self._idle, None
        if idle is None or not idle.is_open:
            return None
        is_stale = asyncio.get_running_loop().time() - idle.rests_since > _LONGEST_IDLE_S
        if is_stale or (not is_harmless and idle.answers < _PROVEN_BY):
            idle.abort()
            return None
        return idle

    async def _connected(self, until: Seconds) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            with Deadline(until, loop):
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
        except TimeoutError:
            raise Unreachable(f"{self._host}:{self._port} did not accept a connection in time") from None
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"no connection to {self._host}:{self._port}: {error}") from None
        return connection

    async def _answer(self, connection: _Connection, question: bytes, until: Seconds) -> bytes:
        loop = asyncio.get_running_loop()
        if loop.time() >= until:
            connection.abort()
            raise Unreachable(f"no time was left to ask {self._host}:{self._port}")
        answer = connection.put(question)
        try:
            with Deadline(until, loop):
                body = await answer
        except TimeoutError:
            raise Unanswered(f"{self._host}:{self._port} did not answer in time") from None
        finally:
            connection.rest()
            if not connection.is_open or self._is_closed or self._idle is not None:
                connection.abort()
            else:
                self._idle = connection
        return body


class _NeverLeft(Unreachable):
    """The connection had ended before the question could leave."""


class _Ended(Unanswered):
    """The connection ended with not one byte of the answer."""


class _Connection(asyncio.Protocol):
    """One connection and the question that is open on it."""

    __slots__ = ("_answer", "_buffer", "_transport", "answers", "is_open", "rests_since")

    def __init__(self) -> None:
        self.answers = 0
        self.is_open = False
        self.rests_since: Seconds = 0.0
        self._answer: asyncio.Future[bytes] | None = None
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def put(self, question: bytes) -> asyncio.Future[bytes]:
        """The answer to come. Raises `_NeverLeft`: some take a connection and close it at once."""
        if not self.is_open or self._transport is None:
            raise _NeverLeft("the connection was closed before anything was asked")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(question)
        return self._answer

    def rest(self) -> None:
        """No question is open any more; where its answer never came, the connection has served its time."""
        if self._answer is not None:
            self._answer.cancel()
            self.abort()
        self.rests_since = asyncio.get_running_loop().time()

    def abort(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck-typing only
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer.startswith(_HEARTBEAT):
            del self._buffer[:4]
        if self._answer is None:
            if self._buffer.strip(b"\0"):
                self.abort()  # an answer that nobody waits for
            return
        if len(self._buffer) < 4:
            return
        length = int.from_bytes(self._buffer[:4], "little")
        if length > MOST_REPLY_BYTES:
            self._end(BadReply(f"the answer is longer than {MOST_REPLY_BYTES // 1024} KiB, or not in frames"))
        elif len(self._buffer) >= 4 + length:
            body = bytes(self._buffer[4 : 4 + length])
            if self._buffer[4 + length :].strip(b"\0"):
                self.abort()  # more than was asked for: what follows would answer the next question
            self._buffer.clear()
            self.answers += 1
            self._settle(body)

    def eof_received(self) -> bool:
        self.is_open = False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._buffer:
            self._end(BadReply(f"not a whole frame: {bytes(self._buffer[:40])!r}"))
        else:
            self._end(_Ended("the connection was closed without an answer"))

    def _settle(self, body: bytes) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(body)

    def _end(self, error: BadReply | Unanswered) -> None:
        self.abort()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
