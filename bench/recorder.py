"""Writes the book: an emulated miner of each firmware behind a tap that keeps what passes, and clients that ask it
everything they will ask in the benches: our driver, pyasic, pyasic-rs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from bench.book import KINDS, PORTS, Book, Exchange, Pages, address
from bench.peers import Peer
from curtaild_drivers import registry
from curtaild_drivers.contract import OFF, Device, OperatingPoint
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import DevicePlan, EmulatedFarm, FarmPlan, FeederPlan, Ports

_CHUNK = 1 << 16
_LONG_ENOUGH_S = 3_600.0
"""Plant time in which everything settles."""


class Tap:
    """Stands at the miners' own ports before an emulated farm on others, and keeps every question and answer."""

    def __init__(self, farm: EmulatedFarm) -> None:
        self.farm = farm
        self.pages = [Pages() for _ in KINDS]
        self._kind_at = {address(kind, 1): kind for kind in range(len(KINDS))}
        self._relays: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        ports = self.farm.ports
        behind = {"rpc": ports.rpc, "http": ports.http, "framed": ports.whatsminer_v3}
        async with AsyncExitStack() as stack:
            for wire, port in behind.items():
                server = await asyncio.start_server(self._relay_to(wire, port), "0.0.0.0", PORTS[wire])
                stack.callback(server.close)
            stack.push_async_callback(self._hang_up)
            yield

    async def _hang_up(self) -> None:
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def asleep(self, kind: int) -> bool:
        return self.farm.plant.miner(KINDS[kind].firmware).setting.asleep

    def wake_all(self) -> None:
        """As they were at the beginning."""
        for kind in KINDS:
            self.farm.plant.miner(kind.firmware).wake(self.farm.now())
        self.settle()

    def settle(self) -> None:
        self.farm.skip(_LONG_ENOUGH_S)
        self.farm.plant.advance(self.farm.now())

    def _relay_to(self, wire: str, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def begin(caller: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(relay(caller, back))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

        async def relay(caller: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            host = back.get_extra_info("sockname")[0]
            kind = self._kind_at.get(host)
            if kind is None or not _speaks(self.farm, kind, wire):
                back.transport.abort()
                return
            with suppress(OSError):
                device, forth = await asyncio.open_connection(host, port)
                await self._pass_on(kind, wire, caller, back, device, forth)
                forth.close()
            back.close()

        return begin

    async def _pass_on(
        self,
        kind: int,
        wire: str,
        caller: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        device: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        question, reply, was_asleep, effect = b"", b"", False, "read"
        kept, place = self.pages[kind].exchanges, -1

        def keep() -> None:
            nonlocal place
            exchange = Exchange(wire, question, reply, was_asleep, effect)
            if place < 0:
                place = len(kept)
                kept.append(exchange)
            kept[place] = exchange

        asked = asyncio.ensure_future(caller.read(_CHUNK))
        answered = asyncio.ensure_future(device.read(_CHUNK))
        try:
            while True:
                await asyncio.wait((asked, answered), return_when=asyncio.FIRST_COMPLETED)
                if answered.done():
                    piece = answered.result()
                    if not piece:
                        break
                    effect = effect if reply else self._effect(kind, question, was_asleep)
                    reply += piece
                    keep()
                    back.write(piece)
                    answered = asyncio.ensure_future(device.read(_CHUNK))
                if asked.done():
                    piece = asked.result()
                    if not piece:
                        break
                    if reply:
                        question, reply, effect, place = b"", b"", "read", -1
                    if not question:
                        was_asleep = self.asleep(kind)
                    question += piece
                    forth.write(piece)
                    asked = asyncio.ensure_future(caller.read(_CHUNK))
        finally:
            if question and not reply:
                keep()
            for waiting in (asked, answered):
                waiting.cancel()
            await asyncio.gather(asked, answered, return_exceptions=True)

    def _effect(self, kind: int, question: bytes, was_asleep: bool) -> str:
        """What the device has done by the time it answers; an Avalon stops five seconds later."""
        if (self.asleep(kind) and not was_asleep) or b"softoff" in question:
            return "stop"
        return "start" if was_asleep and not self.asleep(kind) else "read"


async def record(peers: list[Peer], on_progress: Callable[[str], None]) -> Book:
    """Ask one device of each kind everything. Raises `DriverError` if the driver and the emulator disagree."""
    plan = FarmPlan(
        latency_s=0.0,
        ports=Ports(http=0, rpc=0, whatsminer_v3=0, braiins=0, auradine=0, modbus=0, control=0),
        feeders=(FeederPlan(id="site"),),
        devices=tuple(
            DevicePlan.model_validate(
                {"id": kind.firmware, "model": kind.model, "feeder": "site", "address": address(number, 1)}
            )
            for number, kind in enumerate(KINDS)
        ),
    )
    async with EmulatedFarm(plan) as farm:
        tap = Tap(farm)
        tap.settle()
        async with tap.open():
            for kind in range(len(KINDS)):
                on_progress(KINDS[kind].firmware)
                await _ask_everything(tap, kind)
            tap.wake_all()
            for peer in peers:
                on_progress(peer.name)
                await peer.rehearse([address(kind, 1) for kind in range(len(KINDS))])
                tap.wake_all()
    return Book(tap.pages)


async def _ask_everything(tap: Tap, kind: int) -> None:
    """By our own driver: who it is, what it offers, readings awake, the stop, readings asleep."""
    device = _driver_of(kind)
    pages, plant = tap.pages[kind], tap.farm.plant
    await device.identify()
    points = await device.operating_points()
    awake_w = plant.true_power_w(KINDS[kind].firmware)
    await device.read()
    pages.hot = await _asked(tap, kind, device.read)
    pages.stop = await _asked(tap, kind, lambda: device.apply(_off(points.points)))
    tap.settle()
    for _ in range(2):
        await device.read()
    pages.watts = (awake_w, plant.true_power_w(KINDS[kind].firmware))
    await device.close()
    again = _driver_of(kind)  # everything that is asked of a sleeping one by somebody who does not know it
    await again.identify()
    await again.operating_points()
    await again.read()
    await again.close()


async def _asked(tap: Tap, kind: int, call: Callable[[], Awaitable[object]]) -> list[tuple[str, bytes]]:
    known = tap.pages[kind].exchanges
    before = len(known)
    await call()
    return [(one.wire, one.question) for one in known[before:]]


def _driver_of(kind: int) -> Device:
    asic = registry.driver("asic")
    assert asic.open_device is not None
    settings = asic.settings.model_validate({"firmware": KINDS[kind].firmware})
    return asic.open_device(address(kind, 1), settings, OpenContext())


def _off(points: tuple[OperatingPoint, ...]) -> OperatingPoint:
    return next(point for point in points if point.key == OFF)


def _speaks(farm: EmulatedFarm, kind: int, wire: str) -> bool:
    names = {"http": "http", "rpc": "rpc", "framed": "whatsminer_v3"}
    return any(spoken.value == names[wire] for spoken in farm.unit(KINDS[kind].firmware).speaks)
