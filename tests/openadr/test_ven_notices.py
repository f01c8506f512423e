"""A VEN listens to its VTN's broker, logged in as the VTN wants it. Between two readings a minute apart there are only
notifications."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from curtaild.clock import SystemClock
from curtaild.core.allocation import GridMessage, HeartbeatReceived, MessageRejected, ScheduleReceived
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.openadr import OpenAdrConnection, OpenAdrDialect, Polling, connection
from grid.authority import Authority
from grid.rig import PATIENCE_S
from loop_clock import comes_true
from mosquitto import BINARY, Mosquitto
from openadr.canned import Canned, canned, problem, tokens
from openadr.test_ven_connection import Connected, now_event
from openadr.ven import PROGRAM, RULES

pytestmark = pytest.mark.broker

CLOCK = SystemClock()
VEN = {"id": "ven-1", "venName": "thar-1", "targets": None}
CREATED = "vens/ven-1/events/create"


@pytest.fixture(autouse=True)
def _hints_are_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LEAST_GAP_S", 0.05)
    monkeypatch.setattr(connection, "TICK_S", 0.05)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Callable[..., Mosquitto]]:
    """Starts a broker with TLS and further lines of configuration."""
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    (tmp_path / "mosquitto").mkdir()
    cert_file, key_file = authority.issue("localhost")
    tls = (f"cafile {authority.ca_file}", f"certfile {cert_file}", f"keyfile {key_file}")
    started: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path / "mosquitto", (*tls, *lines)))
        started[0].start()
        return started[0]

    yield start
    for running in started:
        running.stop()


@asynccontextmanager
async def a_vtn(authority: Authority, port: int, method: dict[str, str]) -> AsyncIterator[Canned]:
    async with canned(authority) as server:
        tokens(server)

        def topics(*operations: str, of: str) -> Any:
            return {"topics": {operation.upper(): f"{of}/{operation}" for operation in operations}}

        server.answers |= {
            "GET /programs": [PROGRAM],
            "GET /events": [],
            "GET /vens": [VEN],
            "GET /notifiers": {
                "WEBHOOK": True,
                "MQTT": {"URIS": [f"mqtts://localhost:{port}"], "serialization": "JSON", "authentication": method},
            },
            "GET /notifiers/mqtt/topics/vens/ven-1/events": topics(
                "create", "update", "delete", of="vens/ven-1/events"
            ),
            "GET /notifiers/mqtt/topics/programs/program-1/events": topics("create", of="programs/program-1/events"),
        }
        yield server


@asynccontextmanager
async def listening(server: Canned, authority: Authority) -> AsyncIterator[Connected]:
    """Connected to VTN and broker; read once when it began and once when the broker was there."""
    dialect = OpenAdrDialect("vtn", RULES, CLOCK)
    access = server.access(client_id="thar-1", client_secret="secret")
    polling = Polling(access, "thar-1", 1e6, (), 60.0, is_notified=True, mqtt_client_id="thar-1")
    delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
    line = OpenAdrConnection("vtn", dialect, polling, CLOCK, delivered.put_nowait)
    task = asyncio.create_task(line.run())
    site = Connected(server, line, delivered)
    try:
        await comes_true(lambda: len(line.states) == 2 and all(state.connected for state in line.states))
        await comes_true(lambda: server.count("GET /events") == 2)
        yield site
    finally:
        task.cancel()
        await asyncio.wait((task,), timeout=PATIENCE_S)
        assert task.cancelled(), task.exception()


async def say(port: int, authority: Authority, topic: str, body: Any, **login: Any) -> None:
    tls = aiomqtt.TLSParameters(ca_certs=str(authority.ca_file), **login.pop("tls", {}))
    async with aiomqtt.Client("localhost", port, tls_params=tls, **login) as client:
        await client.publish(topic, json.dumps(body), qos=1)


def created(*kilowatts: float) -> dict[str, Any]:
    return {"objectType": "EVENT", "operation": "CREATE", "object": now_event(*kilowatts)}


async def follows(site: Connected, port: int, authority: Authority, **login: Any) -> None:
    """A notification limits the site at once; the reading that it sets off settles it."""
    site.server.answers["GET /events"] = [notification["object"] for notification in [created(300)]]
    await site.next(HeartbeatReceived)
    await say(port, authority, CREATED, created(300), **login)
    while not (stated := await site.next(ScheduleReceived)).retained:
        assert stated.allocations[0].ceiling == UNLIMITED
    assert stated.allocations[0].ceiling == Limit(3e5)
    await comes_true(lambda: site.server.count("GET /events") == 3)


async def test_anonymous(broker: Callable[..., Mosquitto], authority: Authority) -> None:
    port = broker("allow_anonymous true").port
    async with a_vtn(authority, port, {"method": "ANONYMOUS"}) as server, listening(server, authority) as site:
        assert [state.url for state in site.line.states] == [server.url, f"mqtts://localhost:{port}"]
        await follows(site, port, authority)
        await say(port, authority, CREATED, [7])
        refusal = await site.next(MessageRejected)
        assert (refusal.retained, refusal.reason) == (True, "a notification: expected an object, got list")


async def test_with_certificates_that_the_vtn_hands_out(
    broker: Callable[..., Mosquitto], authority: Authority, tmp_path: Path
) -> None:
    port = broker("allow_anonymous true", "require_certificate true").port
    cert_file, key_file = authority.issue("thar-1")
    files = {"caCert": authority.ca_file, "clientCert": cert_file, "clientKey": key_file}
    method = {"method": "CERTIFICATE", **{key: path.read_text() for key, path in files.items()}}
    own = {"tls": {"certfile": str(cert_file), "keyfile": str(key_file)}}
    async with a_vtn(authority, port, method) as server, listening(server, authority) as site:
        await follows(site, port, authority, **own)


async def test_with_the_token_as_password_and_a_new_one_when_it_is_wanted(
    broker: Callable[..., Mosquitto], authority: Authority, tmp_path: Path
) -> None:
    passwords = tmp_path / "passwords"
    may_log_in(passwords, "token-1")
    running = broker(f"password_file {passwords}")
    method = {"method": "OAUTH2_BEARER_TOKEN", "username": "{clientID}"}
    async with a_vtn(authority, running.port, method) as server, listening(server, authority) as site:
        login = {"username": "thar-1", "password": "token-1"}
        await follows(site, running.port, authority, **login)
        may_log_in(passwords, "token-2")
        running.restart()
        await comes_true(lambda: not site.line.states[1].connected)
        answers = iter([problem(401)])
        server.answers["GET /programs"] = lambda _: next(answers, [PROGRAM])
        site.line._hint()
        await comes_true(lambda: len(site.line.states) == 2 and site.line.states[1].connected)


def may_log_in(passwords: Path, token: str) -> None:
    """As a broker that asks the VTN about tokens would have it."""
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "thar-1", token], check=True)


@asynccontextmanager
async def a_strict_broker(authority: Authority, allowed: Sequence[str]) -> AsyncIterator[int]:
    """One that refuses a subscription in so many words, which mosquitto does not."""
    cert_file, key_file = authority.issue("localhost")
    listener = {"type": "tcp", "bind": "127.0.0.1:0", "ssl": True, "certfile": str(cert_file), "keyfile": str(key_file)}
    plugins = {
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
        "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": {"acl": {"anonymous": list(allowed)}},
    }
    strict: Any = import_module("amqtt.broker").Broker({"listeners": {"default": listener}, "plugins": plugins})
    await strict.start()
    try:
        yield strict._servers["default"].instance.sockets[0].getsockname()[1]
    finally:
        await strict.shutdown()


@pytest.mark.filterwarnings("ignore:The 'acl' option")
async def test_topics_that_the_broker_withholds_are_left_out(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        a_strict_broker(authority, ["vens/ven-1/#"]) as port,
        a_vtn(authority, port, {"method": "ANONYMOUS"}) as server,
        listening(server, authority) as site,
    ):
        await follows(site, port, authority)
    assert "not read programs/program-1/events/create" in caplog.text
