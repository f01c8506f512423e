"""The benches run, on a farm so small that nothing is measured by it: every figure is there, and the floor asks the
same devices as the daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.book import Exchange, address, addresses, shares
from bench.compiled import compile_all, compiler
from bench.gpu import CALL_S, gpu_rows
from bench.table import Lag
from rich.progress import Progress

from bench import network
from mosquitto import BINARY

ROOT = Path(__file__).parents[2]
DEVICES = 50
needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C compiler (apt install gcc libc6-dev)")


def bench(*arguments: str, within_s: float = 400.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)


@needs_compiler
def test_both_c_programs_compile_without_a_warning(tmp_path: Path) -> None:
    programs = compile_all(tmp_path)
    assert {path.stat().st_mode & 0o111 for path in programs.values()} == {0o111}


@needs_compiler
@pytest.mark.broker
@pytest.mark.skipif(BINARY is None, reason="needs a real mosquitto (apt install mosquitto)")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_a_tiny_farm_is_polled_and_shed_and_every_figure_is_there(tmp_path: Path) -> None:
    if (reason := network.why_not()) is not None:
        pytest.skip(reason)
    file = tmp_path / "figures.json"
    done = bench("farm", "--quick", "--no-peers", "--devices", str(DEVICES), "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(file.read_text())
    rows = {row["what"]: row for row in figures["rows"]}
    polling, shed = rows[f"polling {DEVICES} devices every 1 s: of a core"], rows[last_of(DEVICES)]
    for row in (polling, shed):
        assert row["ours"] > 0
        assert row["floor"] > 0
        assert row["memory_mib"] > 0
        assert row["lag"]["max_s"] >= row["lag"]["p50_s"]
    assert rows[f"first of {DEVICES} devices has been told"]["ours"] < shed["ours"]
    assert not [note for note in figures["notes"] if "no answer in the book" in note or "only" in note]
    assert figures["not_run"] == ["pyasic, pyasic-rs: --no-peers"]
    assert shed["what"] in " ".join(done.stdout.split())


@needs_compiler
async def test_a_node_of_gpus_is_read_and_every_figure_is_there(tmp_path: Path) -> None:
    rows = await gpu_rows(2, tmp_path, Progress(disable=True))
    assert all(row.ours is not None and row.ours > 0 for row in rows)
    took = next(row for row in rows if row.peer is not None)
    assert took.ours is not None
    assert took.peer is not None
    assert took.peer >= 8 * CALL_S, "eight calls in turn"
    assert took.ours >= CALL_S == took.floor, "a GPU answers no sooner"


def last_of(devices: int) -> str:
    return f"last of {devices} devices has obeyed, from the publish"


def test_a_bench_that_is_not_there_is_named_with_those_that_are() -> None:
    done = bench("shedd")
    assert done.returncode == 2
    assert "no bench 'shedd'; there are: farm, large" in done.stderr


@pytest.mark.parametrize(
    ("wire", "question", "reply", "needles"),
    [
        ("rpc", b'{"command": "summary"}', b"{}", ('"command":"summary"',)),
        ("rpc", b'{"command":"curtail","parameter":"6X3mTWGX,sleep"}', b"{}", ('"command":"curtail"', ",sleep")),
        ("rpc", b"ascset|0,softoff,1:1795272497", b"", ("ascset|0,softoff,1",)),
        ("rpc", b'{"enc":1,"data":"YJracrWpLn2XvqWuNiNqyg70K64p"}', b"{}", ('"enc":1', "YJracrWpLn2XvqWuNiNq")),
        ("framed", b'\x2f\0\0\0{"cmd": "a.b", "param": "c"}', b"", ('"cmd":"a.b"', '"param":"c"')),
        ("http", b"GET /x HTTP/1.1\r\nAuthorization: a\r\n\r\n", b"HTTP/1.1 401 no", ("GET/xHTTP/1.1",)),
        (
            "http",
            b"GET /x HTTP/1.1\r\nAuthorization: a\r\n\r\n",
            b"HTTP/1.1 200 OK",
            ("GET/xHTTP/1.1", "authorization:"),
        ),
    ],
)
def test_a_question_is_known_by_what_does_not_change_in_it(
    wire: str, question: bytes, reply: bytes, needles: tuple[str, ...]
) -> None:
    assert Exchange(wire, question, reply, was_asleep=False, effect="read").needles == needles


def test_every_device_of_a_farm_has_its_own_address() -> None:
    found = list(addresses(1_003))
    assert len({where for _, where in found}) == 1_003
    assert [sum(kind == one for one, _ in found) for kind in range(5)] == shares(1_003)
    assert address(1, 256) == "127.65.1.0"


def test_a_stall_counts_for_as_long_as_it_lasts() -> None:
    """Of one second and a stall of one second, every other moment is inside the stall."""
    lag = Lag.of([0.0] * 100 + [1.0], sleep_s=0.01)
    assert lag is not None
    assert (lag.p50_s, lag.p99_s, lag.max_s) == (1.0, 1.0, 1.0)
