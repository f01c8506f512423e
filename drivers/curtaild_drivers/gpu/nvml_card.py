"""One NVIDIA GPU through NVML: which of the library's many ways works on this driver version is found out once.

Every call blocks, and may block for good. Field values carry a return code each; a symbol that an old driver lacks
raises when it is called. What is missing is declared in `CardFacts.missing` and done without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import byref, c_uint
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]  # it ships no types

from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DriverError,
    Refused,
    Unreachable,
    Unsupported,
    watts_or_none,
)
from curtaild_drivers.gpu.card import MOST_MW, CardActivity, CardFacts, CardLost, CardPower, LibraryGone, Milliwatts
from curtaild_drivers.gpu.card import milliwatts_or_none as _milliwatts

T = TypeVar("T")

AVERAGE, INSTANT = 185, 186  # mW; NVML_FI_DEV_POWER_AVERAGE is the mean of one second
LEAST, MOST, DEFAULT = 187, 188, 189
ENFORCED, REQUESTED = 190, 192
ENERGY = 83  # mJ since the driver was loaded
GPU_SCOPE, MODULE_SCOPE = 0, 1

POWER_CAP_REASON = 0x4  # nvmlClocksEventReasonSwPowerCap
XID_EVENT = 0x8  # nvmlEventTypeXidCriticalError
MOST_EVENTS = 64  # taken at one asking: a GPU may tell of errors faster than anybody can ask
SM_CLOCK, TEMPERATURE_OF_GPU = 1, 0

PROGRAMS_OWN_XIDS = frozenset({8, 13, 31, 32, 43, 45, 68, 69})
"""XIDs that a faulty program causes, says NVIDIA's catalogue: the GPU is whole."""


