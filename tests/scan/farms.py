"""Emulated farms for a scan to find, on ports that need no root."""

from __future__ import annotations

from collections.abc import Sequence

from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import EmulatedFarm, FarmPlan, Ports
from curtaild_emulator.plan import ModelName

ANY_PORTS = Ports(http=0, rpc=0, whatsminer_v3=0, braiins=0, auradine=0, modbus=0, control=0)
EACH_FIRMWARE: tuple[ModelName, ...] = (
    "antminer-s21",
    "whatsminer-m50",
    "whatsminer-m60",
    "luxos-s21",
    "vnish-s19j-pro",
    "avalon-a1566",
    "braiins-s19j-pro",
    "epic-s19j-pro",
    "auradine-at1500",
    "marathon-s19j-pro",
    "bitaxe-gamma",
)


def farm(count: int, network: str, models: Sequence[ModelName] = EACH_FIRMWARE) -> EmulatedFarm:
    """`count` devices of `models` in turn."""
    plan = FarmPlan.mixed(count, models=models, network=network, ports=ANY_PORTS, speed=200.0, latency_s=0.0)
    return EmulatedFarm(plan, one_socket=False)


def settings(ports: Ports, **more: float) -> AsicSettings:
    """The driver's settings for a farm that listens on `ports`."""
    keys = {"rpc": "rpc_port", "http": "http_port", "whatsminer_v3": "v3_port"}
    keys |= {"braiins": "braiins_port", "auradine": "auradine_port"}
    chosen = {setting: getattr(ports, name) or 1 for name, setting in keys.items()}
    in_time = {"read_deadline_s": 60, "write_deadline_s": 60, "identify_deadline_s": 120}  # on a busy machine, too
    return AsicSettings.model_validate({**chosen, **in_time, **more})


def telling(chosen: AsicSettings) -> list[int]:
    """The ports a scan touches, where they are not the usual ones."""
    return [chosen.rpc_port, chosen.http_port, chosen.v3_port]


def asked_with(chosen: AsicSettings) -> tuple[AsicSettings, OpenContext]:
    return chosen, OpenContext()
