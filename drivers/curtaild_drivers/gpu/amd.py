"""The `amdsmi` driver: the AMD GPUs of this host, together one node. Needs the extra `amd` and ROCm's own library.

The bindings answer in dictionaries whose values are numbers or "N/A", powers in W and limits in µW. Whether a GPU takes
a limit is what its bounds say; whether it keeps one, the read-back.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    DriverError,
    Refused,
    Unreachable,
    Unsupported,
    watts_or_none,
)
from curtaild_drivers.gpu.card import (
    MOST_MW,
    Card,
    CardActivity,
    CardFacts,
    CardLost,
    CardPower,
    LibraryGone,
    Milliwatts,
    milliwatts_or_none,
)
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.settings import AmdSettings
from curtaild_drivers.maturity import Maturity, Support
from curtaild_drivers.registry import Driver, DriverSettings, OpenContext

T = TypeVar("T")

# amdsmi_status_t
INVALID, NOT_SUPPORTED, NOT_YET, NO_PERMISSION = 1, 2, 3, 10
NOT_FOUND, NOT_INIT, NO_SLOT, DRIVER_NOT_LOADED = 31, 32, 33, 34
MICROWATTS_PER_MILLIWATT = 1_000
FIRST_SENSOR = 0


def load() -> Any:
    """The bindings. Without ROCm's C library their import raises KeyError, of all things, so anything is caught.
    Raises `Unreachable`."""
    try:
        return importlib.import_module("amdsmi")
    except Exception as error:
        raise Unreachable(
            f"AMD's library cannot be loaded ({type(error).__name__}: {error}): pip install amdsmi, and ROCm beside it"
        ) from None


class AmdHost:
    """AMD SMI on this host (`card.Host`)."""

    make = "AMD"

    def __init__(self) -> None:
        self._amdsmi: Any = None
        self._handles: list[Any] = []

    def open(self) -> tuple[str, int]:
        amdsmi = load()
        _asked(amdsmi, amdsmi.amdsmi_init)
        self._amdsmi = amdsmi
        self._handles = list(_asked(amdsmi, amdsmi.amdsmi_get_processor_handles))
        if not self._handles:
            raise Unreachable("the AMD driver knows of no GPU")
        version = _tried(amdsmi, lambda: amdsmi.amdsmi_get_gpu_driver_info(self._handles[0])["driver_version"])
        return str(version or "unknown"), len(self._handles)

    def renew(self) -> None:
        """Its handles are asked for once; a GPU that comes back is known by its old one."""

    def card(self, index: int) -> Card:
        return AmdCard(self._amdsmi, self._handles[index], index)

    def close(self) -> None:
        amdsmi, self._amdsmi = self._amdsmi, None
        if amdsmi is not None:
            with contextlib.suppress(Exception):
                amdsmi.amdsmi_shut_down()


class AmdCard:
    """One GPU (`card.Card`)."""

    def __init__(self, amdsmi: Any, handle: Any, index: int) -> None:
        """Finds out what it can do. Raises `DriverError`."""
        self._amdsmi = amdsmi
        self._handle = handle
        uuid = str(_asked(amdsmi, lambda: amdsmi.amdsmi_get_gpu_device_uuid(handle)))
        asic = _tried(amdsmi, lambda: amdsmi.amdsmi_get_gpu_asic_info(handle)) or {}
        caps = _tried(amdsmi, self._caps) or {}
        least_mw, most_mw, default_mw = (
            _of_microwatts(caps.get(key)) for key in ("min_power_cap", "max_power_cap", "default_power_cap")
        )
        takes_limit = least_mw is not None and most_mw is not None and 0 <= least_mw < most_mw
        self._facts = CardFacts(
            index=index,
            uuid=uuid,
            model=str(asic.get("market_name", "AMD GPU")),
            least_mw=least_mw,
            most_mw=most_mw,
            default_mw=default_mw or None,
            takes_limit=takes_limit,
            missing=() if takes_limit else ("the bounds of its power limit",),
        )

    @property
    def facts(self) -> CardFacts:
        return self._facts

    def power(self) -> CardPower:
        """Draw and limit: two calls, there is none that tells both. What is asked for is also what is enforced."""
        amdsmi = self._amdsmi
        said = _asked(amdsmi, lambda: amdsmi.amdsmi_get_power_info(self._handle))
        caps = _tried(amdsmi, self._caps) or {}
        limit_mw = _of_microwatts(caps.get("power_cap"))
        return CardPower(
            instant_w=_watts(said.get("current_socket_power")),
            average_w=_watts(said.get("average_socket_power")),
            enforced_mw=limit_mw,
            requested_mw=limit_mw,
        )

    def activity(self) -> CardActivity:
        amdsmi, handle = self._amdsmi, self._handle
        busy = _tried(amdsmi, lambda: amdsmi.amdsmi_get_gpu_activity(handle)["gfx_activity"])
        temperature_c = _tried(
            amdsmi,
            lambda: amdsmi.amdsmi_get_temp_metric(
                handle, amdsmi.AmdSmiTemperatureType.HOTSPOT, amdsmi.AmdSmiTemperatureMetric.CURRENT
            ),
        )
        clock = _tried(amdsmi, lambda: amdsmi.amdsmi_get_clock_info(handle, amdsmi.AmdSmiClkType.GFX)) or {}
        mhz, highest_mhz = _number(clock.get("clk")), _number(clock.get("max_clk"))
        percent = _number(busy)
        return CardActivity(
            utilisation=min(percent / 100, 1.0) if percent is not None else None,
            clock_fraction=min(mhz / highest_mhz, 1.0) if mhz is not None and highest_mhz else None,
            temperature_c=_number(temperature_c),
        )

    def set_limit(self, limit_mw: Milliwatts) -> None:
        amdsmi = self._amdsmi
        microwatts = limit_mw * MICROWATTS_PER_MILLIWATT
        _asked(amdsmi, lambda: amdsmi.amdsmi_set_power_cap(self._handle, FIRST_SENSOR, microwatts))

    def lock_clocks(self, mhz: int) -> None:
        raise Unsupported("clock locks are not offered for AMD GPUs")

    def release_clocks(self) -> None:
        raise Unsupported("clock locks are not offered for AMD GPUs")

    def close(self) -> None:
        """Handles need no closing."""

    def _caps(self) -> Any:
        return self._amdsmi.amdsmi_get_power_cap_info(self._handle)


def _asked(amdsmi: Any, ask: Callable[[], T]) -> T:
    """The answer. The bindings' exceptions become the contract's."""
    try:
        return ask()
    except amdsmi.AmdSmiException as error:
        raise _error_of(error) from None
    except (KeyError, TypeError, ValueError) as error:
        raise BadReply(f"AMD's library answered what is no answer: {error!r}") from None


def _error_of(error: Any) -> DriverError:
    code = error.get_error_code() if hasattr(error, "get_error_code") else None
    words = " ".join(str(error).split())
    if code == NO_PERMISSION:
        return AuthFailed("the driver wants root for that: see docs/gpu.md")
    if code in (NOT_SUPPORTED, NOT_YET):
        return Unsupported(f"the driver cannot do that: {words}")
    if code == INVALID:
        return Refused(f"the driver refused: {words}")
    if code == NOT_INIT:
        return LibraryGone(f"AMD's library must be opened anew: {words}")
    if code == DRIVER_NOT_LOADED:
        return Unreachable(f"no AMD driver is at work on this host: {words}")
    if code in (NOT_FOUND, NO_SLOT):
        return CardLost(f"the GPU is gone: {words}")
    return BadReply(f"AMD's library said: {words}")


def _tried(amdsmi: Any, ask: Callable[[], T]) -> T | None:
    """The answer, or `None` where this GPU has none."""
    try:
        return _asked(amdsmi, ask)
    except DriverError:
        return None


def _number(value: object) -> float | None:
    """A number that is one: absent values read "N/A"."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None


