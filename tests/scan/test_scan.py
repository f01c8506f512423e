"""A scan finds every firmware for what it is, within its bounds, among everything else that lives on a network."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

import pytest

from curtaild.survey.scan import IDENTIFY_AT_ONCE, Scan, Tally, affordable
from curtaild.survey.targets import ranges, targets
from curtaild.survey.touch import Touch, touch
from curtaild_drivers.asic.finding import find
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import EmulatedFarm, FarmPlan, Fault
from curtaild_emulator.plan import ModelName, Passwords
from scan.farms import ANY_PORTS, EACH_FIRMWARE, asked_with, farm, settings, telling
from scan.strangers import Talk, flood, not_found, page, stranger, tarpit


@pytest.fixture(autouse=True)
def no_greeting_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curtaild_drivers.asic.recognise.ANSWER_WITHIN_S", 120.0)


def scan_of(addresses: Sequence[str], chosen: AsicSettings, tally: Tally, concurrency: int = 200) -> Scan:
    return Scan(
        addresses, lambda _: asked_with(chosen), tally, concurrency=concurrency, timeout_s=60.0, ports=telling(chosen)
    )


async def test_every_firmware_is_found_among_silent_addresses() -> None:
    async with farm(2 * len(EACH_FIRMWARE), "127.34.0.0/24") as emulated:
        tally = Tally()
        await scan_of(targets(["127.34.0.0/24"]), settings(emulated.ports), tally).run()
    found = {address: finding.identity for address, finding in tally.miners.items()}
    assert sorted(found) == sorted(emulated.addresses.values())
    names = Counter(identity.firmware for identity in found.values() if identity is not None)
    assert set(names.values()) == {2}
    assert len(names) == len(EACH_FIRMWARE)
    assert all(identity is not None and identity.serial for identity in found.values())
    assert tally.touched == {Touch.OPEN: 2 * len(EACH_FIRMWARE), Touch.REFUSED: 254 - 2 * len(EACH_FIRMWARE)}


async def test_a_scan_goes_on_where_it_was_cut_off() -> None:
    async with farm(30, "127.34.1.0/24", ("luxos-s21",)) as emulated:
        addresses = targets(["127.34.1.0/24"])
        chosen = settings(emulated.ports)
        tally = Tally()
        cut = asyncio.create_task(scan_of(addresses, chosen, tally, concurrency=3).run())
        while not tally.done:
            await asyncio.wait([cut], timeout=0.001)
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        assert 0 < tally.done < len(addresses)
        assert tally.touched.total() == tally.done
        await scan_of(addresses, chosen, tally).run()
    assert tally.done == tally.touched.total() == len(addresses)
    assert len(tally.miners) == 30


async def test_no_more_sockets_are_open_than_were_allowed() -> None:
    """254 addresses that take every connection and say nothing: the worst there is for a scan."""
    before, peak = len(os.listdir("/proc/self/fd")), 0
    opened = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.read()

    async with stranger("0.0.0.0", hold) as port:
        chosen = AsicSettings(rpc_port=port, http_port=port, v3_port=port, identify_deadline_s=0.2)
        tally = Tally()
        scan = asyncio.create_task(scan_of(targets(["127.34.2.0/24"]), chosen, tally, concurrency=30).run())
        while not scan.done():
            peak = max(peak, len(os.listdir("/proc/self/fd")) - before)
            await asyncio.wait([scan], timeout=0.01)
        await scan
    assert opened >= 254
    # ours, and as many again at the far end, which lives in this process
    assert peak <= 2 * (30 + 3 * IDENTIFY_AT_ONCE) + 32
    assert tally.miners == {}


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (flood, "longer than 256 KiB"),
        (tarpit, "did not answer in time"),
        (not_found, "not as a miner"),
        (page("Welcome to the town of Springfield"), "not as a miner"),
        (page("AxeOS"), "greets as axeos, then"),
        (page('{"STATUS": ['), "not as a miner"),
    ],
    ids=["flood", "tarpit", "json 404", "a town", "a page that names a miner", "half of an answer"],
)
async def test_what_is_no_miner_is_not_taken_for_one(talk: Talk, said: str) -> None:
    async with stranger("127.34.3.1", talk) as port:
        deadline_s = 2.0 if talk is tarpit else 120.0
        chosen = AsicSettings(rpc_port=port, http_port=port, v3_port=1, identify_deadline_s=deadline_s)
        finding = await find("127.34.3.1", chosen, OpenContext())
    assert finding.identity is None
    assert said in finding.trouble


async def test_a_miner_that_rejects_the_password_is_found_by_its_firmware() -> None:
    async with farm(1, "127.34.4.0/24", ("vnish-s19j-pro",)) as emulated:
        (name, address), *_ = emulated.addresses.items()
        emulated.set_fault(name, Fault.WRONG_PASSWORD)
        finding = await find(address, settings(emulated.ports), OpenContext())
    assert finding.identity is not None
    assert (finding.identity.firmware, finding.identity.model) == ("vnish", "")
    assert "password" in finding.trouble


async def test_one_that_needs_its_password_to_say_who_it_is_is_asked_with_it() -> None:
    """A Marathon keeps Bitmain's web server, and tells itself apart behind its password only."""
    models: tuple[ModelName, ...] = ("marathon-s19j-pro",)
    plan = FarmPlan.mixed(1, models=models, network="127.34.6.0/24", ports=ANY_PORTS, latency_s=0.0)
    plan = plan.model_copy(update={"passwords": Passwords(marathon="its own")})
    async with EmulatedFarm(plan, one_socket=False) as emulated:
        (address,) = emulated.addresses.values()
        finding = await find(address, settings(emulated.ports), OpenContext(secrets={"password": "its own"}))
    assert finding.identity is not None
    assert (finding.identity.firmware, finding.identity.model) == ("marathon", "S19J Pro")


async def test_an_address_that_refuses_is_known_at_once() -> None:
    async with asyncio.timeout(30.0):
        assert await touch("127.34.5.1", [1, 2], timeout_s=300.0) is Touch.REFUSED


def test_the_kernel_is_asked_for_descriptors_and_its_no_is_heeded() -> None:
    assert 4 <= affordable(2_000) <= 2_000


@pytest.mark.parametrize(
    ("words", "addresses"),
    [
        (["10.0.1.10-12"], ["10.0.1.10", "10.0.1.11", "10.0.1.12"]),
        (["10.0.1.254-10.0.2.1"], ["10.0.1.254", "10.0.1.255", "10.0.2.0", "10.0.2.1"]),
        (["10.0.1.7", "10.0.1.9"], ["10.0.1.9", "10.0.1.7"]),
    ],
)
def test_ranges_are_spelled_as_the_site_file_reads_them(words: list[str], addresses: list[str]) -> None:
    assert ranges(addresses) == words
    assert set(targets(words)) == set(addresses)


@pytest.mark.parametrize("slip", ["10.0.0.0/8", "miner-7", "10.0.1.5/24", "10.0.1.9-3"])
def test_a_slip_is_named(slip: str) -> None:
    with pytest.raises(ValueError, match=slip.split("/")[0]):
        targets([slip])
