"""`curtaild status` against the daemon's own HTTP server: what a person reads, what a machine gets, what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from curtaild.core.status import SiteStatus
from curtaild.telemetry import HealthReport, Telemetry, TelemetryServer
from curtaild.telemetry.status_json import to_json
from curtaild_config import Endpoint
from curtaild_drivers.contract import RunState
from telemetry.sites import THE_DEVICES, THE_SITE, THE_STATUS, status_at

COMMAND = (sys.executable, "-c", "from curtaild.cli import main; main()", "status")
WELL = HealthReport(config_loaded=True, cycles=7, cycle_age_s=0.4)
IN_TIME_S = 240.0


@asynccontextmanager
async def daemon(*statuses: SiteStatus) -> AsyncIterator[TelemetryServer]:
    """The real server; each question gets the next status, the last one for ever."""
    coming = list(statuses)

    def status() -> SiteStatus:
        return coming.pop(0) if len(coming) > 1 else coming[0]

    server = TelemetryServer(Endpoint("127.0.0.1", 0), Telemetry("1"), status, lambda: WELL)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
    )


async def _ask(*arguments: str) -> tuple[int | None, str, str]:
    asking = await _start(*arguments)
    async with asyncio.timeout(IN_TIME_S):
        out, err = await asking.communicate()
    return asking.returncode, out.decode(), err.decode()


async def test_a_person_reads_link_limit_meter_feeders_and_the_devices_in_trouble() -> None:
    async with daemon(THE_STATUS) as server:
        code, out, err = await _ask("--url", server.url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "link limited   limit 12 kW   meter 11.4 kW   reserved 11.7 kW   headroom 300 W"
    assert "limit by allocation 01J9Z; last heartbeat 4 s ago; may change by itself in 600 s" in " ".join(lines[1:3])
    site, container = (next(line for line in lines if line.split()[:1] == [name]) for name in ("site", "container1"))
    assert site.endswith("11.4 kW of 12 kW limit  4 devices")
    assert container.startswith("  ")
    assert container.endswith("≤ 11.7 kW of 15 kW rating 4 devices"), "without a meter: what is reserved"
    assert site.count("█") == int(28 * 11.4 / 20), "the bar ends at the rating, 20 kW"
    assert "! rig4: stale, unreachable, says: fan 2 stands still; counted at 3.3 kW, last read 2 s ago" in out
    assert "1 actuation in flight" in out


async def test_what_a_device_says_is_the_matter_is_shown_in_its_own_words_fit_for_a_terminal() -> None:
    other, broken = THE_DEVICES[:2]
    told = [other._replace(fault="another program sets\x1b[2J GPU 3"), broken._replace(state=RunState.FAULT)]
    async with daemon(replace(THE_STATUS, devices=told)) as server:
        _, out, _ = await _ask("--url", server.url)
    assert "! rig1: says: another program sets\N{REPLACEMENT CHARACTER}[2J GPU 3; counted at 3.3 kW" in out
    assert "! rig2: says it has a fault; counted at 3.3 kW" in out


async def test_what_is_missing_or_stale_is_said_and_never_shown_as_zero() -> None:
    unheard = replace(THE_STATUS, heartbeat_age_s=None, devices=[])
    async with daemon(unheard) as server:
        _, out, _ = await _ask("--url", server.url)
    assert "heartbeat" not in out
    stale = status_at(1_000.0, meter_is_fresh=False, deficit_w=2_500.0)
    async with daemon(stale) as server:
        _, out, _ = await _ask("--url", server.url)
    assert "meter stale" in out
    assert "deficit 2.5 kW" in out


async def test_a_machine_gets_the_very_json() -> None:
    async with daemon(THE_STATUS) as server:
        code, out, _ = await _ask("--json", "--url", server.url + "/")
    assert code == 0
    assert json.loads(out) == to_json(THE_STATUS)


async def test_watching_shows_each_second_anew_and_ends_with_ctrl_c() -> None:
    later = replace(THE_STATUS, feeders=[THE_SITE._replace(metered_w=9_000.0), *THE_STATUS.feeders[1:]])
    async with daemon(THE_STATUS, later) as server:
        watching = await _start("--watch", "--json", "--url", server.url)
        assert watching.stdout is not None
        async with asyncio.timeout(IN_TIME_S):
            seen = [json.loads(await watching.stdout.readline())["feeders"][0]["metered_w"] for _ in range(3)]
            watching.send_signal(2)
            code = await watching.wait()
    assert seen == [11_400.0, 9_000.0, 9_000.0]
    assert code == 0


async def test_the_site_file_says_where_the_daemon_listens(tmp_path: Path) -> None:
    async with daemon(THE_STATUS) as server:
        port = server.url.rpartition(":")[2]
        site_file = tmp_path / "site.toml"
        site_file.write_text(
            '[site]\nname = "s"\n[grid]\nbrokers = ["mqtt://127.0.0.1:1883"]\nfailsafe_limit_w = 1000\n'
            f'[[feeder]]\nid = "site"\nrating_w = 5000\n[telemetry]\nlisten = "0.0.0.0:{port}"\n'
        )
        code, out, err = await _ask("--config", str(site_file))
    assert (code, err) == (0, "")
    assert "link limited" in out


@pytest.mark.parametrize("watch", [(), ("--watch",), ("--json",)])
async def test_where_no_daemon_is_one_line_says_so(watch: tuple[str, ...]) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = await _ask("--url", url, *watch)
    assert (code, out, err) == (1, "", f"no daemon at {url}: Connection refused\n")


async def test_somebody_else_at_the_port_is_named_for_what_he_is_not() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        body = b'{"status": "ok"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    stranger = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with stranger:
        code, out, err = await _ask("--url", f"http://127.0.0.1:{stranger.sockets[0].getsockname()[1]}")
    assert (code, out) == (1, "")
    assert "does not answer as a curtaild of this version does: status lacks at_s" in err
    assert err.count("\n") == 1