def _watts(value: object) -> float | None:
    return watts_or_none(_number(value), MOST_MW / 1000)


def _of_microwatts(value: object) -> Milliwatts | None:
    number = _number(value)
    return milliwatts_or_none(round(number / MICROWATTS_PER_MILLIWATT)) if number is not None else None


def open_device(address: str, settings: DriverSettings, context: OpenContext) -> GpuNode:
    """For the registry. Does no I/O and imports nothing of AMD's."""
    if not isinstance(settings, AmdSettings):
        raise TypeError(f"the amdsmi driver needs AmdSettings, not {type(settings).__name__}")
    return GpuNode(address, settings, AmdHost())


SUPPORT = (
    Support(
        firmware="",
        device="the AMD GPUs of the daemon's own host, together one node (extra `amd`)",
        maturity=Maturity.EMULATED,
        proven="against bindings that answer as AMD's do; the import without ROCm against the real ones",
        reads_watts="yes; the node's by a formula, corrected where a meter stands",
        throttled_by="power limit, shared out among the GPUs",
        stopped_by="opt-in: the site's own programs",
        auth="root",
        ports="none",
        quirks=(
            "Without ROCm's C library the bindings' import raises KeyError.",
            "Some boards and virtual functions tell bounds that leave no room: they are watched only.",
        ),
        sources=("amdsmi 7.0, amdsmi_interface.py",),
    ),
)

DRIVER = Driver(name="amdsmi", settings=AmdSettings, open_device=open_device, support=SUPPORT)
