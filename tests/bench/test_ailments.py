"""The benches' devices fall ill on command as real ones do: they hang, reset every call, or drop every packet."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bench.book import address
from bench.compiled import RESPONDER, compile_all, compiler
from bench.responder import Responder, responder_on

from loop_clock import comes_true

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler (apt install gcc libc6-dev)")

COUNT = 100
LONG_S = 0.3
"""What has not been answered so long after all others, on loopback, will not be."""


async def ask(number: int, port: int, question: bytes, befell: dict[int, str]) -> None:
    """Put one question to a device of the first firmware; what befalls it so far is in `befell`."""
    befell[number] = "no connection"
    try:
        reader, writer = await asyncio.open_connection(address(0, number), port)
        befell[number] = "no answer"
        with closing(writer):
            writer.write(question)
            befell[number] = (await reader.read(100)).decode() or "closed"
    except ConnectionError:
        befell[number] = "reset"


async def ask_all(port: int, expected: dict[str, int]) -> dict[str, int]:
    """How many questions, one to each device, met with what; once it is as expected, and stays so."""
    befell: dict[int, str] = {}
    asking = [asyncio.create_task(ask(number, port, b"stop", befell)) for number in range(1, COUNT + 1)]
    with suppress(TimeoutError):
        await comes_true(lambda: Counter(befell.values()) == expected)
    await asyncio.wait(asking, timeout=LONG_S)
    for each in asking:
        each.cancel()
    found = Counter(befell.values())
    await asyncio.gather(*asking, return_exceptions=True)
    return found


@pytest.fixture
def port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture
async def devices(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Responder]:
    """A hundred devices that say "yes" to "stop" and draw 3,000 W until then."""
    stop, yes = b"stop".hex(), b"yes".hex()
    lines = ["delay 1000", "net 64", f"firmware 0 {COUNT} 3000.0 10.0", f"entry 0 rpc 0 stop {stop} {yes}"]
    (tmp_path / "book").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("bench.responder.PORTS", {"rpc": port})
    async with responder_on(compile_all(tmp_path)[RESPONDER], tmp_path / "book", tmp_path / "log") as devices:
        yield devices


async def test_a_twentieth_each_hang_refuse_and_are_silent_until_all_are_well_again(
    devices: Responder, port: int
) -> None:
    assert await devices.drawn_w() == 3_000.0 * COUNT
    await devices.ail()
    ill = {"yes": 85, "no answer": 5, "reset": 5, "no connection": 5}
    assert await ask_all(port, ill) == ill
    assert await devices.well() == (85, 85)
    assert await devices.drawn_w() == 3_000.0 * 15 + 10.0 * 85
    report = await devices.report()
    assert len(report.stops) == len(report.well) == 85

    await devices.reset()
    assert await devices.well() == (0, 85)
    assert await ask_all(port, {"yes": COUNT}) == {"yes": COUNT}
    assert await devices.stopped() == COUNT
    assert len((await devices.report()).well) == 85
