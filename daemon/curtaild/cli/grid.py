"""`curtaild grid …`: the operator's side, for commissioning and tests against a real broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from curtaild.cli import grid_dsx, grid_keys, grid_maestroos, grid_openadr, grid_vtn
from curtaild.cli.grid_line import (
    SITE_FILE,
    ConfigOption,
    ConnectionOption,
    PasswordOption,
    UserOption,
    WaitOption,
    accesses,
    chosen,
    fail,
    run,
    site_of,
)
from curtaild.core.allocation import Urgency
from curtaild.grid.keys import KeyFileError, Signer, load_signer
from curtaild.grid.native import Topics
from curtaild.grid.operator import Operator, Window
from curtaild.grid.party import at_broker
from curtaild_config import DsxFlexConnection, NativeConnection
from curtaild_drivers.broker.mqtt import Access

app = typer.Typer(
    no_args_is_help=True,
    help="Speak as the grid's side, in every dialect: state an allocation, release it, send heartbeats; set a DSX load "
    "target; switch as MaestroOS; be an OpenADR VTN and make its events. Brokers, topics and the VTN's address are the "
    "site file's; the operator's own user and password come from --username and --password-file.",
)
app.command("switch")(grid_maestroos.switch)
app.command("target")(grid_dsx.target)
app.command("public-keys")(grid_dsx.public_keys)
app.command("new-key")(grid_keys.new_key)
app.command("vtn")(grid_vtn.vtn)
app.command("event")(grid_openadr.event)
app.command("events")(grid_openadr.events)
app.command("cancel")(grid_openadr.cancel)
app.command("reports")(grid_openadr.reports)

IssuerOption = Annotated[str, typer.Option("--issuer", help="Who states it.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key-file", help="Sign with this private key of the issuer's: a file, PEM or JWK."),
]
KeyIdOption = Annotated[str | None, typer.Option("--key-id", help="Its kid; absent: the JWK's own.")]


@dataclass(frozen=True, slots=True)
class Line:
    """How to reach the broker as the operator."""

    access: Access
    topics: Topics
    issuer: str
    signer: Signer | None


def _line(
    config: Path,
    connection: str | None,
    username: str | None,
    password_file: Path | None,
    issuer: str,
    key_file: Path | None,
    key_id: str | None,
) -> Line:
    site = site_of(config)
    native = chosen(site, connection, NativeConnection, "the native dialect")
    signer = None
    if key_file is not None:
        try:
            signer = load_signer(key_file.read_text(), key_id, str(key_file))
        except (KeyFileError, OSError) as error:
            fail(str(error))
    elif native.issuer:
        names = ", ".join(each.name for each in native.issuer)
        fail(f"connection {native.name} takes only what its issuers sign ({names}): sign with --key-file")
    return Line(accesses(native, username, password_file)[0], Topics(native.prefix, site.name), issuer, signer)


def _speak(line: Line, words: Callable[[Operator], Awaitable[Sequence[str]]], wait_s: float) -> None:
    async def go() -> None:
        async with Operator(line.access, line.topics, line.issuer, signer=line.signer) as operator:
            stated = await words(operator)
            for allocation_id in stated:
                typer.echo(f"stated {allocation_id}")
            if wait_s <= 0:
                return
            try:
                async with asyncio.timeout(wait_s):
                    async for ack in operator.acks():
                        if ack.get("id") in stated:
                            typer.echo(json.dumps(ack, ensure_ascii=False))
            except TimeoutError:
                return

    run(go())


@app.command("allocation")
def allocation(
    limit_w: Annotated[float, typer.Argument(min=0.0, help="The ceiling in watts; 0 is a limit: everything off.")],
    config: ConfigOption = SITE_FILE,
    feeder: Annotated[str | None, typer.Option(help="For this feeder; absent: the whole site.")] = None,
    valid_for: Annotated[float | None, typer.Option(min=1.0, help="Seconds; absent: until the next one.")] = None,
    reach_by: Annotated[float | None, typer.Option(min=0.0, help="Seconds to be under it.")] = None,
    ramp: Annotated[float | None, typer.Option(min=1.0, help="Fastest restore afterwards, W per minute.")] = None,
    emergency: Annotated[bool, typer.Option(help="Class emergency instead of normal.")] = False,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    issuer: IssuerOption = "operator",
    key_file: KeyOption = None,
    key_id: KeyIdOption = None,
    wait: WaitOption = 10.0,
) -> None:
    """State an allocation, and print the site's answers."""
    line = _line(config, connection, username, password_file, issuer, key_file, key_id)

    async def state(operator: Operator) -> list[str]:
        stated = await operator.allocate(
            limit_w,
            feeder=feeder,
            valid_for_s=valid_for,
            reach_by_s=reach_by,
            max_ramp_up_w_per_min=ramp,
            emergency=emergency,
        )
        return [stated]

    _speak(line, state, wait)


