"""`curtaild status`: how a running daemon and its site are, for people and for machines."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.console import Console
from rich.live import Live

from curtaild.cli import reasons, view
from curtaild.cli.look import NoDaemon, NoSuchDevice, fetch_json, fetch_status
from curtaild_config import SiteFileError, load_site

DEFAULT_URL = "http://127.0.0.1:9810"
EVERY_S = 1.0


def command(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON of /status, or of /why.")] = False,
    url: Annotated[str | None, typer.Option(help=f"Where the daemon listens.  [default: {DEFAULT_URL}]")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The site file that says where the daemon listens.")
    ] = None,
    why: Annotated[
        str | None,
        typer.Option("--why", metavar="DEVICE", help="Explain one device: its name in the site file, or its address."),
    ] = None,
) -> None:
    """Show the link, the limit, the meter, the feeders and the devices of a running daemon.

    \b
    With **--why DEVICE**: why that device stands where it stands, when its turn to be shed comes and by which rule,
    whether it may rise and if not what keeps it down, and what the ledger says of it. The rules are in
    docs/control.md.

    \b
    Exit code 1: no daemon answers there, or the site has no such device.
    """
    if url is not None and config is not None:
        raise typer.BadParameter("--url and --config exclude each other")
    if why is not None and watch:
        raise typer.BadParameter("--why and --watch exclude each other")
    try:
        asked = _url_of(config) if config is not None else url or DEFAULT_URL
        if why is not None:
            asyncio.run(_explain(asked.rstrip("/"), why, as_json))
        else:
            asyncio.run(_show(asked.rstrip("/"), watch, as_json))
    except (SiteFileError, NoDaemon, NoSuchDevice) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0 if watch else 130) from None


def _url_of(config: Path) -> str:
    """Raises `SiteFileError`. A daemon that listens everywhere is asked on this machine."""
    listen = load_site(config).telemetry.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{listen.port}"


async def _show(url: str, watch: bool, as_json: bool) -> None:
    console = Console()
    async with aiohttp.ClientSession() as session:
        if as_json:
            await _print_json(session, url, watch)
        elif watch and console.is_terminal:
            await _watch(session, url, console)
        else:
            console.print(view.whole(await fetch_status(session, url)))
            while watch:
                await asyncio.sleep(EVERY_S)
                console.print(view.whole(await fetch_status(session, url)))


async def _explain(url: str, device: str, as_json: bool) -> None:
    async with aiohttp.ClientSession() as session:
        why = await reasons.explain(session, url, device)
    if as_json:
        print(json.dumps(why, indent=2, ensure_ascii=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else reasons.WIDTH)
        console.print(reasons.shown(why), highlight=False)


async def _print_json(session: aiohttp.ClientSession, url: str, watch: bool) -> None:
    """Indented once; with `watch` an object per line and second."""
    while True:
        body = await fetch_json(session, url)
        print(json.dumps(body, indent=None if watch else 2, ensure_ascii=False), flush=True)
        if not watch:
            return
        await asyncio.sleep(EVERY_S)


async def _watch(session: aiohttp.ClientSession, url: str, console: Console) -> None:
    """A daemon that restarts is waited for; one that was never there is an error."""
    first = await fetch_status(session, url)
    with Live(view.whole(first), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                live.update(view.whole(await fetch_status(session, url)), refresh=True)
            except NoDaemon as error:
                live.update(f"[bold red]{error}[/]; looking again every second", refresh=True)
