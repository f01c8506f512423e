"""The stub answers as NVML does, to NVIDIA's own bindings: limits, draw, fields, events, and what goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus, pynvml
from nvml_stub.library import LACKING_BEFORE_535, NoCompiler, build
from nvml_stub.models import A40, GH200, GH200_MODULE_ONLY, H100, L40S

SETTLED_S = 20.0
AVERAGE, INSTANT, LOWEST, HIGHEST, DEFAULT, ENFORCED, REQUESTED, ENERGY = 185, 186, 187, 188, 189, 190, 192, 83
GPU_SCOPE, MODULE_SCOPE = 0, 1


class Host:
    """One host's GPUs in frozen time, and NVML of this process speaking to them."""

    def __init__(self, gpus: StubGpus) -> None:
        self.gpus = gpus
        pynvml.nvmlInit()
        self.handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]

    def field(self, gpu: int, field_id: int, scope: int = GPU_SCOPE) -> float | int:
        """A power field in W, an energy in J, or the negative error."""
        (value,) = pynvml.nvmlDeviceGetFieldValues(self.handles[gpu], [(field_id, scope)])
        if value.nvmlReturn:
            return -int(value.nvmlReturn)
        number = value.value.ullVal if value.valueType == 3 else value.value.uiVal
        return float(number) / 1000

    def set_w(self, gpu: int, limit_w: float) -> None:
        pynvml.nvmlDeviceSetPowerManagementLimit(self.handles[gpu], int(limit_w * 1000))


@pytest.fixture
def host(make_gpus: MakeGpus, request: pytest.FixtureRequest) -> Iterator[Host]:
    """Hosts of the models in the parameter, two H100s without."""
    gpus = make_gpus(getattr(request, "param", [H100, H100]), speed=0.0)
    with gpus.here():
        yield Host(gpus)


def error_of(call: Any, *arguments: Any) -> int:
    with pytest.raises(pynvml.NVMLError) as caught:
        call(*arguments)
    return int(caught.value.value)


def with_models(*models: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("host", [list(models)], indirect=True, ids=[models[0].name])


def test_a_gpu_draws_the_lesser_of_its_work_and_its_limit_with_a_lag(host: Host) -> None:
    gpus = host.gpus
    gpus.demand_w(0, 650.0)
    assert gpus.power_w(0) == pytest.approx(70.0)  # no time has passed
    gpus.pass_time(H100.lag_s)
    assert gpus.power_w(0) == pytest.approx(650.0 - 580.0 * 0.3679, abs=0.1)
    gpus.pass_time(SETTLED_S)
    assert host.field(0, INSTANT) == pytest.approx(650.0, abs=0.01)
    host.set_w(0, 400.0)
    assert host.field(0, INSTANT) == pytest.approx(650.0, abs=0.01)
    gpus.pass_time(SETTLED_S)
    assert host.field(0, INSTANT) == host.field(0, AVERAGE) == pytest.approx(400.0, abs=0.01)
    gpus.demand_w(0, 300.0)  # a limit bounds power, it does not set it
    gpus.pass_time(SETTLED_S)
    assert pynvml.nvmlDeviceGetPowerUsage(host.handles[0]) == pytest.approx(300_000, abs=10)
    assert host.field(1, INSTANT) == 70.0


def test_the_average_follows_the_instant_a_second_later(host: Host) -> None:
    host.gpus.demand_w(0, 600.0)
    host.gpus.pass_time(0.5)
    instant, average = host.field(0, INSTANT), host.field(0, AVERAGE)
    assert 70.0 < average < instant < 600.0


def test_energy_is_the_integral_of_power(host: Host) -> None:
    host.gpus.demand_w(0, 600.0)
    host.gpus.pass_time(100.0)
    lag_j = H100.lag_s * (600.0 - 70.0)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(host.handles[0]) == pytest.approx(
        1000 * (600.0 * 100.0 - lag_j), rel=1e-6
    )
    assert host.field(0, ENERGY) == host.field(0, 191) == pytest.approx(host.gpus.energy_j(0), abs=0.01)


@with_models(A40, A40, A40)
def test_a_limit_near_the_floor_leaks(host: Host) -> None:
    for gpu, limit_w in enumerate((100.0, 125.0, 200.0)):
        host.gpus.demand_w(gpu, 290.0)
        host.set_w(gpu, limit_w)
    host.gpus.pass_time(SETTLED_S)
    assert [host.gpus.power_w(gpu) for gpu in range(3)] == pytest.approx([121.0, 138.1, 200.0], abs=0.1)
    host.gpus.demand_w(0, 80.0)
    host.gpus.pass_time(SETTLED_S)
    assert host.gpus.power_w(0) == pytest.approx(80.0)


@with_models(L40S)
def test_limits_by_call_and_by_field(host: Host) -> None:
    (handle,) = host.handles
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) == [100_000, 350_000]
    assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) == 350_000
    assert [host.field(0, f) for f in (LOWEST, HIGHEST, DEFAULT, ENFORCED, REQUESTED)] == [100, 350, 350, 350, 350]
    host.set_w(0, 200.0)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(handle) == 200_000
    for outside_w in (99.0, 351.0):
        assert error_of(host.set_w, 0, outside_w) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert host.gpus.requested_w(0) == 200.0
    host.gpus.drift(0, 150.0)
    assert (host.field(0, ENFORCED), host.field(0, REQUESTED)) == (150.0, 200.0)
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 150_000
    host.gpus.drift(0, None)
    assert host.field(0, ENFORCED) == 200.0
    host.gpus.reload_driver()
    assert host.field(0, REQUESTED) == 350.0


