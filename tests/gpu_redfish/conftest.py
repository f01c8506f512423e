"""Emulated nodes behind each maker's BMC, over real TLS and much faster than life; or a real one with `--bmc`."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from curtaild_config import DeviceGroup, resolve_secrets
from curtaild_config.site import group_secret_sources
from curtaild_drivers.contract import Device, Identity
from curtaild_drivers.gpu.redfish import DRIVER
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import NODE_MODELS, BmcFault, EmulatedFarm, FarmPlan, Ports
from curtaild_emulator.bmc.profiles import PROFILES
from drivers.conftest import Bench

ID = "under-test"
H100 = NODE_MODELS["hgx-h100"]
_ADDRESS = "127.0.42.1"
STANDS_STILL = 1e-3
"""A speed at which nothing ends by itself before a test skips ahead, however busy the machine is."""
_ANY = Ports(http=0, rpc=0, whatsminer_v3=0, braiins=0, auradine=0, redfish=0, modbus=0, control=0)


@pytest.fixture(autouse=True)
def nothing_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curtaild_drivers.gpu.redfish.bmc.LOGOUT_S", 50.0)
    monkeypatch.setattr("curtaild_drivers.gpu.redfish.tls._LOOK_S", 50.0)


@asynccontextmanager
async def emulated_node(bmc: str, speed: float = 1_000.0, **settings: Any) -> AsyncIterator[Bench]:
    """A farm of one node, a thousand times faster than life."""
    plan = FarmPlan.model_validate(
        {
            "speed": speed,
            "latency_s": 0.001,
            "ports": _ANY.model_dump(),
            "feeders": [{"id": "site"}],
            "nodes": [{"id": ID, "model": "hgx-h100", "bmc": bmc, "feeder": "site", "address": _ADDRESS}],
        }
    )
    async with AsyncExitStack() as stack:
        farm = await stack.enter_async_context(EmulatedFarm(plan))
        opener = _opener(farm, bmc, settings)
        device = opener()
        stack.push_async_callback(device.close)
        yield Bench(device, opener, patience_s=60.0, farm=farm)


def _opener(farm: EmulatedFarm, bmc: str, settings: dict[str, Any]) -> Callable[..., Device]:
    """A site file that knows its nodes: a BMC with a Power resource does not say their least and most."""
    chosen = {
        "username": PROFILES[bmc].user,
        "port": farm.ports.redfish,
        "ca_file": farm.bmc_authority_file,
        "power_off": "forced",
        "least_w": H100.min_w,
        "base_w": H100.base_w,
        "off_w": H100.standby_w,
        "read_deadline_s": 50,
        "write_deadline_s": 50,
        **settings,
    }

    def open_another(password: str = "emulated", remembered: Identity | None = None, **changed: Any) -> Device:
        assert DRIVER.open_device is not None
        context = OpenContext(remembered, {"password": password}, rated_w=H100.max_w)
        return DRIVER.open_device(_ADDRESS, DRIVER.settings.model_validate({**chosen, **changed}), context)

    return open_another


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("curtaild drivers")
    group.addoption("--bmc", metavar="ADDRESS", help="a real node's BMC; the node WILL be limited, and maybe stopped")
    group.addoption("--bmc-group", metavar="FILE", type=Path, help="its group of the site file, alone in a file")


def real_node(address: str, group_file: Path) -> Bench:
    """A real one, with the words that its site file has for it. Whether it is stopped is up to `power_off`."""
    group = tomllib.loads(group_file.read_text())["devices"]
    given = (group[0] if isinstance(group, list) else group) | {"addresses": [address]}
    read = DeviceGroup.model_validate(given)
    secrets = {name: value.get_secret_value() for name, value in resolve_secrets(group_secret_sources(read)).items()}

    def open_another(password: str | None = None, remembered: Identity | None = None, **changed: Any) -> Device:
        assert DRIVER.open_device is not None
        chosen = DRIVER.settings.model_validate({**read.settings, **changed})
        shown = {"password": password} if password is not None else secrets
        return DRIVER.open_device(address, chosen, OpenContext(remembered, shown, read.rated_w))

    return Bench(open_another(), open_another, patience_s=900.0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bench" in metafunc.fixturenames:
        real = metafunc.config.getoption("--bmc", default=None)
        metafunc.parametrize("bench", ["real"] if real else sorted(PROFILES), indirect=True)


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param != "real":
        async with emulated_node(request.param) as made:
            yield made
        return
    made = real_node(str(request.config.getoption("--bmc")), request.config.getoption("--bmc-group"))
    yield made
    await made.device.close()


def set_fault(bench: Bench, fault: BmcFault, on: bool = True) -> None:
    bench.emulated.set_bmc_fault(ID, fault, on)
