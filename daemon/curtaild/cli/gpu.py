"""`curtaild gpu …`: what the driver of this host's GPUs says of them, and the limits from before put back."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from curtaild_config import SiteFileError, load_site
from curtaild_drivers.contract import DriverError
from curtaild_drivers.gpu.amd import AmdHost
from curtaild_drivers.gpu.card import Host, Milliwatts
from curtaild_drivers.gpu.memory import NodeMemory
from curtaild_drivers.gpu.nvml import NvmlHost
from curtaild_drivers.gpu.settings import AmdSettings, NodeSettings, NvmlSettings
from curtaild_drivers.gpu.upkeep import PutBack, Seen, look, restore

app = typer.Typer(no_args_is_help=True, help="Look at this host's GPUs, and put their power limits back.")

SERVICE_STATE = Path("/var/lib/curtaild")
"""Where the service keeps its state (systemd/curtaild.service)."""
CAP_SYS_ADMIN = 21


class Maker(StrEnum):
    """Whose library is asked."""

    NVIDIA = "nvml"
    AMD = "amdsmi"

    def host(self) -> Host:
        return NvmlHost() if self is Maker.NVIDIA else AmdHost()

    def state_path(self) -> Path:
        """Where the service remembers limits, if it runs here; else where a daemon started here would."""
        name = (NvmlSettings if self is Maker.NVIDIA else AmdSettings).state_name
        kept = SERVICE_STATE / name
        return kept if kept.exists() else Path(name)


MakerOption = Annotated[Maker, typer.Option("--driver", help="Whose GPUs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("show")
def show(driver: MakerOption = Maker.NVIDIA, as_json: JsonOption = False) -> None:
    """Print what the GPUs' driver says: limits, draw, what holds the clocks down. Changes nothing.

    Exit code 1: no driver answers.
    """
    try:
        version, seen = look(driver.host())
    except DriverError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    may_write = _may_write()
    if as_json:
        gpus = [asdict(gpu) for gpu in seen]
        typer.echo(json.dumps({"driver_version": version, "may_set_limits": may_write, "gpus": gpus}, indent=2))
        return
    console = Console()
    console.print(_table(version, seen))
    for gpu in seen:
        for note in _notes(gpu):
            console.print(f"GPU {gpu.index}: {note}", soft_wrap=True)
    if not may_write:
        console.print("This user may not set limits: that takes root or CAP_SYS_ADMIN.")


@app.command("restore")
def put_back(
    state: Annotated[
        Path | None, typer.Option("--state", help="The file that remembers them, where not the site file's.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The site file that says where it is.")] = None,
    driver: MakerOption = Maker.NVIDIA,
) -> None:
    """Put back the power limits that were in force before the daemon's first. Stop the daemon before.

    Exit code 1: one or more are not as they were.
    """
    if state is not None and config is not None:
        raise typer.BadParameter("--state and --config exclude each other")
    try:
        memory = NodeMemory(state or _state_path(config, driver))
        if not memory.path.exists():
            typer.echo(f"{memory.path} does not exist: nothing is remembered", err=True)
            raise typer.Exit(1)
        done = restore(driver.host(), memory)
    except (SiteFileError, DriverError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    for each in done:
        typer.echo(_line(each), err=each.error is not None)
    if not done:
        typer.echo("nothing is remembered: no limit was ever set, or all are back")
    for stage in sorted(memory.stages):
        typer.echo(f"the node is in {stage}: undo it by its own program")
    raise typer.Exit(1 if any(each.error is not None for each in done) else 0)


def _state_path(config: Path | None, driver: Maker) -> Path:
    """The site file's word, else the driver's own default. Raises `SiteFileError`."""
    if config is not None:
        for group in load_site(config).expand_devices():
            if group.driver == driver.value and isinstance(group.settings, NodeSettings):
                return group.settings.state_file or driver.state_path()
        raise typer.BadParameter(f'{config} has no group with driver = "{driver.value}"')
    return driver.state_path()


def _table(version: str, seen: list[Seen]) -> Table:
    table = Table(title=f"driver {version}", title_justify="left")
    for heading in ("GPU", "model", "scope"):
        table.add_column(heading)
    for heading in ("draw W", "keeps W", "asked W", "least–default–most W", "busy", "clock", "°C"):
        table.add_column(heading, justify="right")
    table.add_column("limit binds")
    for gpu in seen:
        table.add_row(*_cells(gpu))
    return table


def _cells(gpu: Seen) -> list[str]:
    facts, power, activity = gpu.facts, gpu.power, gpu.activity
    if facts is None or power is None or activity is None:
        return [str(gpu.index), facts.model if facts is not None else "", "", *[""] * 7, gpu.error or ""]
    bounds = "–".join(_watts(mw) for mw in (facts.least_mw, facts.default_mw, facts.most_mw))
    return [
        str(gpu.index),
        facts.model,
        facts.scope,
        f"{power.power_w:.0f}" if power.power_w is not None else "?",
        _watts(power.enforced_mw),
        _watts(power.requested_mw),
        bounds,
        _percent(activity.utilisation),
        _percent(activity.clock_fraction),
        f"{activity.temperature_c:.0f}" if activity.temperature_c is not None else "?",
        {True: "yes", False: "no", None: "?"}[activity.is_capped],
    ]


def _notes(gpu: Seen) -> list[str]:
    facts = gpu.facts
    if facts is None:
        return []
    notes = ["MIG is on: a limit holds for all its instances together"] if facts.is_mig else []
    if facts.is_persistent is False:
        notes.append("persistence mode is off: its limit is lost when the driver's last client ends")
    if facts.missing:
        notes.append(f"this driver lacks {', '.join(facts.missing)}")
    return notes


def _line(each: PutBack) -> str:
    name = f"GPU {each.index}" if each.index is not None else each.uuid
    if each.error is not None:
        return f"{name}: not back at {_watts(each.limit_mw)} W: {each.error}"
    return f"{name}: back at {_watts(each.limit_mw)} W"


def _watts(milliwatts: Milliwatts | None) -> str:
    return f"{milliwatts / 1000:g}" if milliwatts is not None else "?"


def _percent(fraction: float | None) -> str:
    return f"{fraction:.0%}" if fraction is not None else "?"


def _may_write() -> bool:
    """Whether this process has CAP_SYS_ADMIN, which root has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)
    return False
