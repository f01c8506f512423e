"""For a conftest to import: hosts of emulated GPUs, each behind a control file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nvml_stub.gpus import StubGpus
from nvml_stub.library import NoCompiler
from nvml_stub.models import H100, GpuModel

MakeGpus = Callable[..., StubGpus]


@pytest.fixture
def make_gpus(tmp_path: Path) -> MakeGpus:
    """Makes `StubGpus` on files of their own: `make_gpus([H100] * 8, speed=0.0)`."""
    made: list[StubGpus] = []

    def make(models: Sequence[GpuModel] = (H100,) * 8, **how: Any) -> StubGpus:
        try:
            made.append(StubGpus(tmp_path / f"gpus-{len(made)}", models, **how))
        except NoCompiler as error:
            pytest.skip(str(error))
        return made[-1]

    return make