def test_without_permission_v1_says_so_and_the_wrapper_of_v2_says_success(host: Host) -> None:
    host.gpus.deny_permission()
    assert error_of(host.set_w, 0, 300.0) == pynvml.NVML_ERROR_NO_PERMISSION
    assert pynvml.nvmlDeviceSetPowerManagementLimit_v2(host.handles[0], GPU_SCOPE, 300_000) == pynvml.NVML_SUCCESS
    assert error_of(pynvml.nvmlDeviceSetGpuLockedClocks, host.handles[0], 210, 900) == pynvml.NVML_ERROR_NO_PERMISSION
    assert (host.gpus.requested_w(0), host.gpus.locked_mhz(0)) == (700.0, None)
    assert host.gpus.calls("nvmlDeviceSetPowerManagementLimit_v2") == 1
    host.gpus.deny_permission(False)
    host.set_w(0, 300.0)
    assert host.gpus.requested_w(0) == 300.0


@with_models(GH200_MODULE_ONLY)
def test_a_module_only_gpu_takes_the_module_s_limit(host: Host) -> None:
    (handle,) = host.handles
    assert error_of(host.set_w, 0, 500.0) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert error_of(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert host.field(0, ENFORCED) == -pynvml.NVML_ERROR_NOT_SUPPORTED
    assert [host.field(0, f, MODULE_SCOPE) for f in (LOWEST, HIGHEST, ENFORCED)] == [200.0, 1000.0, 900.0]
    pynvml.nvmlDeviceSetPowerManagementLimit_v2(handle, MODULE_SCOPE, 500_000)
    host.gpus.demand_w(0, 800.0)
    host.gpus.pass_time(SETTLED_S)
    assert (host.field(0, INSTANT), host.field(0, INSTANT, MODULE_SCOPE)) == pytest.approx((410.0, 500.0), abs=0.01)


@with_models(GH200, H100)
def test_only_a_module_answers_the_module_s_scope(host: Host) -> None:
    host.set_w(0, 300.0)
    assert (host.field(0, REQUESTED), host.field(0, REQUESTED, MODULE_SCOPE)) == (300.0, 900.0)
    assert host.field(1, INSTANT, MODULE_SCOPE) == -pynvml.NVML_ERROR_NOT_SUPPORTED
    assert host.field(1, INSTANT, 3) == -pynvml.NVML_ERROR_NOT_SUPPORTED


def test_clocks_can_be_locked_where_a_limit_would_not_bind(host: Host) -> None:
    (handle, _), gpus = host.handles, host.gpus
    gpus.demand_w(0, 270.0)
    gpus.pass_time(SETTLED_S)
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) == H100.max_clock_mhz
    ladder = pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, pynvml.nvmlDeviceGetSupportedMemoryClocks(handle)[0])
    assert (ladder[0], ladder[-1], pynvml.nvmlDeviceGetMaxClockInfo(handle, 1)) == (1980, 210, 1980)
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 210, 990)
    gpus.pass_time(SETTLED_S)
    assert gpus.power_w(0) == pytest.approx(70.0 + 200.0 / 4)
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) == 990
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 0x2
    pynvml.nvmlDeviceResetGpuLockedClocks(handle)
    gpus.pass_time(SETTLED_S)
    assert gpus.locked_mhz(0) is None
    assert gpus.power_w(0) == pytest.approx(270.0)


