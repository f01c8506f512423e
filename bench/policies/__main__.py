"""One table: every policy on every signal. `python -m bench.policies --help` says what can be chosen."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from rich import box
from rich.console import Console
from rich.table import Table

from bench.policies.rivals import FrozenList, OnOff, RandomisedUnthrottling, ThreeBands
from curtaild.rehearse.emulated import Emulated, emulate
from curtaild.rehearse.optimum import Optimum
from curtaild.rehearse.run import Core, rehearse
from curtaild.rehearse.score import score
from curtaild.rehearse.shell import Controller
from curtaild.rehearse.signals import SIGNALS
from curtaild.rehearse.troubles import Troubles
from curtaild_config import load_site

POLICIES: Mapping[str, Callable[[Emulated], Controller]] = MappingProxyType(
    {
        "curtaild": Core,
        "all on or off": OnOff,
        "frozen list": FrozenList,
        "three bands": ThreeBands,
        "random unthrottling": RandomisedUnthrottling,
    }
)
KINDS = (("whatsminer-v3", "row-1", 3), ("antminer", "row-1", 2), ("luxos", "row-2", 3), ("braiins", "row-2", 2))
"""The bench's site: firmwares, rows and shares of ten. Stock Antminers measure no watts and restart at every change."""
FAULTS = "devices=10%,bias=3%,loss_s=60"


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one signal. `slowest_s` is `None` where some lower limit was never reached while it held."""

    signal: str
    policy: str
    over_wh: float
    worst_over_w: float
    slowest_s: float | None
    utilisation: float
    value_share: float
    actuations: int


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


def compare(signal: str, devices: int, troubles: Troubles, tell: Callable[[str], None]) -> list[Row]:
    """Every policy on one signal, and last the optimum itself."""
    rows: list[Row] = []
    best: float | None = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.toml"
        path.write_text(site_text(devices))
        site = load_site(path, {})
    for name, policy in POLICIES.items():
        tell(f"{signal}: {name}")
        emulated = emulate(site, {}, troubles, seed=1)
        found = rehearse(emulated, SIGNALS[signal](emulated.capacity), troubles, 1, policy(emulated))
        root = emulated.tree.root
        scored = score(found, root)
        if best is None:
            best = Optimum(emulated).earned(found.trace)
        falls = [response.within_s for response in scored.responses if response.lowers]
        times = [within_s for within_s in falls if within_s is not None]
        over = scored.overshoot[root]
        rows.append(
            Row(
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
    return rows


def table(rows: list[Row]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("signal", "policy"):
        shown.add_column(heading, no_wrap=True)
    for heading in (
        "Wh over\nthe limit",
        "worst\nover, W",
        "slowest to\nthe limit",
        "energy\nused",
        "value of\nMILP",
        "actuations",
    ):
        shown.add_column(heading, justify="right")
    before = ""
    for row in rows:
        if row.signal != before and before:
            shown.add_section()
        shown.add_row(
            row.signal if row.signal != before else "",
            row.policy,
            f"{row.over_wh:,.1f}" if row.over_wh else "–",
            f"{row.worst_over_w:,.0f}" if row.worst_over_w else "–",
            f"{row.slowest_s:.0f} s" if row.slowest_s is not None else "not in time",
            f"{100 * row.utilisation:.1f} %",
            f"{100 * row.value_share:.1f} %",
            f"{row.actuations:,}",
        )
        before = row.signal
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("--signals", default=",".join(SIGNALS), help="which, by name, with commas between")
    parser.add_argument("--devices", type=int, default=100, help="how many devices the site has (10 to 500)")
    parser.add_argument("--faults", default="", help=f'as curtaild rehearse takes them; "{FAULTS}" for a rough day')
    parser.add_argument("--json", action="store_true", help="for machines")
    chosen = parser.parse_args()
    if not 10 <= chosen.devices <= 500:
        parser.error("--devices lies in 10..500")
    signals = chosen.signals.split(",")
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown:
        parser.error(f"no signal {unknown[0]!r}; known: {', '.join(SIGNALS)}")
    console, progress = Console(width=110), Console(stderr=True)
    rows: list[Row] = []
    for signal in signals:
        rows += compare(
            signal, chosen.devices, Troubles.parse(chosen.faults), lambda text: progress.print(text, style="dim")
        )
    if chosen.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    console.print(table(rows))
    console.print(
        "Over the limit: by the plant's truth, in intervals of 4 s, after the time that each limit allows (60 s). "
        "Value: of the most that any dispatch could have earned, foreseeing all, with devices that obey in no time."
    )


if __name__ == "__main__":
    main()
