"""From the site file to the grid link: one connection each, its dialect, its brokers, its secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic import SecretStr

import curtaild_config as config
from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage, Issuer
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.connection import GridLink, broker_accesses
from curtaild.grid.dialect import NAMESPACE_MARK, Dialect
from curtaild.grid.dsx import DsxFlexDialect, Feeds, TargetBook
from curtaild.grid.keys import KeyFileError, load_public_keys, load_signer
from curtaild.grid.maestroos import MaestroOSDialect, Switch
from curtaild.grid.native import Context, Gate, NativeDialect, Rights, Topics, gate_of
from curtaild.grid.openadr import Meaning, OpenAdrConnection, OpenAdrDialect, Polling, Rules, VtnAccess
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
        if isinstance(connection, config.OpenAdrConnection):
            link.join(_ven(connection, site, root, clock, secrets, link.deliver_as(connection.name)))
            continue
        password = secrets["password"].get_secret_value() if "password" in secrets else None
        try:
            dialect = _dialect(connection, site, root, clock, secrets, books)
        except KeyFileError as error:
            path = "grid" if connection.name == OWN_CONNECTION else f"grid.connection[{connection.name}]"
            page = f"see docs/grid/{'native' if connection.dialect == 'native' else 'dsx-flex'}.md"
            problem = config.Problem(config.Severity.ERROR, site_file, path, None, str(error), page)
            raise config.SiteFileError((problem,)) from None
        link.connect(connection.name, dialect, broker_accesses(connection, client_id(site, connection), password))
    return link


def who_is_heard(site: config.Site) -> Callable[[Issuer], bool]:
    """Whose allocations count: those of every issuer that a connection of the site file may speak for. Somebody who was
    taken out of it does not go on limiting the site by what he stated without an end."""
    named: set[str] = set()
    is_open = False
    for connection in site.grid.connections:
        match connection:
            case config.NativeConnection():
                named |= {issuer.name for issuer in connection.issuer}
                is_open |= not connection.issuer
            case config.DsxFlexConnection():
                named |= {f"{NAMESPACE_MARK}grid/v1/isv/{isv}" for isv in connection.isvs}
        named.add(f"{connection.dialect}{NAMESPACE_MARK}{connection.name}")
    return lambda issuer: issuer in named or (is_open and NAMESPACE_MARK not in issuer)


def unusable_keys(site: config.Site, site_file: str) -> list[config.Problem]:
    """Every file of public keys that the site file names and that cannot be used, for `curtaild check`."""
    problems = []
    for connection in site.grid.connections:
        place = "grid" if connection.name == OWN_CONNECTION else f"grid.connection[{connection.name}]"
        for key, path in _public_key_files(connection):
            try:
                load_public_keys(path)
            except KeyFileError as error:
                remedy = "a JWK set with their public keys, as docs/security.md shows"
                where, value = f"{place}.{key}", repr(str(path))
                problems.append(config.Problem(config.Severity.ERROR, site_file, where, value, str(error), remedy))
    return problems


def _public_key_files(connection: config.GridConnection) -> Iterator[tuple[str, Path]]:
    match connection:
        case config.NativeConnection():
            yield from ((f"issuer[{each.name}].keys_file", each.keys_file) for each in connection.issuer)
        case config.DsxFlexConnection():
            yield from ((f"isvs.{name}", path) for name, path in connection.isvs.items())
            yield from ((f"infra.{name}", path) for name, path in connection.infra.items())


def client_id(site: config.Site, connection: config.GridConnection) -> str:
    """Of two clients with one id a broker hangs up on the first: each connection has its own."""
    if not isinstance(connection, config.OpenAdrConnection) and connection.client_id is not None:
        return connection.client_id
    return f"curtaild-{site.name}" if connection.name == OWN_CONNECTION else f"curtaild-{site.name}-{connection.name}"


def _ven(
    connection: config.OpenAdrConnection,
    site: config.Site,
    root: FeederId,
    clock: Clock,
    secrets: Mapping[str, SecretStr],
    deliver: Callable[[GridMessage], None],
) -> OpenAdrConnection:
    ven_name = connection.ven_name or site.name
    meaning = _meaning(connection, site, root)
    rules = Rules(
        meaning=meaning,
        programs=frozenset(connection.programs),
        max_clock_skew_s=site.grid.max_clock_skew_s,
        ven_name=ven_name,
        report_interval_s=connection.report_interval_s,
    )
    access = VtnAccess(
        url=connection.vtn,
        client_id=connection.client_id,
        client_secret=secrets["client_secret"].get_secret_value() if "client_secret" in secrets else None,
        token_url=connection.token_url,
        scope=connection.scope,
        ca_file=connection.ca_file,
        cert_file=connection.cert_file,
        key_file=connection.key_file,
    )
    polling = Polling(
        access=access,
        ven_name=ven_name,
        rating_w=site.root.rating_w,
        targets=tuple(connection.targets),
        poll_s=connection.poll_s,
        is_notified=connection.notifications,
        mqtt_client_id=client_id(site, connection),
    )
    return OpenAdrConnection(connection.name, OpenAdrDialect(connection.name, rules, clock), polling, clock, deliver)


def _meaning(connection: config.OpenAdrConnection, site: config.Site, root: FeederId) -> Meaning:
    """What the VTN's words mean in watts, feeder by feeder; where the site file says nothing, the fail-safe limit."""
    failsafe_w = site.grid.failsafe_limit_w
    feeder = FeederId(connection.feeder) if connection.feeder is not None else root
    targets = {target: FeederId(behind) for target, behind in connection.targets.items()}
    ratings_w = {
        FeederId(each.id): each.rating_w for each in site.feeder if each.id in {root, feeder, *targets.values()}
    }
    failsafe = config.Draw(watts=failsafe_w)
    levels = [connection.simple_levels.get(level, failsafe) for level in ("1", "2", "3")]
    emergency = connection.emergency_limit or failsafe
    return Meaning(
        root=root,
        feeder=feeder,
        targets=targets,
        levels_w={
            each: (levels[0].of(rating_w), levels[1].of(rating_w), levels[2].of(rating_w))
            for each, rating_w in ratings_w.items()
        },
        emergency_w={each: emergency.of(rating_w) for each, rating_w in ratings_w.items()},
        base=Limit(failsafe_w) if connection.without_event == "failsafe" else UNLIMITED,
    )


def _dialect(
    connection: config.BrokerConnection,
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
            context = Context(
                topics,
                root,
                clock,
                grid.max_clock_skew_s,
                grid.max_payload_bytes,
                gate=_gate(connection) if connection.issuer else None,
                signing_elsewhere=_signing(site) - {Issuer(each.name) for each in connection.issuer},
            )
            return NativeDialect(context, beats=grid.heartbeat == "required", name=connection.name)
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


def _gate(connection: config.NativeConnection) -> Gate:
    rights = {
        Issuer(each.name): Rights(
            feeders=None if each.feeders is None else frozenset(FeederId(feeder) for feeder in each.feeders),
            lowest_limit_w=each.lowest_limit_w,
            may_state_emergency=each.emergency,
            messages_per_min=each.messages_per_min,
        )
        for each in connection.issuer
    }
    return gate_of(rights, {Issuer(each.name): load_public_keys(each.keys_file) for each in connection.issuer})


def _signing(site: config.Site) -> frozenset[Issuer]:
    """Whose word is signed on any connection: his name is his on all of them."""
    natives = [each for each in site.grid.connections if isinstance(each, config.NativeConnection)]
    return frozenset(Issuer(issuer.name) for native in natives for issuer in native.issuer)


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
