"""One box for all tests here, with the working tree installed in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd import box as boxes
from systemd import installation

SECRET = "correct horse"


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[boxes.Box]:
    """A booted box: curtaild and its unit installed, not started; one credential; short watchdog times."""
    if (reason := boxes.why_not()) is not None:
        pytest.skip(reason)
    wheel = installation.wheel(tmp_path_factory.mktemp("wheel"))

    def prepare(root: Path) -> None:
        installation.install(root, wheel)
        shutil.copy(Path(__file__).with_name("sandboxed.py"), root / "opt/curtaild/sandboxed.py")
        secrets = root / "etc/curtaild/secrets"
        secrets.mkdir(mode=0o700)
        (secrets / "mqtt-password").write_text(SECRET)
        (secrets / "mqtt-password").chmod(0o600)
        drop_ins = root / "etc/systemd/system/curtaild.service.d"
        drop_ins.mkdir()
        (drop_ins / "test.conf").write_text(
            "[Service]\nLoadCredential=mqtt-password:/etc/curtaild/secrets/mqtt-password\n"
            "WatchdogSec=6s\nTimeoutAbortSec=20s\nRestartSec=100ms\n"
        )

    box = boxes.Box(tmp_path_factory.mktemp("box"))
    try:
        box.boot(prepare, installation.binds())
        box.run("ldconfig")
        yield box
    finally:
        box.stop()