@app.command("release")
def release(
    config: ConfigOption = SITE_FILE,
    feeder: Annotated[str | None, typer.Option(help="For this feeder; absent: the whole site.")] = None,
    ramp: Annotated[float | None, typer.Option(min=1.0, help="Fastest restore, W per minute.")] = None,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    issuer: IssuerOption = "operator",
    key_file: KeyOption = None,
    key_id: KeyIdOption = None,
    wait: WaitOption = 10.0,
) -> None:
    """Lift the limit: the feeder's rating alone holds."""
    line = _line(config, connection, username, password_file, issuer, key_file, key_id)

    async def lift(operator: Operator) -> list[str]:
        return [await operator.allocate(None, feeder=feeder, max_ramp_up_w_per_min=ramp)]

    _speak(line, lift, wait)


@app.command("schedule")
def schedule(
    file: Annotated[
        Path, typer.Argument(help="[[event]] tables, as `rehearse --events` plays them; at_s counts from now.")
    ],
    config: ConfigOption = SITE_FILE,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    issuer: IssuerOption = "operator",
    key_file: KeyOption = None,
    key_id: KeyIdOption = None,
    wait: WaitOption = 10.0,
) -> None:
    """State the whole list of coming allocations, which replaces the one before, and print the site's answers."""
    line = _line(config, connection, username, password_file, issuer, key_file, key_id)
    windows = _windows(file)

    async def state(operator: Operator) -> list[str]:
        return await operator.schedule(windows)

    _speak(line, state, wait)


def _windows(file: Path) -> list[Window]:
    from curtaild.rehearse.playfile import BadPlay, read_events  # nobody who only says a word waits for it

    try:
        events = read_events(file).events
    except BadPlay as bad:
        fail(str(bad))
    if any(event.share is not None for event in events):
        fail(f"{file}: a share is of an emulated plant: give limit_w, or neither to release")
    now = time.time()
    return [
        Window(
            limit_w=event.limit_w,
            valid_from=now + event.at_s,
            valid_until=now + event.at_s + event.lasts_s if event.lasts_s is not None else None,
            feeder=event.feeder,
            reach_by_s=event.reach_by_s,
            max_ramp_up_w_per_min=event.max_ramp_up_w_per_min,
            is_emergency=event.urgency is Urgency.EMERGENCY,
        )
        for event in sorted(events, key=lambda event: event.at_s)
    ]


@app.command("watch")
def watch(
    config: ConfigOption = SITE_FILE,
    agent_keys: grid_dsx.KeysOption = None,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
) -> None:
    """Print what the site says, until interrupted: power states and breach alerts of a DSX Flex agent, signatures
    checked; acks, breaches and status of the native dialect."""
    site = site_of(config)
    if any(isinstance(each, DsxFlexConnection) and connection in (None, each.name) for each in site.grid.connections):
        grid_dsx.watch(site, agent_keys, connection, username, password_file)
        return
    native = chosen(site, connection, NativeConnection, "the native dialect or DSX Flex")
    topics = Topics(native.prefix, site.name)

    async def listen() -> None:
        way = accesses(native, username, password_file)[0]
        async with at_broker(way, (topics.ack, topics.breach, topics.status)) as party:
            async for topic, payload in party.heard():
                with suppress(ValueError, RecursionError):  # somebody else's words on the site's topics
                    typer.echo(json.dumps({topic.rsplit("/", 1)[1]: json.loads(payload)}, ensure_ascii=False))

    run(listen())


@app.command("heartbeat")
def heartbeat(
    config: ConfigOption = SITE_FILE,
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between heartbeats, until interrupted; absent: one.")
    ] = None,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    issuer: IssuerOption = "operator",
    key_file: KeyOption = None,
    key_id: KeyIdOption = None,
) -> None:
    """Show the site that the grid's side is alive."""
    line = _line(config, connection, username, password_file, issuer, key_file, key_id)

    async def beat(operator: Operator) -> list[str]:
        if every is None:
            await operator.heartbeat()
        else:
            async with operator.heartbeats(every):
                typer.echo(f"a heartbeat every {every:g} s; Ctrl-C ends it")
                await asyncio.Event().wait()
        return []

    _speak(line, beat, 0.0)
