"""GPU hosts under a site: each a `curtaild` process with eight emulated GPUs behind NVIDIA's own bindings.

A host's job hook writes down that it was called; the work on its GPUs then sleeps, or wakes, as a real job would.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from nvml_stub.gpus import StubGpus
from nvml_stub.models import H100
from running_site import DaemonProcess

GPUS = 8
BASE_W, GPU_FACTOR = 1_800.0, 1.15
DEMAND_W = 690.0
LEAST_GPU_W = 250.0
LEAST_W = BASE_W + GPU_FACTOR * GPUS * LEAST_GPU_W
SUSPENDED_W = BASE_W + GPU_FACTOR * GPUS * H100.idle_w
FAILSAFE_W = 4_500.0
MOST_W = BASE_W + GPU_FACTOR * GPUS * 700.0

_SITE_FILE = """
[site]
name = "{name}"
[grid]
brokers = ["{broker}"]
failsafe_limit_w = {failsafe_w}
failsafe_hold_s = 0
heartbeat_timeout_s = {heartbeat_timeout_s}
status_interval_s = 1
[[feeder]]
id = "host"
rating_w = 12_000
[[devices]]
name = "gpus"
driver = "nvml"
addresses = ["localhost"]
feeder = "host"
poll_s = 1
stale_after_s = 10
min_off_s = 0
[devices.settings]
base_w = {base_w}
gpu_factor = {gpu_factor}
least_gpu_w = {least_gpu_w}
state_file = "{folder}/gpu-state.json"
suspend = {{ shed = ["{hook}", "{folder}"], restore = ["{hook}", "{folder}"], draw_w = {suspended_w}, timeout_s = 10 }}
[policy]
restart_jitter_s = 0
reading_error_fraction = 0.01
[telemetry]
listen = "127.0.0.1:0"
[ledger]
path = "{folder}/curtaild.db"
"""
_HOOK = """#!/bin/sh
# What it is told goes to a file, whole or not at all.
cat > "$1/call.$$" && mv "$1/call.$$" "$1/called.$$"
"""


class GpuHost:
    """One host: its GPUs' truth, its daemon's process, what its hook was told."""

    def __init__(self, name: str, folder: Path, broker_url: str, hook: Path, heartbeat_timeout_s: float) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.gpus = StubGpus(self.folder / "gpus", (H100,) * GPUS)
        self.calls: list[str] = []
        """The hook's reasons, in order: shed, restore."""
        self._began = time.monotonic()
        self._known_until, self._known_w = 0.0, 0.0
        site_file = self.folder / "site.toml"
        self.daemon = DaemonProcess(site_file, self.folder / "daemon.log", self.gpus.environment)
        site_file.write_text(
            _SITE_FILE.format(
                name=name,
                broker=broker_url,
                failsafe_w=FAILSAFE_W,
                heartbeat_timeout_s=heartbeat_timeout_s,
                base_w=BASE_W,
                gpu_factor=GPU_FACTOR,
                least_gpu_w=LEAST_GPU_W,
                folder=self.folder,
                hook=hook,
                suspended_w=SUSPENDED_W,
            )
        )
        self._work(DEMAND_W)
        self.gpus.pass_time(10.0)

    @property
    def power_w(self) -> float:
        """At the wall, as `curtaild_emulator.Plant` takes a load; looked at 20 times a second."""
        if time.monotonic() >= self._known_until:
            self._known_until = time.monotonic() + 0.05
            self._known_w = BASE_W + GPU_FACTOR * sum(self.gpus.power_w(gpu) for gpu in range(GPUS))
        return self._known_w

    def energy_j(self, now: float) -> float:
        gpus_j = sum(self.gpus.energy_j(gpu) for gpu in range(GPUS))
        return BASE_W * (time.monotonic() - self._began) + GPU_FACTOR * gpus_j

    def heed(self) -> None:
        """Do to the work what the hook was told, once for each call."""
        for call in sorted(self.folder.glob("called.*"), key=lambda path: path.stat().st_mtime_ns):
            reason = json.loads(call.read_text())["reason"]
            call.unlink()
            self.calls.append(reason)
            self._work(0.0 if reason == "shed" else DEMAND_W)

    def kill(self) -> None:
        """As a power cut of its management processor would: the GPUs work on as they are set."""
        self.daemon.kill()

    def _work(self, demand_w: float) -> None:
        for gpu in range(GPUS):
            self.gpus.demand_w(gpu, demand_w)


class GpuHosts:
    """`count` hosts at a broker, as `async with`."""

    def __init__(self, folder: Path, count: int, broker_url: str, heartbeat_timeout_s: float = 120.0) -> None:
        hook = folder / "hook"
        hook.write_text(_HOOK)
        hook.chmod(0o755)
        self.hosts = [
            GpuHost(f"gpu-{number + 1:02}", folder, broker_url, hook, heartbeat_timeout_s) for number in range(count)
        ]
        self._heeding: asyncio.Task[None]

    @property
    def calls(self) -> list[str]:
        """Of all hooks."""
        return [call for host in self.hosts for call in host.calls]

    @property
    def suspended(self) -> list[str]:
        """Those whose hook was told to shed last."""
        return [host.name for host in self.hosts if host.calls[-1:] == ["shed"]]

    async def __aenter__(self) -> GpuHosts:
        self._heeding = asyncio.create_task(self._heed())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._heeding.cancel()
        await asyncio.wait((self._heeding,))
        for host in self.hosts:
            host.kill()

    async def start(self, *hosts: GpuHost) -> None:
        """Start the daemons of `hosts`, all where none is named."""
        for host in hosts or self.hosts:
            await host.daemon.start()

    async def _heed(self) -> None:
        while True:
            for host in self.hosts:
                host.heed()
            await asyncio.sleep(0.1)
