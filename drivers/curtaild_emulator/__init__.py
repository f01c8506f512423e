"""The other end of every wire: an emulated farm with real protocols and real physics.

`Plant` is the physics alone, in virtual time; `EmulatedFarm` serves it on loopback sockets as the devices would.
"""

from curtaild_emulator.faults import Fault, MeterFault
from curtaild_emulator.miner import Miner
from curtaild_emulator.models import LIMIT, MODELS, DeviceModel, Firmware, Preset
from curtaild_emulator.plant import Plant, PlantDevice, PlantFeeder

__all__ = [
    "LIMIT",
    "MODELS",
    "DeviceModel",
    "Fault",
    "Firmware",
    "MeterFault",
    "Miner",
    "Plant",
    "PlantDevice",
    "PlantFeeder",
    "Preset",
]
