"""The unit file, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from systemd.installation import REPOSITORY

UNIT = REPOSITORY / "systemd/curtaild.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    """`verify` exits with 0 on unknown keys: any output counts. The program it looks for is not installed here."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/curtaild/bin/curtaild", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_a_misspelt_key_would_be_noticed(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text("[Service]\nExecStart=/bin/true\nProtectHomes=yes\n")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "ProtectHomes" in done.stdout + done.stderr


def test_the_sandbox_stays_tight() -> None:
    """systemd's own score, in tenths: 0 is sealed, 96 is open to everything; it exits with 1 above the threshold."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
