"""Prometheus and promtool themselves on what the daemon exposes, its rules and its dashboard."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from curtaild.core.status import SiteStatus
from curtaild.telemetry import HealthReport, Telemetry, TelemetryServer
from curtaild_config import Endpoint
from grafana.build import site_dashboard, text
from grafana_dashboard import SITE_DASHBOARD, Dashboard
from prometheus_server import PROMETHEUS, PROMTOOL, PrometheusServer
from telemetry.sites import THE_STATUS, at_work, fleet, status_at

ROOT = Path(__file__).parents[2]
RULES = ROOT / "config/prometheus/curtaild.rules.yml"

needs_prometheus = [
    pytest.mark.prometheus,
    pytest.mark.skipif(not (PROMETHEUS and PROMTOOL), reason="prometheus and promtool are not installed"),
]


@asynccontextmanager
async def serving(telemetry: Telemetry) -> AsyncIterator[TelemetryServer]:
    health = HealthReport(True, 1, 0.0)
    server = TelemetryServer(Endpoint("127.0.0.1", 0), telemetry, lambda: THE_STATUS, lambda: health)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def address(server: TelemetryServer) -> str:
    return server.url.removeprefix("http://")


def promtool(*arguments: str, given: bytes | None = None) -> str:
    """What promtool says; fails the test where it is not content."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], input=given, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class TestPromtool:
    pytestmark = needs_prometheus

    @pytest.mark.parametrize("status", [THE_STATUS, fleet(250)], ids=["small", "a row and more"])
    async def test_a_live_scrape_is_clean(self, status: SiteStatus) -> None:
        telemetry = at_work()
        telemetry.update(status)
        async with (
            serving(telemetry) as server,
            aiohttp.ClientSession(server.url) as session,
            session.get("/metrics") as answer,
        ):
            body = await answer.read()
        assert await asyncio.to_thread(promtool, "check", "metrics", given=body) == ""

    def test_the_scrape_example_is_valid(self) -> None:
        promtool("check", "config", str(ROOT / "config/prometheus/prometheus.yml"))

    def test_the_rules_are_valid_and_fire_when_they_should(self) -> None:
        promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
        promtool("test", "rules", str(RULES.with_name("curtaild.rules.test.yml")))


def test_every_alert_has_a_severity_a_test_and_a_section_of_the_runbook() -> None:
    alerts = re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\Z)", RULES.read_text(), re.DOTALL)
    assert len(alerts) >= 10
    tests = RULES.with_name("curtaild.rules.test.yml").read_text()
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sections == [name for name, _ in alerts]
    for name, body in alerts:
        assert re.search(r"severity: (critical|warning)$", body, re.MULTILINE), name
        assert f"runbook: docs/runbook.md#{name.lower()}" in body
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels", tests), f"{name} is never seen to fire"


def test_the_committed_dashboard_is_the_built_one() -> None:
    assert SITE_DASHBOARD.read_text() == text(site_dashboard()), "run `python -m grafana.build` in config/"


def test_the_dashboard_fills_its_grid_and_explains_itself() -> None:
    dashboard = Dashboard(SITE_DASHBOARD, {})
    covered: set[tuple[int, int]] = set()
    for panel in dashboard.body["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & covered, f"{panel['title']} lies over another panel"
        covered |= cells
    assert {x for x, _ in covered} == set(range(24))
    assert len(covered) == 24 * (1 + max(y for _, y in covered)), "there is a hole in the grid"
    for panel in dashboard.panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] in ("table", "state-timeline")


class TestPrometheus:
    pytestmark = needs_prometheus

    async def test_the_dashboard_finds_data_and_the_rules_follow_the_daemon(self, tmp_path: Path) -> None:
        telemetry = at_work()
        async with (
            serving(telemetry) as named,
            serving(at_work()) as unnamed,
            PrometheusServer(tmp_path, {address(named): {"site": "lahore"}, address(unnamed): {}}, RULES) as prometheus,
        ):
            dashboard = Dashboard(SITE_DASHBOARD, {"site": "lahore", "feeder": "(site|container1)"})
            assert await dashboard.problems(prometheus) == []
            # where nobody named the site in the scrape configuration, the Site menu stands for no label
            assert await Dashboard(SITE_DASHBOARD, {"site": "", "feeder": ".+"}).problems(prometheus) == []
            (limit,) = [expr for title, expr in dashboard.queries() if title == "Limit"]
            (sample,) = await prometheus.query(limit)
            assert sample["value"][1] == "12000", "the site's own limit, not the sum over its feeders"

            assert not await prometheus.query('ALERTS{alertname=~"CurtaildDeficit|CurtaildOverLimit"}')
            telemetry.update(status_at(2_000.0, metered_w=13_000.0, deficit_w=1_000.0))
            await prometheus.until('ALERTS{alertname="CurtaildDeficit", site="lahore", feeder="site"}')
            await prometheus.until('ALERTS{alertname="CurtaildOverLimit", site="lahore", feeder="site"}')
            telemetry.update(status_at(2_001.0, meter_is_fresh=False))
            await prometheus.until('absent(curtaild_feeder_metered_watts{site="lahore", feeder="site"})')
            # 1,000 W over for the one second between the two
            await prometheus.until('curtaild_feeder_over_limit_joules_total{site="lahore", feeder="site"} == 1000')
