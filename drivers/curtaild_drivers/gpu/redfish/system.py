"""What the BMC says of its host: on or off, whether it is still starting, whether something in it is broken."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild_drivers.contract import RunState
from curtaild_drivers.gpu.redfish.document import Json, part, text

_STARTING = {
    "PrimaryProcessorInitializationStarted",
    "BusInitializationStarted",
    "MemoryInitializationStarted",
    "SecondaryProcessorInitializationStarted",
    "PCIResourceConfigStarted",
    "SystemHardwareInitializationComplete",
    "SetupEntered",
}
"""`BootProgress.LastState` before the operating system; many BMCs never learn more than OSBootStarted."""


@dataclass(frozen=True, slots=True)
class HostState:
    """PowerState, BootProgress and Health of a ComputerSystem (DMTF DSP2046)."""

    power: str
    boot: str = ""
    health: str = ""

    @classmethod
    def told_by(cls, system: Json) -> HostState:
        return cls(
            power=text(system.get("PowerState")),
            boot=text(part(system, "BootProgress").get("LastState")),
            health=text(part(system, "Status").get("Health")),
        )

    @property
    def is_off(self) -> bool:
        return self.power == "Off"

    @property
    def is_settled(self) -> bool:
        """Whether it need not be asked again soon."""
        return self.power in ("On", "Off") and self.run_state is not RunState.STARTING

    @property
    def run_state(self) -> RunState:
        if self.is_off:
            return RunState.ASLEEP
        if self.power == "PoweringOn" or (self.power == "On" and self.boot in _STARTING):
            return RunState.STARTING
        if self.power not in ("On", "PoweringOff"):
            return RunState.UNKNOWN
        return RunState.FAULT if self.health == "Critical" else RunState.RUNNING

    @property
    def fault(self) -> str | None:
        return "the BMC calls its system's health critical" if self.health == "Critical" else None
