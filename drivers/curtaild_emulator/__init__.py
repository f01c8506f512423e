"""The other end of every wire: an emulated farm with real protocols and real physics.

`Plant` is the physics alone, in virtual time; `EmulatedFarm` serves it on loopback sockets as the devices would;
`FarmPlan` says what to emulate, and `run_farm` does it from a file.
"""

from curtaild_emulator.catalogue import MODELS
from curtaild_emulator.farm import EmulatedFarm, run_farm
from curtaild_emulator.faults import Fault, MeterFault
from curtaild_emulator.miner import Miner
from curtaild_emulator.models import LIMIT, DeviceModel, Firmware, Preset
from curtaild_emulator.plan import BadPlan, DevicePlan, FarmPlan, FeederPlan, FleetPlan, Passwords, Ports
from curtaild_emulator.plant import Plant, PlantDevice, PlantFeeder
from curtaild_emulator.wires.listening import CannotListen

__all__ = [
    "LIMIT",
    "MODELS",
    "BadPlan",
    "CannotListen",
    "DeviceModel",
    "DevicePlan",
    "EmulatedFarm",
    "FarmPlan",
    "Fault",
    "FeederPlan",
    "Firmware",
    "FleetPlan",
    "MeterFault",
    "Miner",
    "Passwords",
    "Plant",
    "PlantDevice",
    "PlantFeeder",
    "Ports",
    "Preset",
    "run_farm",
]
