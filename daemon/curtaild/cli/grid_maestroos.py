"""`curtaild grid switch`: MaestroOS's side."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from enum import Enum
from typing import Annotated

import typer

from curtaild.cli.grid_line import (
    SITE_FILE,
    ConfigOption,
    ConnectionOption,
    PasswordOption,
    UserOption,
    accesses,
    chosen,
    run,
    site_of,
)
from curtaild.grid.dialect import Publication
from curtaild.grid.party import at_broker
from curtaild_config import MaestroOSConnection


class Position(Enum):
    ON = "on"
    OFF = "off"


def switch(
    to: Annotated[Position, typer.Argument(help="on, or off: everything off.")],
    config: ConfigOption = SITE_FILE,
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Say it again every so many seconds, until interrupted; absent: once.")
    ] = None,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
) -> None:
    """Switch the site on or off as MaestroOS does, at all brokers of the connection."""
    maestro = chosen(site_of(config), connection, MaestroOSConnection, "MaestroOS")
    ways = accesses(maestro, username, password_file)

    async def say() -> None:
        async with AsyncExitStack() as stack:
            parties = [await stack.enter_async_context(at_broker(way)) for way in ways]
            while True:
                word = json.dumps({"target": 100 if to is Position.ON else 0, "timestamp": int(time.time())})
                for party in parties:
                    await party.say(Publication(maestro.topic, word.encode()))
                typer.echo(word)
                if every is None:
                    return
                await asyncio.sleep(every)

    run(say())
