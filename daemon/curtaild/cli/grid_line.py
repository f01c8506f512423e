"""What the commands of `curtaild grid` share: the options, the connection meant, the way to its broker as its other
side."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from curtaild.grid.operator import operator_access
from curtaild_config import BrokerConnection, Site, SiteFileError, load_site
from curtaild_drivers.broker.mqtt import Access, ConnectionFailed

Kind = TypeVar("Kind")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The site file.", envvar="CURTAILD_CONFIG")]
UserOption = Annotated[str | None, typer.Option("--username", help="The operator's user at the broker.")]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="A file that holds the operator's password.")
]
ConnectionOption = Annotated[
    str | None,
    typer.Option("--connection", help="Which grid connection of the site file; absent: the first of this dialect."),
]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0.0, help="Print the site's answers for so many seconds; 0 does not wait.")
]
SITE_FILE = Path("/etc/curtaild/site.toml")


def site_of(config: Path) -> Site:
    try:
        return load_site(config)
    except SiteFileError as error:
        fail(str(error))


def chosen(site: Site, name: str | None, kind: type[Kind], dialect: str) -> Kind:
    """The connection called `name`, else the first that speaks the dialect."""
    speaking = [each for each in site.grid.connections if isinstance(each, kind)]
    named = [each for each in speaking if name is None or getattr(each, "name", None) == name]
    if not named:
        known = ", ".join(str(getattr(each, "name", "")) for each in speaking) or "none"
        fail(f"no connection{'' if name is None else f' {name!r}'} of the site file speaks {dialect} (those: {known})")
    return named[0]


def accesses(connection: BrokerConnection, username: str | None, password_file: Path | None) -> list[Access]:
    """The way to each of its brokers, as the operator."""
    try:
        password = password_file.read_text().strip() if password_file is not None else None
    except OSError as error:
        fail(f"{password_file}: {error.strerror}")
    return [
        operator_access(
            broker.host,
            broker.port,
            is_tls=broker.tls,
            username=username,
            password=password,
            ca_file=connection.ca_file,
            cert_file=connection.cert_file,
            key_file=connection.key_file,
        )
        for broker in connection.brokers
    ]


def run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except (ConnectionFailed, OSError) as error:
        fail(f"broker: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(reason: str) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(1)
