"""Builds the stub `libnvidia-ml.so.1` with the machine's C compiler, whole or without what older drivers lack."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from ctypes import POINTER, c_double, c_uint32
from pathlib import Path

from nvml_stub.layout import Farm

SONAME = "libnvidia-ml.so.1"
LACKING_BEFORE_535 = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceSetPowerManagementLimit_v2")
LACKING_BEFORE_510 = (*LACKING_BEFORE_535, "nvmlDeviceGetComputeRunningProcesses_v3")
_HERE = Path(__file__).parent
_SOURCES = [_HERE / "nvml.c", _HERE / "physics.c", _HERE / "stub.h"]
_FLAGS = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{SONAME}"]


class NoCompiler(RuntimeError):
    """There is nothing to build the stub with."""


def build(lacking: Iterable[str] = ()) -> Path:
    """The library's path: built once per source and per set of `lacking` symbols, kept in the temporary directory.

    Raises `NoCompiler`, and `RuntimeError` with the compiler's words where it fails.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler(
            "the tests of NVML build a stub library and find no C compiler: apt install build-essential, or set CC"
        )
    hidden = sorted(lacking)
    text = "".join(source.read_text(encoding="utf-8") for source in _SOURCES)
    digest = hashlib.sha256("\n".join([compiler, *_FLAGS, *hidden, text]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"curtaild-nvml-stub-{os.getuid()}" / digest
    library = folder / SONAME
    if library.exists():
        return library
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        exports = Path(scratch) / "exports"
        local = f"local: {'; '.join(hidden)};" if hidden else ""
        exports.write_text(f"{{ global: *; {local} }};\n", encoding="utf-8")
        made = Path(scratch) / SONAME
        sources = [str(source) for source in _SOURCES if source.suffix == ".c"]
        command = [compiler, *_FLAGS, f"-Wl,--version-script,{exports}", *sources, "-o", str(made), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise RuntimeError(f"{compiler} cannot build the stub of NVML:\n{built.stderr}")
        made.replace(library)  # whole or not at all: several test runs may build it at once
    return library


def physics(library: Path) -> ctypes.CDLL:
    """The library's physics, for whoever controls the emulated GPUs."""
    loaded = ctypes.CDLL(str(library))
    if loaded.stub_layout() != ctypes.sizeof(Farm):
        raise RuntimeError("stub.h and layout.py do not describe the same structures")
    for name in ("begin", "lock", "unlock"):
        call = getattr(loaded, f"stub_{name}")
        call.argtypes, call.restype = [POINTER(Farm)], None
    loaded.stub_now_s.argtypes, loaded.stub_now_s.restype = [POINTER(Farm)], c_double
    loaded.stub_settle.argtypes, loaded.stub_settle.restype = [POINTER(Farm), c_uint32], None
    for name in ("power_mw", "energy_mj"):
        call = getattr(loaded, f"stub_{name}")
        call.argtypes, call.restype = [POINTER(Farm), c_uint32], c_double
    return loaded
