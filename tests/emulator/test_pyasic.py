"""The field's own client against the emulator, on the ports it insists on: identify, read, stop, resume, limit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pyasic  # type: ignore[import-untyped]  # it ships no types
import pytest

from curtaild_emulator import MODELS, CannotListen, EmulatedFarm, FarmPlan, Fault, Firmware, Ports
from emulator.asking import settle

CLASSES = {
    "antminer-s19": "BMMinerS19",
    "antminer-s19j-pro": "BMMinerS19jPro",
    "antminer-s21": "BMMinerS21",
    "whatsminer-m50": "BTMinerM50VH30",
    "whatsminer-m50s": "BTMinerM50SVH50",
    "whatsminer-m60": "BTMinerM60VK30",
    "whatsminer-m60s": "BTMinerM60SVK30",
    "luxos-s19": "LUXMinerS19",
    "luxos-s21": "LUXMinerS21",
    "avalon-a1566": "CGMinerAvalon1566",
    "bitaxe-gamma": "BitAxeGamma",
    "braiins-s19j-pro": "BOSMinerS19jPro",
    "braiins-s21": "BOSMinerS21",
    "epic-s19j-pro": "ePICS19jPro",
    "auradine-at1500": "AuradineFluxAT1500",
    "marathon-s19j-pro": "MaraS19jPro",
    "vnish-s19j-pro": "VNishS19jPro",
    "vnish-1.3-s19j-pro": "VNishS19jPro",
}
BACKENDS = {
    Firmware.ANTMINER: "AntminerModern",
    Firmware.WHATSMINER_V2: "BTMinerV2",
    Firmware.WHATSMINER_V3: "BTMinerV3",
    Firmware.LUXOS: "LUXMiner",
    Firmware.AVALON: "AvalonMiner",
    Firmware.AXEOS: "BitAxe",
    Firmware.BRAIINS: "BOSer",
    Firmware.EPIC: "ePIC",
    Firmware.AURADINE: "Auradine",
    Firmware.MARATHON: "MaraMiner",
    Firmware.VNISH: "VNish",
}


@pytest.fixture(autouse=True)
def nothing_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up after one to five seconds, which a busy machine may take."""
    known = pyasic.settings._settings
    for name in [name for name in vars(known) if name.endswith("_timeout")]:
        monkeypatch.setattr(known, name, 60)


@pytest.fixture
async def farm() -> AsyncIterator[EmulatedFarm]:
    """Every model that it knows, on addresses of its own so that other farms on this machine may use the same ports."""
    plan = FarmPlan.mixed(
        len(CLASSES),
        network="127.61.0.0/24",
        models=tuple(CLASSES),  # type: ignore[arg-type]
        latency_s=0.0,
        ports=Ports(modbus=0, control=0),
    )
    try:
        async with EmulatedFarm(plan, one_socket=False) as farm:
            if farm.ports.http != 80:
                pytest.skip("port 80 needs root, and pyasic looks nowhere else")
            yield farm
    except CannotListen as error:
        pytest.skip(f"pyasic looks at fixed ports only: {error}")


async def find(farm: EmulatedFarm, model: str) -> tuple[str, Any]:
    """The device of that model and pyasic's object for it. It believes the first answer of several, and a VNish's API
    passes for Bitmain's: then it looks once more."""
    name = next(name for name in farm.addresses if name.startswith(f"{model}-"))
    for _ in range(50):
        miner = await pyasic.get_miner(farm.addresses[name])
        if type(miner).__name__ == CLASSES[model]:
            break
    return name, miner


def test_it_knows_all_but_the_nerdaxe() -> None:
    """Which it takes for the Bitaxe that has the same chip."""
    assert set(MODELS) - set(CLASSES) == {"nerdqaxe-plus2"}


