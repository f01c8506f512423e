"""`curtaild grid` as a utility: its VTN, and an operator's hand at it, typed as a person types it."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import Result
from typer.testing import CliRunner

from curtaild.cli import grid_openadr
from curtaild.cli.main import app
from curtaild.grid.openadr_vtn import Client, Role
from curtaild.grid.openadr_vtn.business import BusinessLogic
from grid.authority import Authority
from openadr.vtn_rig import Caller
from running_site import free_port, until

SITE = """
[site]
name = "tried"
[grid]
failsafe_limit_w = 100000
heartbeat = "none"
[[grid.connection]]
name = "utility"
dialect = "openadr"
vtn = "https://127.0.0.1:{port}/dso/3.1"
client_id = "thar-1"
client_secret_file = "{folder}/site.secret"
ca_file = "{folder}/ca/ca.pem"
programs = ["capacity"]
targets = {{ row-1 = "main" }}
[[feeder]]
id = "main"
rating_w = 500000
"""
VEN = Client("thar-1", "the site's own secret", Role.VEN)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site file whose VTN is not there yet."""
    (tmp_path / "site.secret").write_text(VEN.secret)
    path = tmp_path / "site.toml"
    path.write_text(SITE.format(port=free_port(), folder=tmp_path))
    return path


@pytest.fixture
def vtn(site: Path) -> Iterator[str]:
    """`curtaild grid vtn` at work; its URL."""
    folder = site.parent
    cert_file, key_file = Authority(folder / "ca").issue("127.0.0.1")
    words = ["--config", site, "--cert-file", cert_file, "--key-file", key_file, "--grant", "north", *_secret(site)]
    command = [sys.executable, "-c", "from curtaild.cli import main; main()", "grid", "vtn", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("a VTN at "), said
        yield said.removeprefix("a VTN at ").split(";")[0]
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def _secret(site: Path) -> tuple[str, str]:
    return "--operator-secret-file", str(site.parent / "operator.secret")


async def typed(site: Path, *words: str) -> Result:
    """The command in this process: its start alone takes a second."""
    whole = ["grid", words[0], "--config", str(site), *_secret(site), *words[1:]]
    return await asyncio.to_thread(CliRunner().invoke, app, whole)


@asynccontextmanager
async def as_ven(site: Path, url: str) -> AsyncIterator[Caller]:
    trusting = ssl.create_default_context(cafile=site.parent / "ca" / "ca.pem")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
        yield Caller(session, url, VEN)


@pytest.fixture
def hears_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for reports waits until there is one, however long that takes."""
    print_reports = grid_openadr._print_reports

    async def print_first(operator: BusinessLogic, event_id: str, ends: bool = False) -> None:
        async def first_report() -> dict[str, Any] | None:
            return next(iter([each async for each in operator.objects("reports", eventID=event_id)]), None)

        if not ends:
            report: dict[str, Any] = await until("a report is there", first_report)
            assert report["eventID"] == event_id
        await print_reports(operator, event_id, ends=True)

    monkeypatch.setattr(grid_openadr, "_print_reports", print_first)


async def test_an_operator_states_hears_of_and_cancels_events(site: Path, vtn: str, hears_one_report: None) -> None:
    assert vtn.endswith("/dso/3.1")
    assert (site.parent / "operator.secret").stat().st_mode & 0o777 == 0o600
    async with as_ven(site, vtn) as ven:
        (program,) = (await ven("GET", "/programs")).body
        assert program["programName"] == "capacity"
        (own,) = (await ven("GET", "/vens")).body
        assert (own["venName"], own["targets"]) == ("tried", ["row-1", "north"])
        stating = asyncio.create_task(typed(site, "event", "limit", "250000", "--priority", "0", "--wait", "120"))

        async def first_event() -> dict[str, Any] | None:
            return next(iter((await ven("GET", "/events")).body), None)

        event: dict[str, Any] = await until("the event is there", first_event)
        assert (event["programID"], event["priority"]) == (program["id"], 0)
        assert event["intervals"][0]["payloads"] == [{"type": "IMPORT_CAPACITY_LIMIT", "values": [250.0]}]
        report: dict[str, Any] = {"eventID": event["id"], "clientName": "tried", "resources": []}
        assert (await ven("POST", "/reports", report)).status == 201
        stated = await stating
        assert stated.exit_code == 0, stated.output
        said, told = stated.output.splitlines()
        assert said == f"stated {event['id']}"
        assert json.loads(told)["clientName"] == "tried"

        for words in (
            ("setpoint", "0", "--target", "row-1", "--in", "60", "--valid-for", "600"),
            ("level", "2", "--randomize", "30"),
            ("emergency", "a line is down"),
        ):
            done = await typed(site, "event", *words, "--wait", "0")
            assert done.exit_code == 0, done.output
        listed = [json.loads(line) for line in (await typed(site, "events")).output.splitlines()]
        assert [each["eventName"] for each in listed] == ["limit", "setpoint", "level", "emergency"]
        (targeted,) = (await ven("GET", "/events", targets="row-1")).body
        assert targeted["intervalPeriod"]["duration"] == "PT600S"
        assert listed[2]["intervalPeriod"] == {"start": "0001-01-01", "duration": "P9999Y", "randomizeStart": "PT30S"}
        (seen_report,) = (await typed(site, "reports", "--event", event["id"])).output.splitlines()
        assert json.loads(seen_report)["eventID"] == event["id"]

        assert (await typed(site, "cancel", event["id"], "--keep")).output == f"cancelled {event['id']}\n"
        assert event["id"] not in (await ven("GET", "/events", active="true")).ids
        assert len((await typed(site, "cancel", "all")).output.splitlines()) == 4
        assert (await typed(site, "events")).output == ""
        nothing = await typed(site, "cancel", event["id"])
        assert (nothing.exit_code, "404 'no such event'" in nothing.output) == (1, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("event", "limit", "lots"), "lots is no limit: watts from 0"),
        (("event", "setpoint", "nan"), "nan is no setpoint"),
        (("event", "level", "4"), "4 is no level: 0 to 3"),
        (("events",), "VTN: https://127.0.0.1:"),
        (("events", "--connection", "another"), "no connection 'another' of the site file speaks OpenADR"),
    ],
)
async def test_what_cannot_be_said_is_one_line(site: Path, words: tuple[str, ...], why: str) -> None:
    Authority(site.parent / "ca")
    (site.parent / "operator.secret").write_text("secret")
    done = await typed(site, *words)
    assert done.exit_code == 1
    assert why in done.output
    assert "Traceback" not in done.output


async def test_an_operator_without_a_secret_is_told_so(site: Path) -> None:
    done = await typed(site, "events")
    assert (done.exit_code, done.output) == (1, f"{site.parent / 'operator.secret'}: No such file or directory\n")
