"""The benches of the contract suite: an emulated miner of each firmware, or with `--device ADDRESS` a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import Device, Identity, Watts
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import MODELS, EmulatedFarm, FarmPlan, Fault, Miner, Ports
from curtaild_emulator.wires.unit import Unit
from drivers.tiny_servers import IN_TIME

FIRMWARES = {
    "antminer": "antminer-s21",
    "whatsminer-v2": "whatsminer-m50",
    "whatsminer-v3": "whatsminer-m60",
    "luxos": "luxos-s21",
    "vnish": "vnish-s19j-pro",
    "vnish-1.3": "vnish-1.3-s19j-pro",
    "avalon": "avalon-a1566",
    "braiins": "braiins-s19j-pro",
    "epic": "epic-s19j-pro",
    "auradine": "auradine-at1500",
    "marathon": "marathon-s19j-pro",
    "axeos": "bitaxe-gamma",
    "nerdaxe": "nerdqaxe-plus2",
}
_ID = "under-test"
_LONGEST_RESTART_S = 2_000.0
_ADDRESS = "127.0.32.1"
_ANY_PORTS = Ports(http=0, rpc=0, whatsminer_v3=0, braiins=0, auradine=0, modbus=0, control=0)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("curtaild drivers")
    group.addoption("--device", metavar="ADDRESS", help="a real ASIC miner; it WILL be throttled and stopped")
    group.addoption("--device-password-file", metavar="FILE", type=Path, help="where its password lies")


@dataclass
class Bench:
    """A driver's device, and a way to look behind its back where it is emulated."""

    device: Device
    open_another: Callable[..., Device]
    """The same machine once more: `password`, `remembered`, and settings by name."""
    patience_s: float
    farm: EmulatedFarm | None = None

    @property
    def emulated(self) -> EmulatedFarm:
        assert self.farm is not None
        return self.farm

    @property
    def miner(self) -> Miner:
        return self.emulated.plant.miner(_ID)

    def set_fault(self, fault: Fault, on: bool = True) -> None:
        self.emulated.set_fault(_ID, fault, on)

    def true_power_w(self) -> Watts:
        return self.emulated.true_power_w(_ID)

    def unit(self) -> Unit:
        return self.emulated.unit(_ID)

    def settings(self) -> dict[str, object]:
        """All that can be set on it, as it stands."""
        return self.unit().settings()

    def settle(self) -> None:
        """Let everything happen that was set going, in no time."""
        self.emulated.skip(_LONGEST_RESTART_S)
        self.true_power_w()

    def is_stopped(self) -> bool:
        """Whether it truly sleeps, or is on its way there."""
        return self.miner.setting.asleep

    async def go_offline(self) -> None:
        """Nobody listens at its address any more, and whoever was connected is no longer."""
        await self.emulated.__aexit__()


def _opener(address: str, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> Callable[..., Device]:
    def open_another(password: str | None = None, remembered: Identity | None = None, **changed: Any) -> Device:
        assert DRIVER.open_device is not None
        chosen = DRIVER.settings.model_validate({**settings, **changed})
        given = dict(secrets) if password is None else {"password": password}
        return DRIVER.open_device(address, chosen, OpenContext(remembered=remembered, secrets=given))

    return open_another


def _secrets(password_file: Path | None) -> dict[str, str]:
    return {"password": password_file.read_text().strip()} if password_file else {}


@asynccontextmanager
async def emulated_bench(firmware: str, speed: float = 1_000.0, latency_s: float = 0.002) -> AsyncIterator[Bench]:
    """A farm of one, a thousand times faster than life."""
    plan = FarmPlan.model_validate(
        {
            "speed": speed,
            "latency_s": latency_s,
            "ports": _ANY_PORTS.model_dump(),
            "feeders": [{"id": "site"}],
            "devices": [{"id": _ID, "model": FIRMWARES[firmware], "feeder": "site", "address": _ADDRESS}],
        }
    )
    async with AsyncExitStack() as stack:
        farm = await stack.enter_async_context(EmulatedFarm(plan))
        settings = {"firmware": MODELS[FIRMWARES[firmware]].firmware.value, **IN_TIME}
        settings |= {"rpc_port": farm.ports.rpc or 1, "http_port": farm.ports.http or 1}
        settings |= {"v3_port": farm.ports.whatsminer_v3 or 1, "braiins_port": farm.ports.braiins or 1}
        settings |= {"auradine_port": farm.ports.auradine or 1}
        open_another = _opener(_ADDRESS, settings, {})
        device = open_another()
        stack.push_async_callback(device.close)
        yield Bench(device, open_another, patience_s=60.0, farm=farm)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bench" in metafunc.fixturenames:
        real = metafunc.config.getoption("--device", default=None)
        metafunc.parametrize("bench", ["real"] if real else list(FIRMWARES), indirect=True)


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param != "real":
        async with emulated_bench(request.param) as made:
            yield made
        return
    address = str(request.config.getoption("--device"))
    open_another = _opener(address, {}, _secrets(request.config.getoption("--device-password-file")))
    device = open_another()
    yield Bench(device, open_another, patience_s=900.0)
    await device.close()
