"""The daemon as a whole: opens everything, runs it, takes a new site file, stops without touching a device."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import curtaild_config as config
from curtaild import memory, translate
from curtaild.actuator import Actuator
from curtaild.clock import Clock, SystemClock
from curtaild.control import ControlLoop
from curtaild.core.feeders import FeederTree
from curtaild.core.link import Link, LinkPolicy
from curtaild.core.site import Site
from curtaild.core.status import SiteStatus
from curtaild.fleet import FleetDevice, open_devices, open_interlocks, open_meters
from curtaild.grid.connection import GridLink
from curtaild.grid.opening import Books, open_grid, who_is_heard
from curtaild.inbox import Inbox
from curtaild.narrate import came_from, exchange, watts
from curtaild.poller import Poller
from curtaild.sd_notify import Notifier
from curtaild.starter import Starter
from curtaild.store import Store
from curtaild.telemetry import HealthReport, Telemetry, TelemetryServer, watch_loop_lag, why_json
from curtaild.telemetry.status_json import Json, link_json
from curtaild.why import Explanations
from curtaild_drivers.contract import DeviceId, Seconds

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 5.0
CLOSED_AT_ONCE = 256
GC_THRESHOLD = (250_000, 20, 100)
"""A shed makes ten thousand objects that live on, and none in circles: with Python's own 700 a quarter of its time goes
into looking for those. A look takes a tenth of a second with 10,000 devices however few are new in number, because all
that replaced what was there before is new as well; so it is left for a time of rest, unless there never is one."""
LOOK_AFTER = 50_000
"""So many new objects are worth a look at rest: some hours of heartbeats, or a shed."""
SWITCH_INTERVAL_S = 0.0002
"""The store's thread takes the interpreter for some microseconds at a time, a dozen times for each transaction: with
Python's own 5 ms it waits so long for each of them while the core thinks."""
STATUS_EVERY_S = 5.0
PRUNE_EVERY_S = 6 * 3600.0
TRY_AGAIN_S = 1.0


