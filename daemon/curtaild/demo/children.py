"""Starts the demo's child processes and ends them, each by its own id."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
LAST_WORDS = 12


class DemoFailed(Exception):
    """The demo cannot start, or one of its parts has ended. The text says which, and its last words."""


class Child:
    """One child process. Its standard error goes to a file, so that its last words can be told."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, what: str, *arguments: str, folder: Path) -> Child:
        log = folder / f"{what}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CURTAILD_")}
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "curtaild.demo.child", str(os.getpid()), what, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its children in order
            )
        return cls(what, process, log)

    async def first_line(self) -> dict[str, Any]:
        """What it says once it is there. Raises `DemoFailed`."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                async for line in self.lines():
                    return line
        except TimeoutError:
            raise DemoFailed(
                f"the {self.name} did not start within {START_TIMEOUT_S:g} s{self._last_words()}"
            ) from None
        raise DemoFailed(f"the {self.name} did not start{self._last_words()}")

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Its standard output, one JSON object per line, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            yield json.loads(line)

    async def ended(self) -> DemoFailed:
        """Wait until it ends by itself, which it should not."""
        code = await self._process.wait()
        return DemoFailed(f"the {self.name} ended with exit code {code}{self._last_words()}")

    async def stop(self) -> None:
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _last_words(self) -> str:
        with suppress(OSError):
            words = self.log.read_text(errors="replace").splitlines()[-LAST_WORDS:]
            if words:
                return ":\n  " + "\n  ".join(words)
        return ""
