"""GPU nodes on emulated GPUs, behind NVIDIA's own bindings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.nvml import NvmlHost
from curtaild_drivers.gpu.settings import NvmlSettings
from nvml_stub.fixtures import make_gpus
from nvml_stub.gpus import StubGpus

__all__ = ["make_gpus"]

OpenNode = Callable[..., AbstractAsyncContextManager[GpuNode]]

LONG_S = 50.0
"""For every deadline: where an answer comes, a busy machine may take its time."""


@pytest.fixture(autouse=True)
def nothing_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for deadline in ("gpus.OPEN_DEADLINE_S", "gpus.CLOSE_DEADLINE_S", "node.CLOSE_DEADLINE_S", "node.FILE_DEADLINE_S"):
        monkeypatch.setattr(f"curtaild_drivers.gpu.{deadline}", LONG_S)
    monkeypatch.setattr("curtaild_drivers.gpu.hooks._LAST_WORDS_S", LONG_S)


@pytest.fixture
def open_node(tmp_path: Path) -> OpenNode:
    """Opens the node of emulated GPUs: `async with open_node(gpus, base_w=2_000.0) as node`."""

    @asynccontextmanager
    async def opened(gpus: StubGpus, **settings: Any) -> AsyncIterator[GpuNode]:
        settings = {
            "state_file": tmp_path / "gpu-state.json",
            "read_deadline_s": LONG_S,
            "write_deadline_s": LONG_S,
        } | settings
        with gpus.here():
            node = GpuNode("localhost", NvmlSettings.model_validate(settings), NvmlHost())
            try:
                yield node
            finally:
                for gpu in range(len(gpus.models)):
                    gpus.release(gpu)
                await node.close()

    return opened
