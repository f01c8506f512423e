"""`curtaild grid target | watch | public-keys`: an ISV's side of DSX Flex."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated

import typer

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
from curtaild.grid.dialect import Publication
from curtaild.grid.dsx.envelope import EventType
from curtaild.grid.dsx.isv import (
    LoadTarget,
    breach_topic,
    load_target_event,
    load_target_topic,
    power_state_topic,
    read_agent_event,
)
from curtaild.grid.fields import Rejection
from curtaild.grid.keys import KeyFileError, PublicKeys, Signer, load_public_keys, load_signer
from curtaild.grid.party import Party, at_broker
from curtaild_config import DsxFlexConnection, Site, SiteFileError, connection_secret_sources, resolve_secrets

KeysOption = Annotated[
    Path | None,
    typer.Option("--agent-keys", help="The agent's public keys, a JWK set; absent: those of the site file's own key."),
]


def target(
    limit: Annotated[str, typer.Argument(help="The load target in watts; 0 is one, `none` lifts it.")],
    isv_key_file: Annotated[Path, typer.Option("--isv-key-file", help="The ISV's private key, PEM or JWK.")],
    config: ConfigOption = SITE_FILE,
    isv: Annotated[str | None, typer.Option("--isv", help="Whose target; absent: the first of the connection.")] = None,
    isv_key_id: Annotated[str | None, typer.Option("--isv-key-id", help="Its kid; absent: the JWK's own.")] = None,
    feed: Annotated[list[str] | None, typer.Option("--feed", help="A feed tag; again for more. Absent: all.")] = None,
    begin: Annotated[float, typer.Option("--in", min=0.0, help="Seconds from now until it holds.")] = 0.0,
    valid_for: Annotated[float | None, typer.Option(min=1.0, help="Seconds; absent: until replaced.")] = None,
    best_effort: Annotated[bool, typer.Option(help="Shed what disturbs no work, and no more.")] = False,
    agent_keys: KeysOption = None,
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
    wait: WaitOption = 10.0,
) -> None:
    """Set a DSX Flex load target, signed, and print the power states and breaches that follow."""
    site = site_of(config)
    dsx = chosen(site, connection, DsxFlexConnection, "DSX Flex")
    try:
        limit_w = None if limit == "none" else float(limit)
    except ValueError:
        limit_w = -1.0
    if limit_w is not None and not 0 <= limit_w < float("inf"):
        fail(f"{limit} is no load target: watts from 0, or none")
    now = time.time()
    start = now + begin if begin else None
    end = now + begin + valid_for if valid_for is not None else None
    try:
        signer = load_signer(isv_key_file.read_text(), isv_key_id, str(isv_key_file))
    except (KeyFileError, OSError) as error:
        fail(str(error))
    name = isv if isv is not None else next(iter(dsx.isvs))
    event = load_target_event(name, signer, [LoadTarget(limit_w, feed or (), start, end, best_effort)], now)
    keys = _agent_keys(dsx, agent_keys)
    topics = (power_state_topic(dsx.agent), breach_topic(dsx.agent))

    async def say() -> None:
        async with at_broker(accesses(dsx, username, password_file)[0], topics) as party:
            await party.say(Publication(load_target_topic(name), event))
            typer.echo(f"set {json.loads(event)['correlationid']}")
            try:
                async with asyncio.timeout(wait):
                    await _print(party, dsx.agent, keys)
            except TimeoutError:
                return

    run(say())


def watch(
    site: Site, agent_keys: Path | None, connection: str | None, username: str | None, password_file: Path | None
) -> None:
    """Print the power states and breach alerts of a DSX Flex agent, signatures checked, until interrupted."""
    dsx = chosen(site, connection, DsxFlexConnection, "DSX Flex")
    keys = _agent_keys(dsx, agent_keys)

    async def listen() -> None:
        topics = (power_state_topic(dsx.agent), breach_topic(dsx.agent))
        async with at_broker(accesses(dsx, username, password_file)[0], topics) as party:
            await _print(party, dsx.agent, keys)

    run(listen())


def public_keys(config: ConfigOption = SITE_FILE, connection: ConnectionOption = None) -> None:
    """Print the public half of the key that the site signs with, as the JWK set that ISVs need."""
    site = site_of(config)
    signer = _own_signer(chosen(site, connection, DsxFlexConnection, "DSX Flex"))
    typer.echo(json.dumps({"keys": [{**signer.key.as_dict(private=False), "kid": signer.kid, "use": "sig"}]}, indent=2))


async def _print(party: Party, agent: str, keys: PublicKeys) -> None:
    async for topic, payload in party.heard():
        kind = EventType.BREACH_ALERT if topic == breach_topic(agent) else EventType.POWER_STATE
        try:
            event, data = read_agent_event(payload, kind, agent, keys, time.time())
        except Rejection as refusal:
            typer.echo(f"not believed: {refusal.reason}", err=True)
        else:
            typer.echo(json.dumps({"type": kind.subject, "correlationid": event.correlation_id, **data}))


def _agent_keys(dsx: DsxFlexConnection, path: Path | None) -> PublicKeys:
    if path is None:
        signer = _own_signer(dsx)
        return PublicKeys({signer.kid: signer.key})
    try:
        return load_public_keys(path)
    except KeyFileError as error:
        fail(str(error))


def _own_signer(dsx: DsxFlexConnection) -> Signer:
    try:
        key = resolve_secrets([each for each in connection_secret_sources(dsx) if each.name == "signing_key"])
        return load_signer(key["signing_key"].get_secret_value(), dsx.signing_key_id, "the signing key")
    except (SiteFileError, KeyFileError) as error:
        fail(f"{error}\nor give the agent's public keys by --agent-keys")
