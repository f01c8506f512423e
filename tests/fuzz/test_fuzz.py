"""A short run of the fuzzer, and that it finds what is there to find. `make fuzz` runs it for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzz.targets import all_targets

TESTS = Path(__file__).parents[1]
PLANTED = """
class Planted:
    seeds, words = [b"bux"], []

    def bear(self, data):
        if data[:1] == b"b" and data[1:2] == b"u" and data[2:3] == b"g":
            raise ZeroDivisionError("planted")

def all_targets():
    return {"planted": Planted()}
"""


@pytest.mark.parametrize("name", all_targets())
def test_what_the_fuzzer_begins_with_is_borne(name: str) -> None:
    target = all_targets()[name]
    for seed in target.seeds:
        target.bear(seed)


def fuzz(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed (it has wheels for Linux on x86-64)")
    paths = os.pathsep.join((str(TESTS), str(folder), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "fuzz", "--corpus", str(folder / "corpus"), *words]
    return subprocess.run(command, cwd=TESTS, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    done = fuzz("--together", "--seconds", "120", "--inputs", "3000", "--seed", "1", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clean after" in done.stdout
    assert " 0 inputs" not in done.stdout.splitlines()[-1]


def test_what_is_not_borne_is_found_and_shown(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    done = fuzz("--of", "planted", "--seconds", "120", "--seed", "1", folder=tmp_path)
    assert done.returncode == 1
    assert "planted: NOT CLEAN" in done.stdout
    assert "ZeroDivisionError: planted" in done.stderr
    (kept,) = tmp_path.glob("fuzz-planted-crash-*")
    assert kept.read_bytes().startswith(b"bug")
