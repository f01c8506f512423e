"""Devices to try things on: each firmware emulated in real time, set up as a site would have it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from curtaild_emulator.wires.antminer import AntminerUnit
from curtaild_emulator.wires.axeos import AxeosUnit
from curtaild_emulator.wires.epic import EpicUnit
from curtaild_emulator.wires.marathon import MarathonUnit
from curtaild_emulator.wires.unit import HttpRequest, Unit, Wire
from curtaild_emulator.wires.vnish import VnishUnit
from drivers.conftest import Bench, emulated_bench


def as_its_site_has_set_it(unit: Unit) -> None:
    """Settings that differ from those it is shipped with, so that it shows where they are lost."""
    unit.is_blinking = True
    if isinstance(unit, AntminerUnit):
        unit.fan_is_manual, unit.fan_percent, unit.freq_level = True, "80", "90"
    elif isinstance(unit, VnishUnit):
        unit.cooling, unit.quiet_mode = {"mode": {"name": "manual", "param": 80}}, True
    elif isinstance(unit, AxeosUnit):
        unit.core_mv, unit.fan_is_automatic, unit.fan_percent = 1_100, False, 80
    elif isinstance(unit, MarathonUnit):
        unit.fan_percent = 80
    elif isinstance(unit, EpicUnit):  # by power, so that it can be throttled
        watts = round(unit.miner.model.rated_w)
        target = {"algo": "PowerTune", "target": watts, "min_throttle": 1_500, "throttle_step": 100}
        body = json.dumps({"password": unit.password, "param": target}).encode()
        unit.http(HttpRequest(Wire.RPC, "POST", "/perpetualtune/algo", {}, body))


@asynccontextmanager
async def rig_of(firmware: str) -> AsyncIterator[Bench]:
    async with emulated_bench(firmware, speed=1.0, latency_s=0.0) as bench:
        as_its_site_has_set_it(bench.unit())
        bench.settle()
        yield bench
