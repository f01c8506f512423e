"""AMD's bindings as they are without their library, and the node model over bindings that answer as AMD's do.

The answers' keys and units are those of amdsmi 7.0 (`amdsmi_interface.py`): dictionaries, W, µW, and "N/A".
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from curtaild_drivers.contract import AuthFailed, OperatingPoint, Outcome, RunState, Unreachable, Unsupported
from curtaild_drivers.gpu.amd import AmdHost, open_device
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.settings import AmdSettings
from curtaild_drivers.registry import OpenContext


class AmdSmiException(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"Error code:\n\t{code}")
        self.code = code

    def get_error_code(self) -> int:
        return self.code


class Bindings(SimpleNamespace):
    """Two MI300X that draw what they may; `cap_uw` by handle."""

    AmdSmiException = AmdSmiException
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT=1)
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)
    AmdSmiClkType = SimpleNamespace(GFX=0)

    def __init__(self) -> None:
        super().__init__()
        self.cap_uw = {0: 750_000_000, 1: 750_000_000}
        self.highest_uw = 750_000_000
        self.refusal: int | None = None
        self.is_open = False

    def amdsmi_init(self) -> None:
        self.is_open = True

    def amdsmi_shut_down(self) -> None:
        self.is_open = False

    def amdsmi_get_processor_handles(self) -> list[int]:
        return [0, 1]

    def amdsmi_get_gpu_driver_info(self, handle: int) -> dict[str, str]:
        return {"driver_version": "6.12.12"}

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        return f"{handle}ff74a1-0000-1000-80e6-b8c7a5d0e7a3"

    def amdsmi_get_gpu_asic_info(self, handle: int) -> dict[str, str]:
        return {"market_name": "AMD Instinct MI300X"}

    def amdsmi_get_power_cap_info(self, handle: int) -> dict[str, Any]:
        return {
            "power_cap": self.cap_uw[handle],
            "default_power_cap": 750_000_000,
            "dpm_cap": "N/A",
            "min_power_cap": 200_000_000,
            "max_power_cap": self.highest_uw,
        }

    def amdsmi_get_power_info(self, handle: int) -> dict[str, Any]:
        return {"current_socket_power": self.cap_uw[handle] // 1_000_000, "average_socket_power": "N/A"}

    def amdsmi_get_gpu_activity(self, handle: int) -> dict[str, Any]:
        return {"gfx_activity": 90}

    def amdsmi_get_temp_metric(self, handle: int, kind: int, metric: int) -> int:
        return 61

    def amdsmi_get_clock_info(self, handle: int, kind: int) -> dict[str, Any]:
        return {"clk": 1_050, "max_clk": 2_100}

    def amdsmi_set_power_cap(self, handle: int, sensor: int, cap_uw: int) -> None:
        if self.refusal is not None:
            raise AmdSmiException(self.refusal)
        self.cap_uw[handle] = cap_uw


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> Bindings:
    amdsmi = Bindings()
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi)
    return amdsmi


@pytest.fixture
def node(tmp_path: Path) -> GpuNode:
    settings = AmdSettings(base_w=1_000.0, gpu_factor=1.0, state_file=tmp_path / "gpu-state.json", read_deadline_s=50)
    return open_device("localhost", settings, OpenContext())


async def test_limits_in_microwatts_are_shared_out_and_read_back(bindings: Bindings, node: GpuNode) -> None:
    assert (await node.identify()).model == "2 × AMD Instinct MI300X"
    points = await node.operating_points()
    assert (points.lowest.draw_w, points.highest.draw_w) == (1_400.0, 2_500.0)
    assert await node.apply(OperatingPoint("limit", 2_000.0, 0.8)) is Outcome.ACKNOWLEDGED
    assert bindings.cap_uw == {0: 500_000_000, 1: 500_000_000}
    reading = await node.read()
    assert (reading.power_w, reading.limit_w, reading.state) == (2_000.0, 2_000.0, RunState.RUNNING)
    assert reading.rate == pytest.approx(0.45)
    assert reading.temperature_c == 61.0
    await node.close()
    assert not bindings.is_open


async def test_without_root_a_person_is_told(bindings: Bindings, node: GpuNode) -> None:
    bindings.refusal = 10
    with pytest.raises(AuthFailed, match="wants root"):
        await node.apply(OperatingPoint("limit", 2_000.0, 0.8))
    await node.close()


async def test_a_gpu_whose_bounds_leave_no_room_takes_no_limit(bindings: Bindings, node: GpuNode) -> None:
    """Caps are probed: virtual functions and some boards tell bounds that are equal, or zero."""
    bindings.highest_uw = 0
    with pytest.raises(Unsupported, match="takes no power limit"):
        await node.operating_points()
    await node.close()


@pytest.fixture
def broken_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the real package does where ROCm's C library is not installed."""
    (tmp_path / "amdsmi.py").write_text("{}['libamd_smi.so']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)


async def test_an_import_that_raises_keyerror_is_a_missing_driver(broken_bindings: None, node: GpuNode) -> None:
    with pytest.raises(Unreachable, match=r"cannot be loaded \(KeyError: 'libamd_smi.so'\)"):
        await node.read()
    with pytest.raises(Unreachable):
        AmdHost().open()
    await node.close()
