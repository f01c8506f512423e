"""The real command, run as a person runs it, beside a farm that lives on this event loop."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

COMMAND = shutil.which("curtaild", path=str(Path(sys.executable).parent)) or "curtaild"


async def start(*words: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(COMMAND, *words, stdin=pipe, stdout=pipe, stderr=pipe)


async def end(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Its exit code, and what it said on standard output and error."""
    async with asyncio.timeout(180.0):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def curtaild(*words: str) -> tuple[int, str, str]:
    return await end(await start(*words))
