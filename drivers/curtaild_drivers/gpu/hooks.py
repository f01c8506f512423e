"""Runs the site's own programs that put a node's work to sleep and wake it: no shell, a deadline, bounded output.

A hook reads one JSON object on its standard input: `node` (its name), `reason` ("shed" or "restore"), `target_w` (what
the node is to draw) and `deadline_s` (how long it may take). It must be idempotent: it may be run again at any time.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from curtaild_drivers.contract import OutcomeUnknown, Refused, Seconds, Watts

log = logging.getLogger(__name__)

MOST_OUTPUT_BYTES = 2_000
"""Kept of what a hook prints, its end; the rest is read and dropped."""
_CHUNK_BYTES = 16_384
_LAST_WORDS_S = 0.5
_NOT_THEIRS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"})
"""Of the environment: what is between systemd and the daemon alone."""
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


@dataclass(frozen=True, slots=True)
class Call:
    """What a hook is told."""

    node: str
    reason: str
    target_w: Watts
    deadline_s: Seconds

    def document(self) -> bytes:
        fields = {
            "node": self.node,
            "target_w": round(self.target_w, 1),
            "deadline_s": self.deadline_s,
            "reason": self.reason,
        }
        return json.dumps(fields).encode() + b"\n"


async def run(argv: Sequence[str], call: Call) -> str:
    """Run one hook to its end; what it printed. Its process group is killed at the deadline, and when the caller is
    cancelled. Raises `Refused` if it could not be started, `OutcomeUnknown` if it failed or ran out of time."""
    began_at = time.monotonic()
    _keep_privileges()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in _NOT_THEIRS},
        )
    except OSError as error:
        raise Refused(f"hook {argv[0]} could not be started: {error.strerror}") from None
    said = bytearray()
    speaking = asyncio.create_task(_converse(process, call.document(), said))
    try:
        async with asyncio.timeout(call.deadline_s):
            status = await process.wait()
    except TimeoutError:
        _kill_group(process)
        raise OutcomeUnknown(f"hook {argv[0]} was killed after {call.deadline_s:g} s{quoted(_text(said))}") from None
    finally:
        _kill_group(process)
        await asyncio.wait([speaking], timeout=_LAST_WORDS_S)  # what it left behind may hold the pipe for ever
        speaking.cancel()
        await asyncio.gather(speaking, process.wait(), return_exceptions=True)
    text, took_s = _text(said), time.monotonic() - began_at
    if status != 0:
        how = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        raise OutcomeUnknown(f"hook {argv[0]} {how}{quoted(text)}")
    log.info("hook %s (%s of %s) took %.1f s%s", argv[0], call.reason, call.node, took_s, quoted(text))
    return text


async def _converse(process: asyncio.subprocess.Process, document: bytes, said: bytearray) -> None:
    """Hand over the document and keep the end of what is said. A hook that does not listen is no error."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.write(document)
        process.stdin.close()
    while chunk := await process.stdout.read(_CHUNK_BYTES):
        said += chunk
        del said[:-MOST_OUTPUT_BYTES]


def _keep_privileges() -> None:
    """What the unit lends the daemon for its GPUs (CAP_SYS_ADMIN) is not for the programs that it starts: they get what
    is in the starting thread's ambient set (capabilities(7)), which the daemon itself has no use for. A kernel without
    one lends nothing."""
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Unless it has ended: its number may be somebody else's by then."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _text(said: bytearray) -> str:
    """Printable, on one line: it goes into the log and the ledger."""
    words = said.decode(errors="replace").split()
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(words))


def quoted(text: str) -> str:
    """What a hook printed, as the end of a sentence about it."""
    return f", saying: {text}" if text else ", saying nothing"
