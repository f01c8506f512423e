"""The emulated GPUs of one host, as a test sees and disturbs them; any number of processes may speak NVML to them.

A process finds them by two environment variables, `StubGpus.environment`. A test that calls NVML in its own process
uses `StubGpus.here()`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import os
import uuid
from collections.abc import Iterator, Sequence
from ctypes import pointer, sizeof
from pathlib import Path
from typing import Any
from unittest import mock

from nvml_stub.layout import GPU, MAX_EVENTS, MAX_GPUS, MAX_PROCESSES, MODULE, Farm, Limit, SharedGpu, Symbol
from nvml_stub.library import build, physics
from nvml_stub.models import H100, GpuModel, ModuleScope

pynvml: Any = importlib.import_module("pynvml")  # NVIDIA's bindings carry no types

CONTROL = "NVML_STUB_GPUS"
_XID = 0x8
_HANG_BEFORE, _HANG_AFTER_WRITING = 1, 2


class StubGpus:
    """`models`, one per GPU, behind the control file `path`. Watts throughout; GPUs are numbered from 0.

    `speed` is emulated seconds per real second; with 0 time stands still but for `pass_time`. `lacking` names symbols
    that the driver's library does not have (`library.LACKING_BEFORE_535`), `highest_field` the last field id it knows:
    drivers before 530 end below 185.
    """

    def __init__(
        self,
        path: Path,
        models: Sequence[GpuModel] = (H100,) * 8,
        *,
        speed: float = 1.0,
        lacking: Sequence[str] = (),
        highest_field: int = 250,
        driver_version: str = "570.124.06",
    ) -> None:
        if not 0 <= len(models) <= MAX_GPUS:
            raise ValueError(f"the stub has room for {MAX_GPUS} GPUs, not {len(models)}")
        self.path = path
        self.models = tuple(models)
        self.library = build(lacking)
        self._physics = physics(self.library)
        path.write_bytes(bytes(sizeof(Farm)))
        with path.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), sizeof(Farm))
        self._farm = Farm.from_buffer(self._mapped)
        self._at = pointer(self._farm)
        farm = self._farm
        farm.size, farm.gpu_count, farm.speed = sizeof(Farm), len(models), speed
        farm.highest_field, farm.driver_version = highest_field, driver_version.encode()
        for number, model in enumerate(models):
            _furnish(farm.gpus[number], number, model, path.name)
        self._physics.stub_begin(self._at)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find this library and these GPUs."""
        others = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
        return {CONTROL: str(self.path), "LD_LIBRARY_PATH": ":".join([str(self.library.parent), *others])}

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Let `pynvml` of this process speak to these GPUs. Call `nvmlInit` within; it ends with the context."""
        library = ctypes.CDLL(str(self.library))
        with (
            mock.patch.dict(os.environ, self.environment),
            mock.patch.object(pynvml, "nvmlLib", library),
            mock.patch.dict(pynvml._nvmlGetFunctionPointer_cache, clear=True),
        ):
            try:
                yield
            finally:
                while library.nvmlShutdown() == pynvml.NVML_SUCCESS:
                    pass

    # --- what the GPUs are asked for ---------------------------------------------------------------

    def demand_w(self, gpu: int, power_w: float, utilisation_percent: int | None = None) -> None:
        """What the work on a GPU would draw without a limit; at its idle draw or under it, it idles."""
        busy = power_w > self.models[gpu].idle_w
        with self._settled(gpu) as shared:
            shared.demand_mw = round(power_w * 1000)
            shared.utilisation_percent = (100 if busy else 0) if utilisation_percent is None else utilisation_percent

    def processes(self, gpu: int, *pids: int) -> None:
        """Which processes compute on a GPU."""
        if len(pids) > MAX_PROCESSES:
            raise ValueError(f"room for {MAX_PROCESSES} processes, not {len(pids)}")
        shared = self._shared(gpu)
        for place, pid in enumerate(pids):
            shared.pids[place] = pid
        shared.process_count = len(pids)

    def mig(self, gpu: int, on: bool = True) -> None:
        """Cut a GPU into instances, or not."""
        self._shared(gpu).mig_mode = int(on)

    def pass_time(self, seconds: float) -> None:
        """Let so much emulated time pass at once."""
        if not seconds >= 0.0:
            raise ValueError(f"time does not run backwards: {seconds} s")
        with self._locked():
            self._farm.skipped_s += seconds

    # --- what goes wrong -----------------------------------------------------------------------------

    @property
    def latency_s(self) -> float:
        """How long each call takes, in real seconds."""
        return float(self._farm.latency_us) / 1e6

    @latency_s.setter
    def latency_s(self, seconds: float) -> None:
        self._farm.latency_us = round(seconds * 1e6)

    def hang(self, gpu: int, *, after_writing: bool = False) -> None:
        """Every call about a GPU blocks until `release`; `after_writing`: only writes, which are carried out first."""
        self._shared(gpu).hang = _HANG_AFTER_WRITING if after_writing else _HANG_BEFORE

    def release(self, gpu: int) -> None:
        """Let the calls that hang come back."""
        self._shared(gpu).hang = 0

    def deny_permission(self, denied: bool = True) -> None:
        """Refuse every write, as to a user without CAP_SYS_ADMIN."""
        self._farm.deny_permission = int(denied)

    def drift(self, gpu: int, limit_w: float | None, *, module: bool = False) -> None:
        """Another writer's limit beside the requested one, the lower of which is enforced; `None` takes it away."""
        with self._settled(gpu) as shared:
            shared.limits[MODULE if module else GPU].other_mw = 0 if limit_w is None else round(limit_w * 1000)

    def overwrite(self, gpu: int, limit_w: float) -> None:
        """Another program sets the GPU's limit: the one requested by us is gone."""
        with self._settled(gpu) as shared:
            shared.limits[GPU].requested_mw = round(limit_w * 1000)

    def lose(self, gpu: int, xid: int = 79) -> None:
        """The GPU falls off the bus: XID 79, then error 15 for every call. It draws on, unseen."""
        self._shared(gpu).lost = 1
        self.xid(gpu, xid)

    def recover(self, gpu: int, *, handles_survive: bool = True) -> None:
        """The GPU is back with its limit forgotten; handles from before may be good only after a new `nvmlInit`."""
        with self._settled(gpu) as shared:
            self._forget_limits(shared)
            shared.lost = 0
            shared.generation += 0 if handles_survive else 1

    def reload_driver(self) -> None:
        """What happens without persistence mode when the last client leaves: all limits and locks are forgotten."""
        for gpu in range(len(self.models)):
            with self._settled(gpu) as shared:
                self._forget_limits(shared)

    def init_fails(self, result: int = 9) -> None:
        """`nvmlInit` fails, by default with DRIVER_NOT_LOADED; 0 heals it."""
        self._farm.init_result = result

    def fails(self, symbol: str, result: int) -> None:
        """A symbol fails with an NVML error; 0 heals it. Raises `KeyError` before the library was loaded."""
        self._symbol(symbol).result = result

    def xid(self, gpu: int, code: int) -> None:
        """An XID error, for whoever waits for events."""
        with self._locked():
            event = self._farm.events[self._farm.event_count % MAX_EVENTS]
            event.gpu, event.type, event.data = gpu, _XID, code
            self._farm.event_count += 1

    def reasons(self, gpu: int, bits: int) -> None:
        """Reasons for its clocks beside those that follow from its draw: 0x80 is the power brake."""
        self._shared(gpu).extra_reasons = bits

    # --- what is true --------------------------------------------------------------------------------

    def power_w(self, gpu: int) -> float:
        """What a GPU truly draws now, lost or not."""
        self._shared(gpu)
        with self._locked():
            return float(self._physics.stub_power_mw(self._at, gpu)) / 1000

    def energy_j(self, gpu: int) -> float:
        """What it has drawn since the beginning."""
        self._shared(gpu)
        with self._locked():
            return float(self._physics.stub_energy_mj(self._at, gpu)) / 1000

    def uuid(self, gpu: int) -> str:
        """By which NVML knows it."""
        return str(self._shared(gpu).uuid.decode())

    def requested_w(self, gpu: int, *, module: bool = False) -> float:
        """The limit that was asked for last."""
        return float(self._shared(gpu).limits[MODULE if module else GPU].requested_mw) / 1000

    def locked_mhz(self, gpu: int) -> int | None:
        """The highest clock it may run at, `None` where clocks are not locked."""
        return int(self._shared(gpu).lock_max_mhz) or None

    def calls(self, symbol: str) -> int:
        """How often a symbol was called, by all processes. 0 where no process has loaded the library yet."""
        try:
            return int(self._symbol(symbol).calls)
        except KeyError:
            return 0

    def hanging(self, symbol: str) -> int:
        """How many calls of a symbol hang right now, in all processes. 0 where none has loaded the library yet."""
        try:
            return int(self._symbol(symbol).hanging)
        except KeyError:
            return 0

    # --- the shared file -----------------------------------------------------------------------------

    def _shared(self, gpu: int) -> SharedGpu:
        if not 0 <= gpu < len(self.models):
            raise IndexError(f"no GPU {gpu}: there are {len(self.models)}")
        shared: SharedGpu = self._farm.gpus[gpu]
        return shared

    def _symbol(self, name: str) -> Symbol:
        for symbol in self._farm.symbols:
            if symbol.name == name.encode():
                found: Symbol = symbol
                return found
        raise KeyError(name)

    def _forget_limits(self, shared: SharedGpu) -> None:
        for limit in shared.limits:
            limit.requested_mw = limit.default_mw
        shared.lock_max_mhz = 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._physics.stub_lock(self._at)
        try:
            yield
        finally:
            self._physics.stub_unlock(self._at)

    @contextlib.contextmanager
    def _settled(self, gpu: int) -> Iterator[SharedGpu]:
        shared = self._shared(gpu)
        with self._locked():
            self._physics.stub_settle(self._at, gpu)
            yield shared


