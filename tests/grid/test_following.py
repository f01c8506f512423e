"""A whole site follows its limit in every dialect at once: the real daemon, an emulated farm, brokers with TLS."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from curtaild.grid.dsx.envelope import EventType
from curtaild.grid.dsx.isv import (
    LoadTarget,
    breach_topic,
    load_target_event,
    load_target_topic,
    power_state_topic,
    read_agent_event,
)
from curtaild.grid.native import signed
from curtaild_emulator import FarmPlan
from grid.authority import Authority
from grid.dsx import ec_signer, fits, jwks, public
from mosquitto import Mosquitto
from running_site import ANY_PORTS, METER_NOISE, PATIENCE_S, RunningSite, site_of, until

pytestmark = pytest.mark.broker

MAESTRO_TOPIC = "maestro/site"


@asynccontextmanager
async def over_tls(broker: Mosquitto, authority: Authority) -> AsyncIterator[aiomqtt.Client]:
    tls = aiomqtt.TLSParameters(ca_certs=str(authority.ca_file))
    async with aiomqtt.Client("127.0.0.1", broker.port, tls_params=tls) as client:
        yield client


async def heard(client: aiomqtt.Client, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The data of the next power state that fits, held against schema and signature."""
    async with asyncio.timeout(PATIENCE_S):
        async for message in client.messages:
            envelope = json.loads(message.payload)
            kind = EventType(envelope["type"])
            _, data = read_agent_event(
                bytes(message.payload), kind, "thar-1", public(ec_signer("agent-1")), time.time()
            )
            if fits({**data, "correlationid": envelope.get("correlationid")}):
                return dict(data)
    raise AssertionError("the broker is gone")


