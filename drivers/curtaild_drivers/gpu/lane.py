"""A thread per GPU for a library whose calls block: with deadlines, and over it once a hung call has come back."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from curtaild_drivers.contract import Seconds, Unreachable

T = TypeVar("T")


class Busy(Unreachable):
    """The call was never begun, because one before it has not come back. Nothing was sent."""


class Hung(Unreachable):
    """The call was begun and has not come back: what it was to do may be done yet."""


def moment_in(seconds: Seconds) -> Seconds:
    """So long from now, on the running loop's clock."""
    return asyncio.get_running_loop().time() + seconds


class Lane:
    """Runs blocking calls one after another in a thread of its own, begun with the first call.

    A call that does not come back holds up this thread and nothing else: whoever asks meanwhile is told at once, and
    once it has come back the lane works as before. A job whose caller gave up before its turn is never begun.
    """

    def __init__(self, name: str, speaks_of: str = "a call into the driver") -> None:
        """`speaks_of`: what the errors say is hung."""
        self.name = name
        self._speaks_of = speaks_of
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: Future[Any] | None = None
        self._running: Future[Any] | None = None
        self._began_at: Seconds = 0.0
        self._waited_for_in_vain: Future[Any] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return self._last is None or self._last.done()

    @property
    def is_hung(self) -> bool:
        """Whether a call that somebody gave up on has still not come back."""
        return self._waited_for_in_vain is not None and not self._waited_for_in_vain.done()

    async def call(self, work: Callable[[], T], until: Seconds) -> T:
        """What `work` returns or raises, by the loop's moment `until`. Raises `Busy` and `Hung`."""
        if self.is_hung:
            raise Busy(self._hung_words())
        job = self._put(work)
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            if job.cancel():
                raise Busy(self._hung_words()) from None
            if job.done():
                return job.result()  # in time: it is the loop that was held up
            raise Hung(self._hung_words()) from None
        finally:
            if not job.done() or job.cancelled():
                job.cancel()
                self._waited_for_in_vain = self._running

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` if nothing else is to be done; nobody waits for it, and what it raises is nobody's."""
        if self.is_idle:
            self._put(work)

    def close(self) -> None:
        """Let the thread end, once its call has come back. Waits for nothing."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _put(self, work: Callable[[], T]) -> Future[T]:
        job: Future[T] = Future()
        self._last = job
        self._jobs.put((job, work))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        return job

    def _run(self) -> None:
        while (next_job := self._jobs.get()) is not None:
            job, work = next_job
            if not job.set_running_or_notify_cancel():
                continue
            self._running, self._began_at = job, time.monotonic()
            try:
                result = work()
            except BaseException as error:
                job.set_exception(error)
            else:
                job.set_result(result)

    def _hung_words(self) -> str:
        return f"{self._speaks_of} has not come back for {time.monotonic() - self._began_at:.1f} s"
