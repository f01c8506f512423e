"""A node is one device with GPUs inside: its limit is shared out among them, and below their least come its stages.

All calls into the vendor's library run in the GPUs' own threads, all files in one more; the loop waits for none of them
longer than its deadline. A GPU that hangs or is lost delays no other and is told again only once it answers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence

from curtaild_drivers.contract import (
    OFF,
    Capabilities,
    DriverError,
    Identity,
    LearnsPoints,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    TellsWords,
    Unsupported,
    Watts,
)
from curtaild_drivers.gpu import hooks
from curtaild_drivers.gpu.card import Host, LibraryGone, Milliwatts
from curtaild_drivers.gpu.curve import LIMIT, node_points
from curtaild_drivers.gpu.gpus import CLOSE_DEADLINE_S, HostGpus, attempted
from curtaild_drivers.gpu.lane import Lane, moment_in
from curtaild_drivers.gpu.memory import NodeMemory
from curtaild_drivers.gpu.reading import (
    CLOCKS,
    STAGES,
    SUSPEND,
    deepest,
    gpus_mw,
    highest_of,
    is_at_work,
    most_of,
    node_reading,
    node_watts,
)
from curtaild_drivers.gpu.settings import HookStage, NodeSettings
from curtaild_drivers.gpu.share import equal_shares
from curtaild_drivers.gpu.slot import Slot, Written
from curtaild_drivers.gpu.throughput import FedCurve

log = logging.getLogger(__name__)

FILE_DEADLINE_S = 2.0
CAP_SETTLES_S = 5.0
FULLY_BUSY = 0.9
"""GPUs at work for this fraction of the time or more do what they can."""


class GpuNode(TellsWords, LearnsPoints):
    """The GPUs of this host as one device (`contract.Device`)."""

    def __init__(self, name: str, settings: NodeSettings, host: Host) -> None:
        self._name = name
        self._settings = settings
        self._gpus = HostGpus(host)
        self._slots = self._gpus.slots
        self._file_lane = Lane("state file", "the disk")
        self._memory = NodeMemory(settings.state_path())
        self._memory_trouble: str | None = None
        self._surely_in: str | None = None
        self._is_warned = False
        self._words: list[str] = []
        self._fed = settings.fed_curve()
        self._most_w: Watts | None = None
        self._opening = asyncio.Lock()
        self._applying = asyncio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        hook_s = max((stage.timeout_s for stage in self._hook_stages().values()), default=0.0)
        return Capabilities(
            measures_power=True,
            throttles=self._gpus.take_limits,
            stops=self._settings.off is not None,
            settle_down_s=CAP_SETTLES_S + hook_s,
            settle_up_s=2 * CAP_SETTLES_S + hook_s,
        )

    @property
    def last_words(self) -> str:
        """What the site's programs printed at the last command."""
        return "; ".join(self._words)

    @property
    def has_learned(self) -> bool:
        """Whether the site's throughput has shown another curve."""
        return self._fed is not None and self._fed.has_learned

    async def identify(self) -> Identity:
        """Who made the GPUs and which driver runs them. It is rated with all GPUs at the most they can be set to."""
        await self._open()
        facts = self._gpus.facts()
        most_mw = [highest_of(slot, self._slots) for slot in self._slots]
        rated_w = node_watts(sum(mw for mw in most_mw if mw is not None) / 1000, self._settings)
        models = dict.fromkeys(fact.model for fact in facts)
        return Identity(
            make=self._gpus.make,
            model=f"{len(self._slots)} × {' and '.join(models)}",
            firmware="gpu driver",
            version=self._gpus.version,
            serial=facts[0].uuid,
            rated_w=rated_w if None not in most_mw else None,
        )

    async def read(self) -> Reading:
        """Draw and limits of all GPUs, asked at once. Raises the first's error where none answers."""
        await self._open()
        await self._gpus.look_for_the_lost(self._settings.read_deadline_s)
        until = moment_in(self._settings.read_deadline_s)
        taken_at = time.monotonic()
        said = await asyncio.gather(*(slot.look(until) for slot in self._slots), return_exceptions=True)
        errors = [answer for answer in said if isinstance(answer, BaseException)]
        if any(isinstance(error, LibraryGone) for error in errors):
            await self._gpus.drop()
        if len(errors) == len(said):
            raise errors[0]
        trouble = [self._memory_trouble] if self._memory_trouble is not None else []
        reading = node_reading(taken_at, self._slots, self._memory.stages, self._settings, trouble)
        if self._fed is not None:
            self._note_limit(self._fed, reading)
        return reading

    async def operating_points(self) -> OperatingPoints:
        """Any limit between all GPUs at their least and all at their default, and the stages that the site opted in to.

        Raises `Unsupported` where a GPU takes no limit, or a stage does not lie below the least limit.
        """
        await self._open()
        self._gpus.facts()
        bounds_mw = [self._bounds_mw(slot) for slot in self._slots]
        least_w, most_w = (node_watts(sum(ends) / 1000, self._settings) for ends in zip(*bounds_mw, strict=True))
        curve = self._fed.tell() if self._fed is not None else self._settings.curve
        limits = node_points(least_w, most_w, self._settings.base_w, curve=curve)
        self._most_w = most_w
        stages = self._stage_points()
        if stages and stages[-1].draw_w >= least_w:
            raise Unsupported(
                f"{stages[-1].key}.draw_w ({stages[-1].draw_w:g} W) must be below the least that power limits reach, "
                f"{least_w:g} W"
            )
        return OperatingPoints((*stages, *limits.points), limits.step_w)

    async def apply(self, point: OperatingPoint) -> Outcome:
        """Set the limits first, then enter or leave stages: draw never overshoots on the way up."""
        if point.key != LIMIT and point.key not in {stage.key for stage in self._stage_points()}:
            raise Unsupported(f"{point.key} is not among what this node offers")
        async with self._applying:
            self._words = []
            await self._open()
            await self._see_all_once()
            await self._before_the_first_write()
            limits: Outcome | DriverError
            try:
                limits = await self._set_limits(point)
            except DriverError as error:
                if point.key == LIMIT:
                    raise
                limits = error  # the deeper stage sheds more than any limit: go on
            has_moved = await self._change_stages(point)
            if isinstance(limits, DriverError):
                raise OutcomeUnknown(f"reached {point.key}, but not its limits: {limits}") if has_moved else limits
            return Outcome.ACKNOWLEDGED if has_moved else limits

    async def close(self) -> None:
        """Let go of the GPUs as they are: the last limits stay in force."""
        await self._gpus.close()
        await attempted(self._file_lane, self._memory.release, moment_in(CLOSE_DEADLINE_S))
        self._file_lane.close()
        if self._fed is not None:
            self._fed.close()

    # ---- the GPUs -----------------------------------------------------------------------------

    async def _open(self) -> None:
        """Find the GPUs unless they are known; one that cannot be opened is tried again at each call."""
        if self._gpus.are_known:
            return
        if self._name not in ("localhost", "127.0.0.1", "::1", socket.gethostname()):
            raise Unsupported(f"the GPUs of this host are at localhost, not at {self._name}")
        async with self._opening:
            await self._gpus.open()
            try:
                await self._file_lane.call(self._memory.load, moment_in(FILE_DEADLINE_S))
            except (OSError, DriverError) as error:
                self._memory_trouble = f"{self._memory.path} cannot be read: {error}"
            if self._settings.clock_lock is not None and not self._gpus.lock_clocks and not self._is_warned:
                self._is_warned = True
                log.warning("clock_lock has no effect: the driver of these GPUs has no clock locks")

    def _note_limit(self, fed: FedCurve, reading: Reading) -> None:
        """Under which limit it works now: what the site says of its throughput is compared by that. While the GPUs have
        time to spare it says how much is asked of them, not what they can do, and is passed over."""
        busy = [slot.activity.utilisation for slot in self._slots if slot.activity.utilisation is not None]
        if busy and sum(busy) < FULLY_BUSY * len(busy):
            return
        base_w, fraction = self._settings.base_w, None
        if reading.state is RunState.RUNNING and reading.limit_w is not None and self._most_w is not None:
            fraction = (reading.limit_w - base_w) / (self._most_w - base_w)
        fed.note(fraction)

    async def _see_all_once(self) -> None:
        """Nothing is written to a GPU before the limit that it keeps is known."""
        until = moment_in(self._settings.read_deadline_s)
        unseen = [slot for slot in self._slots if slot.card is not None and slot.power.requested_mw is None]
        await asyncio.gather(*(slot.look(until) for slot in unseen), return_exceptions=True)

    def _bounds_mw(self, slot: Slot) -> tuple[Milliwatts, Milliwatts]:
        """What limits are set on a GPU: within its own bounds, from the settings' least to the settings' most or its
        maker's default. One that could not be opened takes none, and counts as drawing the most."""
        facts = slot.facts
        if facts is None:
            most_mw = most_of(slot, self._slots) or 0
            return most_mw, most_mw
        if not facts.takes_limit or facts.least_mw is None or facts.most_mw is None:
            lacks = ", ".join(facts.missing)
            raise Unsupported(f"GPU {facts.index} ({facts.model}) takes no power limit: it lacks {lacks}")
        settings = self._settings
        top_mw = _milliwatts(settings.most_gpu_w) or facts.default_mw or facts.most_mw
        most_mw = min(max(top_mw, facts.least_mw), facts.most_mw)
        return min(max(_milliwatts(settings.least_gpu_w) or 0, facts.least_mw), most_mw), most_mw

    async def _set_limits(self, point: OperatingPoint) -> Outcome:
        """Share the point's watts out; below the limits every GPU goes to its least. Raises as `Device.apply`."""
        told = [slot for slot in self._slots if slot.card is not None and slot.error is None]
        if not told:
            raise self._slots[0].error or Refused("no GPU answers")
        silent_mw = [most_of(slot, self._slots) or 0 for slot in self._slots if slot not in told]
        bounds = [self._bounds_mw(slot) for slot in told]
        total_mw = gpus_mw(point.draw_w, self._settings) - sum(silent_mw) if point.key == LIMIT else 0
        shares = equal_shares(total_mw, bounds)
        until = moment_in(self._settings.write_deadline_s)
        writes = (slot.set_limit(share, until) for slot, share in zip(told, shares, strict=True))
        outcome = _all_told(told, await asyncio.gather(*writes, return_exceptions=True))
        if silent_mw and point.key == LIMIT and sum(shares) > total_mw:
            silent = ", ".join(str(slot.index) for slot in self._slots if slot not in told)
            raise OutcomeUnknown(f"the others are at their least, but GPU {silent} does not answer and may draw more")
        return outcome

    # ---- the stages ---------------------------------------------------------------------------

    def _hook_stages(self) -> dict[str, HookStage]:
        stages = {SUSPEND: self._settings.suspend, OFF: self._settings.off}
        return {key: stage for key, stage in stages.items() if stage is not None}

    def _stage_points(self) -> list[OperatingPoint]:
        """By rising draw."""
        hooked = [OperatingPoint(key, stage.draw_w, 0.0) for key, stage in self._hook_stages().items()]
        lock = self._settings.clock_lock if self._gpus.lock_clocks else None
        return [*reversed(hooked), *([OperatingPoint(CLOCKS, lock.draw_w, lock.rate)] if lock is not None else [])]

    async def _change_stages(self, point: OperatingPoint) -> bool:
        """Leave what is deeper than `point`, the deepest first, and enter it; whether anything was done."""
        depth = STAGES.index(point.key) + 1 if point.key != LIMIT else 0
        leaving = [stage for stage in reversed(STAGES[depth:]) if stage in self._memory.stages]
        for stage in leaving:
            await self._move(stage, point, is_shed=False)
            self._memory.stages.discard(stage)
            await self._keep_memory()
        if depth == 0 or self._is_in(point.key):
            return bool(leaving)
        self._memory.stages.add(point.key)
        await self._keep_memory()  # before it is entered: after a crash it must be left again
        self._surely_in = None
        await self._move(point.key, point, is_shed=True)
        self._surely_in = point.key
        return True

    def _is_in(self, stage: str) -> bool:
        """Whether nothing need be done to be in `stage`. What is remembered says that it was begun, no more: a program
        that failed, was cut short, or let the work go on is run again."""
        works_on = stage != CLOCKS and is_at_work(self._slots)
        return stage == self._surely_in and stage == deepest(self._memory.stages) and not works_on

    async def _move(self, stage: str, point: OperatingPoint, is_shed: bool) -> None:
        """Into a stage, or out of it."""
        if stage == CLOCKS:
            await self._lock_clocks(is_shed)
            return
        hook = self._hook_stages().get(stage)
        if hook is None:
            raise Refused(f"the node is in {stage}, which the site file no longer says how to leave")
        argv, reason = (hook.shed, "shed") if is_shed else (hook.restore, "restore")
        said = await hooks.run(argv, hooks.Call(socket.gethostname(), reason, point.draw_w, hook.timeout_s))
        self._words.append(f"hook {argv[0]} ({reason}){hooks.quoted(said)}")

    async def _lock_clocks(self, is_shed: bool) -> None:
        lock = self._settings.clock_lock
        mhz = lock.mhz if is_shed and lock is not None else None
        until = moment_in(self._settings.write_deadline_s)
        told = [slot for slot in self._slots if slot.card is not None and slot.error is None]
        _all_told(told, await asyncio.gather(*(slot.lock_clocks(mhz, until) for slot in told), return_exceptions=True))

    # ---- the memory ---------------------------------------------------------------------------

    async def _before_the_first_write(self) -> None:
        """Remember the limits found, and be the only writer. A disk that fails is told of and stops no shed: each GPU's
        own default is still there to go back to."""
        memory = self._memory
        for slot in self._slots:
            facts, found_mw = slot.facts, slot.power.requested_mw
            if facts is not None and facts.uuid not in memory.limits_mw:
                known_mw = facts.default_mw if memory.is_damaged else found_mw
                if known_mw is not None:
                    memory.limits_mw[facts.uuid] = known_mw
        try:
            await self._file_lane.call(memory.claim, moment_in(FILE_DEADLINE_S))
        except Refused:
            raise
        except DriverError as error:
            self._memory_trouble = str(error)
        await self._keep_memory()

    async def _keep_memory(self) -> None:
        try:
            await self._file_lane.call(self._memory.keep, moment_in(FILE_DEADLINE_S))
        except (OSError, DriverError) as error:
            self._memory_trouble = f"the limits found before cannot be kept in {self._memory.path}: {error}"
        else:
            self._memory_trouble = None


def _all_told(told: Sequence[Slot], answers: Sequence[Written | BaseException]) -> Outcome:
    """One answer for the node: unknown as soon as one GPU may differ from the others."""
    errors = [(slot, answer) for slot, answer in zip(told, answers, strict=True) if isinstance(answer, BaseException)]
    if not errors:
        is_there = all(answer is Written.ALREADY_THERE for answer in answers)
        return Outcome.ALREADY_THERE if is_there else Outcome.ACKNOWLEDGED
    for _, error in errors:
        if not isinstance(error, DriverError):
            raise error
    words = "; ".join(f"GPU {slot.index}: {error}" for slot, error in errors)
    if Written.SET in answers or any(isinstance(error, OutcomeUnknown) for _, error in errors):
        raise OutcomeUnknown(words)
    raise type(errors[0][1])(words)


def _milliwatts(watts: Watts | None) -> Milliwatts | None:
    return round(watts * 1000) if watts is not None else None