async def test_a_site_follows_every_dialect_over_tls_and_the_strictest_limit_holds(
    tmp_path: Path, own_broker: Callable[..., Mosquitto]
) -> None:
    authority = Authority(tmp_path / "ca")
    cert_file, key_file = authority.issue("127.0.0.1")
    tls = own_broker(
        f"cafile {authority.ca_file}", f"certfile {cert_file}", f"keyfile {key_file}", "allow_anonymous true"
    )
    url = f"mqtts://127.0.0.1:{tls.port}"
    (tmp_path / "acme.jwks").write_text(jwks(ec_signer("acme-1")))
    (tmp_path / "agent.pem").write_bytes(ec_signer("agent-1").key.as_pem(private=True))
    plan = FarmPlan.mixed(
        4, feeders=1, network="127.62.0.0/24", speed=80.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
    )
    async with RunningSite(tmp_path, plan, failsafe_w=100_000, heartbeats=False) as site:
        full_w = site.full_w
        (tmp_path / "npcc.jwks").write_text(jwks(ec_signer("npcc-1")))
        issuer = [{"name": "npcc", "keys_file": tmp_path / "npcc.jwks", "lowest_limit_w": 1}]
        site.file.grid.update(brokers=[url], ca_file=authority.ca_file, heartbeat="none", issuer=issuer, connection=[
            {
                "name": "maestro",
                "dialect": "maestroos",
                "brokers": [url],
                "ca_file": authority.ca_file,
                "topic": MAESTRO_TOPIC,
            },
            {
                "name": "dsx",
                "dialect": "dsx-flex",
                "brokers": [url],
                "ca_file": authority.ca_file,
                "agent": "thar-1",
                "signing_key_file": tmp_path / "agent.pem",
                "signing_key_id": "agent-1",
                "isvs": {"acme-energy": tmp_path / "acme.jwks"},
                "feeds": {"main-a": "site"},
                "snapshot_interval_s": 1,
            },
        ])  # fmt: skip
        async with over_tls(tls, authority) as grid, over_tls(tls, authority) as isv:
            await isv.subscribe([(power_state_topic("thar-1"), 1), (breach_topic("thar-1"), 2)])

            stamps = itertools.count(int(time.time()))  # whole seconds: an ON must be newer than the OFF before it

            async def switch(target: int) -> None:
                word = json.dumps({"target": target, "timestamp": next(stamps)})
                await grid.publish(MAESTRO_TOPIC, word, qos=1, retain=True)

            async def ask(limit_w: float | None, kid: str = "acme-1") -> str:
                event = load_target_event("acme-energy", ec_signer(kid), [LoadTarget(limit_w)], time.time())
                fits(json.loads(event), "LoadTargetSetEvent")
                await isv.publish(load_target_topic("acme-energy"), event, qos=1)
                correlation: str = json.loads(event)["correlationid"]
                return correlation

            await switch(100)
            await site.start()
            await site.until("MaestroOS has switched it on", lambda status: status["phase"] == "unlimited")
            await site.all_known()

            correlation = await ask(round(0.6 * full_w))
            await site.limited_to(round(0.6 * full_w))
            await site.true_under(METER_NOISE * 0.6 * full_w)
            await heard(isv, lambda data: data["feeds"]["main-a"]["event"] == "start_ramp_down")
            done = await heard(isv, lambda data: data["feeds"]["main-a"]["event"] == "end_ramp_down")
            (target,) = done["feeds"]["main-a"]["targets"]
            assert (target["active"], target["correlation_id"]) == (True, correlation)
            assert done["feeds"]["main-a"]["compliant"]

            async def state(order: dict[str, Any]) -> None:
                """Unsigned first, and lower: nobody follows that."""
                topic = site.topics.allocation
                await grid.publish(topic, json.dumps({**order, "limit_w": 1}), qos=1)
                word = signed(json.dumps(order).encode(), topic, ec_signer("npcc-1"))
                await grid.publish(topic, word, qos=1, retain=True)

            order = native_order(round(0.4 * full_w))
            await state(order)
            await site.limited_to(round(0.4 * full_w))
            await whose(site, tls, authority, "npcc")
            await site.true_under(METER_NOISE * 0.4 * full_w)

            await switch(0)
            await site.limited_to(0.0)
            await whose(site, tls, authority, "maestroos//maestro")
            await site.true_under(0.05 * full_w)

            await switch(100)
            await site.limited_to(round(0.4 * full_w))
            await state({**order, "id": "n-2", "seq": 2, "limit_w": None})
            await site.limited_to(round(0.6 * full_w))
            await whose(site, tls, authority, "//grid/v1/isv/acme-energy")
            await ask(None)
            await heard(isv, lambda data: data["feeds"]["main-a"]["event"] == "start_ramp_up")
            status = await site.until("released", lambda status: status["phase"] == "unlimited")
            assert site_of(status)["ceiling_w"] is None
            await site.true_over(0.9 * full_w)

            (tmp_path / "acme.jwks").write_text(jwks(ec_signer("acme-2")))
            made = len(site.daemon.lines("is up"))
            site.daemon.signal(signal.SIGHUP)
            await until("the keys are read anew", lambda: site.daemon.lines("the new site file is in force"))
            await until("the link is back", lambda: len(site.daemon.lines("is up")) >= made + 3)
            await ask(round(0.3 * full_w), "acme-1")
            await ask(round(0.7 * full_w), "acme-2")
            await site.limited_to(round(0.7 * full_w))
        assert not site.daemon.lines("Traceback")


def native_order(limit_w: float) -> dict[str, Any]:
    return {
        "id": "n-1",
        "seq": 1,
        "issuer": "npcc",
        "issued_at": "2026-01-01T00:00:00Z",
        "limit_w": limit_w,
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": None,
    }


async def whose(site: RunningSite, broker: Mosquitto, authority: Authority, issuer: str) -> None:
    """The published status names who stated the limit in force."""
    async with over_tls(broker, authority) as client:
        await client.subscribe(site.topics.status)
        async with asyncio.timeout(PATIENCE_S):
            async for message in client.messages:
                if json.loads(message.payload)["limit_issuer"] == issuer:
                    return
