"""Who is it: pyasic's probing on the ports it knows, and the way around it for a miner that is remembered.

pyasic looks at the usual ports only, so the emulated farm needs them (80 needs root); without them these tests say so.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.asic.firmware import Access
from curtaild_drivers.asic.recognise import greet
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.contract import BadReply, Device, DriverError, Identity, OperatingPoint, Outcome, RunState
from curtaild_drivers.contract import Unreachable as Gone
from curtaild_drivers.registry import OpenContext, driver
from curtaild_emulator import CannotListen, EmulatedFarm, FarmPlan, Fault, Ports
from curtaild_emulator.plan import ModelName
from drivers.tiny_servers import HOST, IN_TIME, Answer, HttpAsked, plain_http
from loop_clock import LONG_S, put_forward

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pyasic.*")


@pytest.fixture(autouse=True)
def no_greeting_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curtaild_drivers.asic.recognise.ANSWER_WITHIN_S", 120.0)


NETWORK = "127.33.0.0/24"
MODELS: tuple[ModelName, ...] = (
    "antminer-s21",
    "whatsminer-m50",
    "whatsminer-m60",
    "luxos-s21",
    "vnish-s19j-pro",
    "avalon-a1566",
    "braiins-s19j-pro",
    "epic-s19j-pro",
    "auradine-at1500",
    "bitaxe-gamma",
    "nerdqaxe-plus2",
    "marathon-s19j-pro",
)
EXPECTED = {
    "antminer-s21": ("Antminer", "S21", "antminer", 3500.0),
    "whatsminer-m50": ("WhatsMiner", "M50", "whatsminer-v2", 3306.0),
    "whatsminer-m60": ("WhatsMiner", "M60", "whatsminer-v3", 3422.0),
    "luxos-s21": ("Antminer", "S21", "luxos", 3500.0),
    "vnish-s19j-pro": ("Antminer", "S19j Pro", "vnish", 2970.0),
    "avalon-a1566": ("Avalon", "15-194", "avalon", 3420.0),
    "braiins-s19j-pro": ("Antminer", "S19J Pro", "braiins", 3050.0),
    "epic-s19j-pro": ("Antminer", "S19J Pro", "epic", 3050.0),
    "auradine-at1500": ("Auradine", "AT1500", "auradine", 3300.0),
    "marathon-s19j-pro": ("Antminer", "S19J Pro", "marathon", 3050.0),
    "bitaxe-gamma": ("Bitaxe", "Gamma", "axeos", None),
    "nerdqaxe-plus2": ("NerdAxe", "NerdQAxe++", "axeos", None),
}


@pytest.fixture
async def farm() -> AsyncIterator[EmulatedFarm]:
    """One of each kind, on the ports as shipped and on addresses of its own."""
    ports = Ports(modbus=0, control=0)
    plan = FarmPlan.mixed(len(MODELS), models=MODELS, network=NETWORK, ports=ports, speed=200.0, latency_s=0.0)
    async with AsyncExitStack() as stack:
        try:
            made = await stack.enter_async_context(EmulatedFarm(plan, one_socket=False))
        except CannotListen as error:
            pytest.skip(f"the usual ports are not to be had here: {error}")
        if made.ports.http != 80:
            pytest.skip("port 80 needs root")
        yield made


def opened(address: str, remembered: Identity | None = None) -> Device:
    assert DRIVER.open_device is not None
    chosen = DRIVER.settings.model_validate(IN_TIME | {"identify_deadline_s": 300})  # the first loads pyasic, too
    return DRIVER.open_device(address, chosen, OpenContext(remembered=remembered))


def addresses(farm: EmulatedFarm) -> dict[str, str]:
    return dict(zip(MODELS, farm.addresses.values(), strict=True))


async def test_each_kind_is_found_for_what_it_is(farm: EmulatedFarm) -> None:
    for model, address in addresses(farm).items():
        device = opened(address)
        identity = await device.identify()
        assert (identity.make, identity.firmware, identity.rated_w) == (
            EXPECTED[model][0],
            EXPECTED[model][2],
            EXPECTED[model][3],
        )
        assert EXPECTED[model][1] in identity.model.replace("_", "")
        assert identity.version
        assert device.capabilities.stops
        await device.close()


async def test_an_unknown_miner_can_be_read_and_told_at_once(farm: EmulatedFarm) -> None:
    device = opened(addresses(farm)["luxos-s21"])
    assert not device.capabilities.stops, "nobody knows yet"
    assert (await device.read()).state is RunState.RUNNING
    assert await device.apply(OperatingPoint("off", 25, 0.0)) is Outcome.ACKNOWLEDGED
    await device.close()


async def test_what_was_identified_once_needs_no_probing(farm: EmulatedFarm) -> None:
    address = addresses(farm)["antminer-s21"]
    identity = await opened(address).identify()
    device = opened(address, remembered=identity)
    farm.set_fault("antminer-s21-1", Fault.HTTP_500)  # a probe would need the web server
    assert (await device.read()).state is RunState.RUNNING


async def test_a_miner_that_was_reflashed_is_noticed(farm: EmulatedFarm) -> None:
    known = Identity("Antminer", "S21", "antminer")
    with pytest.raises(BadReply, match="identify it again"):
        await opened(addresses(farm)["luxos-s21"], remembered=known).read()


async def test_nobody_there() -> None:
    for port in (80, 4028):
        with socket.socket() as probe:
            if probe.connect_ex(("127.33.1.1", port)) == 0:
                pytest.skip("somebody else's farm answers for every address of this machine")
    with pytest.raises(Gone):
        await opened("127.33.1.1").identify()


async def test_somebody_who_never_answers(farm: EmulatedFarm) -> None:
    farm.set_fault("luxos-s21-4", Fault.HANG)
    assert DRIVER.open_device is not None
    settings = DRIVER.settings.model_validate({"identify_deadline_s": 0.5, "read_deadline_s": 0.5})
    device = DRIVER.open_device(addresses(farm)["luxos-s21"], settings, OpenContext())
    async with asyncio.timeout(60):
        with pytest.raises(DriverError):
            await device.identify()
        with pytest.raises(DriverError):
            await device.read()


async def test_a_slow_marathon_is_not_taken_for_the_antminer_that_it_is_dressed_as() -> None:
    """Each of its answers takes most of the time that a greeting may."""

    def slowly(asked: HttpAsked) -> Answer:
        put_forward(100.0)
        if asked.page == "brief" and "\r\nAuthorization: Digest " in asked.head:
            return {"hashrate_realtime": 95.0}
        challenge = 'Digest realm="antMiner Configuration", nonce="1", qop="auth", algorithm=MD5'
        return f"HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()

    async with plain_http(slowly) as web:
        access = Access(HOST, AsicSettings(http_port=web.port, rpc_port=1, v3_port=1))
        greeting = await greet(access, asyncio.get_running_loop().time() + LONG_S)
    assert greeting.firmware == "marathon"


async def test_what_hangs_or_answers_nonsense_is_said_to(farm: EmulatedFarm) -> None:
    """And pyasic, whose parsers would trip over it, is not asked."""
    for fault, error, said, deadline_s in (
        (Fault.HANG, Gone, "does not say who it is", 1.0),
        (Fault.GARBAGE, BadReply, "what no miner says", 120.0),
    ):
        farm.set_fault("luxos-s21-4", fault)
        assert DRIVER.open_device is not None
        chosen = DRIVER.settings.model_validate({"identify_deadline_s": deadline_s})
        device = DRIVER.open_device(addresses(farm)["luxos-s21"], chosen, OpenContext())
        with pytest.raises(error, match=said):
            await device.identify()
        farm.set_fault("luxos-s21-4", fault, on=False)


def test_the_registry_finds_the_driver() -> None:
    assert driver("asic") is DRIVER