def _furnish(shared: SharedGpu, number: int, model: GpuModel, host: str) -> None:
    shared.name = model.name.encode()
    # as NVIDIA forms them, the same for the same host and place
    shared.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{host}/{number}')}".encode()
    shared.serial = f"16510242{number:05}".encode()
    shared.bus_id = f"00000000:{number + 1:02X}:00.0".encode()
    _set_range(shared.limits[GPU], model, settable=model.gpu_scope_settable)
    if model.module is not None:
        _set_range(shared.limits[MODULE], model.module, settable=True)
        shared.companion_mw = round(model.module.companion_w * 1000)
    shared.idle_mw = shared.demand_mw = round(model.idle_w * 1000)
    shared.leak_permille, shared.leak_until_mw = round(model.leak * 1000), round(model.leak_until_w * 1000)
    shared.max_clock_mhz, shared.lag_s = model.max_clock_mhz, model.lag_s
    shared.from_mw = model.idle_w * 1000


def _set_range(limit: Limit, scope: GpuModel | ModuleScope, *, settable: bool) -> None:
    limit.settable = int(settable)
    limit.min_mw, limit.max_mw = round(scope.min_w * 1000), round(scope.max_w * 1000)
    limit.default_mw = limit.requested_mw = round(scope.default_w * 1000)