@contextmanager
def translated() -> Iterator[None]:
    """NVML's error codes as the contract's errors."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise _error_of(error) from None


def _error_of(error: Any) -> DriverError:
    code, words = error.value, str(error)
    if code == pynvml.NVML_ERROR_GPU_IS_LOST:
        return CardLost("the GPU is lost (NVML error 15): it has fallen off the bus; this host must be restarted")
    if code in (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH):
        return LibraryGone(f"NVML must be opened anew ({words}): the driver was unloaded or updated")
    if code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
        return Unreachable(f"no NVIDIA driver is at work on this host: {words}")
    if code == pynvml.NVML_ERROR_NO_PERMISSION:
        return AuthFailed("the driver wants root or CAP_SYS_ADMIN for that: see docs/gpu.md")
    if code in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
        return Unsupported(f"the driver cannot do that: {words}")
    if code == pynvml.NVML_ERROR_INVALID_ARGUMENT:
        return Refused(f"the driver refused: {words}")
    return BadReply(f"NVML said: {words}")


class NvmlCard:
    """One GPU (`card.Card`)."""

    def __init__(self, index: int) -> None:
        """Finds out what the GPU and its driver can do. Raises `DriverError`."""
        with translated():
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(pynvml.nvmlDeviceGetUUID(self._handle))
            model = str(pynvml.nvmlDeviceGetName(self._handle))
        self._missing: list[str] = []
        self._scope = GPU_SCOPE
        self._events: Any = None
        least_mw, most_mw, default_mw = self._probe_limits()
        self._has_fields = self._probe_fields()
        self._highest_mhz = _tried(lambda: int(pynvml.nvmlDeviceGetMaxClockInfo(self._handle, SM_CLOCK)))
        mig = _tried(lambda: pynvml.nvmlDeviceGetMigMode(self._handle)[0])
        persistence = _tried(lambda: int(pynvml.nvmlDeviceGetPersistenceMode(self._handle)))
        setter = "nvmlDeviceSetPowerManagementLimit" + ("_v2" if self._scope == MODULE_SCOPE else "")
        takes_limit = least_mw is not None and most_mw is not None and self._has(setter, "power limits")
        self._listen_for_xids()
        self._facts = CardFacts(
            index=index,
            uuid=uuid,
            model=model,
            least_mw=least_mw,
            most_mw=most_mw,
            default_mw=default_mw,
            takes_limit=takes_limit,
            locks_clocks=self._has("nvmlDeviceSetGpuLockedClocks", "clock locks"),
            scope="module" if self._scope == MODULE_SCOPE else "gpu",
            is_mig=mig == 1,
            is_persistent=bool(persistence) if persistence is not None else None,
            missing=tuple(self._missing),
        )

    @property
    def facts(self) -> CardFacts:
        return self._facts

    def power(self) -> CardPower:
        if not self._has_fields:
            return self._power_without_fields()
        said = self._fields(AVERAGE, INSTANT, ENERGY, ENFORCED, REQUESTED)
        if not said:
            raise BadReply("NVML told none of the GPU's power fields")
        energy_mj = said.get(ENERGY)
        return CardPower(
            instant_w=_watts(said.get(INSTANT)),
            average_w=_watts(said.get(AVERAGE)),
            energy_j=energy_mj / 1000 if energy_mj is not None else None,
            enforced_mw=_milliwatts(said.get(ENFORCED)),
            requested_mw=_milliwatts(said.get(REQUESTED)),
        )

    def activity(self) -> CardActivity:
        handle = self._handle
        utilisation = _tried(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        mhz = _tried(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, SM_CLOCK)))
        reasons = _tried(lambda: _reasons(handle))
        temperature_c = _tried(lambda: float(pynvml.nvmlDeviceGetTemperature(handle, TEMPERATURE_OF_GPU)))
        return CardActivity(
            utilisation=min(utilisation / 100, 1.0) if utilisation is not None else None,
            clock_fraction=min(mhz / self._highest_mhz, 1.0) if mhz is not None and self._highest_mhz else None,
            is_capped=bool(reasons & POWER_CAP_REASON) if reasons is not None else None,
            temperature_c=temperature_c,
            xid=self._last_xid(),
        )

    def set_limit(self, limit_mw: Milliwatts) -> None:
        with translated():
            if self._scope == GPU_SCOPE:
                pynvml.nvmlDeviceSetPowerManagementLimit(self._handle, limit_mw)
            else:
                self._set_module_limit(limit_mw)

    def lock_clocks(self, mhz: int) -> None:
        with translated():
            pynvml.nvmlDeviceSetGpuLockedClocks(self._handle, 0, mhz)

    def release_clocks(self) -> None:
        with translated():
            pynvml.nvmlDeviceResetGpuLockedClocks(self._handle)

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            _tried(lambda: pynvml.nvmlEventSetFree(events))

    def _set_module_limit(self, limit_mw: Milliwatts) -> None:
        """By the C function itself: the library's Python `_v2` setter says that all is well whatever this returns."""
        value = pynvml.c_nvmlPowerValue_v2_t()
        value.version = c_uint(pynvml.nvmlPowerValue_v2)
        value.powerScope = MODULE_SCOPE
        value.powerValueMw = limit_mw
        set_limit = pynvml._nvmlGetFunctionPointer("nvmlDeviceSetPowerManagementLimit_v2")
        code = set_limit(self._handle, byref(value))
        if code != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(code)

    def _probe_limits(self) -> tuple[Milliwatts | None, Milliwatts | None, Milliwatts | None]:
        """Least, most and default of the scope that takes a limit: the GPU's own, else its module's (some GH200)."""
        for scope in (GPU_SCOPE, MODULE_SCOPE):
            self._scope = scope
            said = _tried(lambda: self._fields(LEAST, MOST, DEFAULT)) or {}
            least_mw, most_mw, default_mw = (_milliwatts(said.get(field)) for field in (LEAST, MOST, DEFAULT))
            if scope == GPU_SCOPE and (least_mw is None or most_mw is None):
                bounds = _tried(lambda: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(self._handle))
                least_mw, most_mw = (_milliwatts(bound) for bound in bounds or (None, None))
                default_mw = _milliwatts(_tried(lambda: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(self._handle)))
            if least_mw is not None and most_mw is not None and 0 < least_mw <= most_mw:
                return least_mw, most_mw, default_mw
        self._scope = GPU_SCOPE
        self._missing.append("the bounds of its power limit")
        return None, None, None

    def _probe_fields(self) -> bool:
        said = _tried(lambda: self._fields(AVERAGE, INSTANT, ENFORCED, REQUESTED)) or {}
        tells_draw = AVERAGE in said or INSTANT in said
        if (tells_draw and ENFORCED in said and REQUESTED in said) or self._scope == MODULE_SCOPE:
            return True  # of a module nothing is told but by fields
        self._missing.append("power as field values")
        return False

    def _power_without_fields(self) -> CardPower:
        """As drivers before 530 do: a call each, the draw first. It raises where nothing works."""
        with translated():
            power_mw = pynvml.nvmlDeviceGetPowerUsage(self._handle)
        enforced_mw = _tried(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle))
        requested_mw = _tried(lambda: pynvml.nvmlDeviceGetPowerManagementLimit(self._handle))
        return CardPower(
            average_w=_watts(power_mw),
            enforced_mw=_milliwatts(enforced_mw),
            requested_mw=_milliwatts(requested_mw),
        )

    def _fields(self, *fields: int) -> dict[int, int]:
        """What NVML says of each, those left out that it does not. One call."""
        with translated():
            values = pynvml.nvmlDeviceGetFieldValues(self._handle, [(field, self._scope) for field in fields])
        if any(value.nvmlReturn == pynvml.NVML_ERROR_GPU_IS_LOST for value in values):
            raise _error_of(pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))
        return {value.fieldId: _number(value) for value in values if value.nvmlReturn == pynvml.NVML_SUCCESS}

    def _has(self, symbol: str, words: str) -> bool:
        try:
            pynvml._nvmlGetFunctionPointer(symbol)
        except pynvml.NVMLError:
            self._missing.append(words)
            return False
        return True

    def _listen_for_xids(self) -> None:
        try:
            self._events = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(self._handle, XID_EVENT, self._events)
        except pynvml.NVMLError:
            self._missing.append("XID errors")
            self.close()

    def _last_xid(self) -> int | None:
        """The newest of those that have come since; nobody is waited for."""
        last: int | None = None
        if self._events is not None:
            with suppress(pynvml.NVMLError):  # no more: NVML calls that a timeout
                for _ in range(MOST_EVENTS):
                    xid = int(pynvml.nvmlEventSetWait_v2(self._events, 0).eventData)
                    last = last if xid in PROGRAMS_OWN_XIDS else xid
        return last


def _reasons(handle: Any) -> int:
    """Why the clocks are not higher. Its name changed with driver 535."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _tried(ask: Callable[[], T]) -> T | None:
    """The answer, or `None` where this GPU or driver version has none."""
    try:
        return ask()
    except (pynvml.NVMLError, Unsupported, BadReply, Refused):
        return None


def _number(value: Any) -> int:
    """Of the union that a field value is; the power and energy fields are unsigned."""
    if value.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
        return int(value.value.uiVal)
    if value.valueType == pynvml.NVML_VALUE_TYPE_DOUBLE:
        return int(value.value.dVal) if value.value.dVal == value.value.dVal else -1
    return int(value.value.ullVal)


def _watts(milliwatts: int | None) -> float | None:
    return watts_or_none(milliwatts / 1000, MOST_MW / 1000) if milliwatts is not None else None
