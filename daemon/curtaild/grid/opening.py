"""From the site file to the grid link: one connection each, its dialect, its brokers, its secrets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pydantic import SecretStr

import curtaild_config as config
from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.connection import GridLink, broker_accesses
from curtaild.grid.dialect import Dialect
from curtaild.grid.dsx import DsxFlexDialect, Feeds, TargetBook
from curtaild.grid.keys import KeyFileError, load_public_keys, load_signer
from curtaild.grid.maestroos import MaestroOSDialect, Switch
from curtaild.grid.native import Context, NativeDialect, Topics
from curtaild_config.grid import OWN_CONNECTION
from curtaild_drivers.contract import FeederId

Books: TypeAlias = dict[str, TargetBook]
"""By connection, what was asked there and is not over: a reload forgets none of it."""


def open_grid(
    site: config.Site,
    root: FeederId,
    clock: Clock,
    deliver: Callable[[GridMessage], None],
    site_file: str,
    books: Books,
) -> GridLink:
    """The link to everybody the site file names, ready to `run`; nothing is connected yet. `books` go from one link to
    the next where a reload makes a new one. Raises `SiteFileError` for secrets and keys that cannot be used."""
    link = GridLink(clock, deliver, site.grid.heartbeat_timeout_s)
    for connection in site.grid.connections:
        secrets = config.resolve_secrets(config.connection_secret_sources(connection), site_file)
        password = secrets["password"].get_secret_value() if "password" in secrets else None
        try:
            dialect = _dialect(connection, site, root, clock, secrets, books)
        except KeyFileError as error:
            path = f"grid.connection[{connection.name}]"
            problem = config.Problem(
                config.Severity.ERROR, site_file, path, None, str(error), "see docs/grid/dsx-flex.md"
            )
            raise config.SiteFileError((problem,)) from None
        link.connect(connection.name, dialect, broker_accesses(connection, client_id(site, connection), password))
    return link


def client_id(site: config.Site, connection: config.GridConnection) -> str:
    """Of two clients with one id a broker hangs up on the first: each connection has its own."""
    if connection.client_id is not None:
        return connection.client_id
    return f"curtaild-{site.name}" if connection.name == OWN_CONNECTION else f"curtaild-{site.name}-{connection.name}"


def _dialect(
    connection: config.GridConnection,
    site: config.Site,
    root: FeederId,
    clock: Clock,
    secrets: Mapping[str, SecretStr],
    books: Books,
) -> Dialect:
    grid = site.grid
    match connection:
        case config.NativeConnection():
            topics = Topics(connection.prefix, site.name)
            context = Context(topics, root, clock, grid.max_clock_skew_s, grid.max_payload_bytes)
            return NativeDialect(context, beats=grid.heartbeat == "required")
        case config.MaestroOSConnection():
            switch = Switch(
                feeder=FeederId(connection.feeder) if connection.feeder is not None else root,
                on_ceiling=UNLIMITED if connection.on_limit_w is None else Limit(connection.on_limit_w),
                silence_s=connection.silence_s,
                max_clock_skew_s=grid.max_clock_skew_s,
            )
            return MaestroOSDialect(connection.name, connection.topic, switch, clock)
        case config.DsxFlexConnection():
            where = f"the signing key of connection {connection.name}"
            signer = load_signer(secrets["signing_key"].get_secret_value(), connection.signing_key_id, where)
            book = books.setdefault(connection.name, TargetBook())
            return DsxFlexDialect(connection.name, _feeds(connection, site, root), signer, clock, book)


def _feeds(connection: config.DsxFlexConnection, site: config.Site, root: FeederId) -> Feeds:
    grid = site.grid
    return Feeds(
        agent=connection.agent,
        by_tag={tag: FeederId(feeder) for tag, feeder in connection.feeds.items()},
        isvs={isv: load_public_keys(path) for isv, path in connection.isvs.items()},
        infra={agent: load_public_keys(path) for agent, path in connection.infra.items()},
        snapshot_interval_s=connection.snapshot_interval_s,
        is_released=connection.without_target == "released",
        root=root,
        failsafe_w=grid.failsafe_limit_w,
        max_clock_skew_s=grid.max_clock_skew_s,
        max_payload_bytes=grid.max_payload_bytes,
        signature_max_age_s=connection.signature_max_age_s,
        infrastructure_actions=connection.infrastructure_actions,
    )
