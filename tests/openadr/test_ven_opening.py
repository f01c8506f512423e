"""From the site file to a VEN: what levels, targets and emergencies are in watts, and who it is at the VTN."""

from __future__ import annotations

import asyncio
from pathlib import Path

from config.site_files import SITE, written
from curtaild.clock import SystemClock
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.openadr import Meaning, OpenAdrConnection, VtnAccess
from curtaild.grid.opening import open_grid
from curtaild_config import load_site
from curtaild_drivers.contract import FeederId

ROOT, ROW = FeederId("root"), FeederId("row-1")
GRID = """
[grid]
failsafe_limit_w = 200_000
heartbeat_timeout_s = 240

[[grid.connection]]
name = "utility"
dialect = "openadr"
vtn = "https://vtn.example/openadr3/3.1.0"
"""
FEEDERS = """
[[feeder]]
id = "root"
rating_w = 1_000_000

[[feeder]]
id = "row-1"
parent = "root"
rating_w = 100_000
"""


def opened(folder: Path, connection: str = "") -> OpenAdrConnection:
    async def build() -> OpenAdrConnection:
        site = load_site(written(folder, SITE + GRID + connection + FEEDERS), {})
        link = open_grid(site, ROOT, SystemClock(), lambda message: None, "site.toml", {})
        (line,) = link._connections
        assert isinstance(line, OpenAdrConnection)
        assert [state.url for state in link.links] == ["https://vtn.example/openadr3/3.1.0"]
        return line

    return asyncio.run(build())


def test_without_a_word_more_everything_that_sheds_is_the_failsafe_limit(tmp_path: Path) -> None:
    line = opened(tmp_path)
    name = line._polling.ven_name
    assert line._polling.access == VtnAccess("https://vtn.example/openadr3/3.1.0")
    assert (line._polling.rating_w, line._polling.mqtt_client_id) == (1e6, f"curtaild-{name}-utility")
    assert line.dialect._rules.meaning == Meaning(ROOT, ROOT, {}, {ROOT: (2e5, 2e5, 2e5)}, {ROOT: 2e5}, UNLIMITED)


def test_shares_are_of_each_feeders_own_rating_and_watts_no_more_than_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    line = opened(
        tmp_path,
        f"""client_id = "korangi"
client_secret_file = "{tmp_path / "secret"}"
ven_name = "Korangi 1"
feeder = "row-1"
targets = {{ whole = "root" }}
simple_levels = {{ 1 = "75 %", 2 = 150_000, 3 = 0 }}
emergency_limit = "10%"
without_event = "failsafe"
""",
    )
    assert line.dialect._rules.meaning == Meaning(
        ROOT,
        ROW,
        {"whole": ROOT},
        {ROOT: (7.5e5, 1.5e5, 0.0), ROW: (75_000.0, 1e5, 0.0)},
        {ROOT: 1e5, ROW: 1e4},
        Limit(2e5),
    )
    assert (line._polling.ven_name, line._polling.targets) == ("Korangi 1", ("whole",))
    assert line._polling.access.client_secret == "s3cret"
    assert "s3cret" not in repr(line._polling)
