"""`curtaild demo`: see it work, on this machine alone."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from curtaild.demo.pace import DEFAULT_S, FEWEST_DEVICES, LONGEST_S, MOST_DEVICES, SHORTEST_S

PLAIN_WIDTH = 130


def command(
    seconds: Annotated[
        float,
        typer.Option(help=f"How long the play takes, from {SHORTEST_S:g} on; the devices' physics are sped up to fit."),
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
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise typer.BadParameter(
            f"{seconds:g} s: a play takes {SHORTEST_S:g} to {LONGEST_S:g} s. In less, a step is over before the "
            "daemon, which decides once a second, can show what it does.",
            param_hint="--seconds",
        )
    # only here: the demo shows what this package's status view draws, and needs it imported first
    from curtaild.demo.live import LiveScreen
    from curtaild.demo.plain import PlainScreen
    from curtaild.demo.show import Screen, run_demo

    console = Console()
    is_live = console.is_terminal and not plain
    if not is_live:
        console = Console(width=max(PLAIN_WIDTH, console.width), color_system=None)
    screen: Screen = LiveScreen(console) if is_live else PlainScreen(console)
    raise typer.Exit(asyncio.run(run_demo(console, screen, seconds=seconds, devices=devices, keep=keep)))