def test_the_reasons_say_whether_the_limit_binds(host: Host) -> None:
    def reasons() -> int:
        told = int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(host.handles[0]))
        assert told == pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(host.handles[0])
        return told

    assert reasons() == pynvml.nvmlClocksEventReasonGpuIdle
    host.gpus.demand_w(0, 500.0)
    assert reasons() == 0
    host.set_w(0, 400.0)
    assert reasons() == pynvml.nvmlClocksEventReasonSwPowerCap
    host.gpus.reasons(0, pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown)
    assert reasons() == 0x84


def test_who_it_is_and_what_it_does(host: Host) -> None:
    gpus, handle = host.gpus, host.handles[1]
    assert pynvml.nvmlSystemGetDriverVersion() == "570.124.06"
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA H100 80GB HBM3"
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == 1
    bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)) == 1
    assert error_of(pynvml.nvmlDeviceGetHandleByUUID, "GPU-none") == pynvml.NVML_ERROR_NOT_FOUND
    assert error_of(pynvml.nvmlDeviceGetHandleByIndex, 2) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    gpus.processes(1, 4711, 4712)
    gpus.mig(1)
    gpus.demand_w(1, 700.0, utilisation_percent=93)
    gpus.pass_time(SETTLED_S)
    assert [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)] == [4711, 4712]
    assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 1]
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 93
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) == pytest.approx(78, abs=1)
    pynvml.nvmlDeviceSetPersistenceMode(handle, 1)
    assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 1


def test_a_lost_gpu_answers_error_15_until_it_is_back_with_its_limit_forgotten(host: Host) -> None:
    host.set_w(0, 300.0)
    host.gpus.lose(0)
    for call in (pynvml.nvmlDeviceGetPowerUsage, pynvml.nvmlDeviceGetUUID):
        assert error_of(call, host.handles[0]) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert error_of(pynvml.nvmlDeviceGetHandleByIndex, 0) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert pynvml.nvmlDeviceGetCount() == 2
    assert pynvml.nvmlDeviceGetPowerUsage(host.handles[1]) == 70_000
    host.gpus.recover(0)
    assert host.field(0, REQUESTED) == 700.0


def test_handles_may_be_good_only_after_a_new_init(host: Host) -> None:
    host.gpus.lose(0)
    host.gpus.recover(0, handles_survive=False)
    assert error_of(pynvml.nvmlDeviceGetPowerUsage, host.handles[0]) == pynvml.NVML_ERROR_GPU_IS_LOST
    pynvml.nvmlShutdown()
    assert error_of(pynvml.nvmlDeviceGetCount) == pynvml.NVML_ERROR_UNINITIALIZED
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetPowerUsage(pynvml.nvmlDeviceGetHandleByIndex(0)) == 70_000


def test_events_tell_of_xid_errors(host: Host) -> None:
    host.gpus.xid(1, 13)  # before anybody listens
    events = pynvml.nvmlEventSetCreate()
    kinds = pynvml.nvmlDeviceGetSupportedEventTypes(host.handles[1])
    assert kinds == pynvml.nvmlEventTypeXidCriticalError
    pynvml.nvmlDeviceRegisterEvents(host.handles[1], kinds, events)
    assert error_of(pynvml.nvmlEventSetWait, events, 0) == pynvml.NVML_ERROR_TIMEOUT
    host.gpus.xid(0, 31)  # not registered
    host.gpus.lose(1)
    told = pynvml.nvmlEventSetWait(events, 1_000)
    assert (told.eventType, told.eventData) == (8, 79)
    assert error_of(pynvml.nvmlEventSetWait, events, 0) == pynvml.NVML_ERROR_TIMEOUT
    pynvml.nvmlEventSetFree(events)


@pytest.mark.parametrize(("after_writing", "requested_w"), [(False, 700.0), (True, 300.0)])
def test_a_hung_call_blocks_until_it_is_released(host: Host, after_writing: bool, requested_w: float) -> None:
    host.gpus.hang(0, after_writing=after_writing)
    call = threading.Thread(target=host.set_w, args=(0, 300.0))
    call.start()
    while not host.gpus.hanging("nvmlDeviceSetPowerManagementLimit"):
        os.sched_yield()
    assert host.gpus.requested_w(0) == requested_w
    assert host.field(1, REQUESTED) == 700.0  # others answer
    assert call.is_alive()
    host.gpus.release(0)
    call.join(60.0)
    assert host.gpus.hanging("nvmlDeviceSetPowerManagementLimit") == 0
    assert host.gpus.requested_w(0) == 300.0


