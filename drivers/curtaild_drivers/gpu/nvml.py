"""The `nvml` driver: the NVIDIA GPUs of the host that the daemon runs on, together one node."""

from __future__ import annotations

import contextlib

from curtaild_drivers.contract import Unreachable
from curtaild_drivers.gpu.card import Card
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.settings import NvmlSettings
from curtaild_drivers.maturity import Maturity, Support
from curtaild_drivers.registry import Driver, DriverSettings, OpenContext


class NvmlHost:
    """NVML on this host (`card.Host`). Opening may take seconds where persistence mode is off."""

    make = "NVIDIA"

    def __init__(self) -> None:
        self._is_open = False

    def open(self) -> tuple[str, int]:
        # Loaded where it is used: a site of miners has no need of it.
        import pynvml  # type: ignore[import-untyped]

        from curtaild_drivers.gpu.nvml_card import translated

        with translated():
            pynvml.nvmlInit()
            self._is_open = True
            version, count = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlDeviceGetCount())
        if count == 0:
            raise Unreachable("the NVIDIA driver knows of no GPU")
        return version, count

    def renew(self) -> None:
        import pynvml

        from curtaild_drivers.gpu.nvml_card import translated

        with translated():
            pynvml.nvmlInit()  # NVML counts: with the first init still in force nothing is unloaded
            pynvml.nvmlShutdown()

    def card(self, index: int) -> Card:
        from curtaild_drivers.gpu.nvml_card import NvmlCard

        return NvmlCard(index)

    def close(self) -> None:
        import pynvml

        if self._is_open:
            self._is_open = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def open_device(address: str, settings: DriverSettings, context: OpenContext) -> GpuNode:
    """For the registry. Does no I/O."""
    if not isinstance(settings, NvmlSettings):
        raise TypeError(f"the nvml driver needs NvmlSettings, not {type(settings).__name__}")
    return GpuNode(address, settings, NvmlHost())


SUPPORT = (
    Support(
        firmware="",
        device="the NVIDIA GPUs of the daemon's own host, from Kepler on, together one node",
        maturity=Maturity.EMULATED,
        proven="through NVIDIA's own Python bindings, against a stub of the library with a GPU's physics",
        reads_watts="yes; the node's by a formula, corrected where a meter stands",
        throttled_by="power limit, shared out among the GPUs; opt-in: clock lock",
        stopped_by="opt-in: the site's own programs",
        auth="root or CAP_SYS_ADMIN",
        ports="none",
        quirks=(
            "A limit bounds the draw and does not set it: work that draws less runs on unchanged.",
            "Without persistence mode the limits are gone when the driver's last client ends.",
            "Some GH200 take limits for their whole module only.",
        ),
        sources=("NVML's API reference", "nvidia-ml-py 13"),
    ),
)

DRIVER = Driver(name="nvml", settings=NvmlSettings, open_device=open_device, support=SUPPORT)
