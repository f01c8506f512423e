"""The daemon itself as a service: a real systemd, a real broker, a grid operator. Every promise of the unit file."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from curtaild.grid.native import Topics
from curtaild.grid.operator import Answer, Operator, operator_access
from curtaild.ledger import verify
from mosquitto import BINARY, Mosquitto
from systemd.box import Box
from systemd.conftest import SECRET

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.broker,
    pytest.mark.skipif(BINARY is None, reason="mosquitto is not installed"),
]

UNIT = "curtaild"
SITE_FILE = "etc/curtaild/site.toml"
LEDGER = "var/lib/private/curtaild/curtaild.db"
PATIENCE_S = 15.0


def site_file(broker: str, telemetry_port: int, failsafe_limit_w: int = 1_000) -> str:
    return f"""
[site]
name = "box"

[grid]
brokers = ["{broker}"]
username = "box"
password_credential = "mqtt-password"
failsafe_limit_w = {failsafe_limit_w}
failsafe_hold_s = 0
status_interval_s = 1

[[feeder]]
id = "site"
rating_w = 100_000

[telemetry]
listen = "127.0.0.1:{telemetry_port}"
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that lets in the site, by the credential's password, and the grid."""
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for user in ("box", "grid"):
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, SECRET], check=True, capture_output=True)
    broker = Mosquitto(tmp_path, config=("allow_anonymous false", f"password_file {passwords}"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def service(box: Box, broker: Mosquitto) -> Iterator[Box]:
    """The unit, started, with a site file of one feeder and no devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (box.root / SITE_FILE).write_text(site_file(broker.url, port))
    try:
        box.run("systemctl", "start", UNIT)
    except subprocess.CalledProcessError:
        pytest.fail(box.journal(UNIT))
    yield box
    box.run("systemctl", "stop", UNIT)


@asynccontextmanager
async def grid(broker: Mosquitto) -> AsyncIterator[Operator]:
    """The operator, sending heartbeats."""
    access = operator_access("127.0.0.1", broker.port, username="grid", password=SECRET)
    async with Operator(access, Topics("curtaild/v1", "box"), "npcc") as operator, operator.heartbeats(1.0):
        yield operator


async def answered(operator: Operator, allocation_id: str, stage: str) -> Answer:
    async with asyncio.timeout(PATIENCE_S):
        async for ack in operator.acks():
            if (ack["id"], ack["stage"]) == (allocation_id, stage):
                return ack
    raise AssertionError("acks never end")


async def limited_to(operator: Operator, limit_w: float) -> Answer:
    """The next status that shows this limit."""
    async with asyncio.timeout(PATIENCE_S):
        while (status := await operator.status()).get("limit_w") != limit_w:
            pass
    return status


async def test_the_daemon_keeps_every_promise_of_its_unit(service: Box, broker: Mosquitto) -> None:
    first = service.show(UNIT, "MainPID")
    async with grid(broker) as operator:
        # Ready, and reached with the credential's password: an allocation is accepted and followed.
        allocation = await operator.allocate(40_000)
        assert (await answered(operator, allocation, "accepted"))["limit_w"] == 40_000
        assert (await limited_to(operator, 40_000))["state"] == "limited"

        # A site file with an error is refused as a whole; the daemon goes on with the old one.
        good = (service.root / SITE_FILE).read_text()
        (service.root / SITE_FILE).write_text(good.replace("failsafe_limit_w = 1000", "failsafe_limit_w = -5"))
        service.run("systemctl", "reload", UNIT)
        await asyncio.to_thread(
            service.wait_for,
            UNIT,
            "ActiveState",
            lambda state: state == "active" and "failsafe_limit_w" in told(service),
        )
        allocation = await operator.allocate(30_000)
        await answered(operator, allocation, "accepted")
        await limited_to(operator, 30_000)
        assert service.show(UNIT, "MainPID") == first
        (service.root / SITE_FILE).write_text(good)

        # A daemon that hangs is ended and started anew, and has forgotten nothing.
        service.run("kill", f"-{signal.SIGSTOP:d}", first)
        await asyncio.to_thread(service.wait_for, UNIT, "NRestarts", lambda count: count == "1")
        await asyncio.to_thread(service.wait_for, UNIT, "ActiveState", lambda state: state == "active")
        assert service.show(UNIT, "MainPID") != first
        allocation = await operator.allocate(20_000)
        await answered(operator, allocation, "accepted")
        await limited_to(operator, 20_000)

        # A stop is clean, and says so to the grid.
        await asyncio.to_thread(service.run, "systemctl", "stop", UNIT)
        assert (service.show(UNIT, "Result"), service.show(UNIT, "ActiveState")) == ("success", "inactive")
        async with asyncio.timeout(PATIENCE_S):
            while (status := await operator.status())["state"] != "offline":
                pass
        assert status["reason"] == "stopped"
    result = verify(service.root / LEDGER)
    assert result.ok
    assert result.records >= 3


def told(service: Box) -> str:
    return service.journal(UNIT)
