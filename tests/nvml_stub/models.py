"""The GPUs that can be emulated: limits and idle draw as measured or published, times and leaks as assumptions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModuleScope:
    """The limit of the module that carries a GPU, W; `companion_w` is what the rest of it (CPU, memory) draws."""

    min_w: float
    default_w: float
    max_w: float
    companion_w: float


@dataclass(frozen=True, slots=True)
class GpuModel:
    """`leak` is the share by which draw exceeds a limit at `min_w`; it fades to none at `leak_until_w`. W, s, MHz."""

    name: str
    min_w: float
    default_w: float
    max_w: float
    idle_w: float
    max_clock_mhz: int
    leak: float = 0.1
    leak_until_w: float = 0.0
    lag_s: float = 0.4
    module: ModuleScope | None = None
    gpu_scope_settable: bool = True


_GRACE = ModuleScope(min_w=200.0, default_w=900.0, max_w=1000.0, companion_w=90.0)

H100 = GpuModel("NVIDIA H100 80GB HBM3", 200.0, 700.0, 700.0, 70.0, 1980, leak_until_w=250.0)
H200 = GpuModel("NVIDIA H200", 200.0, 700.0, 700.0, 76.0, 1980, leak_until_w=250.0)
L40S = GpuModel("NVIDIA L40S", 100.0, 350.0, 350.0, 35.0, 2520, leak_until_w=150.0)
A100 = GpuModel("NVIDIA A100-SXM4-80GB", 100.0, 400.0, 400.0, 55.0, 1410, leak_until_w=150.0)
A40 = GpuModel("NVIDIA A40", 100.0, 300.0, 300.0, 30.0, 1740, leak=0.21, leak_until_w=150.0)
GH200 = GpuModel("NVIDIA GH200 480GB", 100.0, 900.0, 900.0, 88.0, 1980, leak_until_w=150.0, module=_GRACE)
GH200_MODULE_ONLY = GpuModel(
    "NVIDIA GH200 480GB", 100.0, 900.0, 900.0, 88.0, 1980, leak_until_w=150.0, module=_GRACE, gpu_scope_settable=False
)
