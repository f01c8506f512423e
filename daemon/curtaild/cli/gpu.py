"""`curtaild gpu …`: what the driver of this host's GPUs says of them, and the limits from before put back."""

from __future__ import annotations

import json
import shlex
import socket
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from curtaild_config import SiteFileError, load_site
from curtaild_drivers.contract import OFF, DriverError
from curtaild_drivers.gpu import hooks
from curtaild_drivers.gpu.amd import AmdHost
from curtaild_drivers.gpu.card import Host, Milliwatts
from curtaild_drivers.gpu.memory import NodeMemory
from curtaild_drivers.gpu.nvml import NvmlHost
from curtaild_drivers.gpu.reading import STAGES, SUSPEND, node_watts
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
    noted: dict[str, list[str]] = {}
    for gpu in seen:
        for note in _notes(gpu):
            noted.setdefault(note, []).append(str(gpu.index))
    for note, indices in noted.items():
        console.print(f"GPU {', '.join(indices)}: {note}", soft_wrap=True)
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

    Work that a hook has put to sleep is not woken; what would wake it is printed. Exit code 1: not all is as it was.
    """
    if state is not None and config is not None:
        raise typer.BadParameter("--state and --config exclude each other")
    try:
        settings = _settings(config, driver)
        memory = NodeMemory(state or (settings and settings.state_file) or driver.state_path())
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
    for stage in sorted(memory.stages, key=STAGES.index, reverse=True):
        typer.echo(_still_in(stage, settings, done), err=True)
    raise typer.Exit(1 if memory.stages or any(each.error is not None for each in done) else 0)


def _settings(config: Path | None, driver: Maker) -> NodeSettings | None:
    """What the site file says of this host's GPUs. Raises `SiteFileError`."""
    if config is None:
        return None
    for group in load_site(config).expand_devices():
        if group.driver == driver.value and isinstance(group.settings, NodeSettings):
            return group.settings
    raise typer.BadParameter(f'{config} has no group with driver = "{driver.value}"')


def _still_in(stage: str, settings: NodeSettings | None, done: list[PutBack]) -> str:
    """A stage that is left as it is, and the command that would leave it."""
    hook = {SUSPEND: settings.suspend, OFF: settings.off}.get(stage) if settings is not None else None
    if settings is None or hook is None:
        return f"the node is still in {stage}: run the restore program of that stage, or start the daemon again"
    allowed_w = node_watts(sum(each.limit_mw for each in done) / 1000, settings)
    call = hooks.Call(socket.gethostname(), "restore", allowed_w, hook.timeout_s)
    told = shlex.quote(call.document().decode().strip())
    return f"the node is still in {stage}; to leave it: echo {told} | {shlex.join(hook.restore)}"


def _table(version: str, seen: list[Seen]) -> Table:
    """Fits into eighty columns; only the models' names give way."""
    title = f"driver {version}; watts; bounds are least–default–most"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("GPU", no_wrap=True)
    table.add_column("model", min_width=8)
    for heading in ("draws", "keeps", "asked", "bounds", "busy", "clock", "°C", "limit binds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for gpu in seen:
        table.add_row(*_cells(gpu))
    return table


def _cells(gpu: Seen) -> list[str]:
    facts, power, activity = gpu.facts, gpu.power, gpu.activity
    model = facts.model.removeprefix("NVIDIA ") if facts is not None else ""
    if facts is None or power is None or activity is None:
        return [str(gpu.index), model, *["?"] * 8]
    bounds = "–".join(_watts(mw) for mw in (facts.least_mw, facts.default_mw, facts.most_mw))
    return [
        str(gpu.index),
        model,
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
    notes = [gpu.error] if gpu.error is not None else []
    if facts is None:
        return notes
    if facts.scope == "module":
        notes.append("it takes limits for its whole module, CPU and memory included")
    if facts.is_mig:
        notes.append("MIG is on: a limit holds for all its instances together")
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
