"""`curtaild grid event | events | cancel | reports`: an operator's hand at an OpenADR VTN, ours or a utility's."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from curtaild.cli.grid_line import (
    SITE_FILE,
    ConfigOption,
    ConnectionOption,
    WaitOption,
    chosen,
    fail,
    run,
    site_of,
)
from curtaild.grid.openadr_vtn.business import BusinessLogic, VtnFailed
from curtaild.grid.openadr_vtn.events import (
    LEVELS,
    When,
    cancelled,
    capacity_limit,
    dispatch_setpoint,
    event_of,
    grid_emergency,
    simple_level,
)
from curtaild_config import OpenAdrConnection, Site

OUR_PROGRAM = "curtailment"
"""Where the site file follows all programs, the one that is made."""

LOOK_EVERY_S = 1.0

SecretOption = Annotated[
    Path,
    typer.Option("--operator-secret-file", help="The operator's secret there; `vtn` makes one if there is none."),
]
OperatorOption = Annotated[str, typer.Option("--operator-id", help="The operator's client id at the VTN.")]
TargetOption = Annotated[list[str] | None, typer.Option("--target", help="A target; again for more.")]


class Kind(Enum):
    LIMIT = "limit"
    SETPOINT = "setpoint"
    LEVEL = "level"
    EMERGENCY = "emergency"


@dataclass(frozen=True, slots=True)
class Line:
    """The connection of the site file that is meant."""

    site: Site
    connection: OpenAdrConnection

    @property
    def program(self) -> str:
        return self.connection.programs[0] if self.connection.programs else OUR_PROGRAM

    @asynccontextmanager
    async def operator(self, operator_id: str, secret: str) -> AsyncIterator[BusinessLogic]:
        tls = ssl.create_default_context(cafile=self.connection.ca_file)
        async with BusinessLogic(self.connection.vtn, operator_id, secret, tls) as operator:
            yield operator


def event(
    kind: Annotated[Kind, typer.Argument(help="What is stated.")],
    value: Annotated[str, typer.Argument(help="limit, setpoint: watts; level: 0 to 3; emergency: a text for people.")],
    operator_secret_file: SecretOption,
    config: ConfigOption = SITE_FILE,
    begin: Annotated[float | None, typer.Option("--in", min=0.0, help="Seconds from now until it holds.")] = None,
    valid_for: Annotated[float | None, typer.Option(min=1.0, help="Seconds; absent: until cancelled.")] = None,
    randomize: Annotated[float, typer.Option(min=0.0, help="Seconds by which VENs shift its start.")] = 0.0,
    priority: Annotated[int | None, typer.Option(min=0, help="0 is the highest.")] = None,
    target: TargetOption = None,
    program: Annotated[str | None, typer.Option(help="Its program; absent: the connection's first.")] = None,
    operator_id: OperatorOption = "operator",
    connection: ConnectionOption = None,
    wait: WaitOption = 10.0,
) -> None:
    """State an OpenADR event at the VTN, and print the reports that follow."""
    line, what = line_of(config, connection), _payload(kind, value)
    now = time.time()
    when = When(None if begin is None else now + begin, valid_for, randomize)

    async def say(operator: BusinessLogic) -> None:
        program_id = await operator.program(program or line.program)
        body = event_of(program_id, what, when, now, name=kind.value, priority=priority, targets=target or ())
        event_id = (await operator.state(body))["id"]
        typer.echo(f"stated {event_id}")
        try:
            async with asyncio.timeout(wait):
                await _print_reports(operator, event_id)
        except TimeoutError:
            return

    _speak(line, operator_id, operator_secret_file, say)


def events(
    operator_secret_file: SecretOption,
    config: ConfigOption = SITE_FILE,
    operator_id: OperatorOption = "operator",
    connection: ConnectionOption = None,
) -> None:
    """Print the OpenADR events that the VTN holds and that are not over."""

    async def show(operator: BusinessLogic) -> None:
        async for each in operator.objects("events", active="true"):
            typer.echo(json.dumps(each, ensure_ascii=False))

    _speak(line_of(config, connection), operator_id, operator_secret_file, show)


def cancel(
    which: Annotated[str, typer.Argument(help="The event's id, or `all`.")],
    operator_secret_file: SecretOption,
    config: ConfigOption = SITE_FILE,
    keep: Annotated[bool, typer.Option("--keep", help="Give it a span of nothing instead of deleting it.")] = False,
    operator_id: OperatorOption = "operator",
    connection: ConnectionOption = None,
) -> None:
    """Cancel OpenADR events at the VTN."""

    async def take_back(operator: BusinessLogic) -> None:
        found = [each async for each in operator.objects("events")] if which == "all" else [await operator.event(which)]
        for each in found:
            if keep:
                await operator.change(each["id"], cancelled(each))
            else:
                await operator.delete(each["id"])
            typer.echo(f"cancelled {each['id']}")

    _speak(line_of(config, connection), operator_id, operator_secret_file, take_back)


def reports(
    operator_secret_file: SecretOption,
    config: ConfigOption = SITE_FILE,
    of_event: Annotated[str | None, typer.Option("--event", help="Of this event alone.")] = None,
    follow: Annotated[bool, typer.Option(help="Print those that come, until interrupted.")] = False,
    operator_id: OperatorOption = "operator",
    connection: ConnectionOption = None,
) -> None:
    """Print the reports that the VTN has received."""

    async def show(operator: BusinessLogic) -> None:
        await _print_reports(operator, of_event, ends=not follow)

    _speak(line_of(config, connection), operator_id, operator_secret_file, show)


# ---- the operator's hand --------------------------------------------------------------------


def line_of(config: Path, connection: str | None) -> Line:
    site = site_of(config)
    return Line(site, chosen(site, connection, OpenAdrConnection, "OpenADR"))


def _speak(line: Line, operator_id: str, secret_file: Path, work: Callable[[BusinessLogic], Awaitable[None]]) -> None:
    secret = secret_of(secret_file)

    async def go() -> None:
        try:
            async with line.operator(operator_id, secret) as operator:
                await work(operator)
        except VtnFailed as failure:
            fail(f"VTN: {failure}")

    run(go())


async def _print_reports(operator: BusinessLogic, event_id: str | None, ends: bool = False) -> None:
    """Each report once, and again when it has changed."""
    query = {} if event_id is None else {"eventID": event_id}
    printed: set[tuple[str, str]] = set()
    while True:
        found = [each async for each in operator.objects("reports", **query)]
        for each in found:
            if (each["id"], each["modificationDateTime"]) not in printed:
                typer.echo(json.dumps(each, ensure_ascii=False))
        printed = {(each["id"], each["modificationDateTime"]) for each in found}
        if ends:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def _payload(kind: Kind, value: str) -> dict[str, Any]:
    match kind:
        case Kind.EMERGENCY:
            return grid_emergency(value)
        case Kind.LEVEL:
            if value not in map(str, LEVELS):
                fail(f"{value} is no level: 0 to 3")
            return simple_level(int(value))
        case Kind.LIMIT | Kind.SETPOINT:
            try:
                watts = float(value)
            except ValueError:
                watts = -1.0
            if not 0 <= watts < float("inf"):
                fail(f"{value} is no {kind.value}: watts from 0")
            return capacity_limit(watts) if kind is Kind.LIMIT else dispatch_setpoint(watts)


def secret_of(path: Path, make: bool = False) -> str:
    try:
        if make and not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
        secret = path.read_text().strip()
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    return secret or fail(f"{path} is empty")
