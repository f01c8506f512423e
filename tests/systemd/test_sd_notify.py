"""What goes over the notification socket, byte by byte, and that its absence costs nothing."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from curtaild.sd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end of the socket, and its name as the environment gives it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@curtaild-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name.encode().replace(b"@", b"\0", 1))
        end.settimeout(60)
        yield end, name


def test_each_message_as_systemd_reads_it(manager: tuple[socket.socket, str]) -> None:
    end, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    assert notifier.is_connected
    notifier.ready()
    assert end.recv(4096) == b"READY=1"
    notifier.ready("limited to 5 MW")
    assert end.recv(4096) == b"READY=1\nSTATUS=limited to 5 MW"
    notifier.status("1,000 devices\nREADY=0\r\nrögue")
    assert end.recv(4096) == "STATUS=1,000 devices READY=0 rögue".encode()
    notifier.watchdog()
    assert end.recv(4096) == b"WATCHDOG=1"
    notifier.reloading()
    first, second = end.recv(4096).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    assert second.partition(b"=")[2].isdigit()
    notifier.stopping()
    assert end.recv(4096) == b"STOPPING=1"
    notifier.close()
    notifier.watchdog()
    end.setblocking(False)
    with pytest.raises(BlockingIOError):
        end.recv(4096)


def test_a_manager_that_does_not_read_costs_nothing(manager: tuple[socket.socket, str]) -> None:
    end, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    for _ in range(10_000):  # far more than a socket holds: the surplus is lost, not waited for
        notifier.status("x" * 1000)
    assert end.recv(4096).startswith(b"STATUS=x")


def test_a_manager_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready("\ud800")
    notifier.stopping()


@pytest.mark.parametrize("name", ["", "@", "vsock:2:1234", "relative/path"])
def test_without_a_manager_there_is_nothing_to_tell(name: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    assert not notifier.is_connected
    notifier.ready()
    assert not Notifier.from_environment({}).is_connected


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),  # meant for the process that started us
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "me"}, None),
    ],
)
def test_the_watchdog_is_served_only_when_asked(variables: dict[str, str], interval_s: float | None) -> None:
    assert Notifier.from_environment(variables).watchdog_interval_s == interval_s