class Daemon:
    """`async with Daemon(path, site) as daemon: await daemon.run()`. Raises `SiteFileError`, `StoreError`,
    `MemoryDamaged`, `ListenError` and `NoSuchAbility` while starting; nothing after that."""

    def __init__(self, path: Path, site: config.Site, *, clock: Clock | None = None) -> None:
        self.path = path
        self.config = site
        self.clock = clock or SystemClock()
        self.telemetry = Telemetry(version("curtaild"), self.clock)
        self.notifier = Notifier.from_environment()
        self.inbox = Inbox()
        self.store: Store
        self.control: ControlLoop
        self.server: TelemetryServer
        self._explanations = Explanations(lambda: self.control.site)
        self._stack = AsyncExitStack()
        self._edges = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._grid_books: Books = {}
        self._grid: GridLink | None = None
        self._is_ready = False
        self._is_config_loaded = True
        self._told_systemd_at: Seconds = -1e9

    # ---- start and stop -----------------------------------------------------------------------

    async def __aenter__(self) -> Daemon:
        gc.set_threshold(*GC_THRESHOLD)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        async with AsyncExitStack() as stack:
            self.store = Store.open(self.config.ledger.path, clock=self.clock)
            stack.push_async_callback(self.store.close, STOP_DEADLINE_S)
            self._build_control(self.store.documents())
            self.server = TelemetryServer(
                self.config.telemetry.listen,
                self.telemetry,
                self._status,
                self._health,
                links=self._links,
                why=self._why,
            )
            await self.server.start()
            stack.push_async_callback(self.server.stop)
            await self._open_edges()
            stack.push_async_callback(self._close_edges)
            self._stack = stack.pop_all()
        log.info(
            "curtaild %s at site %s: %d devices, %d meters; metrics and status at %s",
            version("curtaild"),
            self.config.name,
            len(self.control.site.devices),
            len(self.control.site.meters),
            self.server.url,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.notifier.stopping("devices stay at their last safe setpoints")
        await self._stack.aclose()
        log.info("stopped; devices stay at their last safe setpoints")

    def _build_control(self, documents: dict[str, str]) -> None:
        now = self.clock.monotonic()
        tree = translate.feeder_tree(self.config)
        identities = memory.identities(documents)
        specs = translate.device_specs(self.config, self.config.expand_devices(), identities)
        link = Link(_link_policy(self.config, tree), now, memory.link_memory(documents, self.clock))
        epoch = f"{int(self.clock.wall() * 1000):x}"
        intents = memory.raise_intents(documents)
        site = Site(tree, specs, link, translate.policy(self.config), now, epoch, intents)
        for device_id, ratios in memory.learned(documents).items():
            if device_id in site.devices:
                site.devices[device_id].learned = ratios
        keeper = memory.LinkKeeper(documents)
        self.control = ControlLoop(site, self.inbox, self.store, self.telemetry, self.clock, self._on_cycle, keeper)
        self._identities = identities

    async def _open_edges(self) -> None:
        """Everything that speaks to the outside: devices, meters, the grid. Closed and opened again by a reload."""
        site_file = str(self.path)
        fleet = open_devices(self.config.expand_devices(), self._identities, site_file)
        meters = open_meters(self.config.meters(), site_file)
        interlocks = open_interlocks(self.config.interlocks())
        async with AsyncExitStack() as stack:
            closes = [device.driver.close for device in fleet.values()]
            closes += [meter.driver.close for meter in meters]
            closes += [interlock.driver.close for interlock in interlocks]
            stack.push_async_callback(_close_all, closes)
            for device in fleet.values():
                self.telemetry.describe(device.spec.id, device.spec.driver, device.identity)
            actuator = Actuator(fleet, self.inbox.answer, self.clock, self.config.policy.write_concurrency)
            stack.push_async_callback(actuator.close, STOP_DEADLINE_S)
            poller = Poller(
                fleet,
                meters,
                self.inbox,
                self.clock,
                self.config.policy.poll_concurrency,
                is_watched=self.control.is_watched,
                stands_back=lambda: actuator.is_shedding,
                observe=self.telemetry.observe_poll,
                on_identity=lambda name, identity: self._identified(fleet[name]),
            )
            starter = Starter(interlocks, self.inbox, self.clock)
            root = self.control.site.tree.root
            grid = open_grid(self.config, root, self.clock, self.inbox.grid, site_file, self._grid_books)
            self._grid = grid
            self.control.connect(grid, actuator, poller, starter, self.config.grid.status_interval_s)
            for name, work in (("grid link", grid.run), ("poller", poller.run), ("starter", starter.run)):
                stack.push_async_callback(_cancel, asyncio.create_task(_supervise(name, work), name=name))
            stack.push_async_callback(_cancel, asyncio.create_task(self._watch_brokers(grid)))
            self._edges = stack.pop_all()

    async def _close_edges(self) -> None:
        await self._edges.aclose()
        self._edges = AsyncExitStack()
        await asyncio.wait([self.control.finish()], timeout=STOP_DEADLINE_S)

    def _identified(self, device: FleetDevice) -> None:
        name, found = device.spec.id, device.identity
        if found is None:
            return
        known = self._identities.get(name)
        if known is not None and (told := exchange(known, found)) is not None:
            before = came_from(found, name, self._identities)
            moved = f", which stood at {before}" if before is not None else ""
            log.warning("%s: %s%s; it is read as that, and its draw is learned anew", name, told, moved)
            if (known_draws := self.control.site.devices.get(name)) is not None:
                known_draws.learned = {}
        self._identities[name] = found
        self.control.remember_identity(name, found)
        self.telemetry.describe(name, device.spec.driver, found)

    # ---- run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, SIGTERM or SIGINT; SIGHUP reloads the site file."""
        loop = asyncio.get_running_loop()
        reloading: set[asyncio.Task[bool]] = set()

        def reload() -> None:
            task = asyncio.create_task(self.reload())
            reloading.add(task)
            task.add_done_callback(reloading.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, reload)
        tasks = [
            asyncio.create_task(self.control.run(), name="control"),
            asyncio.create_task(watch_loop_lag(self.telemetry), name="loop lag"),
            asyncio.create_task(self._prune(), name="prune"),
            asyncio.create_task(self._stopping.wait(), name="stop"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            await asyncio.gather(*reloading, return_exceptions=True)
            for task in tasks:
                await _cancel(task)

    def stop(self) -> None:
        self._stopping.set()

    async def reload(self) -> bool:
        """Take the site file anew. A wrong one changes nothing; the log says all that is wrong with it."""
        self.notifier.reloading()
        try:
            fresh = config.load_site(self.path)
            tree = translate.feeder_tree(fresh)
            open_grid(fresh, tree.root, self.clock, self.inbox.grid, str(self.path), {})
            specs = translate.device_specs(fresh, fresh.expand_devices(), self._identities)
            open_devices(fresh.expand_devices(), self._identities, str(self.path))
            open_meters(fresh.meters(), str(self.path))
            open_interlocks(fresh.interlocks())
        except (config.SiteFileError, ValueError, LookupError) as error:
            self._is_config_loaded = False
            log.error("the new site file is wrong, the old one stays in force:\n%s", error)
            self.notifier.ready("the new site file is wrong; the old one is in force")
            return False
        for kept in ("site", "ledger", "telemetry"):
            if getattr(fresh, kept) != getattr(self.config, kept):
                log.warning("[%s] takes effect only with a restart", kept)
        fresh = fresh.model_copy(update={kept: getattr(self.config, kept) for kept in ("site", "ledger", "telemetry")})
        await self._close_edges()
        gc.unfreeze()  # the edges are garbage now
        self.config = fresh
        self.control.site.reconfigure(tree, specs, _link_policy(fresh, tree), translate.policy(fresh))
        await self._open_edges()
        self._is_config_loaded = True
        log.info("the new site file is in force: %d devices", len(specs))
        self.notifier.ready(self._summary())
        return True

    async def _prune(self) -> None:
        while True:
            before = self.clock.wall() - self.config.ledger.retention_days * 86_400
            with suppress(Exception):  # the store has told of it
                await self.store.prune(before)
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _watch_brokers(self, grid: GridLink) -> None:
        while True:
            states = grid.links
            for url in dict.fromkeys(state.url for state in states):  # several connections may lead to one broker
                there = [state for state in states if state.url == url]
                is_heard = [state.echo_ok for state in there if state.echo_ok is not None]
                is_connected = all(state.connected for state in there)
                self.telemetry.observe_broker(url, is_connected, all(is_heard) if is_heard else None)
            for name, ahead_s in grid.clocks_ahead_s.items():
                self.telemetry.observe_grid_clock(name, ahead_s)
            await asyncio.sleep(1.0)

    # ---- what is told of it -------------------------------------------------------------------

    def _on_cycle(self) -> None:
        """After each completed cycle, and only then: systemd's proof that limits are being kept."""
        self.notifier.watchdog()
        now = self.clock.monotonic()
        if not self._is_ready and not self.control.site.is_in_grace(now):
            self._is_ready = True
            _look_for_garbage()
            self.notifier.ready(self._summary())
            self._told_systemd_at = now
        elif gc.get_count()[0] >= LOOK_AFTER and self.control.site.is_at_rest:
            _look_for_garbage()
        elif now - self._told_systemd_at >= STATUS_EVERY_S:
            self.notifier.status(self._summary())
            self._told_systemd_at = now

    def _summary(self) -> str:
        status = self.control.status
        site = status.site
        drawn_w = site.metered_w if site.meter_is_fresh and site.metered_w is not None else site.reserved_w
        deficit = f", deficit {watts(site.deficit_w)}" if site.deficit_w else ""
        return (
            f"{status.phase.value}: {watts(drawn_w)} of {watts(site.limit_w)}{deficit}; "
            f"{site.devices} devices, {status.actuations_in_flight} in motion"
        )

    def _status(self) -> SiteStatus | None:
        return self.control.status

    def _why(self, device: DeviceId) -> Callable[[], Iterator[bytes]] | None:
        """What renders the explanation of a device: the core is asked now, the ledger by the thread that renders."""
        why = self._explanations.of(device, self.clock.monotonic())
        return partial(why_json.encode, why, self.config.ledger.path) if why is not None else None

    def _links(self) -> list[Json]:
        now = self.clock.monotonic()
        return [link_json(state, now) for state in self._grid.links] if self._grid is not None else []

    def _health(self) -> HealthReport:
        return self.telemetry.health(self._is_config_loaded)


def _look_for_garbage() -> None:
    """What is left lives long: to walk it again each time would stall the loop for tens of ms."""
    gc.collect()
    gc.freeze()


def _link_policy(site: config.Site, tree: FeederTree) -> LinkPolicy:
    return replace(translate.link_policy(site, tree), hears=who_is_heard(site))


async def _supervise(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Keep `work` running: what ends or fails is told and begun again."""
    while True:
        try:
            await work()
            log.error("%s ended by itself; it is started again", name)
        except Exception:
            log.exception("%s failed; it is started again", name)
        await asyncio.sleep(TRY_AGAIN_S)


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


async def _close_all(closes: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Side by side, for some take leave of their device and it may hang; all of them within `STOP_DEADLINE_S`."""
    places = asyncio.Semaphore(CLOSED_AT_ONCE)

    async def close_one(close: Callable[[], Awaitable[None]]) -> None:
        async with places:
            with suppress(Exception):
                await close()

    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_DEADLINE_S):
            await asyncio.gather(*map(close_one, closes))
