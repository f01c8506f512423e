"""What a scrape costs with a large fleet: ours beside prometheus_client's labelled gauges and its own aiohttp handler.

The scraper is a process of its own, as Prometheus is. Loop lag is how late a sleeper wakes on the serving event loop
during the scrapes. Both sides expose the same ten gauges of each device, gzipped.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.aiohttp import make_aiohttp_handler

from bench.machine import peak_mib
from bench.table import Lag, Row
from curtaild.core.events import LinkPhase
from curtaild.core.limits import Limit
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild.telemetry import HealthReport, Telemetry, TelemetryServer
from curtaild.telemetry.metrics import STATE_CODES
from curtaild_config import Endpoint
from curtaild_drivers.contract import DeviceId, FeederId, Identity, RunState

SCRAPES = 7
SLEEP_S = 0.001
SCRAPE_BAR_S, LAG_BAR_S = 0.3, 0.01

SCRAPER = """
import sys, time, urllib.request
for _ in range(int(sys.argv[2])):
    begin = time.perf_counter()
    request = urllib.request.Request(sys.argv[1], headers={"Accept-Encoding": "gzip"})
    body = urllib.request.urlopen(request, timeout=120).read()
    print(time.perf_counter() - begin, len(body), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Figures:
    scrape_s: float
    lag: Lag | None
    body_bytes: int
    cpu_s: float


def a_site(count: int) -> SiteStatus:
    site = FeederId("site")
    rows = [FeederId(f"row{number:03d}") for number in range(-(-count // 100))]
    watts = 3_250.0 * count
    feeders = [
        FeederStatus(
            feeder,
            None if feeder == site else site,
            rating_w=watts,
            limit_w=watts,
            ceiling=Limit(watts),
            limit_source="01J9Z",
            metered_w=watts,
            meter_is_fresh=True,
            meter_age_s=0.5,
            measured_w=watts,
            reserved_w=watts,
            planned_w=watts,
            auxiliary_w=0.0,
            headroom_w=0.0,
            deficit_w=0.0,
            curtailed_w=0.0,
            devices=count,
        )
        for feeder in (site, *rows)
    ]
    devices = [
        DeviceStatus(
            id=DeviceId(f"{rows[n // 100]}-rig{n:05d}"),
            feeder=rows[n // 100],
            state=RunState.RUNNING,
            power_w=3_250.1 + n % 97,
            reserved_w=3_300.4,
            rated_w=3_500.0,
            rate=1.04e14 + n,
            temperature_c=61.5,
            setpoint="limit",
            setpoint_w=3_250.0,
            confirmed="limit",
            actuation=None,
            is_stale=False,
            drawn_at=-3.2,
            conditions=(),
        )
        for n in range(count)
    ]
    return SiteStatus(0.0, LinkPhase.LIMITED, "", site, 1.0, "01J9Z", 0.0, watts, 0, None, feeders, devices)


@asynccontextmanager
async def ours(status: SiteStatus) -> AsyncIterator[str]:
    telemetry = Telemetry("bench")
    for device in status.devices:
        telemetry.describe(device.id, "asic", Identity("Antminer", "S19j Pro", "stock"))
    telemetry.update(status)
    health = HealthReport(True, 1, 0.0)
    server = TelemetryServer(Endpoint("127.0.0.1", 0), telemetry, lambda: status, lambda: health)
    await server.start()
    try:
        yield f"{server.url}/metrics"
    finally:
        await server.stop()


@asynccontextmanager
async def labelled_gauges(status: SiteStatus) -> AsyncIterator[str]:
    registry = CollectorRegistry()
    names = ("power", "reserved", "rated", "setpoint", "rate", "temperature", "state", "stale", "age", "info")
    gauges = [Gauge(f"device_{name}", name, ("device", "feeder"), registry=registry) for name in names]
    for device in status.devices:
        values = (
            device.power_w,
            device.reserved_w,
            device.rated_w,
            device.setpoint_w,
            device.rate,
            device.temperature_c,
            STATE_CODES[device.state],
            device.is_stale,
            device.age_s(status.at),
            1,
        )
        for gauge, value in zip(gauges, values, strict=True):
            gauge.labels(device.id, device.feeder).set(value or 0)
    app = web.Application()
    app.router.add_get("/metrics", make_aiohttp_handler(registry))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


async def measure(url: str) -> Figures:
    lags: list[float] = []
    watcher = asyncio.create_task(watch(lags))
    command = (sys.executable, "-c", SCRAPER, url, str(SCRAPES))
    begin_s = time.process_time()
    scraper = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await scraper.communicate()
    used_s = time.process_time() - begin_s
    watcher.cancel()
    rows = [line.split() for line in said.decode().splitlines()]
    scrape_s = statistics.median(float(seconds) for seconds, _ in rows)
    return Figures(scrape_s, Lag.of(lags, SLEEP_S), int(rows[-1][1]), used_s / SCRAPES)


async def watch(lags: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(SLEEP_S)
        lags.append(max(0.0, time.perf_counter() - begin - SLEEP_S))


async def scrape_rows(count: int) -> list[Row]:
    """The median scrape, and the lag that all of them caused, beside prometheus_client's."""
    status = a_site(count)
    found: list[Figures] = []
    for serve in (ours, labelled_gauges):
        async with serve(status) as url:
            gc.collect()
            gc.freeze()  # else both sides pay for a collection that walks the whole fleet
            found.append(await measure(url))
            gc.unfreeze()
    us, them = found
    what = f"/metrics, {count:,} devices"
    return [
        Row(
            what=f"{what}: one scrape",
            unit="s",
            ours=us.scrape_s,
            bar=SCRAPE_BAR_S,
            peer=them.scrape_s,
            peer_name="prometheus_client",
            cpu_s=us.cpu_s,
            memory_mib=peak_mib("self"),
            lag=us.lag,
        ),
        Row(
            what=f"{what}: loop lag p99",
            unit="s",
            ours=us.lag.p99_s if us.lag else None,
            bar=LAG_BAR_S,
            peer=them.lag.p99_s if them.lag else None,
            peer_name="prometheus_client",
        ),
    ]