def test_calls_take_their_time(host: Host) -> None:
    host.gpus.latency_s = 0.02
    began = time.monotonic()
    assert host.field(0, INSTANT) == 70.0
    assert time.monotonic() - began >= 0.02


def test_time_may_run_faster_than_life(make_gpus: MakeGpus) -> None:
    gpus = make_gpus([H100], speed=1e9)
    gpus.demand_w(0, 650.0)
    assert gpus.power_w(0) == pytest.approx(650.0)  # a microsecond is a quarter of an hour


_DIES_WITHIN = """
import ctypes, mmap, os, signal, sys
from nvml_stub.layout import Farm
from nvml_stub.library import build, physics
with open(sys.argv[1], "r+b") as file:
    farm = Farm.from_buffer(mmap.mmap(file.fileno(), 0))
physics(build()).stub_lock(ctypes.pointer(farm))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_client_killed_in_the_middle_of_a_call_holds_up_nobody(host: Host) -> None:
    command = [sys.executable, "-c", _DIES_WITHIN, str(host.gpus.path)]
    folder = Path(__file__).parents[1]
    assert subprocess.run(command, cwd=folder, check=False).returncode == -signal.SIGKILL
    host.set_w(0, 300.0)
    assert host.field(0, REQUESTED) == 300.0


def test_symbols_and_the_init_can_be_made_to_fail(host: Host) -> None:
    host.gpus.fails("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert error_of(pynvml.nvmlDeviceGetPowerUsage, host.handles[0]) == pynvml.NVML_ERROR_NOT_SUPPORTED
    host.gpus.fails("nvmlDeviceGetPowerUsage", 0)
    assert pynvml.nvmlDeviceGetPowerUsage(host.handles[0]) == 70_000
    host.gpus.init_fails()
    assert error_of(pynvml.nvmlInit) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED


def test_an_older_driver_lacks_symbols_and_fields(make_gpus: MakeGpus) -> None:
    with make_gpus([H100], speed=0.0, lacking=LACKING_BEFORE_535, highest_field=184).here():
        host = Host(make_gpus([H100]))
        (handle,) = host.handles
        assert error_of(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
        assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) == 1
        assert host.field(0, INSTANT) == -pynvml.NVML_ERROR_INVALID_ARGUMENT
        assert host.field(0, ENERGY) == 0.0


def test_two_hosts_in_one_process_one_after_another(make_gpus: MakeGpus) -> None:
    first, second = make_gpus([H100]), make_gpus([L40S, L40S])
    for gpus in (first, second, first):
        with gpus.here():
            assert len(Host(gpus).handles) == len(gpus.models)


_CHILD = """
import pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
print(pynvml.nvmlDeviceGetName(handle), flush=True)
limit_mw = int(input())
pynvml.nvmlDeviceSetPowerManagementLimit(handle, limit_mw)
print(pynvml.nvmlDeviceGetPowerManagementLimit(handle), flush=True)
input()
"""


def test_other_processes_find_the_library_by_its_name_and_each_its_own_gpus(make_gpus: MakeGpus) -> None:
    hosts = [make_gpus([H100], speed=0.0), make_gpus([L40S], speed=0.0)]
    for gpus in hosts:
        gpus.demand_w(0, 340.0)
        gpus.pass_time(SETTLED_S)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            env={**os.environ, **gpus.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for gpus in hosts
    ]
    try:
        for child, gpus, limit_w in zip(children, hosts, (300.0, 250.0), strict=True):
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline().strip() == gpus.models[0].name
            child.stdin.write(f"{round(limit_w * 1000)}\n")
            child.stdin.flush()
            assert child.stdout.readline().strip() == f"{round(limit_w * 1000)}"
            gpus.pass_time(SETTLED_S)
            assert gpus.power_w(0) == pytest.approx(limit_w)
        children[0].send_signal(signal.SIGKILL)
        children[0].wait(60.0)
        assert hosts[0].requested_w(0) == 300.0  # a killed client restores nothing
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(NoCompiler, match="apt install build-essential"):
        build()
