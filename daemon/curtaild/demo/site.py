"""The demo's site: which devices hang where, and the site file that tells the daemon of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from curtaild.demo.pace import Pace
from curtaild_drivers.contract import Watts
from curtaild_emulator import MODELS, FarmPlan, FeederPlan, Firmware, FleetPlan, Ports
from curtaild_emulator.plan import ModelName

SITE = "demo"
ROOT = "site"
ROWS = ("row-1", "row-2")
RATING_OF_DEMAND = 1.15
FAILSAFE_SHARE = 0.5
LATENCY_S = 0.02

_MODELS: Sequence[tuple[ModelName, int]] = (
    ("antminer-s19j-pro", 1),
    ("whatsminer-m50", 2),
    ("whatsminer-m60", 2),
    ("luxos-s21", 2),
)
"""Each with its share of the farm. Few stock Antminers: they measure no watts, so a sleeping one is believed only after
the minute that its draw may take to fall, which no speed-up shortens."""
_LAYOUTS = {ROOT: "sdm630", ROWS[0]: "pm5000", ROWS[1]: "sdm630"}
_PRESETS = {"sdm630": "eastron-sdm630", "pm5000": "schneider-pm5xxx"}
_PRIORITIES = {Firmware.ANTMINER: 60}
"""Stock Antminers restart for minutes at every change: they are shed last."""


def farm_plan(devices: int, speed: float, network: int) -> FarmPlan:
    """`devices` miners of all kinds on two rows, at addresses 127.`network`.0.0/16, on any free ports."""
    feeders = [
        FeederPlan(
            id=feeder,
            parent=None if feeder == ROOT else ROOT,
            auxiliary_w=40.0 * devices if feeder == ROOT else 0.0,
            auxiliary_fraction=0.005 if feeder == ROOT else 0.01,
            address=f"127.{network}.1.{number + 1}",
            layout="pm5000" if _LAYOUTS[feeder] == "pm5000" else "sdm630",
        )
        for number, feeder in enumerate((ROOT, *ROWS))
    ]
    fleets = [
        FleetPlan(
            id=f"{row}-{model}",
            model=model,
            feeder=row,
            address=f"127.{network}.{16 * (1 + len(_MODELS) * place + kind)}.1",
            count=count,
        )
        for place, row in enumerate(ROWS)
        for kind, (model, count) in enumerate(_counts(devices, place))
        if count
    ]
    return FarmPlan(
        speed=speed,
        latency_s=LATENCY_S,
        ports=Ports(http=0, rpc=0, whatsminer_v3=0, modbus=0, control=0),
        feeders=tuple(feeders),
        fleets=tuple(fleets),
    )


def _counts(devices: int, place: int) -> list[tuple[ModelName, int]]:
    """This row's devices of each model; together the rows have `devices` exactly."""
    shares = sum(share for _, share in _MODELS)
    counts: list[tuple[ModelName, int]] = []
    given = before = 0
    for model, share in _MODELS:
        before += share
        of_model = devices * before // shares - given
        given += of_model
        counts.append((model, (of_model + (1 - place)) // len(ROWS)))
    return counts


def demand_w(plan: FarmPlan) -> Watts:
    """What the site draws when nothing limits it."""
    return plan.plant().true_feeder_power_w(ROOT)


def floor_w(plan: FarmPlan) -> Watts:
    """What it draws with every device asleep: standby and auxiliary load, which nobody can shed."""
    rows_w = dict.fromkeys(ROWS, 0.0)
    for device in plan.all_devices():
        rows_w[device.feeder] += MODELS[device.model].standby_w
    feeders = {feeder.id: feeder for feeder in plan.feeders}
    through_w = sum(power_w * (1 + feeders[row].auxiliary_fraction) for row, power_w in rows_w.items())
    return through_w * (1 + feeders[ROOT].auxiliary_fraction) + feeders[ROOT].auxiliary_w


def site_file(plan: FarmPlan, ports: Mapping[str, int], broker_port: int, listen: str, pace: Pace, ledger: Path) -> str:
    """The site file of `plan` as served on `ports`; written as an engineer would write it."""
    plant = plan.plant()
    tables = [
        "# Written by `curtaild demo`: an emulated farm on this machine's loopback.",
        f"[site]\nname = {_quoted(SITE)}",
        f"""[grid]
brokers = ["mqtt://127.0.0.1:{broker_port}"]
failsafe_limit_w = {FAILSAFE_SHARE * demand_w(plan):.0f}
failsafe_hold_s = {pace.failsafe_hold_s:g}
heartbeat_timeout_s = {pace.heartbeat_timeout_s:g}
status_interval_s = 2""",
        f"""[policy]
restart_jitter_s = 1            # real sites: 10 and more, so that transformers see no step
max_starts_per_s = {max(50, plan_size(plan) // 4)}""",
        f"[telemetry]\nlisten = {_quoted(listen)}",
        f"[ledger]\npath = {_quoted(str(ledger))}",
    ]
    for feeder in plan.feeders:
        parent = f"parent = {_quoted(feeder.parent)}\n" if feeder.parent else ""
        rating_w = RATING_OF_DEMAND * plant.true_feeder_power_w(feeder.id)
        tables.append(
            f"""[[feeder]]
id = {_quoted(feeder.id)}
{parent}rating_w = {rating_w:.0f}
auxiliary_w = {feeder.auxiliary_w:.0f}
[feeder.meter]
address = "{feeder.address}:{ports["modbus"]}"
poll_s = 0.5
settings = {{ preset = {_quoted(_PRESETS[feeder.layout])}, unit_id = 1 }}"""
        )
    tables += [_group(fleet, ports) for fleet in plan.fleets]
    return "\n\n".join(tables) + "\n"


def plan_size(plan: FarmPlan) -> int:
    return len(plan.devices) + sum(fleet.count for fleet in plan.fleets)


def _group(fleet: FleetPlan, ports: Mapping[str, int]) -> str:
    firmware = MODELS[fleet.model].firmware
    devices = [device.address for device in fleet.devices()]
    addresses = f"{devices[0]}-{devices[-1]}" if len(devices) > 1 else devices[0]
    wires = f"rpc_port = {ports['rpc']}, http_port = {ports['http']}, v3_port = {ports['whatsminer_v3']}"
    return f"""[[devices]]
name = {_quoted(f"{fleet.feeder}-{firmware.value}")}
driver = "asic"
addresses = [{_quoted(addresses)}]
feeder = {_quoted(fleet.feeder)}
priority = {_PRIORITIES.get(firmware, 50)}
poll_s = 2
stale_after_s = 20
min_off_s = 2
settings = {{ firmware = {_quoted(firmware.value)}, {wires} }}"""


def _quoted(text: str) -> str:
    return json.dumps(text)
