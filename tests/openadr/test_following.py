"""A whole site follows a utility: the real daemon, an emulated farm, a VTN over TLS and notifications by mosquitto."""

from __future__ import annotations

import signal
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from curtaild.grid.openadr_vtn import Client, MqttNotifier, Role, Vtn, problem
from curtaild.grid.openadr_vtn.business import BusinessLogic
from curtaild.grid.openadr_vtn.events import (
    When,
    cancelled,
    capacity_limit,
    dispatch_setpoint,
    event_of,
    grid_emergency,
    simple_level,
)
from curtaild.grid.operator import operator_access
from curtaild_emulator import FarmPlan
from grid.authority import Authority
from mosquitto import BINARY, Mosquitto
from running_site import ANY_PORTS, METER_NOISE, RunningSite, Status, site_of, until

pytestmark = pytest.mark.broker

SITE = Client("thar-1", "the site's own secret", Role.VEN)
UTILITY = Client("utility", "the utility's own", Role.BUSINESS_LOGIC)
FAILSAFE_W = 1_000.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    """With TLS; whoever has a certificate of the authority may do everything."""
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    (tmp_path / "vtn-broker").mkdir()
    cert_file, key_file = authority.issue("127.0.0.1")
    tls = (f"cafile {authority.ca_file}", f"certfile {cert_file}", f"keyfile {key_file}")
    broker = Mosquitto(tmp_path / "vtn-broker", (*tls, "require_certificate true", "allow_anonymous true"))
    broker.start()
    yield broker
    broker.stop()


@asynccontextmanager
async def a_utility(authority: Authority, broker: Mosquitto) -> AsyncIterator[tuple[Vtn, BusinessLogic]]:
    """A VTN, and its operator; VENs are given their certificate for the broker by the VTN."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    own_cert, own_key = authority.issue("vtn")
    ven_cert, ven_key = authority.issue("thar-1")
    files = {"caCert": authority.ca_file, "clientCert": ven_cert, "clientKey": ven_key}
    notifier = MqttNotifier(
        operator_access(
            "127.0.0.1", broker.port, is_tls=True, ca_file=authority.ca_file, cert_file=own_cert, key_file=own_key
        ),
        [f"mqtts://127.0.0.1:{broker.port}"],
        {"method": "CERTIFICATE", **{key: path.read_text() for key, path in files.items()}},
    )
    async with (
        Vtn("127.0.0.1", 0, (SITE, UTILITY), tls=context, notifier=notifier) as vtn,
        BusinessLogic(
            vtn.url, UTILITY.client_id, UTILITY.secret, ssl.create_default_context(cafile=authority.ca_file)
        ) as operator,
    ):
        yield vtn, operator


def at(status: Status, feeder: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in status["feeders"] if each["id"] == feeder)
    return found


async def test_a_site_follows_its_utility_over_tls(tmp_path: Path, authority: Authority, broker: Mosquitto) -> None:
    plan = FarmPlan.mixed(
        4, feeders=2, network="127.72.0.0/24", speed=80.0, ports=ANY_PORTS, models=("whatsminer-m60",)
    )
    row = next(feeder.id for feeder in plan.feeders if feeder.parent is not None)
    (tmp_path / "site.secret").write_text(SITE.secret)
    async with (
        a_utility(authority, broker) as (vtn, utility),
        RunningSite(tmp_path, plan, failsafe_w=FAILSAFE_W, heartbeats=False) as site,
    ):
        full_w = site.full_w
        connection: dict[str, Any] = {
            "name": "utility",
            "dialect": "openadr",
            "vtn": vtn.url,
            "client_id": SITE.client_id,
            "client_secret_file": tmp_path / "site.secret",
            "ca_file": authority.ca_file,
            "programs": ["capacity"],
            "targets": {"row": row},
            "simple_levels": {"1": 0.75 * full_w, "2": 0.5 * full_w, "3": 0.25 * full_w},
            "emergency_limit": 0,
            "poll_s": 40,
            "report_interval_s": 10,
        }
        del site.file.grid["brokers"]
        site.file.grid.update(connection=[connection])
        program_id = await utility.program("capacity")
        await utility.enrol(SITE.client_id, "site", ["row"])

        async def state(what: dict[str, Any], when: When | None = None, **more: Any) -> str:
            body = event_of(program_id, what, when or When(), time.time(), **more)
            return str((await utility.state(body))["id"])

        await site.start()
        await site.until("nothing limits it", lambda status: status["phase"] == "unlimited")
        await site.all_known()

        # told by MQTT alone: the next poll is some 40 s away
        limit = await state(capacity_limit(round(0.6 * full_w)))
        await site.limited_to(round(0.6 * full_w))
        await site.true_under(METER_NOISE * 0.6 * full_w)
        setpoint = await state(dispatch_setpoint(round(0.4 * full_w)))
        await site.limited_to(round(0.4 * full_w))
        await site.true_under(METER_NOISE * 0.4 * full_w)
        of_row = await state(capacity_limit(2_000), targets=["row"])
        await site.until("the row alone is limited", lambda status: at(status, row)["limit_w"] == 2_000)
        await utility.delete(of_row)
        await site.until("the row is free", lambda status: at(status, row)["ceiling_w"] is None)
        level = await state(simple_level(3))
        await site.limited_to(0.25 * full_w)
        emergency = await state(grid_emergency("a line is down"))
        await site.limited_to(0.0)
        await site.true_under(0.05 * full_w)
        await utility.delete(emergency)
        await utility.change(level, cancelled(await utility.event(level)))
        await site.limited_to(round(0.4 * full_w))
        await utility.delete(setpoint)
        await site.limited_to(round(0.6 * full_w))

        # a window ahead is met when it opens, and ends by itself
        opens = time.time() + 2.0
        await state(capacity_limit(round(0.3 * full_w)), When(opens, 8.0))
        await site.limited_to(round(0.3 * full_w))
        await site.limited_to(round(0.6 * full_w))

        # without its broker, with tokens forgotten, the VTN is read all the same
        connection.update(poll_s=1)
        site.file.grid.update(heartbeat_timeout_s=4)
        site.file.write(site.path)
        site.daemon.signal(signal.SIGHUP)
        await until("the site file is read anew", lambda: site.daemon.lines("the new site file is in force"))
        broker.stop()
        vtn.tokens.forget()
        tighter = await state(capacity_limit(round(0.5 * full_w)))
        await site.limited_to(round(0.5 * full_w))
        broker.start()

        # what it draws has been reported meanwhile
        async def demand() -> dict[str, Any] | None:
            async for report in utility.objects("reports", eventID=limit):
                for resource in report["resources"]:
                    for interval in resource["intervals"]:
                        for payload in interval["payloads"]:
                            if payload["type"] == "DEMAND":
                                return report
            return None

        report: dict[str, Any] = await until("a report of the demand", demand)
        assert report["clientName"] == "site"
        assert report["clientID"] == SITE.client_id

        # a VTN that answers nothing of use leaves the limit first, then the fail-safe limit
        async def overloaded(request: web.Request) -> web.StreamResponse | None:
            return problem(503, "overloaded")

        vtn.meddler = overloaded
        status = await site.until("fail-safe", lambda status: status["phase"] == "failsafe")
        assert site_of(status)["limit_w"] == FAILSAFE_W
        vtn.meddler = None
        await utility.delete(tighter)
        await site.limited_to(round(0.6 * full_w))
        await utility.delete(limit)
        await site.until("released", lambda status: status["phase"] == "unlimited")
        await site.true_over(0.9 * full_w)
        assert not site.daemon.lines("Traceback")
