"""`curtaild demo`: see it work, on this machine alone."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from curtaild.demo.plain import PlainScreen
from curtaild.demo.play import DEFAULT_S, SHORTEST_S
from curtaild.demo.show import run_demo
from curtaild.demo.site import FEWEST_DEVICES, MOST_DEVICES


def command(
    seconds: Annotated[
        float, typer.Option(min=SHORTEST_S, max=3600.0, help="How long the play takes; the devices' physics fit it.")
    ] = DEFAULT_S,
    devices: Annotated[
        int, typer.Option(min=FEWEST_DEVICES, max=MOST_DEVICES, help="How many miners are emulated.")
    ] = 210,
    plain: Annotated[bool, typer.Option("--plain", help="One line per second, for machines and logs.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the site file, the ledger and the logs.")] = False,
) -> None:
    """See it work: an emulated farm, a broker, the daemon, and a grid operator who moves the allocation.

    Needs no root and nothing installed; nothing leaves the loopback. Exit code 1: a step ended over its limit.
    """
    console = Console()
    screen = PlainScreen(console)
    raise typer.Exit(asyncio.run(run_demo(console, screen, seconds=seconds, devices=devices, keep=keep)))
