"""A stage below a node's limits that only the site's own programs reach, around a driver that knows limits alone.

Going down, the least limit is set first and the programs are run then; coming up, the limit is raised first. That the
stage may have been entered is on the disk before its program is started.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from curtaild_drivers.contract import (
    OFF,
    Capabilities,
    Device,
    DriverError,
    Identity,
    LearnsPoints,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    RunState,
    TellsWords,
    Unsupported,
)
from curtaild_drivers.gpu import hooks
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.lane import Lane, moment_in
from curtaild_drivers.gpu.memory import NodeMemory
from curtaild_drivers.gpu.reading import SUSPEND
from curtaild_drivers.gpu.settings import HookStage

log = logging.getLogger(__name__)

FILE_DEADLINE_S = 2.0
WORKS_ABOVE = 1.1
"""A node that draws more than this, times what it is said to draw when suspended, works on."""


class Suspendable(TellsWords, LearnsPoints):
    """`node` with one point more, below its least limit (`contract.Device`). `name` is what the programs are told."""

    def __init__(self, node: Device, name: str, stage: HookStage, state_file: Path) -> None:
        self.node = node
        self._name = name
        self._stage = stage
        self._memory = NodeMemory(state_file)
        self._file_lane = Lane("state file", "the disk")
        self._trouble: str | None = None
        self._is_surely_in = False
        self._works_on = False
        self._words = ""
        self._applying = asyncio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        own = self.node.capabilities
        hook_s = self._stage.timeout_s
        return replace(own, settle_down_s=own.settle_down_s + hook_s, settle_up_s=own.settle_up_s + hook_s)

    @property
    def last_words(self) -> str:
        """What the site's programs printed at the last command."""
        return self._words

    @property
    def has_learned(self) -> bool:
        return isinstance(self.node, LearnsPoints) and self.node.has_learned

    async def identify(self) -> Identity:
        return await self.node.identify()

    async def read(self) -> Reading:
        """The node's own, at this stage where that was begun. Asleep is who draws no more than the stage says."""
        await self._remember()
        reading = await self.node.read()
        is_in = SUSPEND in self._memory.stages and reading.point_key != OFF
        self._works_on = reading.power_w is None or reading.power_w > WORKS_ABOVE * self._stage.draw_w
        fault = "; ".join(filter(None, (reading.fault, self._trouble))) or None
        if not is_in:
            return replace(reading, fault=fault)
        sleeps = not self._works_on and reading.state in (RunState.RUNNING, RunState.IDLE)
        state = RunState.ASLEEP if sleeps else reading.state
        return replace(reading, state=state, point_key=SUSPEND, limit_w=None, fault=fault)

    async def operating_points(self) -> OperatingPoints:
        """Raises `Unsupported` where the stage does not lie between off and the least limit."""
        offered = await self.node.operating_points()
        deeper = [point for point in offered.points if point.key == OFF]
        limits = [point for point in offered.points if point.key != OFF]
        draw_w = self._stage.draw_w
        if draw_w >= limits[0].draw_w or (deeper and draw_w <= deeper[-1].draw_w):
            raise Unsupported(
                f"suspend.draw_w ({draw_w:g} W) must be below the least limit, {limits[0].draw_w:g} W"
                + (f", and above off, {deeper[-1].draw_w:g} W" if deeper else "")
            )
        return OperatingPoints((*deeper, OperatingPoint(SUSPEND, draw_w, 0.0), *limits), offered.step_w)

    async def apply(self, point: OperatingPoint) -> Outcome:
        async with self._applying:
            self._words = ""
            await self._remember()
            if point.key == SUSPEND:
                return await self._suspend(point)
            outcome = await self.node.apply(point)
            if point.key != LIMIT or SUSPEND not in self._memory.stages:
                return outcome
            await self._run(self._stage.restore, "restore", point)
            self._is_surely_in = False
            self._memory.stages.discard(SUSPEND)
            await self._keep()
            return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        await self.node.close()
        self._file_lane.close()

    async def _suspend(self, point: OperatingPoint) -> Outcome:
        refusal: DriverError | None = None
        outcome = Outcome.ALREADY_THERE
        try:
            least = next(offered for offered in (await self.node.operating_points()).points if offered.key == LIMIT)
            outcome = await self.node.apply(least)
        except DriverError as error:
            refusal = error  # the stage sheds more than any limit: go on
        if not self._is_surely_in or self._works_on:
            self._memory.stages.add(SUSPEND)
            await self._keep()
            self._is_surely_in = False
            await self._run(self._stage.shed, "shed", point)
            self._is_surely_in, outcome = True, Outcome.ACKNOWLEDGED
        if refusal is not None:
            raise OutcomeUnknown(f"reached {SUSPEND}, but not its limit: {refusal}") from refusal
        return outcome

    async def _run(self, argv: tuple[str, ...], reason: str, point: OperatingPoint) -> None:
        said = await hooks.run(argv, hooks.Call(self._name, reason, point.draw_w, self._stage.timeout_s))
        self._words = f"hook {argv[0]} ({reason}){hooks.quoted(said)}"

    # ---- the memory ---------------------------------------------------------------------------

    async def _remember(self) -> None:
        """What an earlier daemon began. A disk that fails is told of and stops no shed."""
        try:
            await self._file_lane.call(self._memory.load, moment_in(FILE_DEADLINE_S))
        except (OSError, DriverError) as error:
            self._trouble = f"{self._memory.path} cannot be read: {error}"

    async def _keep(self) -> None:
        try:
            await self._file_lane.call(self._memory.keep, moment_in(FILE_DEADLINE_S))
        except (OSError, DriverError) as error:
            self._trouble = f"{self._memory.path} cannot be written: {error}"
        else:
            self._trouble = None
