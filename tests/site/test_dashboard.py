"""The real Prometheus scrapes the real daemon at work: each panel of the Site dashboard has something to show."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan
from grafana_dashboard import SITE_DASHBOARD, Dashboard
from prometheus_server import PROMETHEUS, PROMTOOL, PrometheusServer
from running_site import ANY_PORTS, RunningSite

pytestmark = [
    pytest.mark.broker,
    pytest.mark.prometheus,
    pytest.mark.skipif(not (PROMETHEUS and PROMTOOL), reason="prometheus and promtool are not installed"),
]


async def test_every_panel_shows_a_site_at_work(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(24, feeders=2, network="127.42.0.0/24", speed=20.0, ports=ANY_PORTS)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    async with RunningSite(tmp_path, plan, failsafe_w=200_000) as site:
        await site.start()
        await site.all_known()
        async with PrometheusServer(folder, {site.url.removeprefix("http://"): {"site": "lahore"}}) as prometheus:
            limit_w = round(0.5 * site.full_w)
            await site.acks.stage(await site.operator.allocate(limit_w), "reached")
            await prometheus.until(f'curtaild_feeder_limit_watts{{feeder="site"}} == {limit_w}')
            await prometheus.until('curtaild_actuations_total{stage="confirmed",direction="shed"} > 0')
            dashboard = Dashboard(SITE_DASHBOARD, {"site": "lahore", "feeder": "(site|row-1|row-2)"})
            assert await dashboard.problems(prometheus) == []
        assert PROMTOOL is not None
        scrape = (await site.get("/metrics")).encode()
        told = await asyncio.to_thread(
            subprocess.run, [PROMTOOL, "check", "metrics"], input=scrape, capture_output=True, timeout=60, check=False
        )
        assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")
