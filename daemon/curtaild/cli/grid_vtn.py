"""`curtaild grid vtn`: be the OpenADR VTN that a site speaks to."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from curtaild.cli.grid_line import SITE_FILE, ConfigOption, ConnectionOption, PasswordOption, UserOption, fail, run
from curtaild.cli.grid_openadr import OUR_PROGRAM, Line, OperatorOption, SecretOption, line_of, secret_of
from curtaild.grid.openadr_vtn import Client, MqttNotifier, Role, Vtn
from curtaild.grid.operator import operator_access
from curtaild_config import SiteFileError, connection_secret_sources, resolve_secrets
from curtaild_config.quantities import parse_endpoint


def vtn(
    cert_file: Annotated[Path, typer.Option("--cert-file", help="The VTN's certificate for the host of `vtn`.")],
    key_file: Annotated[Path, typer.Option("--key-file", help="The key of the certificate.")],
    operator_secret_file: SecretOption,
    config: ConfigOption = SITE_FILE,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to listen at; absent: those of the connection's `vtn`.")
    ] = None,
    broker: Annotated[
        str | None, typer.Option(help="mqtt://HOST:PORT or mqtts://…: where notifications go; absent: there are none.")
    ] = None,
    ven_cert_file: Annotated[
        Path | None, typer.Option(help="A certificate for VENs at the broker; absent: it takes everybody.")
    ] = None,
    ven_key_file: Annotated[Path | None, typer.Option(help="The key of that certificate.")] = None,
    grant: Annotated[
        list[str] | None, typer.Option(help="A target granted to the site beside those of its file; again for more.")
    ] = None,
    token_lifetime: Annotated[float, typer.Option(min=1.0, help="Seconds for which a token holds.")] = 3600.0,
    operator_id: OperatorOption = "operator",
    connection: ConnectionOption = None,
    username: UserOption = None,
    password_file: PasswordOption = None,
) -> None:
    """Be the VTN that an OpenADR connection of the site file speaks to, until interrupted.

    The site's own credentials are taken from the site file; its programs are made and its targets granted.
    """
    line = line_of(config, connection)
    clients = [_site_client(line), Client(operator_id, secret_of(operator_secret_file, make=True), Role.BUSINESS_LOGIC)]
    notifier = _notifier(broker, line, username, password_file, ven_cert_file, ven_key_file)
    where = urlsplit(line.connection.vtn)
    host, port = _endpoint(listen or where.netloc)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(cert_file, key_file)
    except (OSError, ValueError) as error:
        fail(f"cannot use {cert_file} with {key_file}: {error}")

    async def serve() -> None:
        server = Vtn(
            host,
            port,
            clients,
            tls=tls,
            base_path=where.path,
            notifier=notifier,
            token_lifetime_s=token_lifetime,
        )
        try:
            async with server:
                typer.echo(f"a VTN at {server.url}; Ctrl-C ends it")
                _furnish(server, line, grant or [])
                await asyncio.Event().wait()
        except OSError as error:
            fail(f"cannot listen at {host} port {port}: {error.strerror}")

    run(serve())


def _furnish(server: Vtn, line: Line, grant: list[str]) -> None:
    """The programs that the site follows, and a ven object that grants its targets."""
    for name in line.connection.programs or (OUR_PROGRAM,):
        server.objects.create("PROGRAM", {"programName": name})
    targets = list(dict.fromkeys([*line.connection.targets, *grant]))
    if targets:
        ven = {"venName": line.connection.ven_name or line.site.name, "targets": targets}
        server.objects.create("VEN", {**ven, "clientID": line.connection.client_id or ""})


def _site_client(line: Line) -> Client:
    connection = line.connection
    if connection.client_id is None:
        fail(f"connection {connection.name} has no client_id: this VTN gives nothing without a token")
    try:
        found = resolve_secrets(connection_secret_sources(connection))
    except SiteFileError as error:
        fail(str(error))
    return Client(connection.client_id, found["client_secret"].get_secret_value(), Role.VEN)


def _notifier(
    broker: str | None,
    line: Line,
    username: str | None,
    password_file: Path | None,
    ven_cert_file: Path | None,
    ven_key_file: Path | None,
) -> MqttNotifier | None:
    if broker is None:
        return None
    scheme, _, endpoint = broker.partition("://")
    if scheme not in ("mqtt", "mqtts"):
        fail(f"{broker} is no broker: mqtt://HOST:PORT or mqtts://HOST:PORT")
    host, port = _endpoint(endpoint)
    ca_file = line.connection.ca_file
    try:
        password = password_file.read_text().strip() if password_file is not None else None
        authentication = {"method": "ANONYMOUS"}
        if ven_cert_file is not None and ven_key_file is not None:
            certificate = {"clientCert": ven_cert_file.read_text(), "clientKey": ven_key_file.read_text()}
            authentication = {"method": "CERTIFICATE", "caCert": ca_file.read_text() if ca_file else "", **certificate}
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    access = operator_access(
        host,
        port,
        is_tls=scheme == "mqtts",
        username=username,
        password=password,
        ca_file=ca_file,
        cert_file=ven_cert_file,
        key_file=ven_key_file,
    )
    return MqttNotifier(access, [broker], authentication)


def _endpoint(text: str) -> tuple[str, int]:
    try:
        endpoint = parse_endpoint(text, default_port=443)
    except ValueError as error:
        fail(f"{text}: {error}")
    return endpoint.host, endpoint.port
