"""What the site file may say about a GPU node."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from curtaild_drivers.gpu.curve import DEFAULT_CURVE, checked
from curtaild_drivers.gpu.throughput import FedCurve
from curtaild_drivers.registry import Doubt, DriverSettings

PositiveWatts = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Watts = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Deadline = Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
CurvePoint = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
Argv = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=64)]


class ClockLock(BaseModel):
    """A stage below the lowest power limit: the GPUs' clocks are held down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mhz: Annotated[int, Field(ge=1, le=10_000)]
    """No clock above this, in MHz."""
    draw_w: PositiveWatts
    """What the whole node draws so, in watts."""
    rate: Fraction
    """The fraction of full throughput that it keeps so."""


class HookStage(BaseModel):
    """A stage that the site's own programs bring about, and undo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shed: Argv
    """The program that brings it about, with its arguments; no shell."""
    restore: Argv
    """The program that undoes it."""
    draw_w: Watts
    """What the whole node draws then, in watts."""
    timeout_s: Deadline = 30.0
    """A program that takes longer, in s, is killed with all that it started."""

    def doubts(self, name: str) -> Iterator[Doubt]:
        """What would fail on the night that it is needed."""
        for key, argv in (("shed", self.shed), ("restore", self.restore)):
            program = shutil.which(argv[0])
            if program is None:
                reason, remedy = "no program here that can be run", "install it, chmod 755, or name another"
                yield Doubt((name, key), reason, remedy, argv[0])
            elif Path(program).stat().st_mode & stat.S_IWOTH:
                reason = "every user of this host may change what it does"
                yield Doubt((name, key), reason, f"chmod o-w {program}", argv[0])


class NodeSettings(DriverSettings):
    """Keys of a GPU node, whoever made its GPUs; all have defaults, and base_w deserves a better one."""

    state_name: ClassVar[str] = "gpu-state.json"
    """What the state file is called where no other is named; a host may have GPUs of both makers."""

    base_w: Watts = 1_800.0
    """What the node draws beside its GPUs (CPUs, memory, network), in watts; the default is that of 8 × H100."""
    gpu_factor: Annotated[float, Field(ge=1, le=3, allow_inf_nan=False)] = 1.15
    """What a watt of GPU costs at the wall: fans and power supplies."""
    curve: Annotated[tuple[CurvePoint, ...], Field(min_length=2, max_length=32), AfterValidator(checked)] = tuple(
        DEFAULT_CURVE
    )
    """Pairs of (fraction of full GPU power, fraction of full throughput kept), falling from (1, 1)."""
    throughput_file: Path | None = None
    """A file into which the site's programs keep writing the node's throughput, a number in any unit, at most a minute
    old: the curve is learned from it; absent: it stays as it is."""
    least_gpu_w: PositiveWatts | None = None
    """The lowest limit set on a GPU, in watts; absent: its own least. Near that some draw more than their limit."""
    most_gpu_w: PositiveWatts | None = None
    """The highest limit set on a GPU, in watts; absent: its maker's default."""
    clock_lock: ClockLock | None = None
    """The stage below the lowest limit, for work that draws less than that anyway; absent: none."""
    suspend: HookStage | None = None
    """The stage at which the site's programs let the GPUs' work sleep; absent: none."""
    off: HookStage | None = None
    """The stage at which the site's programs switch the node off; absent: it is never switched off."""
    state_file: Path | None = None
    """Where the limits that were in force before are remembered; absent: `state_name` in systemd's state directory,
    else where the daemon was started."""
    read_deadline_s: Deadline = 2.0
    """A GPU that takes longer to tell its draw, in s, counts as silent."""
    write_deadline_s: Deadline = 10.0
    """A GPU that takes longer to take a limit, in s, has an unknown one."""

    @model_validator(mode="after")
    def _stages_draw_less_the_deeper_they_are(self) -> Self:
        stages = (("off", self.off), ("suspend", self.suspend), ("clock_lock", self.clock_lock))
        named = [(name, stage) for name, stage in stages if stage is not None]
        for (deeper, low), (name, high) in pairwise(named):
            if low.draw_w >= high.draw_w:
                raise ValueError(f"{deeper}.draw_w ({low.draw_w:g}) must be below {name}.draw_w ({high.draw_w:g})")
        if self.least_gpu_w is not None and self.most_gpu_w is not None and self.least_gpu_w > self.most_gpu_w:
            raise ValueError("least_gpu_w is above most_gpu_w")
        return self

    def doubts(self) -> Iterator[Doubt]:
        """Of its hooks."""
        for name, stage in (("suspend", self.suspend), ("off", self.off)):
            if stage is not None:
                yield from stage.doubts(name)

    def state_path(self) -> Path:
        """Where the state lies."""
        if self.state_file is not None:
            return self.state_file
        return Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0]) / self.state_name

    def fed_curve(self) -> FedCurve | None:
        """The curve as the site's throughput shows it; kept beside the state."""
        if self.throughput_file is None:
            return None
        return FedCurve(self.throughput_file, self.state_path().with_suffix(".curve.json"), self.curve)


class NvmlSettings(NodeSettings):
    """Keys of a group with `driver = "nvml"`."""


class AmdSettings(NodeSettings):
    """Keys of a group with `driver = "amdsmi"`."""

    state_name: ClassVar[str] = "amd-gpu-state.json"

    @model_validator(mode="after")
    def _no_clock_lock(self) -> Self:
        if self.clock_lock is not None:
            raise ValueError("clock_lock is not offered for AMD GPUs")
        return self
