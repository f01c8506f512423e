"""From the site file to the grid link: one connection each, its dialect, its brokers, its secrets."""

from __future__ import annotations

from collections.abc import Callable

import curtaild_config as config
from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.connection import GridLink, broker_accesses
from curtaild.grid.dialect import Dialect
from curtaild.grid.maestroos import MaestroOSDialect, Switch
from curtaild.grid.native import Context, NativeDialect, Topics
from curtaild_config.grid import OWN_CONNECTION
from curtaild_drivers.contract import FeederId


def open_grid(
    site: config.Site, root: FeederId, clock: Clock, deliver: Callable[[GridMessage], None], site_file: str
) -> GridLink:
    """The link to everybody the site file names, ready to `run`; nothing is connected yet. Raises `SiteFileError` for
    secrets that cannot be read."""
    link = GridLink(clock, deliver, site.grid.heartbeat_timeout_s)
    for connection in site.grid.connections:
        secrets = config.resolve_secrets(config.connection_secret_sources(connection), site_file)
        password = secrets["password"].get_secret_value() if "password" in secrets else None
        dialect = _dialect(connection, site, root, clock)
        link.connect(connection.name, dialect, broker_accesses(connection, client_id(site, connection), password))
    return link


def client_id(site: config.Site, connection: config.GridConnection) -> str:
    """Of two clients with one id a broker hangs up on the first: each connection has its own."""
    if connection.client_id is not None:
        return connection.client_id
    return f"curtaild-{site.name}" if connection.name == OWN_CONNECTION else f"curtaild-{site.name}-{connection.name}"


def _dialect(connection: config.GridConnection, site: config.Site, root: FeederId, clock: Clock) -> Dialect:
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
