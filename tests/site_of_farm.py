"""The site file that fits an emulated farm: feeders, meters and devices as tables to change, and to write as TOML."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from curtaild_emulator import MODELS, FarmPlan, FeederPlan, Firmware, Ports

Table: TypeAlias = dict[str, Any]

_METERS: Mapping[str, Table] = {
    "sdm630": {"preset": "eastron-sdm630"},
    "pm5000": {"preset": "schneider-pm5xxx"},
    # ABB B23/B24 user manual, "Mapping tables": total active power, signed, 0.01 W
    "abb-b": {"power": {"address": 0x5B14, "function": "holding", "type": "int32", "scale": 0.01, "unit": "W"}},
}


class SiteFile:
    """`tables` by name, as `[name]` or, for a list, `[[name]]`. Devices stand in groups `<feeder>-<firmware>`, or where
    `identified` in groups `<feeder>`, for the daemon to find out what they are."""

    def __init__(self, name: str, plan: FarmPlan, ports: Ports, rating_w: float, identified: bool = False) -> None:
        self.tables: dict[str, Any] = {
            "site": {"name": name},
            "grid": {"failsafe_hold_s": 0, "status_interval_s": 1},
            "policy": {"restart_jitter_s": 1},
            "telemetry": {},
            "ledger": {},
            "feeder": [_feeder(feeder, ports, rating_w) for feeder in plan.feeders],
            "devices": list(_groups(plan, ports, identified)),
        }

    @property
    def grid(self) -> Table:
        table: Table = self.tables["grid"]
        return table

    @property
    def policy(self) -> Table:
        table: Table = self.tables["policy"]
        return table

    @property
    def groups(self) -> list[Table]:
        groups: list[Table] = self.tables["devices"]
        return groups

    def for_every_group(self, **keys: Any) -> None:
        """Set keys of every device group; `settings` are added to those that stand."""
        for group in self.groups:
            settings = {**group["settings"], **keys.get("settings", {})}
            group.update(keys, settings=settings)

    def device_id(self, address: str) -> str:
        """What the daemon calls the device at `address`."""
        return next(f"{group['name']}/{address}" for group in self.groups if address in group["addresses"])

    def write(self, path: Path) -> None:
        """All at once, as an operator's editor does it."""
        fresh = path.with_suffix(".new")
        fresh.write_text("\n".join(_lines(self.tables)) + "\n")
        shutil.move(fresh, path)


def _feeder(feeder: FeederPlan, ports: Ports, rating_w: float) -> Table:
    table: Table = {"id": feeder.id, "rating_w": rating_w, "auxiliary_w": feeder.auxiliary_w}
    if feeder.parent is not None:
        table["parent"] = feeder.parent
    if feeder.address is not None:
        settings = {**_METERS[feeder.layout], "unit_id": 1}
        table["meter"] = {
            "address": f"{feeder.address}:{ports.modbus}",
            "poll_s": 0.5,
            "stale_after_s": 10,  # the meter is emulated by a process that may have to wait for its turn
            "settings": settings,
        }
    return table


def _groups(plan: FarmPlan, ports: Ports, identified: bool) -> Iterator[Table]:
    members: dict[tuple[str, Firmware | None], list[str]] = {}
    for device in plan.all_devices():
        firmware = None if identified else MODELS[device.model].firmware
        members.setdefault((device.feeder, firmware), []).append(device.address)
    for (feeder, firmware), addresses in members.items():
        settings = {"rpc_port": ports.rpc, "http_port": ports.http, "v3_port": ports.whatsminer_v3}
        settings |= {"braiins_port": ports.braiins, "auradine_port": ports.auradine}
        settings = {key: port for key, port in settings.items() if port}  # 0: nobody speaks that
        yield {
            "name": feeder if firmware is None else f"{feeder}-{firmware.value}",
            "driver": "asic",
            "addresses": addresses,
            "feeder": feeder,
            "poll_s": 1,
            "stale_after_s": 20,
            "min_off_s": 0,
            "settings": settings if firmware is None else {**settings, "firmware": firmware.value},
        }


def _lines(tables: Mapping[str, Any]) -> Iterator[str]:
    for name, content in tables.items():
        rows = content if isinstance(content, list) else [content]
        for row in rows:
            yield f"[[{name}]]" if isinstance(content, list) else f"[{name}]"
            yield from (f"{key} = {_value(value)}" for key, value in row.items())


def _value(value: object) -> str:
    """JSON's numbers, texts and lists are TOML's; its objects are not."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
