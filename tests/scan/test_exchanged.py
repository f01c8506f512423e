"""The running daemon notices when another device, or another firmware, answers at an address it knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from curtaild import memory
from curtaild.app import Daemon
from curtaild.clock import SystemClock
from curtaild.core.device import DrawRatio
from curtaild.fleet import FleetDevice, open_devices
from curtaild.inbox import Inbox
from curtaild.poller import BACK_WITHIN_S, DOUBTED_WITHIN_S, IDENTIFY_AGAIN_AFTER, Poller
from curtaild.store import Store
from curtaild.telemetry.telemetry import PollOutcome
from curtaild_config import DeviceSpec, load_site
from curtaild_drivers.asic import AsicSettings
from curtaild_drivers.contract import DeviceId, FeederId, Identity, RunState
from curtaild_emulator import EmulatedFarm, FarmPlan, Fault, Ports
from curtaild_emulator.plan import ModelName
from loop_clock import comes_true
from scan.farms import ANY_PORTS, settings
from scan.site_files import SITE

NETWORK = "127.34.30.0/24"
NAME = DeviceId("hall/under-test")
S21 = Identity("Antminer", "S21", "luxos")


def farm_of(model: ModelName, ports: Ports) -> EmulatedFarm:
    plan = FarmPlan.mixed(1, models=(model,), network=NETWORK, ports=ports, speed=200.0, latency_s=0.0)
    return EmulatedFarm(plan, one_socket=False)


def fleet_of(address: str, chosen: AsicSettings, known: Identity | None) -> dict[DeviceId, FleetDevice]:
    spec = DeviceSpec(
        id=NAME,
        group="hall",
        address=address,
        driver="asic",
        settings=chosen,
        feeder=FeederId("main"),
        priority=50,
        flex_fraction=None,
        emergency_order=50,
        rated_w=None,
        earns_usd_per_h=None,
        poll_s=0.01,
        stale_after_s=5.0,
        min_on_s=0.0,
        min_off_s=0.0,
        secret_sources=(),
    )
    return open_devices([spec], {NAME: known} if known is not None else {}, "site.toml")


class SkippingClock(SystemClock):
    """Real time, and as much more as the test lets pass."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_s


class Watched:
    """A poller at work: whom it found, and how its polls went."""

    def __init__(self, fleet: dict[DeviceId, FleetDevice]) -> None:
        self.identities: asyncio.Queue[Identity] = asyncio.Queue()
        self.outcomes: asyncio.Queue[PollOutcome] = asyncio.Queue()
        self.inbox = Inbox()
        self.clock = SkippingClock()
        self.poller = Poller(
            fleet,
            [],
            self.inbox,
            self.clock,
            8,
            is_watched=lambda _: False,
            stands_back=lambda: False,
            observe=lambda _driver, outcome, _s: self.outcomes.put_nowait(outcome),
            on_identity=lambda _, identity: self.identities.put_nowait(identity),
        )

    async def next_identity(self) -> Identity:
        async with asyncio.timeout(60.0):
            return await self.identities.get()

    async def polls_that(self, went: Callable[[PollOutcome], bool], running: int = 1) -> None:
        """So many polls running that went so."""
        count = 0
        async with asyncio.timeout(60.0):
            while count < running:
                count = count + 1 if went(await self.outcomes.get()) else 0


@asynccontextmanager
async def watched(fleet: dict[DeviceId, FleetDevice]) -> AsyncIterator[Watched]:
    watch = Watched(fleet)
    running = asyncio.create_task(watch.poller.run())
    try:
        yield watch
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for device in fleet.values():
            await device.driver.close()


def well(outcome: PollOutcome) -> bool:
    return outcome is PollOutcome.OK


def badly(outcome: PollOutcome) -> bool:
    return outcome is not PollOutcome.OK


async def test_another_firmware_on_other_ports_is_found_though_the_old_one_only_falls_silent() -> None:
    async with farm_of("luxos-s21", ANY_PORTS) as later:  # which ports the machine takes that comes after
        free = later.ports
    async with AsyncExitStack() as stack:
        async with farm_of("whatsminer-m60", ANY_PORTS) as first:
            (address,) = first.addresses.values()
            chosen = settings(free.model_copy(update={"whatsminer_v3": first.ports.whatsminer_v3}))
            watch = await stack.enter_async_context(watched(fleet_of(address, chosen, None)))
            assert (await watch.next_identity()).firmware == "whatsminer-v3"
            await watch.polls_that(well)
        await watch.polls_that(badly)
        watch.inbox.take()
        await stack.enter_async_context(farm_of("luxos-s21", free))
        found = await watch.next_identity()
        assert (found.firmware, found.model, found.rated_w) == ("luxos", "S21", 3_500.0)
        await watch.polls_that(well)
        assert [described.rated_w for described in watch.inbox.take().described] == [3_500.0]


