"""The other end of every wire: an emulated farm with real protocols and real physics.

`Plant` is the physics alone, in virtual time; `EmulatedFarm` serves it on loopback sockets as the devices would;
`FarmPlan` says what to emulate, and `run_farm` does it from a file.
"""

from curtaild_emulator.catalogue import MODELS
from curtaild_emulator.farm import EmulatedFarm, run_farm
from curtaild_emulator.faults import Fault, MeterFault
from curtaild_emulator.gpu_node import NODE_MODELS, BmcFault, GpuNode, GpuNodeModel
from curtaild_emulator.miner import Miner
from curtaild_emulator.models import LIMIT, DeviceModel, Firmware, Preset
from curtaild_emulator.plan import (
    BadPlan,
    DevicePlan,
    FarmPlan,
    FeederPlan,
    FleetPlan,
    NodeFleetPlan,
    NodePlan,
    Passwords,
    Ports,
)
from curtaild_emulator.plant import Plant, PlantDevice, PlantFeeder, PlantNode
from curtaild_emulator.wires.listening import CannotListen

__all__ = [
    "LIMIT",
    "MODELS",
    "NODE_MODELS",
    "BadPlan",
    "BmcFault",
    "CannotListen",
    "DeviceModel",
    "DevicePlan",
    "EmulatedFarm",
    "FarmPlan",
    "Fault",
    "FeederPlan",
    "Firmware",
    "FleetPlan",
    "GpuNode",
    "GpuNodeModel",
    "MeterFault",
    "Miner",
    "NodeFleetPlan",
    "NodePlan",
    "Passwords",
    "Plant",
    "PlantDevice",
    "PlantFeeder",
    "PlantNode",
    "Ports",
    "Preset",
    "run_farm",
]
