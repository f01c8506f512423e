"""`curtaild emulate`: an emulated farm alone."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer
import uvloop


def command(farm: Annotated[Path, typer.Argument(help="The farm file; see farm.example.toml.")]) -> None:
    """Run an emulated farm on loopback: miners, GPU nodes and meters with their real protocols and physics.

    Faults are switched live through its control API, whose address is said at the start.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # only here: a daemon that starts again in the middle of a shed shall not load a farm first
    from curtaild_emulator import BadPlan, CannotListen

    try:
        uvloop.run(_until_stopped(farm))
    except (BadPlan, CannotListen, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


async def _until_stopped(farm: Path) -> None:
    from curtaild_emulator import run_farm

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await run_farm(farm, stop=stop)
