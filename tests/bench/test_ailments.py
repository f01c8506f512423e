"""The benches' devices fall ill on command as real ones do: they hang, reset every call, or drop every packet."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from bench.book import address
from bench.compiled import RESPONDER, compile_all, compiler
from bench.responder import Responder, responder_on

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler (apt install gcc libc6-dev)")

COUNT = 100
LONG_S = 0.3
"""What has not been answered by then, on loopback, will not be."""


def ask(number: int, port: int, question: bytes) -> str:
    """What befalls one question to a device of the first firmware."""
    with closing(socket.socket()) as caller:
        caller.settimeout(LONG_S)
        is_connected = False
        try:
            caller.connect((address(0, number), port))
            is_connected = True
            caller.sendall(question)
            return caller.recv(100).decode() or "closed"
        except TimeoutError:
            return "no answer" if is_connected else "no connection"
        except ConnectionError:
            return "reset"


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
    found = [ask(number, port, b"stop") for number in range(1, COUNT + 1)]
    assert {what: found.count(what) for what in set(found)} == {
        "yes": 85,
        "no answer": 5,
        "reset": 5,
        "no connection": 5,
    }
    assert await devices.well() == (85, 85)
    assert await devices.drawn_w() == 3_000.0 * 15 + 10.0 * 85
    report = await devices.report()
    assert len(report.stops) == len(report.well) == 85

    await devices.reset()
    assert await devices.well() == (0, 85)
    assert {ask(number, port, b"stop") for number in range(1, COUNT + 1)} == {"yes"}
    assert await devices.stopped() == COUNT
    assert len((await devices.report()).well) == 85
