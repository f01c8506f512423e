"""The unit under a real systemd: its sandbox, its credential, its watchdog, what survives a restart."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from systemd.box import Box

pytestmark = pytest.mark.systemd

UNIT = "curtaild"


def test_the_unit_as_installed_verifies(box: Box) -> None:
    assert box.run("systemd-analyze", "verify", "/etc/systemd/system/curtaild.service") == ""


@pytest.fixture
def standing_in(box: Box) -> Iterator[Box]:
    """The unit with a program that tries the sandbox from within instead of the daemon."""
    drop_in = "/run/systemd/system/curtaild.service.d"
    program = "/opt/curtaild/bin/python /opt/curtaild/sandboxed.py"
    box.run("mkdir", "-p", drop_in)
    box.run("sh", "-c", f"printf '[Service]\\nExecStart=\\nExecStart={program}\\n' > {drop_in}/program.conf")
    box.run("systemctl", "daemon-reload")
    yield box
    box.run("systemctl", "stop", UNIT)
    box.run("rm", f"{drop_in}/program.conf")
    box.run("rm", "-r", "/var/lib/private/curtaild")
    box.run("systemctl", "daemon-reload")


def test_the_sandbox_holds_and_the_service_lives_in_it(standing_in: Box) -> None:
    box = standing_in
    box.run("systemctl", "start", UNIT)  # returns once it says READY=1, fails with its sentence in the journal
    assert box.show(UNIT, "StatusText") == "start 1"
    assert box.show(UNIT, "User") == UNIT
    box.run("systemctl", "reload", UNIT)
    assert box.wait_for(UNIT, "StatusText", lambda text: "read again" in text) == "start 1, read again"

    first = box.show(UNIT, "MainPID")
    box.run("kill", f"-{signal.SIGSTOP:d}", first)
    box.wait_for(UNIT, "NRestarts", lambda count: count == "1")
    box.wait_for(UNIT, "ActiveState", lambda state: state == "active")
    assert box.show(UNIT, "MainPID") != first
    assert box.show(UNIT, "StatusText") == "start 2"  # what was durable is there

    box.run("systemctl", "stop", UNIT)
    assert (box.show(UNIT, "Result"), box.show(UNIT, "ActiveState")) == ("success", "inactive")
