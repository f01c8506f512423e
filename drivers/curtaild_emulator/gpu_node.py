"""One simulated GPU node: what its BMC was told, and what the node therefore draws. Pure: time is an argument.

The node draws its base (processors, memory, fans) and `overhead` times what its GPUs draw together. A GPU draws the
lesser of what its work asks for, its own cap, and its share of the node's cap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from curtaild_drivers.contract import RunState, Seconds, Watts
from curtaild_emulator.noise import Noise

_UNIT_SPREAD = 0.02  # the same work draws so differently on two GPUs
_SENSOR_SPREAD = 0.01  # constant error of a healthy BMC's power reading
_SENSOR_NOISE = 0.004  # of one sample
_WORK_SETTLES_S = 2.0  # draw follows a change of work so fast
_FALL_S = 4.0  # from cutting the power to standby draw


class Power(Enum):
    """Whether the host runs; the values are Redfish's PowerState."""

    ON = "On"
    OFF = "Off"
    POWERING_ON = "PoweringOn"
    POWERING_OFF = "PoweringOff"


class BmcFault(Enum):
    """One misbehaviour of a node or of its BMC. The value is its name in farm files and in the control API."""

    HANG = "hang"
    """Accepts the connection and never answers. Nothing is done."""
    HANG_WRITE_APPLIED = "hang_write_applied"
    """Reads answer. A command is carried out, but its answer never comes."""
    SLOW = "slow"
    """Every answer takes 40 s of plant time."""
    CAPS_LATE = "caps_late"
    """A cap takes 40 s of plant time until it holds."""
    ACK_NO_OBEY = "ack_no_obey"
    """Says yes, reports the new cap, and draws what it drew before."""
    WRITE_FORGOTTEN = "write_forgotten"
    """Says yes and changes nothing: it goes on reporting the cap from before."""
    TASK = "task"
    """Answers commands with 202 and a task, which ends 10 s of plant time later; only then the command is done."""
    TASK_FAILS = "task_fails"
    """As `task`, but the task ends with an exception and nothing is done."""
    HTTP_500 = "http_500"
    """Answers every request with status 500."""
    BUSY = "busy"
    """Answers every request with status 503 and Retry-After."""
    GARBAGE = "garbage"
    """Carries out what it is told and answers with bytes that are no JSON."""
    OVERSIZED = "oversized"
    """Carries out what it is told and answers with JSON of 64 MiB."""
    REDIRECT = "redirect"
    """Sends every request to another host."""
    NO_POWER_READING = "no_power_reading"
    """The power reading is null."""
    NAN_POWER = "nan_power"
    """The power reading is the bare word NaN, which is no JSON."""
    FROZEN_POWER = "frozen_power"
    """The power reading stays what it was when the fault began."""
    BIAS = "bias"
    """Reports 5–20 % beside its true watts, by a constant of this unit."""
    ETAG_MOVES = "etag_moves"
    """Somebody else writes all the time: an ETag is stale as soon as it was read."""
    SESSIONS_TAKEN = "sessions_taken"
    """Other clients hold all its sessions; basic authentication still works."""
    SESSION_FORGOTTEN = "session_forgotten"
    """Forgets every session after one request, as if the BMC had started anew."""
    WRONG_PASSWORD = "wrong_password"
    """Somebody changed its password: everything that needs one is rejected."""
    HUNG_OS = "hung_os"
    """The host ignores a request for a graceful shutdown; its BMC acknowledges it all the same."""
    POWER_ON_NEVER = "power_on_never"
    """Acknowledges switching on and stays off."""
    REFUSE_CONNECTION = "refuse_connection"
    """Closes every connection at once."""
    OTHER_AUTHORITY = "other_authority"
    """Its certificate was signed by another authority."""
    OTHER_NAME = "other_name"
    """Its certificate was made out to another host."""
    EXPIRED = "expired"
    """Its certificate has expired."""


@dataclass(frozen=True, slots=True)
class GpuNodeModel:
    """One model of GPU node. `busy_share` is how much of its GPUs' range their usual work asks for; `boot_s` and
    `shutdown_s` are the times from power-on to work and from a graceful shutdown to off."""

    name: str
    model: str
    gpu: str
    gpus: int
    gpu_idle_w: Watts
    gpu_min_w: Watts
    gpu_default_w: Watts
    gpu_max_w: Watts
    base_w: Watts = 1800.0
    overhead: float = 1.15
    standby_w: Watts = 100.0
    busy_share: float = 0.93
    boot_s: Seconds = 180.0
    shutdown_s: Seconds = 60.0

    def node_w(self, gpu_w: Watts) -> Watts:
        """What the node draws while each of its GPUs draws `gpu_w`."""
        return self.base_w + self.overhead * self.gpus * gpu_w

    @property
    def min_w(self) -> Watts:
        """The least cap it can hold."""
        return self.node_w(self.gpu_min_w)

    @property
    def max_w(self) -> Watts:
        """The most it can draw."""
        return self.node_w(self.gpu_max_w)