@asynccontextmanager
async def one_that_fell_silent() -> AsyncIterator[tuple[EmulatedFarm, str, Watched, Identity]]:
    """For so long that another may stand there since: the farm, its one device, who polls it, and who it is."""
    async with farm_of("luxos-s21", ANY_PORTS) as farm:
        ((name, address),) = farm.addresses.items()
        fleet = fleet_of(address, settings(farm.ports), None)
        async with watched(fleet) as watch:
            known = await watch.next_identity()
            fleet[NAME].identity = replace(known, serial="of the machine that stood here before")
            farm.set_fault(name, Fault.REFUSE_CONNECTION)
            await watch.polls_that(badly, running=IDENTIFY_AGAIN_AFTER)
            yield farm, name, watch, known


async def test_a_device_that_comes_back_is_asked_who_it_is_and_told_only_if_it_is_another() -> None:
    async with one_that_fell_silent() as (farm, name, watch, known):
        farm.set_fault(name, Fault.REFUSE_CONNECTION, on=False)
        await watch.polls_that(well)
        watch.clock.skipped_s += BACK_WITHIN_S
        assert await watch.next_identity() == known
        watch.clock.skipped_s += BACK_WITHIN_S
        await watch.polls_that(well, running=3)
        assert watch.identities.empty(), "told once"


async def test_one_that_comes_back_starting_is_asked_who_it_is_once_it_has_started() -> None:
    async with one_that_fell_silent() as (farm, name, watch, known):
        watch.inbox.take()
        farm.plant.miner(name).reboot(farm.now())
        farm.set_fault(name, Fault.REFUSE_CONNECTION, on=False)
        await watch.polls_that(well)
        (_, first), *_ = watch.inbox.take().readings
        assert first.state is RunState.STARTING
        watch.clock.skipped_s += BACK_WITHIN_S
        assert await watch.next_identity() == known


async def test_one_that_was_remembered_is_asked_once_in_a_while_whether_it_is_still_the_same() -> None:
    async with farm_of("luxos-s21", ANY_PORTS) as farm:
        (address,) = farm.addresses.values()
        async with watched(fleet_of(address, settings(farm.ports), replace(S21, model="S19"))) as watch:
            await watch.polls_that(well, running=3)
            assert watch.identities.empty(), "readings come first"
            watch.clock.skipped_s += DOUBTED_WITHIN_S
            assert (await watch.next_identity()).model == "S21"


async def test_the_daemon_says_so_once_and_forgets_what_the_old_one_drew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with farm_of("luxos-s21", ANY_PORTS) as farm:
        (address,) = farm.addresses.values()
        path, name = tmp_path / "site.toml", DeviceId(f"hall/{address}")
        ports = f"rpc_port = {farm.ports.rpc}, http_port = {farm.ports.http}"
        path.write_text(
            SITE + '[[devices]]\nname = "hall"\ndriver = "asic"\nfeeder = "row-1"\n'
            f'addresses = ["{address}", "127.34.30.250"]\n'
            f'poll_s = 0.05\nsettings = {{ {ports} }}\n[telemetry]\nlisten = "127.0.0.1:0"\n'
            f'[ledger]\npath = "{tmp_path}/curtaild.db"\n'
        )
        site = load_site(path)
        store = Store.open(site.ledger.path, clock=SystemClock())
        elsewhere = {DeviceId("hall/127.34.30.250"): replace(S21, serial=f"EMU{next(iter(farm.addresses))}")}
        remembered = {name: replace(S21, firmware="antminer"), **elsewhere}
        documents = {memory.IDENTITY + known: memory.identity_document(who) for known, who in remembered.items()}
        await store.commit([], documents)
        await store.close(5.0)
        async with Daemon(path, site) as daemon:
            daemon.control.site.devices[name].learned = {"normal": DrawRatio()}
            await comes_true(lambda: "is now Antminer S21 under luxos" in caplog.text)
            assert daemon.control.site.devices[name].learned == {}
        assert caplog.text.count("is now Antminer S21") == 1
        assert ", which stood at hall/127.34.30.250; it is read as that" in caplog.text
        again = Store.open(site.ledger.path, clock=SystemClock())
        assert memory.identities(again.documents())[name].firmware == "luxos"
        await again.close(5.0)
