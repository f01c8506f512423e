"""Stands in for the installed drivers, so that these tests ask for the site file's part alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from curtaild_drivers import registry
from curtaild_drivers.contract import Device
from curtaild_drivers.meter import COIL_DRIVER
from curtaild_drivers.meter import DRIVER as MODBUS
from curtaild_drivers.registry import Driver, DriverSettings, OpenContext


class MinerSettings(DriverSettings):
    """What a miner driver might take."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 4028
    mode: Literal["fast", "gentle"] = "gentle"
    password_file: Path | None = None
    token_credential: str | None = None


def _open_miner(address: str, settings: DriverSettings, context: OpenContext) -> Device:
    raise AssertionError("reading a site file opens no device")


@pytest.fixture(autouse=True)
def installed_drivers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Driver]:
    drivers = {
        "asic": Driver("asic", MinerSettings, open_device=_open_miner, counts_hashes=True),
        "modbus": MODBUS,
        "modbus-coil": COIL_DRIVER,
    }
    monkeypatch.setattr(registry, "drivers", lambda: drivers)
    return drivers
