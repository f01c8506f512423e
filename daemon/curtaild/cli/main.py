"""`curtaild run | check | scan | probe | emulate | demo | status | grid | gpu`: what a person types and gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curtaild.cli import demo, emulate, gpu, grid, probe, rehearse, run, scan, status

SITE_FILE = Path("/etc/curtaild/site.toml")

app = typer.Typer(
    help="Keeps a mining and AI site inside the power the grid grants it.",
    epilog="Begin with `curtaild demo`: an emulated farm, a broker and a grid operator, on this machine alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.add_typer(grid.app, name="grid")
app.add_typer(gpu.app, name="gpu")
app.command("demo")(demo.command)
app.command("emulate")(emulate.command)
app.command("scan")(scan.command)
app.command("probe")(probe.command)
app.command("rehearse")(rehearse.command)
app.command("status")(status.command)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The site file.", envvar="CURTAILD_CONFIG", show_default=True)
]


@app.command("run")
def run_daemon(config: ConfigOption = SITE_FILE) -> None:
    """Run the daemon in the foreground, as systemd does.

    SIGHUP reads the site file again (a wrong one changes nothing), SIGTERM stops: devices then stay at their last
    safe setpoints.
    """
    raise typer.Exit(run.run(config))


@app.command("check")
def check(
    config: Annotated[Path, typer.Argument(help="The site file.")] = SITE_FILE,
) -> None:
    """Say everything that is wrong with a site file, and print the tree it describes. Exit code 0: it would run."""
    raise typer.Exit(run.check(config))


def main() -> None:
    """The entry point of the `curtaild` command."""
    app()
