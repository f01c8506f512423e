"""One simulated device: what it was told, and what it therefore draws. Pure: time is an argument, chance is seeded.

Two layers: the *setting* is what the firmware says it is set to; the *phases* are what the hardware does about it.
Honest devices keep the two together, faulty ones do not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from curtaild_drivers.contract import OFF, Reading, RunState, Seconds, Watts
from curtaild_emulator.faults import Fault
from curtaild_emulator.models import LIMIT, DeviceModel
from curtaild_emulator.noise import Noise

_UNIT_SPREAD = 0.02  # two units of a model differ so much in draw
_SENSOR_SPREAD = 0.01  # constant error of a healthy unit's power sensor
_SENSOR_NOISE = 0.004  # of one sample
_RATE_NOISE = 0.01  # of one five-second hashrate
_EDGE_S = 3.0  # a restart falls and rises so fast
_DRIFT_WAIT_S = 60.0
_DRIFT_S = 120.0
_ALTER_READINGS = frozenset(
    {
        Fault.HANG,
        Fault.OFFLINE_SILENT,
        Fault.REFUSE_CONNECTION,
        Fault.API_GONE_WHILE_BOOTING,
        Fault.GARBAGE,
        Fault.KEYS_VANISH_AFTER_SLEEP,
        Fault.EMPTY_SUMMARY_ASLEEP,
        Fault.NAN_POWER,
    }
)


class Stage(Enum):
    """Where in a start a device is."""

    BOOT = "boot"
    WARM = "warm"
    CLIMB = "climb"
    DONE = "done"


# Asked at every reading: a name of the module is found in a tenth of the time that an enum takes to find its member.
_ASLEEP, _IDLE, _BOOT, _BIAS = RunState.ASLEEP, RunState.IDLE, Stage.BOOT, Fault.BIAS


class Phase(NamedTuple):
    """A stretch of time in which draw goes to `to_w`: exponentially, in four time constants (`first_order`), or
    evenly."""

    seconds: Seconds
    to_w: Watts
    first_order: bool
    state: RunState
    stage: Stage = Stage.DONE


@dataclass(slots=True)
class Setting:
    """What the firmware says it is set to. `percent` is the temporary share of `limit_w` (Whatsminer) or of the preset
    (VNish)."""

    asleep: bool
    preset: str
    limit_w: Watts
    percent: float = 100.0


class InMotion(Protocol):
    """Those that are changing, and need to be told that time passes."""

    def add(self, miner: Miner, /) -> None: ...

    def discard(self, miner: Miner, /) -> None: ...


class Miner:
    """A device of one model. Call `advance` (or any verb, which advances itself) with times that never go back.

    `speaks_plainly`: no fault is switched on that would alter what is read off it, beside a bias."""

    __slots__ = (
        "_at",
        "_bias",
        "_due",
        "_energy_j",
        "_fault_bias",
        "_from_w",
        "_moving",
        "_noise",
        "_obeyed_share",
        "_odds",
        "_phases",
        "_rate_hs",
        "_rated_at_w",
        "_started_at",
        "_state",
        "_unit",
        "id",
        "model",
        "power_w",
        "setting",
        "speaks_plainly",
        "working_since",
    )

    def __init__(
        self,
        device_id: str,
        model: DeviceModel,
        seed: int,
        now: Seconds,
        moving: InMotion,
        born_with: Iterable[Fault],
        sensor_error: float | None = None,
    ) -> None:
        self.id = device_id
        self.model = model
        self._noise = Noise(seed, device_id)
        self._unit = 1.0 + self._noise.normal(_UNIT_SPREAD)
        drawn_error = self._noise.normal(_SENSOR_SPREAD)
        self._bias = 1.0 + (drawn_error if sensor_error is None else sensor_error)
        amount = self._noise.uniform(0.05, 0.20)
        self._fault_bias = 1.0 + (amount if self._noise.uniform() < 0.5 else -amount)
        self._odds: dict[Fault, float] = dict.fromkeys((*model.born_with, *born_with), 1.0)
        self.speaks_plainly = _ALTER_READINGS.isdisjoint(self._odds)
        self._moving = moving
        self._phases: deque[Phase] = deque()
        self._due: tuple[Seconds, Callable[[Seconds], None]] | None = None
        self._obeyed_share = 1.0
        self.setting = Setting(asleep=False, preset=model.presets[-1].key, limit_w=model.rated_w)
        self._state = RunState.RUNNING
        self._energy_j = 0.0
        self._at = self._started_at = self.working_since = now
        self.power_w: Watts = self._target_w()
        self._from_w = self.power_w
        self._rated_at_w, self._rate_hs = -1.0, 0.0

    # --- what it does ----------------------------------------------------------------------------

    def advance(self, now: Seconds) -> None:
        """Let time pass up to `now`; a time already passed changes nothing."""
        if now <= self._at:
            return
        if self._due is not None and self._due[0] <= now:
            due_at, verb = self._due
            self._due = None
            self.advance(due_at)
            verb(due_at)
        self._at = now
        phases = self._phases
        while phases and self._started_at + phases[0].seconds <= now:
            phase = phases.popleft()
            self._energy_j += _energy_j(phase, self._from_w, phase.seconds)
            self._started_at += phase.seconds
            self._from_w = self.power_w = phase.to_w
            self._state = phases[0].state if phases else self._settled_state()
        if phases:
            self.power_w = _power_w(phases[0], self._from_w, now - self._started_at)
        elif self._due is None:
            self._moving.discard(self)

    def energy_j(self, now: Seconds) -> float:
        """Energy drawn from the beginning to `now`, exact for the curve it followed. Advance it first if it moves."""
        elapsed = now - self._started_at
        if self._phases:
            return self._energy_j + _energy_j(self._phases[0], self._from_w, elapsed)
        return self._energy_j + self.power_w * elapsed

    @property
    def state(self) -> RunState:
        """What it truly does, whatever it says."""
        return self._state

    @property
    def heading_w(self) -> Watts:
        """The most it will draw on its present course, if nobody tells it anything more."""
        heading_w = max((phase.to_w for phase in self._phases), default=self.power_w)
        return heading_w if self._due is None else max(heading_w, self._target_w())

    @property
    def is_settled(self) -> bool:
        return not self._phases

    @property
    def is_booting(self) -> bool:
        return bool(self._phases) and self._phases[0].stage is Stage.BOOT

    @property
    def stage(self) -> Stage:
        """Where in a start it is; `Stage.DONE` where it is in none."""
        return self._phases[0].stage if self._phases else Stage.DONE

    @property
    def rate_hs(self) -> float:
        """True hashrate: nothing while it boots or sleeps, else what its draw yields."""
        state, phases = self._state, self._phases
        if state is _ASLEEP or state is _IDLE or (phases and phases[0].stage is _BOOT):
            return 0.0
        if self.power_w != self._rated_at_w:  # most stand still most of the time
            self._rated_at_w, self._rate_hs = self.power_w, self.model.rate_hs(self.power_w / self._unit)
        return self._rate_hs

    @property
    def point_key(self) -> str:
        """The operating point the firmware says it is set to."""
        return self._settings()[0]

    @property
    def set_limit_w(self) -> Watts | None:
        """The power limit the firmware says it keeps, `None` where it takes none."""
        return self._settings()[1]

    def _settings(self) -> tuple[str, Watts | None]:
        setting = self.setting
        if self.model.lowest_limit_w is None:
            return OFF if setting.asleep else setting.preset, None
        return OFF if setting.asleep else LIMIT, setting.limit_w * setting.percent / 100.0

    def says(self, now: Seconds) -> Reading:
        """What a driver reads off it at `now` where it `speaks_plainly`: its state and settings, and `measured_w` and
        `measured_hs` of one draw of chance."""
        sensor, scatter = self._noise.pair()
        power_w: Watts | None = None
        if self.model.measures_power:
            bias = self._fault_bias if _BIAS in self._odds else self._bias
            power_w = self.power_w * bias * (1.0 + _SENSOR_NOISE * sensor)
        rate_hs = self.rate_hs * (1.0 + _RATE_NOISE * scatter)
        return Reading(now, self._state, power_w, rate_hs, *self._settings())

    def measured_w(self) -> Watts:
        """One sample of its own power sensor: the unit's constant error and a little noise."""
        bias = self._fault_bias if Fault.BIAS in self._odds else self._bias
        return self.power_w * bias * (1.0 + self._noise.normal(_SENSOR_NOISE))

    def measured_hs(self) -> float:
        """Hashrate as the firmware counts it over a few seconds: it scatters, but zero is zero."""
        return self.rate_hs * (1.0 + self._noise.normal(_RATE_NOISE))

    # --- what goes wrong -------------------------------------------------------------------------

    def set_fault(self, fault: Fault, on: bool, probability: float = 1.0) -> None:
        """Switch a fault; `probability` is how often it strikes when it has the occasion."""
        if not 0.0 < probability <= 1.0:
            raise ValueError(f"{self.id}: a fault's probability lies in (0, 1], not {probability}")
        if on:
            self._odds[fault] = probability
        else:
            self._odds.pop(fault, None)
        self.speaks_plainly = _ALTER_READINGS.isdisjoint(self._odds)

    def has(self, fault: Fault) -> bool:
        """Is the fault switched on."""
        return fault in self._odds

    def has_any(self, faults: Iterable[Fault]) -> bool:
        """Is one of the faults switched on."""
        return not self._odds.keys().isdisjoint(faults)

    def strikes(self, fault: Fault) -> bool:
        """Does the fault strike this time: certain or by its odds, never if it is off."""
        odds = self._odds.get(fault)
        return odds is not None and (odds >= 1.0 or self._noise.uniform() < odds)

    @property
    def faults(self) -> frozenset[Fault]:
        return frozenset(self._odds)

    # --- what it can be told ---------------------------------------------------------------------

    def sleep(self, now: Seconds, over_s: Seconds | None = None) -> None:
        """Stop work; hashing ends at once, draw falls to standby, as fast as the model does or within `over_s`."""
        self.advance(now)
        self.setting.asleep = True
        if not self.strikes(Fault.ACK_NO_OBEY):
            fall_s = self.model.fall_s if over_s is None else over_s
            self._follow(Phase(fall_s, self.model.standby_w, True, RunState.ASLEEP))

    def wake(self, now: Seconds) -> None:
        """Resume work: boot, settle temperatures, climb. A temporary percentage does not survive it."""
        self.advance(now)
        self.setting.asleep = False
        self.setting.percent = 100.0
        if self._state not in (RunState.ASLEEP, RunState.IDLE) or self.strikes(Fault.ACK_NO_OBEY):
            return
        if self.strikes(Fault.RESUME_NEVER):
            self._follow(Phase(0.0, self.model.standby_w, True, RunState.IDLE))
            return
        if self.strikes(Fault.WAKES_OTHER_MODE):
            self._forget_mode()
        self._restart()

    def schedule(self, at: Seconds, verb: Callable[[Seconds], None]) -> None:
        """Carry out a verb of its own at a later time; it remembers one such order, the last."""
        self._due = (max(at, self._at), verb)
        self._moving.add(self)

    def set_preset(self, key: str, now: Seconds) -> None:
        """Take a mode or profile; raises `KeyError` where the firmware has none of that name."""
        if self.model.preset_w(key) is None:
            raise KeyError(key)
        self.setting.preset = key
        self._change(now, restarts=self.model.preset_restarts)

    def set_limit(self, limit_w: Watts, now: Seconds) -> None:
        """Take an absolute power limit in reported watts; on some firmwares it restarts. Percentages end with it."""
        self.setting.limit_w = min(limit_w, self.model.rated_w)
        self.setting.percent = 100.0
        self._change(now, restarts=self.model.limit_restarts)

    def set_percent(self, percent: float, now: Seconds) -> None:
        """Take a temporary percentage of the limit or preset; it is followed without a restart."""
        self.advance(now)
        if self._state is RunState.STARTING and self.strikes(Fault.PERCENT_LOST_WHILE_STARTING):
            return
        self.setting.percent = percent
        self._change(now, restarts=False)

    def reboot(self, now: Seconds) -> None:
        """Start anew with the settings kept, except temporary ones."""
        self.advance(now)
        self.setting.percent = 100.0
        if not self.setting.asleep:
            self._restart()

    # --- how it follows --------------------------------------------------------------------------

    def _change(self, now: Seconds, restarts: bool) -> None:
        self.advance(now)
        if self.setting.asleep or self._state is RunState.IDLE or self.strikes(Fault.ACK_NO_OBEY):
            return
        before_w = self.power_w
        was_settled = self.is_settled
        self._obeyed_share = 0.5 if self.strikes(Fault.HALF_OBEY) else 1.0
        target_w = self._target_w()
        if restarts or self.strikes(Fault.REBOOT_ON_LIMIT):
            self._restart()
        elif self._state is RunState.STARTING:
            self._retarget_start(target_w)
        else:
            self._follow(Phase(self.model.trim_s, target_w, True, RunState.RUNNING))
        if target_w < before_w and was_settled and self.strikes(Fault.DRIFT_BACK):
            self._phases.append(Phase(_DRIFT_WAIT_S, target_w, False, RunState.RUNNING))
            self._phases.append(Phase(_DRIFT_S, before_w, False, RunState.RUNNING))

    def _restart(self) -> None:
        model = self.model
        self.working_since = self._at
        target_w = self._target_w()
        warm_w = min(model.warm_w, target_w)
        starting = RunState.STARTING
        self._follow(
            Phase(_EDGE_S, model.boot_w, True, starting, Stage.BOOT),
            Phase(model.boot_s, model.boot_w, False, starting, Stage.BOOT),
            Phase(_EDGE_S, warm_w, True, starting, Stage.WARM),
            Phase(model.warm_s, warm_w, False, starting, Stage.WARM),
            self._climb(warm_w, target_w),
        )

    def _climb(self, from_w: Watts, target_w: Watts) -> Phase:
        share = abs(target_w - from_w) / self.model.rated_w
        return Phase(self.model.climb_s * share, target_w, False, RunState.STARTING, Stage.CLIMB)

    def _retarget_start(self, target_w: Watts) -> None:
        """A new target while it starts: what remains of boot and warm-up stays, the climb ends elsewhere."""
        elapsed = self._at - self._started_at
        warm_w = min(self.model.warm_w, target_w)
        kept = [phase for phase in self._phases if phase.stage in (Stage.BOOT, Stage.WARM)]
        if kept:
            kept[0] = kept[0]._replace(seconds=kept[0].seconds - elapsed)
        kept = [phase if phase.stage is Stage.BOOT else phase._replace(to_w=warm_w) for phase in kept]
        self._follow(*kept, self._climb(warm_w if kept else self.power_w, target_w))

    def _follow(self, *phases: Phase) -> None:
        """Leave whatever it was doing and go through `phases` from here."""
        self._energy_j = self.energy_j(self._at)
        self._started_at = self._at
        self._from_w = self.power_w
        self._phases = deque(phases)
        self._state = phases[0].state
        self._moving.add(self)

    def _target_w(self) -> Watts:
        """True watts it will settle at while awake. Firmware limits by its own, biased sensor."""
        nominal_w = self.model.preset_w(self.setting.preset)
        assert nominal_w is not None
        target_w = nominal_w * self._unit
        lowest_w = self.model.lowest_limit_w
        if lowest_w is not None:
            limit_w = max(lowest_w, self.setting.limit_w * self.setting.percent / 100.0)
            if limit_w < self.model.rated_w:
                bias = self._fault_bias if Fault.BIAS in self._odds else self._bias
                target_w = min(target_w, limit_w / bias)
        else:
            target_w *= self.setting.percent / 100.0
        return max(self.model.standby_w, target_w * self._obeyed_share)

    def _settled_state(self) -> RunState:
        return self._state if self._state in (RunState.ASLEEP, RunState.IDLE) else RunState.RUNNING

    def _forget_mode(self) -> None:
        others = [preset.key for preset in self.model.presets if preset.key != self.setting.preset]
        if self.setting.limit_w < self.model.rated_w or not others:
            self.setting.limit_w = self.model.rated_w
        else:
            self.setting.preset = others[int(self._noise.uniform() * len(others))]


def _power_w(phase: Phase, from_w: Watts, elapsed: Seconds) -> Watts:
    if phase.first_order:
        return phase.to_w + (from_w - phase.to_w) * math.exp(-4.0 * elapsed / phase.seconds)
    return from_w + (phase.to_w - from_w) * elapsed / phase.seconds


def _energy_j(phase: Phase, from_w: Watts, elapsed: Seconds) -> float:
    if phase.seconds == 0.0:
        return 0.0
    if phase.first_order:
        decayed = (1.0 - math.exp(-4.0 * elapsed / phase.seconds)) * phase.seconds / 4.0
        return phase.to_w * elapsed + (from_w - phase.to_w) * decayed
    return (from_w + _power_w(phase, from_w, elapsed)) / 2.0 * elapsed