@pytest.mark.parametrize("model", sorted(CLASSES))
async def test_identifies_reads_stops_and_resumes(farm: EmulatedFarm, model: str) -> None:
    name, miner = await find(farm, model)
    farm.set_fault(name, Fault.JSON_COMMANDS_IGNORED, on=False)  # pyasic knows no text commands
    assert type(miner).__name__ == CLASSES[model]
    assert BACKENDS[MODELS[model].firmware] in [base.__name__ for base in type(miner).__mro__]

    data = await miner.get_data()
    true_w = farm.true_power_w(name)
    assert data.model == MODELS[model].model
    assert data.make == MODELS[model].make
    assert float(data.hashrate) == pytest.approx(MODELS[model].rated_hs / 1e12, rel=0.1)
    if MODELS[model].measures_power and MODELS[model].firmware is not Firmware.MARATHON:  # whose watts pyasic loses
        assert data.wattage == pytest.approx(true_w, rel=0.06)
    else:
        assert data.wattage is None
    assert data.is_mining
    if MODELS[model].firmware is Firmware.AXEOS:
        return  # pyasic has no words to stop it

    await tell(miner.stop_mining, MODELS[model].firmware)
    assert settle(farm, name) < 100.0
    await tell(miner.resume_mining, MODELS[model].firmware)
    assert settle(farm, name) == pytest.approx(true_w)


async def tell(verb: Callable[[], Awaitable[bool]], firmware: Firmware) -> None:
    """Give the command and check how pyasic judges the answer, which is not how it went."""
    if firmware is Firmware.VNISH:
        with pytest.raises(pyasic.APIError, match="empty response"):  # it confirms without a body
            await verb()
    elif firmware is Firmware.EPIC:
        assert not await verb()  # it looks for another word than the firmware's `result`
    else:
        assert await verb()


LIMITED = ["whatsminer-m50", "whatsminer-m60", "luxos-s21", "braiins-s21", "auradine-at1500", "marathon-s19j-pro"]


@pytest.mark.parametrize("model", LIMITED)
async def test_a_power_limit_is_obeyed(farm: EmulatedFarm, model: str) -> None:
    name, miner = await find(farm, model)
    assert await miner.set_power_limit(2_000)
    assert settle(farm, name) == pytest.approx(1_970.0, rel=0.08)
    if model != "marathon-s19j-pro":
        assert (await miner.get_data()).wattage == pytest.approx(farm.true_power_w(name), rel=0.06)


async def test_a_vnish_preset_is_taken_by_its_name(farm: EmulatedFarm) -> None:
    name, miner = await find(farm, "vnish-s19j-pro")
    assert not await miner.set_power_limit(2_000)  # pyasic does not recognise the preset mode it reads
    await miner.web.set_power_limit(2_000)
    assert settle(farm, name) == pytest.approx(2_000.0, rel=0.07)


async def test_an_avalon_takes_every_limit_for_its_highest_level(farm: EmulatedFarm) -> None:
    name, miner = await find(farm, "avalon-a1566")
    farm.set_fault(name, Fault.JSON_COMMANDS_IGNORED, on=False)
    assert await miner.set_power_limit(1)  # less than 3 is a level
    assert settle(farm, name) == pytest.approx(2_907.0, rel=0.07)
    assert await miner.set_power_limit(2_500)
    assert settle(farm, name) == pytest.approx(3_420.0, rel=0.07)


async def test_a_bitaxe_follows_its_frequency(farm: EmulatedFarm) -> None:
    name, miner = await find(farm, "bitaxe-gamma")
    # pyasic wants JSON where the firmware says nothing, so this is its request and not its judgement
    with pytest.raises(pyasic.APIError, match="empty response"):
        await miner.web.update_settings(frequency=400)
    assert settle(farm, name) == pytest.approx(13.8, rel=0.07)
    assert (await miner.web.system_info())["frequency"] == 400


async def test_an_antminer_keeps_its_pools_when_the_client_read_them_first(farm: EmulatedFarm) -> None:
    name, miner = await find(farm, "antminer-s21")
    before = list(farm.unit(name).pools)
    assert await miner.stop_mining()
    assert [pool.url for pool in farm.unit(name).pools] == [pool.url for pool in before]


async def test_lights_blink(farm: EmulatedFarm) -> None:
    for model in (
        "antminer-s19",
        "whatsminer-m50",
        "whatsminer-m60",
        "luxos-s19",
        "vnish-s19j-pro",
        "braiins-s21",
        "auradine-at1500",
    ):
        name, miner = await find(farm, model)
        assert await miner.fault_light_on()
        assert farm.unit(name).is_blinking
        await miner.fault_light_off()  # on Antminers pyasic returns False for success
        assert not farm.unit(name).is_blinking
