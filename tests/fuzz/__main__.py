"""`python -m fuzz`: fuzzing guided by coverage, one target after the other; says how far it is, and what it found.

Each target runs in a process of its own, as libFuzzer ends the one it runs in. What it learns stays in `--corpus`.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from fuzz.mutation import varied

GUIDED_BY = [
    "curtaild.grid",
    "curtaild.core.link",
    *(f"curtaild_drivers.asic.{name}" for name in ("cgminer", "http", "protobuf")),
]
"""Whose branches count as found."""
TOLD_EVERY_S = 5.0
LONGEST_INPUT = 8_192
SLOW_S = 5
MOST_MIB = 1_024
_STATUS = re.compile(r"#(\d+)\s.*cov: (\d+)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="which; none: all, one after the other")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them together (%(default)g)")
    parser.add_argument("--inputs", type=int, default=-1, help="for no more than so many; absent: for the time given")
    parser.add_argument("--seed", type=int, default=0, help="the same makes the same inputs; 0: others each time")
    parser.add_argument("--together", action="store_true", help="all in one process: quicker to start, less thorough")
    parser.add_argument("--corpus", type=Path, help="a folder to keep what it learns; absent: forgotten")
    parser.add_argument("--of", default="fuzz.targets", help="the module that names the targets (%(default)s)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        bounds = [f"-max_total_time={asked.seconds:.0f}", f"-runs={asked.inputs}", f"-seed={asked.seed}"]
        _fuzz(asked.of, asked.targets, asked.corpus, bounds)
    known = list(import_module(asked.of).all_targets())
    if unknown := set(asked.targets) - set(known):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(known)}")
    names = asked.targets or known
    rounds = [names] if asked.together else [[name] for name in names]
    share_s = max(1.0, asked.seconds / len(rounds))
    words = ["--of", asked.of, "--inputs", f"{asked.inputs}", "--seed", f"{asked.seed}"]
    failed = [", ".join(each) for each in rounds if not _watch(words, each, asked.corpus, share_s)]
    if failed:
        sys.exit(f"found something: {'; '.join(failed)}")


def _watch(asked: list[str], names: list[str], corpus: Path | None, seconds: float) -> bool:
    """Runs them for so long in a child, telling how far it is. Whether nothing was found."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = corpus or Path(scratch)
        words = [sys.executable, "-m", "fuzz", "--child", *asked, "--seconds", f"{seconds:.0f}"]
        command = [*words, "--corpus", str(folder), *names]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        assert child.stdout is not None
        what, begun_at, told_at = ", ".join(names), time.monotonic(), 0.0
        inputs, edges, others = "0", "0", list[str]()
        for line in child.stdout:
            if found := _STATUS.match(line):
                inputs, edges = found.groups()
            elif "INFO: Instrumenting" not in line:
                others.append(line)
                del others[:-200]
            if time.monotonic() - told_at >= TOLD_EVERY_S:
                told_at = time.monotonic()
                gone_s = told_at - begun_at
                print(f"{what}: {gone_s:.0f} of {seconds:.0f} s, {inputs} inputs, {edges} edges", flush=True)
        is_clean = child.wait() == 0
        verdict, gone_s = "clean" if is_clean else "NOT CLEAN", time.monotonic() - begun_at
        print(f"{what}: {verdict} after {gone_s:.0f} s, {inputs} inputs, {edges} edges", flush=True)
        if not is_clean:
            print("".join(others), file=sys.stderr, flush=True)
        return is_clean


def _fuzz(module: str, names: list[str], corpus: Path, bounds: list[str]) -> None:
    """Fuzz within libFuzzer's `bounds` and end this process: 0, or another code with the input that was not borne."""
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=[*GUIDED_BY, module]):
        targets = import_module(module).all_targets()
    logging.disable(logging.CRITICAL)
    chosen = [targets[name] for name in names]
    begin = corpus / "-".join(names)
    begin.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(chosen):
        for at, seed in enumerate(target.seeds):
            (begin / f"seed-{number}-{at}").write_bytes((bytes([number]) if len(chosen) > 1 else b"") + seed)
    words = begin.with_suffix(".words")
    words.write_text("".join(f'"{_escaped(word)}"\n' for target in chosen for word in target.words))
    options = [
        *bounds,
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={SLOW_S}",
        f"-rss_limit_mb={MOST_MIB}",
        *([f"-dict={words}"] if words.stat().st_size else []),
        f"-artifact_prefix={tempfile.gettempdir()}/fuzz-{'-'.join(names)}-",
    ]

    def vary(data: bytes, most: int, seed: int) -> bytes:
        return varied(data, most, seed, atheris.Mutate)

    atheris.Setup([sys.argv[0], *options, str(begin)], _bearing(chosen), custom_mutator=vary)
    atheris.Fuzz()
    os._exit(0)


def _bearing(targets: list[Any]) -> Callable[[bytes], None]:
    def one(data: bytes) -> None:
        if data:
            targets[0].bear(data)

    def one_of(data: bytes) -> None:
        if len(data) > 1:
            targets[data[0] % len(targets)].bear(data[1:])

    return one if len(targets) == 1 else one_of


def _escaped(word: str) -> str:
    return "".join(char if char.isalnum() or char in " -_./:+" else f"\\x{ord(char):02x}" for char in word)


if __name__ == "__main__":
    main()
