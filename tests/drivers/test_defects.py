"""Each known defect on each firmware: no success is claimed for a write that did not happen, and nothing changes on a
device that nobody asked to change. What a defect is, and where it cannot exist, stands in `defects.py`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from curtaild_drivers.asic.identify import OWN
from curtaild_emulator import MODELS
from curtaild_emulator.wires.antminer import AntminerUnit
from curtaild_emulator.wires.axeos import AxeosUnit
from curtaild_emulator.wires.epic import EpicUnit
from curtaild_emulator.wires.unit import HttpRequest, Unit, Wire
from curtaild_emulator.wires.vnish import VnishUnit
from drivers.conftest import FIRMWARES, emulated_bench
from drivers.defects import BY_PYASIC, DEFECTS, Rig
from drivers.marathon_miner import marathon_bench

CELLS = [
    (firmware, name)
    for name, defect in DEFECTS.items()
    for firmware in (*FIRMWARES, BY_PYASIC)
    if firmware not in defect.cannot
]


def as_its_site_has_set_it(unit: Unit) -> None:
    """Settings that differ from those it is shipped with, so that it shows where they are lost."""
    unit.is_blinking = True
    if isinstance(unit, AntminerUnit):
        unit.fan_is_manual, unit.fan_percent, unit.freq_level = True, "80", "90"
    elif isinstance(unit, VnishUnit):
        unit.cooling, unit.quiet_mode = {"mode": {"name": "manual", "param": 80}}, True
    elif isinstance(unit, AxeosUnit):
        unit.core_mv, unit.fan_is_automatic, unit.fan_percent = 1_100, False, 80
    elif isinstance(unit, EpicUnit):  # by power, so that it can be throttled
        target = {"algo": "PowerTune", "target": round(unit.miner.model.rated_w)}
        body = json.dumps({"password": unit.password, "param": target}).encode()
        unit.http(HttpRequest(Wire.RPC, "POST", "/perpetualtune/algo", {}, body))


@asynccontextmanager
async def rig_of(firmware: str) -> AsyncIterator[Rig]:
    if firmware == BY_PYASIC:
        async with marathon_bench() as marathon:
            yield marathon
        return
    async with emulated_bench(firmware, speed=1.0, latency_s=0.0) as bench:
        as_its_site_has_set_it(bench.unit())
        bench.settle()
        yield bench


@pytest.mark.parametrize(("firmware", "name"), CELLS)
async def test_a_defect(firmware: str, name: str) -> None:
    defect = DEFECTS[name]
    async with rig_of(firmware) as rig:
        before = rig.settings()
        await defect.check(rig)
        after = rig.settings()
    assert {key for key in after if after[key] != before[key]} <= defect.may_change


def test_every_defect_is_tried_on_every_firmware_or_explained() -> None:
    firmwares = {*FIRMWARES, BY_PYASIC}
    assert {MODELS[model].firmware.value for model in FIRMWARES.values()} == set(OWN), "all that have wire code"
    for name, defect in DEFECTS.items():
        tried = {firmware for firmware, cell in CELLS if cell == name}
        explained = {firmware for firmware, reason in defect.cannot.items() if reason}
        assert tried | explained == firmwares, name
        assert not tried & explained, name
        assert tried, f"{name} is tried nowhere"
