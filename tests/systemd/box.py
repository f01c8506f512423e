"""A real systemd, booted as process 1 in namespaces of its own. Its root is an overlay of this machine's on a tmpfs, so
that nothing it does stays; the network is this machine's. Needs root and systemd-nspawn.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

# Only what the test needs is started; none of this machine's own services.
_TARGET = """\
[Unit]
Requires=basic.target dbus.socket
After=basic.target
AllowIsolate=yes
"""
_MASKED = ("systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer", "systemd-journal-flush.service")


def why_not() -> str | None:
    """Why no box can be booted here, or `None`."""
    if os.geteuid() != 0:
        return "a box with a real systemd needs root"
    for tool in ("systemd-nspawn", "nsenter", "setpriv"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "this root may not mount: a container without the right to nest others"
    return None


class Box:
    """One booted systemd. `folder` must be empty and is used for its root; call `stop` whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._folder = folder
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None
        self._mounted: list[Path] = []

    def boot(self, prepare: Callable[[Path], None], binds: Mapping[Path, Path]) -> None:
        """Boot, after `prepare` has changed the root; `binds` shows folders of this machine at other places, read-only.
        Raises `RuntimeError` with the console's text if it does not come up."""
        self._mount("tmpfs", self._folder, "size=1g", "tmpfs")
        for name in ("upper", "work", "root"):
            (self._folder / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._folder}/upper,workdir={self._folder}/work"
        self._mount("overlay", self.root, layers, "overlay")
        self._clear_units()
        prepare(self.root)

        name = f"curtaild-{uuid.uuid4().hex[:12]}"
        ready = self._folder / "ready"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, self._console.open("wb") as console:
            listener.bind(str(ready))
            command = [
                *("setpriv", "--pdeathsig", "TERM"),  # the box goes when the tests are killed
                *("systemd-nspawn", "--quiet", "--boot", "--settings=no", f"--directory={self.root}"),
                *("--register=no", "--keep-unit", "--link-journal=no", f"--machine={name}", "--console=pipe"),
                *("--notify-ready=yes", *(f"--bind-ro={source}:{place}" for source, place in binds.items())),
                *("systemd.show_status=0", "systemd.log_target=journal"),
            ]
            surroundings = os.environ | {"NOTIFY_SOCKET": str(ready), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
            self._nspawn = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=surroundings,
                start_new_session=True,  # Ctrl-C at the tests must not take it away before `stop`
            )
            self._await_ready(listener)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside and return what it printed. Raises `CalledProcessError` unless `check` is off."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-p", "-u", "-i", "-n", "-C", "--wdns=/", "--"]
        done = subprocess.run([*enter, *command], check=False, capture_output=True, text=True, timeout=120)
        if check and done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout + done.stderr)
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as systemd has it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def wait_for(self, unit: str, name: str, is_as_wanted: Callable[[str], bool], timeout_s: float = 60.0) -> str:
        """Wait until a unit's property is as wanted, and return it. Raises `TimeoutError` with the unit's journal."""
        until = time.monotonic() + timeout_s
        while not is_as_wanted(value := self.show(unit, name)):
            if time.monotonic() > until:
                raise TimeoutError(f"{unit}: {name}={value}\n{self.journal(unit)}")
            time.sleep(0.05)  # systemctl knows no way to wait for a property
        return value

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}", check=False)

    def stop(self) -> None:
        """Power off, or kill what does not, and unmount everything. Harmless at any stage."""
        if self._nspawn is not None:
            with suppress(ProcessLookupError):
                if self._leader is not None:
                    os.kill(self._leader, signal.SIGRTMIN + 4)  # systemd(1): power off
                else:
                    self._nspawn.terminate()
            try:
                self._nspawn.wait(timeout=20)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.kill(self._leader or self._nspawn.pid, signal.SIGKILL)
                self._nspawn.kill()
                self._nspawn.wait()
            self._nspawn = None
        while self._mounted:
            subprocess.run(["umount", "--lazy", str(self._mounted.pop())], check=True)

    @property
    def _console(self) -> Path:
        return self._folder / "console.log"

    def _mount(self, kind: str, place: Path, options: str, source: str) -> None:
        subprocess.run(["mount", "-t", kind, "-o", options, source, str(place)], check=True, capture_output=True)
        self._mounted.append(place)

    def _clear_units(self) -> None:
        units = self.root / "etc/systemd/system"
        for wanted in units.glob("*.wants/*"):
            wanted.unlink()
        (units / "box.target").write_text(_TARGET)
        (units / "default.target").unlink(missing_ok=True)
        (units / "default.target").symlink_to("box.target")
        for name in _MASKED:
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to("/dev/null")
        (self.root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")

    def _await_ready(self, listener: socket.socket) -> None:
        """nspawn says which process is the leader, and passes on the READY=1 of the systemd inside."""
        listener.settimeout(0.5)
        until = time.monotonic() + 90
        is_ready = False
        while not is_ready:
            try:
                lines = listener.recv(4096).decode().splitlines()
            except TimeoutError:
                assert self._nspawn is not None
                if self._nspawn.poll() is None and time.monotonic() < until:
                    continue
                raise RuntimeError(f"the box does not boot:\n{self._console.read_text(errors='replace')}") from None
            is_ready = "READY=1" in lines
            for line in lines:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
