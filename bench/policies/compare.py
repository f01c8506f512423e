"""Every policy on one signal, on the same plant with the same faults, and last the bound that a solver finds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.policies.rivals import FrozenList, OnOff, RandomisedUnthrottling, ThreeBands
from curtaild.rehearse.emulated import Emulated, emulate
from curtaild.rehearse.optimum import Optimum
from curtaild.rehearse.run import Core, rehearse
from curtaild.rehearse.score import score
from curtaild.rehearse.shell import Controller
from curtaild.rehearse.signals import SIGNALS
from curtaild.rehearse.troubles import Troubles
from curtaild_config import Site, load_site

OURS, FORESIGHT = "curtaild", "MILP, foreseeing all"
POLICIES: Mapping[str, Callable[[Emulated], Controller]] = MappingProxyType(
    {
        OURS: Core,
        "all on or off": OnOff,
        "frozen list": FrozenList,
        "three bands": ThreeBands,
        "random unthrottling": RandomisedUnthrottling,
    }
)
KINDS = (("whatsminer-v3", "row-1", 3), ("antminer", "row-1", 2), ("luxos", "row-2", 3), ("braiins", "row-2", 2))
"""The bench's site: firmwares, rows and shares of ten. Stock Antminers measure no watts and restart at every change."""
WEATHER: Mapping[str, str] = MappingProxyType({"healthy": "", "faulty": "devices=10%,bias=3%,loss_s=60"})
"""What may go wrong, as `curtaild rehearse --faults` takes it; meters scatter by 0.5 % on either day."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one signal. `over_wh`, `worst_over_w`: above the limit after its grace, by the plant's truth.
    `slowest_s`: until the slowest lower limit was kept for good, `None` where one never was while it held; unknown for
    the solver's bound, and so are `utilisation` (energy used ÷ allowed) and, where not searched for, `actuations`."""

    weather: str
    signal: str
    policy: str
    over_wh: float
    worst_over_w: float
    slowest_s: float | None
    utilisation: float | None
    value_share: float
    actuations: int | None


def site_text(devices: int) -> str:
    """A site file: a metered site over two rows, 3.2 kW a device."""
    full_w = 3_600 * devices
    tables = [
        '[site]\nname = "bench"',
        f'[grid]\nbrokers = ["mqtt://127.0.0.1:1883"]\nfailsafe_limit_w = {full_w // 4}',
        "[policy]\nhashprice_usd_per_ph_day = 50.0",
    ]
    for feeder, parent in (("site", ""), ("row-1", 'parent = "site"\n'), ("row-2", 'parent = "site"\n')):
        auxiliary_w = 40 * devices if feeder == "site" else 0
        tables.append(
            f'[[feeder]]\nid = "{feeder}"\n{parent}rating_w = {full_w}\nauxiliary_w = {auxiliary_w}\n'
            '[feeder.meter]\naddress = "10.0.0.1:502"\nsettings = { preset = "eastron-sdm630" }'
        )
    for number, (firmware, row, share) in enumerate(KINDS):
        block, last = f"10.{number + 1}", devices * share // 10
        addresses = f"{block}.0.1-{block}.{last // 250}.{last % 250}"
        tables.append(
            f'[[devices]]\nname = "{firmware}"\ndriver = "asic"\naddresses = ["{addresses}"]\n'
            f'feeder = "{row}"\nsettings = {{ firmware = "{firmware}" }}'
        )
    return "\n\n".join(tables) + "\n"


def site_of(devices: int) -> Site:
    """The bench's site, as `site_text` describes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.toml"
        path.write_text(site_text(devices))
        return load_site(path, {})


def compare(weather: str, signal: str, devices: int, tell: Callable[[str], None]) -> list[Row]:
    """Every policy on one signal, and last the bound."""
    rows: list[Row] = []
    bound: Row | None = None
    troubles = Troubles.parse(WEATHER[weather])
    site = site_of(devices)
    best = 1.0
    for name, policy in POLICIES.items():
        tell(f"{signal}, {weather}: {name}")
        emulated = emulate(site, {}, troubles, seed=1)
        found = rehearse(emulated, SIGNALS[signal](emulated.capacity), troubles, 1, policy(emulated))
        root = emulated.tree.root
        scored = score(found, root)
        if bound is None:
            optimum = Optimum(emulated)
            best = optimum.earned(found.trace)
            bound = Row(weather, signal, FORESIGHT, 0.0, 0.0, None, None, 1.0, optimum.least_moves(found.trace))
        falls = [response.within_s for response in scored.responses if response.lowers]
        times = [within_s for within_s in falls if within_s is not None]
        over = scored.overshoot[root]
        rows.append(
            Row(
                weather,
                signal,
                name,
                round(over.energy_wh, 1),
                round(over.worst_w),
                max(times, default=0.0) if len(times) == len(falls) else None,
                round(scored.utilisation, 4),
                round(scored.earned / best, 4),
                scored.actuations,
            )
        )
    return [*rows, *([bound] if bound is not None else [])]
