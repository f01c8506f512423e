"""The unit's drop-in for GPU hosts, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from systemd.installation import REPOSITORY

UNIT = REPOSITORY / "systemd/curtaild.service"
DROP_IN = REPOSITORY / "systemd/curtaild-gpu.conf"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def verified(folder: Path, drop_in: str) -> str:
    """What systemd has to say: it exits with 0 on unknown keys, so any output counts."""
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/curtaild/bin/curtaild", sys.executable))
    placed = folder / f"{UNIT.name}.d" / "gpu.conf"
    placed.parent.mkdir()
    placed.write_text(drop_in)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    assert verified(tmp_path, DROP_IN.read_text()) == ""


def test_it_is_read_together_with_the_unit(tmp_path: Path) -> None:
    assert "Unknown key 'PrivateUser'" in verified(
        tmp_path, DROP_IN.read_text().replace("PrivateUsers=", "PrivateUser=")
    )


def test_it_opens_no_more_than_the_driver_needs(tmp_path: Path) -> None:
    lines = [line for line in DROP_IN.read_text().splitlines() if line and not line.startswith(("#", "["))]
    opened = {line for line in lines if line.startswith(("DeviceAllow=", "AmbientCapabilities=", "CapabilityBounding"))}
    assert opened == {
        "AmbientCapabilities=CAP_SYS_ADMIN",
        "CapabilityBoundingSet=CAP_SYS_ADMIN",
        "DeviceAllow=char-nvidia rw",
        "DeviceAllow=char-nvidia-frontend rw",
        "DeviceAllow=char-nvidia-caps rw",
    }
