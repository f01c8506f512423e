"""The structures of stub.h for this side of the shared file."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_double, c_uint32, c_uint64

MAX_GPUS, MAX_SYMBOLS, MAX_EVENTS, MAX_PROCESSES = 16, 64, 64, 8
GPU, MODULE = 0, 1


def _words(*names: str) -> list[tuple[str, type[c_uint32]]]:
    return [(name, c_uint32) for name in names]


class Limit(ctypes.Structure):
    _fields_ = _words("settable", "min_mw", "default_mw", "max_mw", "requested_mw", "other_mw")


class SharedGpu(ctypes.Structure):
    _fields_ = [
        ("name", c_char * 64),
        ("uuid", c_char * 48),
        ("serial", c_char * 24),
        ("bus_id", c_char * 32),
        ("limits", Limit * 2),
        *_words("demand_mw", "idle_mw", "companion_mw", "leak_permille", "leak_until_mw"),
        *_words("utilisation_percent", "mig_mode", "extra_reasons"),
        *_words("lost", "hang", "generation", "max_clock_mhz", "process_count"),
        ("pids", c_uint32 * MAX_PROCESSES),
        ("lag_s", c_double),
        *_words("lock_max_mhz", "persistent"),
        ("from_mw", c_double),
        ("energy_mj", c_double),
        ("at_s", c_double),
    ]


class Symbol(ctypes.Structure):
    _fields_ = [("name", c_char * 56), ("calls", c_uint64), *_words("result", "hanging")]


class Event(ctypes.Structure):
    _fields_ = [("gpu", c_uint64), ("type", c_uint64), ("data", c_uint64)]


class Farm(ctypes.Structure):
    _fields_ = [
        *_words("size", "gpu_count", "deny_permission", "init_result", "highest_field", "latency_us"),
        ("speed", c_double),
        ("began_s", c_double),
        ("skipped_s", c_double),
        ("driver_version", c_char * 80),
        ("event_count", c_uint64),
        ("events", Event * MAX_EVENTS),
        ("symbols", Symbol * MAX_SYMBOLS),
        ("lock", c_uint64 * 8),
        ("gpus", SharedGpu * MAX_GPUS),
    ]
