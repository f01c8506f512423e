"""The two C programs of the benches, compiled when they are needed: the responder and the floor."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
RESPONDER, FLOOR = "responder", "floor"


class CannotCompile(RuntimeError):
    """No compiler, or one that refuses; the text says which."""


def compiler() -> str | None:
    """The C compiler: $CC, else cc, gcc or clang from the path; `None` where there is none."""
    return next(
        (path for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (path := _found(name))), None
    )


def compile_all(folder: Path) -> dict[str, Path]:
    """Both programs, in `folder`. Raises `CannotCompile`."""
    cc = compiler()
    if cc is None:
        raise CannotCompile("there is no C compiler (apt install gcc libc6-dev)")
    programs: dict[str, Path] = {}
    for name in (RESPONDER, FLOOR):
        programs[name] = folder / name
        command = [cc, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(programs[name]), str(SOURCES / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotCompile(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return programs


def _found(name: str) -> str | None:
    return shutil.which(name)
