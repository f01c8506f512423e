"""config/mosquitto as shipped, in a real broker: who may say what, and that the file itself is taken.

mosquitto does not start on a key it does not know, so a start is proof.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from curtaild.core.allocation import AllocationReceived, HeartbeatReceived
from curtaild.grid.operator import Operator, operator_access
from grid.authority import Authority
from grid.rig import (
    PATIENCE_S,
    Place,
    Settings,
    a_status,
    an_ack,
    at,
    heard,
    limit_of,
    onlooker,
    operator,
    running,
    topics,
)
from mosquitto import Mosquitto

pytestmark = pytest.mark.broker

SHIPPED = Path(__file__).parents[2] / "config" / "mosquitto"
USERS = {"grid": "g-secret", "thar-1": "t-secret", "quetta": "q-secret", "visitor": "v-secret"}

Start = Callable[..., Mosquitto]


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    for user, password in USERS.items():
        subprocess.run(["mosquitto_passwd", "-b", str(path), user, password], check=True, capture_output=True)
    return path


@pytest.fixture
def guarded(own_broker: Start, passwords: Path) -> Mosquitto:
    """The shipped configuration with paths and port of this test, and without its TLS."""
    return own_broker(*shipped_lines(passwords, drop=("listener", "cafile", "certfile", "keyfile", "tls_version")))


def shipped_lines(passwords: Path, drop: tuple[str, ...]) -> list[str]:
    """The shipped file, less what `Mosquitto` itself sets or a test replaces."""
    replaced = {"password_file": str(passwords), "acl_file": str(SHIPPED / "acl"), "log_dest": "stderr"}
    set_already = ("per_listener_settings", "set_tcp_nodelay", "persistence", "persistence_location")
    lines = []
    for line in (SHIPPED / "mosquitto.conf").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key and not key.startswith("#") and key not in (*set_already, *drop):
            lines.append(f"{key} {replaced.get(key, value)}")
    return lines


def as_site(broker: Mosquitto, user: str = "thar-1") -> Settings:
    return at(broker, username=user)


async def test_a_site_and_the_grid_understand_each_other(guarded: Mosquitto) -> None:
    async with (
        running(as_site(guarded), "thar-1", USERS["thar-1"]) as run,
        operator(guarded, "thar-1", "grid", USERS["grid"]) as grid,
    ):
        await grid.allocate(5)
        assert limit_of(await run.next(AllocationReceived)) == 5
        await grid.schedule([])
        await grid.heartbeat()
        await run.next(HeartbeatReceived)
        run.link.status(a_status())
        run.link.ack(an_ack(7))
        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(grid.acks()))["seq"] == 7
            assert (await grid.status())["state"] == "limited"
        await run.until(lambda state: state.echo_ok is True)


@pytest.mark.parametrize("intruder", ["quetta", "visitor", "thar-1"])
async def test_nobody_but_the_grid_can_state_an_allocation(guarded: Mosquitto, intruder: str) -> None:
    names = topics("thar-1")
    async with (
        running(as_site(guarded), "thar-1", USERS["thar-1"]) as run,
        onlooker(guarded, username=intruder, password=USERS[intruder]) as someone,
        operator(guarded, "thar-1", "grid", USERS["grid"]) as grid,
    ):
        for topic in (names.allocation, names.schedule, names.heartbeat):
            await someone.publish(topic, b"{}", qos=1)
        await grid.allocate(9)  # what the intruder said would have come first
        assert limit_of(await run.next(AllocationReceived)) == 9
        assert run.link.links[0].received_total == 1


async def test_nobody_but_the_site_can_answer_for_it_and_nobody_else_listens(guarded: Mosquitto) -> None:
    names = topics("thar-1")
    async with (
        onlooker(guarded, "curtaild/v1/#", username="quetta", password=USERS["quetta"]) as neighbour,
        onlooker(guarded, names.ack, names.status, names.breach, username="grid", password=USERS["grid"]) as grid,
        onlooker(guarded, username="thar-1", password=USERS["thar-1"]) as site,
    ):
        for topic in (names.ack, names.status, names.breach):
            await neighbour.publish(topic, b'{"from":"neighbour"}', qos=1)
            await grid.publish(topic, b'{"from":"grid"}', qos=1)
            await site.publish(topic, b'{"from":"site"}', qos=1)
        for _ in range(3):
            assert b"site" in (await heard(grid)).payload
        await neighbour.publish("curtaild/v1/quetta/status", b'{"from":"itself"}', qos=1)
        assert b"itself" in (await heard(neighbour)).payload  # and nothing of thar-1 before it


async def test_a_site_under_a_wrong_name_is_told_that_it_is_not_heard(
    guarded: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The access list says nothing; that our status does not come back says it."""
    monkeypatch.setattr("curtaild.grid.broker_link.ECHO_TIMEOUT_S", 0.1)
    monkeypatch.setattr("curtaild.grid.broker_link.WATCH_EVERY_S", 0.05)
    async with running(as_site(guarded, "quetta"), "thar-1", USERS["quetta"]) as run:
        run.link.status(a_status())
        await run.until(lambda state: state.echo_ok is False)
        run.link.status(a_status())
        await run.until(lambda state: state.connected)
    assert caplog.text.count("our status does not come back") == 1


async def test_a_user_may_be_his_certificates_name(own_broker: Start, passwords: Path, tmp_path: Path) -> None:
    """As the shipped file's comment has it: no passwords, the CN is who one is, and the access list holds."""
    authority = Authority(tmp_path)
    cert_file, key_file = authority.issue("127.0.0.1")
    lines = shipped_lines(passwords, drop=("listener", "cafile", "certfile", "keyfile", "password_file"))
    files = (f"cafile {authority.ca_file}", f"certfile {cert_file}", f"keyfile {key_file}")
    broker = own_broker(*files, "require_certificate true", "use_identity_as_username true", *lines)

    def operator_known_as(name: str) -> Operator:
        cert, key = authority.issue(name)
        access = operator_access(
            "127.0.0.1", broker.port, is_tls=True, ca_file=authority.ca_file, cert_file=cert, key_file=key
        )
        return Operator(access, topics("thar-1"), "npcc")

    cert, key = authority.issue("thar-1")
    places = (Place("127.0.0.1", broker.port, tls=True),)
    settings = Settings(places, ca_file=authority.ca_file, cert_file=cert, key_file=key)
    async with running(settings, "thar-1") as run:
        run.link.status(a_status())
        await run.until(lambda state: state.echo_ok is True)
        async with operator_known_as("quetta") as intruder, operator_known_as("grid") as grid:
            await intruder.allocate(1.0)
            await grid.allocate(9.0)
            assert limit_of(await run.next(AllocationReceived)) == 9.0
            assert (await grid.status())["state"] == "limited"


async def test_the_shipped_file_is_taken_as_it_is_with_tls(own_broker: Start, passwords: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert_file, key_file = authority.issue("127.0.0.1")
    lines = shipped_lines(passwords, drop=("listener", "cafile", "certfile", "keyfile"))
    broker = own_broker(f"cafile {authority.ca_file}", f"certfile {cert_file}", f"keyfile {key_file}", *lines)
    place = as_site(broker).brokers[0]
    settings = Settings((type(place)(place.host, place.port, tls=True),), username="thar-1", ca_file=authority.ca_file)
    async with running(settings, "thar-1", USERS["thar-1"]) as run:
        run.link.status(a_status())
        await run.until(lambda state: state.echo_ok is True)
