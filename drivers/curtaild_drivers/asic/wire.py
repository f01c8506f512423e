"""One question and its answer over a TCP connection of its own: bounded in bytes, and in time by a moment on the
loop's clock that all steps of one call share. Says precisely whether the question had left when something failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, cast

from curtaild_drivers.contract import BadReply, OutcomeUnknown, Seconds, Unreachable

MOST_REPLY_BYTES = 256 * 1024

IsComplete: TypeAlias = Callable[[bytearray], bool]
"""Whether what has arrived so far is the whole answer; otherwise the end of the connection ends it."""


class Unanswered(Unreachable):
    """The question left and its answer did not come. To a reader the device is unreachable; to a writer the outcome
    is unknown."""


@contextmanager
def command_sent() -> Iterator[None]:
    """Turns what befalls the answer of a *command* into `OutcomeUnknown`; a connection that never was stays
    `Unreachable`."""
    try:
        yield
    except (Unanswered, BadReply) as error:
        raise OutcomeUnknown(f"the command was sent, then: {error}") from error


async def ask(host: str, port: int, question: bytes, until: Seconds, is_complete: IsComplete) -> bytes:
    """Connects, sends `question` and returns the bytes of the answer, whole or up to where the device closed.

    `until` is a moment on the running loop's clock. Raises `Unreachable` if the question did not leave, `Unanswered`
    if it did and nothing came in time, `BadReply` if the answer is longer than 256 KiB.
    """
    loop = asyncio.get_running_loop()
    exchange = _Exchange(question, is_complete, loop.create_future())
    try:
        with Deadline(until, loop):
            await loop.create_connection(lambda: exchange, host, port)
            return await exchange.answer
    except TimeoutError:
        if exchange.has_left:
            raise Unanswered(f"{host}:{port} did not answer in time") from None
        raise Unreachable(f"{host}:{port} did not accept a connection in time") from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"no connection to {host}:{port}: {error}") from None
    finally:
        exchange.abandon()


class Deadline:
    """What `asyncio.timeout_at` does for a block that awaits, in a tenth of an exchange's time less. Raises
    `TimeoutError` at `until`, a moment on the loop's clock; if somebody else cancels the task as well, that counts."""

    __slots__ = ("_has_passed", "_task", "_timer")

    def __init__(self, until: Seconds, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None, "there is nobody to be cut short"
        self._task = task
        self._has_passed = False
        self._timer = loop.call_at(until, self._pass)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._has_passed and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _pass(self) -> None:
        self._has_passed = True
        self._task.cancel()


class _Exchange(asyncio.Protocol):
    """Sends the question as soon as it can and collects the answer."""

    __slots__ = ("_buffer", "_is_complete", "_question", "_transport", "answer", "has_left")

    def __init__(self, question: bytes, is_complete: IsComplete, answer: asyncio.Future[bytes]) -> None:
        self.answer = answer
        self.has_left = False
        self._question = question
        self._is_complete = is_complete
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck-typing only
        self.has_left = True
        self._transport.write(self._question)

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._buffer += data
        if len(self._buffer) > MOST_REPLY_BYTES:
            self.answer.set_exception(BadReply(f"the answer is longer than {MOST_REPLY_BYTES // 1024} KiB"))
        elif self._is_complete(self._buffer):
            self.answer.set_result(bytes(self._buffer))

    def connection_lost(self, exc: Exception | None) -> None:
        # A reset after the answer is how some cgminers close: what came counts.
        if self.answer.done():
            return
        if self._buffer:
            self.answer.set_result(bytes(self._buffer))
        else:
            self.answer.set_exception(Unanswered("the connection was closed without an answer"))

    def abandon(self) -> None:
        self.answer.cancel()
        if self._transport is not None:
            self._transport.abort()