def _eight(name: str, model: str, gpu: str, idle_w: Watts, min_w: Watts, max_w: Watts, base_w: Watts) -> GpuNodeModel:
    return GpuNodeModel(name, model, gpu, 8, idle_w, min_w, max_w, max_w, base_w)


NODE_MODELS: Mapping[str, GpuNodeModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            _eight("hgx-h100", "8x H100 SXM", "NVIDIA H100 80GB HBM3", 75.0, 200.0, 700.0, 1800.0),
            _eight("hgx-h200", "8x H200 SXM", "NVIDIA H200", 80.0, 200.0, 700.0, 1800.0),
            _eight("hgx-a100", "8x A100 SXM", "NVIDIA A100-SXM4-80GB", 55.0, 100.0, 400.0, 1800.0),
            _eight("pcie-l40s", "8x L40S", "NVIDIA L40S", 35.0, 100.0, 350.0, 1200.0),
        )
    }
)
"""Every emulated node by the name farm files use. Caps and idle draws of GPUs are the makers' and measured figures;
the nodes' own load is an assumption (an 8×H100 node was measured at 8.5 kW with 5.6 kW of GPUs)."""


class GpuNode:
    """A node of one model. Call `advance` (or any verb, which advances itself) with times that never go back."""

    def __init__(
        self,
        node_id: str,
        model: GpuNodeModel,
        seed: int,
        now: Seconds,
        moving: set[GpuNode],
        born_with: Iterable[BmcFault] = (),
    ) -> None:
        self.id = node_id
        self.model = model
        self._noise = Noise(seed, node_id)
        self._bias = 1.0 + self._noise.normal(_SENSOR_SPREAD)
        amount = self._noise.uniform(0.05, 0.20)
        self._fault_bias = 1.0 + (amount if self._noise.uniform() < 0.5 else -amount)
        self._units = [1.0 + self._noise.normal(_UNIT_SPREAD) for _ in range(model.gpus)]
        self._faults = set(born_with)
        self._moving = moving
        self._work = model.busy_share
        self._due: list[tuple[Seconds, Callable[[], None]]] = []
        self._frozen_w: Watts | None = None
        self.power = Power.ON
        self.gpu_caps_w = [model.gpu_default_w] * model.gpus
        self.node_cap_w: Watts | None = None
        self._obeyed_gpu_caps_w = list(self.gpu_caps_w)
        self._obeyed_node_cap_w: Watts | None = None
        self._at = now
        self._energy_j = 0.0
        self._tau_s = _WORK_SETTLES_S / 4
        self._target_w = self._steady_w()
        self.power_w: Watts = self._target_w
        self._since, self._from_w = now, self.power_w

    # --- what it does ----------------------------------------------------------------------------

    def advance(self, now: Seconds) -> None:
        """Let time pass up to `now`; a time already passed changes nothing."""
        while self._due and self._due[0][0] <= now:
            at, verb = self._due.pop(0)
            self._pass_until(at)
            verb()
        self._pass_until(now)
        if not self._due and abs(self.power_w - self._target_w) < 0.01:
            self._moving.discard(self)

    def energy_j(self, now: Seconds) -> float:
        """Energy drawn from the beginning to `now`, exact for the curve it followed. Advance it first if it moves."""
        elapsed = now - self._since
        decayed_s = self._tau_s * (1.0 - math.exp(-elapsed / self._tau_s))
        return self._energy_j + self._target_w * elapsed + (self._from_w - self._target_w) * decayed_s

    @property
    def state(self) -> RunState:
        """What it truly does, whatever its BMC says."""
        if self.power is Power.ON:
            return RunState.RUNNING if self._work > 0.0 else RunState.IDLE
        return RunState.ASLEEP if self.power is Power.OFF else RunState.STARTING

    def gpu_power_w(self, gpu: int) -> Watts:
        """What one GPU draws when the node has settled as it is set; nothing while it is off."""
        return self._gpu_w(gpu) if self.power is Power.ON else 0.0

    def measured_w(self) -> Watts:
        """One sample of the BMC's power reading: the unit's constant error and a little noise."""
        if BmcFault.FROZEN_POWER in self._faults and self._frozen_w is not None:
            return self._frozen_w
        bias = self._fault_bias if BmcFault.BIAS in self._faults else self._bias
        return self.power_w * bias * (1.0 + self._noise.normal(_SENSOR_NOISE))

    # --- what goes wrong -------------------------------------------------------------------------

    def set_fault(self, fault: BmcFault, on: bool) -> None:
        """Switch a fault."""
        if on and fault is BmcFault.FROZEN_POWER:
            self._frozen_w = self.measured_w()
        (self._faults.add if on else self._faults.discard)(fault)

    def has(self, fault: BmcFault) -> bool:
        """Is the fault switched on."""
        return fault in self._faults

    @property
    def faults(self) -> frozenset[BmcFault]:
        return frozenset(self._faults)

    # --- what it can be told ---------------------------------------------------------------------

    def set_work(self, share: float, now: Seconds) -> None:
        """Give its GPUs work that asks for a share of their range, 0 (idle) to 1."""
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{self.id}: work is a share from 0 to 1, not {share}")
        self.advance(now)
        self._work = share
        self._head_for_steady(_WORK_SETTLES_S)

    def cap_gpu(self, gpu: int, cap_w: Watts, now: Seconds, bites_s: Seconds) -> None:
        """Cap one GPU; the cap holds after `bites_s`."""
        self.advance(now)
        if BmcFault.WRITE_FORGOTTEN not in self._faults:
            self.gpu_caps_w[gpu] = cap_w
            self._obey_caps(bites_s)

    def cap_node(self, cap_w: Watts | None, now: Seconds, bites_s: Seconds) -> None:
        """Cap the node as a whole, or lift that cap; it holds after `bites_s`."""
        self.advance(now)
        if BmcFault.WRITE_FORGOTTEN not in self._faults:
            self.node_cap_w = cap_w
            self._obey_caps(bites_s)

    def shut_down(self, now: Seconds) -> None:
        """Ask the host to shut down; one that hangs takes no notice."""
        self.advance(now)
        if self.power is Power.ON and BmcFault.HUNG_OS not in self._faults:
            self._become(Power.POWERING_OFF, self.model.shutdown_s / 2)
            self.later(self.model.shutdown_s, lambda: self._become(Power.OFF, _FALL_S))

    def cut_power(self, now: Seconds) -> None:
        """Off at once; volatile GPU caps are forgotten, the node's own cap is kept."""
        self.advance(now)
        self._due.clear()
        self._become(Power.OFF, _FALL_S)

    def switch_on(self, now: Seconds) -> None:
        """Boot, then go on with the work there was."""
        self.advance(now)
        if self.power is Power.OFF and BmcFault.POWER_ON_NEVER not in self._faults:
            self._become(Power.POWERING_ON, _WORK_SETTLES_S)
            self.later(self.model.boot_s, lambda: self._become(Power.ON, _WORK_SETTLES_S))

    def later(self, delay_s: Seconds, verb: Callable[[], None]) -> None:
        """Carry out a verb when so much plant time has passed since the last `advance`."""
        self._due.append((self._at + delay_s, verb))
        self._due.sort(key=lambda order: order[0])
        self._moving.add(self)

    # --- how it follows --------------------------------------------------------------------------

    def _obey_caps(self, bites_s: Seconds) -> None:
        if BmcFault.ACK_NO_OBEY in self._faults:
            return
        self._obeyed_gpu_caps_w = list(self.gpu_caps_w)
        self._obeyed_node_cap_w = self.node_cap_w
        self._head_for_steady(40.0 if BmcFault.CAPS_LATE in self._faults else bites_s)

    def _become(self, power: Power, settles_s: Seconds) -> None:
        self.power = power
        if power is Power.OFF:
            self.gpu_caps_w = [self.model.gpu_default_w] * self.model.gpus
            self._obeyed_gpu_caps_w = list(self.gpu_caps_w)
        self._head_for_steady(settles_s)

    def _steady_w(self) -> Watts:
        model = self.model
        if self.power is Power.OFF:
            return model.standby_w
        if self.power is not Power.ON:
            return model.node_w(model.gpu_idle_w)
        return model.base_w + model.overhead * sum(self._gpu_w(gpu) for gpu in range(model.gpus))

    def _gpu_w(self, gpu: int) -> Watts:
        model = self.model
        wanted_w = model.gpu_idle_w + self._work * (model.gpu_max_w - model.gpu_idle_w) * self._units[gpu]
        allowed_w = min(self._obeyed_gpu_caps_w[gpu], model.gpu_max_w)
        if self._obeyed_node_cap_w is not None:
            share_w = (self._obeyed_node_cap_w - model.base_w) / model.overhead / model.gpus
            allowed_w = min(allowed_w, max(share_w, model.gpu_min_w))
        return max(model.gpu_idle_w, min(wanted_w, allowed_w))

    def _head_for_steady(self, settles_s: Seconds) -> None:
        """Follow a new target from here, exponentially, in four time constants."""
        self._energy_j = self.energy_j(self._at)
        self._since, self._from_w = self._at, self.power_w
        self._target_w, self._tau_s = self._steady_w(), max(settles_s, 0.1) / 4
        self._moving.add(self)

    def _pass_until(self, now: Seconds) -> None:
        if now > self._at:
            self._at = now
            elapsed = now - self._since
            self.power_w = self._target_w + (self._from_w - self._target_w) * math.exp(-elapsed / self._tau_s)
