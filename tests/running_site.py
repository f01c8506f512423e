"""A whole site on loopback: a real mosquitto, an emulated farm, the daemon as a process of its own, a grid operator,
and the ways to wait for what they do. Needs mosquitto; no root."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import select
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import aiomqtt

from curtaild.grid.native import Topics
from curtaild.grid.operator import Answer, Operator, operator_access
from curtaild_emulator import EmulatedFarm, FarmPlan, Ports
from hatchery import Hatchery, hatchery
from mosquitto import Mosquitto
from site_of_farm import SiteFile

ANY_PORTS = Ports(http=0, rpc=0, whatsminer_v3=0, modbus=0, control=0)
PATIENCE_S = 60.0
"""How long a test waits for what must come; only a failing one waits that long."""
LOOK_EVERY_S = 0.05
SAMPLE_EVERY_S = 0.02
METER_NOISE = 1.01
"""What a site may truly draw, as a share of its limit: it knows its draw by a meter that scatters by half a percent."""

T = TypeVar("T")
Status = dict[str, Any]
"""What `/status` answers: docs/metrics.md lists the keys."""


async def until(what: str, look: Callable[[], T | Awaitable[T | None] | None], within_s: float = PATIENCE_S) -> T:
    """The first truthy answer of `look`; fails the test after `within_s`. What it cannot reach yet is not yet so."""
    deadline = time.monotonic() + within_s
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            found = look()
            answer = await found if inspect.isawaitable(found) else found
            if answer:
                return answer
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(LOOK_EVERY_S)  # processes and plants have no event to wait for


class DaemonProcess:
    """`curtaild run` on a site file, to start, signal, kill and start again. Its log grows over all runs.

    `environment` is on top of the test's own.
    """

    def __init__(self, site_file: Path, log_file: Path, environment: Mapping[str, str] | None = None) -> None:
        self._site_file = site_file
        self._log_file = log_file
        self._environment = environment or {}
        self._pid: int | None = None
        self._pidfd = -1  # readable once the process has ended
        log_file.touch()

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._pid is not None, "not started"
        return self._pid

    @property
    def is_running(self) -> bool:
        return self._pid is not None and not self._has_ended_within(0.0)

    def lines(self, *parts: str) -> list[str]:
        """The log's lines that contain all `parts`."""
        return [line for line in self.log.splitlines() if all(part in line for part in parts)]

    async def start(self) -> None:
        assert not self.is_running
        self.kill()
        self._pid = await asyncio.to_thread(self._start)
        self._pidfd = os.pidfd_open(self._pid)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As a power cut does it; harmless if it has ended."""
        if self._pid is not None:
            self.signal(signal.SIGKILL)
            self._code()

    async def stop(self) -> int:
        """As systemd does it; the exit code."""
        self.signal(signal.SIGTERM)
        assert await asyncio.to_thread(self._has_ended_within, PATIENCE_S), "SIGTERM does not end it"
        return self._code()

    @property
    def _hatchery(self) -> Hatchery:
        return hatchery(self._environment.get("LD_LIBRARY_PATH"))

    def _start(self) -> int:
        return self._hatchery.start(self._site_file, self._log_file, self._environment)

    def _has_ended_within(self, seconds: float) -> bool:
        ended = select.poll()  # unlike select, for any number of open files
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(1_000 * seconds))

    def _code(self) -> int:
        """The exit code, once it has ended; then it is forgotten."""
        code = self._hatchery.code_of(self.pid)
        os.close(self._pidfd)
        self._pid = None
        return code


@dataclass(frozen=True, slots=True)
class Sample:
    """What the plant truly drew at a moment (monotonic s), W by feeder."""

    at: float
    power_w: dict[str, float]


class PowerTrace:
    """The plant's true draw from beginning to end, 50 times a second: no meter's word for it."""

    def __init__(self, farm: EmulatedFarm) -> None:
        self._farm = farm
        self.samples: list[Sample] = []

    async def run(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def sample(self) -> Sample:
        plant = self._farm.plant
        plant.advance(self._farm.now())
        power_w = {feeder: plant.true_feeder_power_w(feeder) for feeder in plant.feeder_ids}
        self.samples.append(Sample(time.monotonic(), {str(feeder): watts for feeder, watts in power_w.items()}))
        return self.samples[-1]

    def now_w(self, feeder: str = "site") -> float:
        return self.sample().power_w[feeder]

    def between(self, begin: float, end: float, feeder: str = "site") -> Iterator[float]:
        return (sample.power_w[feeder] for sample in self.samples if begin <= sample.at <= end)

    def highest_w(self, begin: float, end: float, feeder: str = "site") -> float:
        return max(self.between(begin, end, feeder))

    def first_under(self, limit_w: float, since: float, feeder: str = "site") -> float:
        """When the draw was under `limit_w` for the first time from `since` on; infinity if never."""
        under = (s.at for s in self.samples if s.at >= since and s.power_w[feeder] <= limit_w)
        return next(under, float("inf"))


class Acks:
    """What the site answers, in the order it came."""

    def __init__(self) -> None:
        self.all: list[Answer] = []

    async def collect(self, operator: Operator) -> None:
        async for ack in operator.acks():
            self.all.append(ack)

    def of(self, allocation_id: str | None) -> list[Answer]:
        return [ack for ack in self.all if ack["id"] == allocation_id]

    def stages(self, allocation_id: str) -> list[str]:
        return [str(ack["stage"]) for ack in self.of(allocation_id)]

    async def stage(self, allocation_id: str, *stages: str, within_s: float = PATIENCE_S) -> Answer:
        """The first ack of the allocation at one of `stages`."""

        def heard() -> Answer | None:
            return next((ack for ack in self.of(allocation_id) if ack["stage"] in stages), None)

        return await until(f"{'|'.join(stages)} of {allocation_id}", heard, within_s)


class RunningSite:
    """Use as `async with RunningSite(folder, plan, failsafe_w=…) as site`: broker, farm and operator run; change
    `site.file` as you like, then `await site.start()`.

    The operator sends heartbeats unless `heartbeats` is false. With `identified` the daemon must find out what the
    devices are, which works on the real ports only.
    """

    def __init__(
        self,
        folder: Path,
        plan: FarmPlan,
        *,
        failsafe_w: float,
        rating_w: float | None = None,
        identified: bool = False,
        heartbeats: bool = True,
        brokers: int = 1,
        one_socket: bool = True,
    ) -> None:
        self.folder = folder
        self.farm = EmulatedFarm(plan, one_socket=one_socket)
        self.trace = PowerTrace(self.farm)
        self.full_w = self.trace.now_w()
        self._plan = plan
        self._failsafe_w = failsafe_w
        self._rating_w = rating_w if rating_w is not None else 2.0 * self.full_w
        self._identified = identified
        self._heartbeats = heartbeats
        self._broker_count = brokers
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.farm)
            self.brokers = [self._open_broker(stack, number) for number in range(self._broker_count)]
            listen = f"127.0.0.1:{free_port()}"
            self.file = SiteFile("site", self._plan, self.farm.ports, self._rating_w, self._identified)
            self.file.grid.update(brokers=[broker.url for broker in self.brokers], failsafe_limit_w=self._failsafe_w)
            self.file.tables["telemetry"]["listen"] = listen
            self.ledger = self.folder / "curtaild.db"
            self.file.tables["ledger"]["path"] = self.ledger
            self.path = self.folder / "site.toml"
            self.daemon = DaemonProcess(self.path, self.folder / "daemon.log")
            stack.callback(self.daemon.kill)
            timeout = aiohttp.ClientTimeout(total=PATIENCE_S / 2)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(f"http://{listen}", timeout=timeout))
            self.url = f"http://{listen}"
            self.operator, self.acks = await self.operate(stack, self.brokers[0], "npcc", self._heartbeats)
            _run(stack, self.trace.run())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _open_broker(self, stack: AsyncExitStack, number: int) -> Mosquitto:
        folder = self.folder / f"broker-{number}"
        folder.mkdir()
        broker = Mosquitto(folder)
        broker.start()
        stack.callback(broker.stop)
        return broker

    @property
    def broker(self) -> Mosquitto:
        return self.brokers[0]

    @property
    def topics(self) -> Topics:
        return Topics("curtaild/v1", "site")

    async def operate(
        self, stack: AsyncExitStack, broker: Mosquitto, issuer: str, heartbeats: bool
    ) -> tuple[Operator, Acks]:
        """An operator at `broker` and what it hears, for as long as `stack` is open."""
        access = replace(operator_access("127.0.0.1", broker.port), keepalive_s=PATIENCE_S)
        operator = await stack.enter_async_context(Operator(access, self.topics, issuer))
        acks = Acks()
        _run(stack, acks.collect(operator))
        if heartbeats:
            await stack.enter_async_context(operator.heartbeats(0.5))
        return operator, acks

    async def publish(self, topic: str, *payloads: bytes, retain: bool = False) -> None:
        """Whatever anybody may send, at QoS 1."""
        async with aiomqtt.Client("127.0.0.1", self.broker.port) as client:
            for payload in payloads:
                await client.publish(topic, payload, qos=1, retain=retain)

    # ---- the daemon ---------------------------------------------------------------------------

    async def start(self, within_s: float = PATIENCE_S) -> Status:
        """Write the site file and start the daemon on it; returns once it has completed a cycle."""
        self.file.write(self.path)
        await self.daemon.start()
        return await self.until("the daemon is at work", lambda status: True, within_s)

    async def get(self, path: str) -> str:
        async with self._http.get(path) as answer:
            return await answer.text()

    async def code(self, path: str) -> int:
        async with self._http.get(path) as answer:
            return answer.status

    async def status(self, devices: bool = False) -> Status:
        status: Status = json.loads(await self.get("/status" if devices else "/status?devices=0"))
        return status

    async def metric(self, series: str) -> float | None:
        """One series of `/metrics`, named as it stands there, labels included."""
        return series_of(await self.get("/metrics")).get(series)

    async def told(self, series: str) -> float:
        """One series of `/metrics` once it is there and not 0."""
        return await until(series, lambda: self.metric(series))

    # ---- waiting ------------------------------------------------------------------------------

    async def until(
        self, what: str, holds: Callable[[Status], object], within_s: float = PATIENCE_S, devices: bool = False
    ) -> Status:
        """The first status for which `holds` says yes."""
        seen: list[Status] = []

        async def look() -> Status | None:
            assert self.daemon.is_running, f"the daemon has ended:\n{self.daemon.log[-4000:]}"
            seen[:] = [await self.status(devices)]
            return seen[0] if holds(seen[0]) else None

        try:
            return await until(what, look, within_s)
        except AssertionError as late:
            brief = {key: value for status in seen for key, value in status.items() if key != "devices"}
            raise AssertionError(f"{late}\nstatus: {brief}\nlog:\n{self.daemon.log[-4000:]}") from None

    async def limited_to(self, limit_w: float, within_s: float = PATIENCE_S) -> Status:
        """The site's limit in force is this one."""
        return await self.until(f"limit {limit_w:g} W", lambda status: site_of(status)["limit_w"] == limit_w, within_s)

    async def all_known(self, within_s: float = PATIENCE_S) -> Status:
        """Every device has been read, and everybody knows where it is set."""

        def known(status: Status) -> bool:
            return all(device["confirmed"] is not None for device in status["devices"])

        return await self.until("all devices are known", known, within_s, devices=True)

    async def lives_on(self, seconds: float) -> Status:
        """Go on for so long, by the daemon's own clock."""
        since = (await self.status())["at_s"]
        return await self.until(
            f"{seconds:g} s of the daemon's life",
            lambda status: status["at_s"] >= since + seconds,
            seconds + PATIENCE_S,
        )

    async def at_rest(self, within_s: float = PATIENCE_S) -> None:
        """No device is on its way to another draw."""
        plant = self.farm.plant
        self.trace.sample()
        await until(
            "all devices have settled",
            lambda: self.trace.sample() and all(plant.miner(device).is_settled for device in plant.device_ids),
            within_s,
        )

    async def true_under(self, limit_w: float, within_s: float = PATIENCE_S, feeder: str = "site") -> None:
        """What truly flows into the feeder is at `limit_w` or under."""
        what = f"true draw of {feeder} under {limit_w:g} W"
        await until(what, lambda: self.trace.now_w(feeder) <= limit_w, within_s)

    async def true_over(self, power_w: float, within_s: float = PATIENCE_S, feeder: str = "site") -> None:
        """What truly flows into the feeder is `power_w` or more."""
        what = f"true draw of {feeder} over {power_w:g} W"
        await until(what, lambda: self.trace.now_w(feeder) >= power_w, within_s)


def site_of(status: Status) -> dict[str, Any]:
    """The root feeder of a status."""
    root: dict[str, Any] = next(feeder for feeder in status["feeders"] if feeder["id"] == status["root"])
    return root


def series_of(exposition: str) -> dict[str, float]:
    """A scrape as a dictionary of series."""
    samples = (line.rpartition(" ") for line in exposition.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, _, value in samples}


def labelled(series: Iterable[str], *parts: str) -> list[str]:
    """Those series that contain all `parts`."""
    return [name for name in series if all(part in name for part in parts)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(stack: AsyncExitStack, work: Any) -> None:
    """Keep `work` running until the stack closes."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.wait((task,))

    stack.push_async_callback(end)
