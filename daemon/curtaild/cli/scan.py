"""`curtaild scan`: find the miners of a network, and add them to the site file."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from curtaild.cli import found
from curtaild.survey.addition import Addition, CannotAdd, Credentials, addition, feeder_for, write
from curtaild.survey.changes import Change, changes
from curtaild.survey.notes import Notes, NotesDamaged, default_path
from curtaild.survey.scan import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT_S,
    MOST_CONCURRENCY,
    Scan,
    Tally,
    affordable,
)
from curtaild.survey.targets import in_order, targets
from curtaild_config import DeviceSpec, SecretSource, Site, SiteFileError, load_site, resolve_secrets
from curtaild_drivers.asic.finding import TELLING_PORTS
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.registry import OpenContext

SAVE_EVERY_S = 10.0
IDENTIFY_DEADLINE_S = 10.0


def command(
    where: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="10.0.0.0/16 …",
            help="Blocks, ranges (10.0.1.10-250), addresses; left out with --resume.",
            show_default=False,
        ),
    ] = None,
    write_to: Annotated[
        Path | None,
        typer.Option(
            "--write", help="Add what is found to this site file; what stands in it stays.", show_default=False
        ),
    ] = None,
    feeder: Annotated[
        str | None,
        typer.Option(
            help="The feeder, by its id in the site file, that what --write adds hangs on.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Compare with this site file, and use its passwords.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=len(TELLING_PORTS), max=MOST_CONCURRENCY, help="The most TCP connections tried at once.")
    ] = DEFAULT_CONCURRENCY,
    timeout: Annotated[
        float, typer.Option(min=0.05, max=30.0, help="So many seconds an address has to take a connection.")
    ] = DEFAULT_TIMEOUT_S,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="A file that holds the miners' password; left out: as each firmware ships.", show_default=False
        ),
    ] = None,
    password_credential: Annotated[
        str | None,
        typer.Option(help="The systemd credential that holds it, for --write and for use.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted scan stopped.")] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Where scans remember who they met; left out: ~/.local/state/curtaild/scan.json.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find ASIC miners on a network, say who they are and what has changed, and add them to a site file.

    Addresses are first tried with a bare TCP connection on the ports miners listen on; only what answers is asked who
    it is. Nothing is written to any device. Ctrl-C keeps what was found; --resume goes on from there.

    For example: curtaild scan 10.0.1.0/24, and then curtaild scan 10.0.1.0/24 --write site.toml --feeder row-1
    """
    if password_file is not None and password_credential is not None:
        raise typer.BadParameter("--password-file and --password-credential exclude each other")
    if config is not None and write_to is not None and config.resolve() != write_to.resolve():
        raise typer.BadParameter("--config and --write name two site files: --write compares with its own")
    try:
        job = _Job(config or write_to, Credentials(password_file, password_credential))
        chosen_feeder = feeder_for(job.site, feeder) if write_to is not None and job.site is not None else None
        path = state or default_path()
        notes = Notes.read(path)
        words, tally = _what_to_scan(where or [], resume, notes, path)
        addresses = targets(words)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="10.0.0.0/16 …") from None
    except (SiteFileError, CannotAdd, NotesDamaged) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None

    screen = Console(stderr=True)
    affords = affordable(concurrency)
    if affords < concurrency:
        screen.print(f"only {affords:,} connections at once: the limit of open files (ulimit -n) allows no more")
    scan = Scan(addresses, job.access, tally, concurrency=affords, timeout_s=timeout, ports=job.ports)
    began = time.monotonic()
    try:
        is_whole = uvloop.run(_run(scan, words, notes, path, screen))
        told = changes(addresses[: tally.done], tally, notes.met, job.listed)
        notes.meet(tally, time.time())
        if is_whole:
            notes.unfinished = None
        notes.write(path)
        added = _add(write_to, chosen_feeder, job, tally) if is_whole else None
    except (NotesDamaged, CannotAdd) as error:
        screen.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(_document(words, addresses, tally, told, is_whole), indent=2, ensure_ascii=False))
    else:
        found.show(Console(), tally, told, len(addresses), time.monotonic() - began)
    if added is not None and write_to is not None:
        _tell_added(screen, write_to, added)
    elif is_whole and tally.miners and write_to is None and not as_json:
        screen.print("Add them to a site file with --write site.toml --feeder NAME.", style="bright_black")
    if not is_whole:
        again = (("--state", state), ("--config", config), ("--write", write_to), ("--feeder", feeder))
        options = "".join(f" {option} {value}" for option, value in again if value is not None)
        screen.print(
            f"Interrupted after {tally.done:,} of {len(addresses):,} addresses. "
            f"Go on with: curtaild scan --resume{options}",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130)


