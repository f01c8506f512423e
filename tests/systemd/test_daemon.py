"""The daemon itself as a service: a real systemd, a real broker, a grid operator. Every promise of the unit file."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
PATIENCE_S = 60.0


FARM_FILE = """
seed = 1
speed = 5.0
ports = {{ http = 0, rpc = {rpc}, whatsminer_v3 = 0, modbus = 0, control = {control} }}

[[feeders]]
id = "site"

[[fleets]]
id = "luxos"
model = "luxos-s21"
feeder = "site"
address = "127.88.1.1"
count = 4
"""

SITE_FILE_TEXT = """
[site]
name = "box"

[grid]
brokers = ["{broker}"]
username = "box"
password_credential = "mqtt-password"
failsafe_limit_w = 100_000
failsafe_hold_s = 0
status_interval_s = 1

[[feeder]]
id = "site"
rating_w = 100_000

[telemetry]
listen = "127.0.0.1:{telemetry}"

[[devices]]
name = "row"
driver = "asic"
addresses = ["127.88.1.1-4"]
feeder = "site"
poll_s = 1
settings = {{ firmware = "luxos", rpc_port = {rpc} }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Farm:
    """Emulated miners in a process of their own: where they answer, and what they really draw."""

    rpc_port: int
    control_port: int

    def true_power_w(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control_port}/devices", timeout=PATIENCE_S) as answer:
            return float(sum(device["true_power_w"] for device in json.load(answer)))


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(free_port(), free_port())
    plan = tmp_path / "farm.toml"
    plan.write_text(FARM_FILE.format(rpc=farm.rpc_port, control=farm.control_port))
    command = [sys.executable, "-c", "from curtaild.cli import main; main()", "emulate", str(plan)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE_S
            while socket.socket().connect_ex(("127.0.0.1", farm.control_port)) != 0:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)  # it has no way to say that it listens, but to listen
            yield farm
        finally:
            process.terminate()


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
def service(box: Box, broker: Mosquitto, farm: Farm) -> Iterator[Box]:
    """The unit, started, with a site file of one feeder and the farm's miners; ready, and allowed 100 kW."""
    text = SITE_FILE_TEXT.format(broker=broker.url, telemetry=free_port(), rpc=farm.rpc_port)
    (box.root / SITE_FILE).write_text(text)
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
    """The next status from now on that shows this limit; what the broker kept from before does not count."""
    since = datetime.now(UTC)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status = await operator.status()
            if status.get("limit_w") == limit_w and datetime.fromisoformat(status["at"]) >= since:
                return status


async def test_the_daemon_keeps_every_promise_of_its_unit(service: Box, broker: Mosquitto, farm: Farm) -> None:
    first = service.show(UNIT, "MainPID")
    assert farm.true_power_w() > 12_000
    async with grid(broker) as operator:
        # Ready, and reached with the credential's password: an allocation is accepted, followed, and obeyed by miners.
        allocation = await operator.allocate(8_000)
        assert (await answered(operator, allocation, "accepted"))["limit_w"] == 8_000
        assert (await limited_to(operator, 8_000))["state"] == "limited"
        await answered(operator, allocation, "reached")
        assert farm.true_power_w() < 8_000

        # A site file with an error is refused as a whole; the daemon goes on with the old one.
        good = (service.root / SITE_FILE).read_text()
        (service.root / SITE_FILE).write_text(good.replace("failsafe_limit_w = 100_000", "failsafe_limit_w = -5"))
        service.run("systemctl", "reload", UNIT)
        await asyncio.to_thread(service.wait_for, UNIT, "StatusText", lambda text: "site file is wrong" in text)
        assert "failsafe_limit_w" in service.journal(UNIT)
        allocation = await operator.allocate(7_500)
        await answered(operator, allocation, "accepted")
        await limited_to(operator, 7_500)
        assert service.show(UNIT, "MainPID") == first
        (service.root / SITE_FILE).write_text(good)

        # A daemon that hangs is ended and started anew. Its devices stay down, and so does the limit that it knew.
        service.run("kill", f"-{signal.SIGSTOP:d}", first)
        await asyncio.to_thread(service.wait_for, UNIT, "NRestarts", lambda count: count == "1")
        await asyncio.to_thread(service.wait_for, UNIT, "ActiveState", lambda state: state == "active")
        assert service.show(UNIT, "MainPID") != first
        assert "Fatal Python error: Aborted" in service.journal(UNIT)  # and below it, where it hung
        await limited_to(operator, 7_500)
        assert farm.true_power_w() < 7_500
        allocation = await operator.allocate(4_000)
        await answered(operator, allocation, "reached")
        assert farm.true_power_w() < 4_000

        # A stop is clean, says so to the grid, and changes no device.
        await asyncio.to_thread(service.run, "systemctl", "stop", UNIT)
        assert (service.show(UNIT, "Result"), service.show(UNIT, "ActiveState")) == ("success", "inactive")
        async with asyncio.timeout(PATIENCE_S):
            while (status := await operator.status())["state"] != "offline":
                pass
        assert status["reason"] == "stopped"
        assert farm.true_power_w() < 4_000
    result = verify(service.root / LEDGER)
    assert result.ok
    assert result.records >= 3