class _Job:
    """The site file a scan compares with, if any, and how each address is asked. Raises `SiteFileError`."""

    def __init__(self, path: Path | None, credentials: Credentials) -> None:
        self.credentials = credentials
        self.site: Site | None = None
        self.listed: Mapping[str, DeviceSpec] = {}
        self._file = str(path or "the command line")
        self._secrets: dict[tuple[SecretSource, ...], dict[str, str]] = {}
        self._own = OpenContext(secrets=self._revealed(_secret_sources(credentials)))
        self._plain = AsicSettings(identify_deadline_s=IDENTIFY_DEADLINE_S)
        self.ports: Sequence[int] = TELLING_PORTS
        if path is not None:
            self.site = load_site(path)
            specs = [spec for spec in self.site.expand_devices() if isinstance(spec.settings, AsicSettings)]
            self.listed = {spec.address: spec for spec in specs}
            self.ports = list(dict.fromkeys([*TELLING_PORTS, *_own_ports(specs)]))

    def access(self, address: str) -> tuple[AsicSettings, OpenContext]:
        spec = self.listed.get(address)
        if spec is None or not isinstance(spec.settings, AsicSettings):
            return self._plain, self._own
        try:
            secrets = self._revealed(spec.secret_sources)
        except SiteFileError:  # the daemon's alone to read: it is asked as it ships
            return spec.settings, OpenContext(rated_w=spec.rated_w)
        return spec.settings, OpenContext(secrets=secrets, rated_w=spec.rated_w)

    def _revealed(self, sources: tuple[SecretSource, ...]) -> dict[str, str]:
        if sources not in self._secrets:
            values = resolve_secrets(sources, self._file)
            self._secrets[sources] = {name: value.get_secret_value() for name, value in values.items()}
        return self._secrets[sources]


def _secret_sources(credentials: Credentials) -> tuple[SecretSource, ...]:
    if credentials.password_file is not None:
        return (SecretSource("password", "--password-file", file=credentials.password_file),)
    if credentials.password_credential is not None:
        return (SecretSource("password", "--password-credential", credential=credentials.password_credential),)
    return ()


def _own_ports(specs: Sequence[DeviceSpec]) -> list[int]:
    """The ports that groups of the site file name, as a site behind port forwarding has them."""
    ports: dict[int, None] = {}
    for settings in {id(spec.settings): spec.settings for spec in specs}.values():
        for key in ("rpc_port", "http_port", "v3_port", "braiins_port"):
            if key in settings.model_fields_set:
                ports[getattr(settings, key)] = None
    return list(ports)


def _what_to_scan(typed: list[str], resume: bool, notes: Notes, path: Path) -> tuple[list[str], Tally]:
    """Raises `CannotAdd` in words of its own, where there is nothing to go on with or nothing to do."""
    if not resume:
        if not typed:
            raise CannotAdd("say which addresses to scan: curtaild scan 10.0.0.0/16 (or --resume)")
        return typed, Tally()
    if notes.unfinished is None:
        raise CannotAdd(f"no interrupted scan is remembered in {path}")
    if typed and typed != notes.unfinished.targets:
        raise CannotAdd(f"the interrupted scan is of {' '.join(notes.unfinished.targets)}: leave the addresses out")
    return notes.unfinished.targets, notes.unfinished.tally()


async def _run(scan: Scan, words: list[str], notes: Notes, path: Path, screen: Console) -> bool:
    """Scan, show how it goes, and save it now and then; whether it came to its end."""
    loop = asyncio.get_running_loop()
    scanning = asyncio.create_task(scan.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, scanning.cancel)
    saved_at = loop.time()
    with found.progress(screen, words, scan) as show:
        while not scanning.done():
            await asyncio.wait([scanning], timeout=show.every_s)
            show.update()
            if loop.time() - saved_at > SAVE_EVERY_S:
                saved_at = loop.time()
                notes.interrupt(words, scan.tally)
                notes.write(path)
    notes.interrupt(words, scan.tally)
    if scanning.cancelled():
        return False
    scanning.result()
    return True


def _add(path: Path | None, feeder: str | None, job: _Job, tally: Tally) -> Addition | None:
    if path is None or feeder is None or job.site is None:
        return None
    identities = {a: f.identity for a, f in tally.miners.items() if f.identity is not None and f.identity.model}
    today = datetime.now(UTC).astimezone().date()
    added = addition(job.site, identities, feeder, job.credentials, today)
    if added.groups:
        write(path, added)
    return added


def _tell_added(screen: Console, path: Path, added: Addition) -> None:
    if not added.groups:
        screen.print(
            f"{path} lists all of them already; it was left as it is", style="green", highlight=False, soft_wrap=True
        )
        return
    groups = ", ".join(f"{name} ({count})" for name, count in added.groups.items())
    screen.print(f"Added at the end of {path}: {groups}.", style="green", markup=False, highlight=False, soft_wrap=True)
    screen.print("The daemon takes it with: systemctl reload curtaild", style="bright_black", highlight=False)


def _document(
    words: list[str], addresses: Sequence[str], tally: Tally, told: Sequence[Change], is_whole: bool
) -> dict[str, object]:
    """What --json prints. Powers in W."""
    miners, others = [], []
    for address in in_order(tally.findings):
        finding = tally.findings[address]
        if finding.identity is None:
            others.append({"address": address, "trouble": finding.trouble})
            continue
        identity = finding.identity
        miners.append(
            {
                "address": address,
                "make": identity.make,
                "model": identity.model,
                "firmware": identity.firmware,
                "version": identity.version,
                "serial": identity.serial,
                "rated_w": identity.rated_w,
                "trouble": finding.trouble,
            }
        )
    return {
        "targets": words,
        "addresses": len(addresses),
        "asked": tally.done,
        "finished": is_whole,
        "answers": {touch.value: count for touch, count in tally.touched.items()},
        "miners": miners,
        "others": others,
        "changes": [{"kind": c.kind.value, "address": c.address, "detail": c.detail} for c in told],
    }
