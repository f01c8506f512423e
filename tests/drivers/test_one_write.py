"""What a shed costs on the wire once a device has been read: one command, and nothing before it that could be late."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from curtaild_drivers.asic import btminer_token, luxos
from curtaild_drivers.contract import OperatingPoint, Outcome
from curtaild_emulator.wires.unit import Effect
from drivers.conftest import FIRMWARES, Bench
from drivers.defects import OFF, between, warm
from drivers.rigs import rig_of

ONE_COMMAND = Counter({Effect.COMMAND: 1})
THROTTLING = dict.fromkeys(FIRMWARES, ONE_COMMAND) | {
    # it answers the same whether it took a preset or not, so that is read back afterwards
    "vnish": Counter({Effect.COMMAND: 1, Effect.READ: 1}),
}
# nobody has said how it answers what it does not take: it is read back afterwards
READ_BACK = {"marathon": Counter({Effect.READ: 1})}
COLD = {
    "antminer": 2,  # a challenge, its configuration
    "whatsminer-v2": 1,  # a token
    "whatsminer-v3": 1,  # its salt
    "luxos": 1,  # a session
    "vnish": 1,  # a token
    "vnish-1.3": 1,
    "avalon": 1,  # its clock
    "braiins": 1,  # a token
    "epic": 0,
    "auradine": 1,  # a token
    "marathon": 2,  # a challenge, its configuration
    "axeos": 1,  # how it is stopped
    "nerdaxe": 1,
}
"""How much must be asked before the stop where that is the very first word to a device."""


async def cost(rig: Bench, point: OperatingPoint) -> Counter[Effect]:
    """What the device was asked while it was brought to a point."""
    before = Counter(rig.unit().answered)
    assert await rig.device.apply(point) is Outcome.ACKNOWLEDGED
    return Counter(rig.unit().answered) - before


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_off_is_one_write(firmware: str) -> None:
    async with rig_of(firmware) as rig:
        await warm(rig)
        if firmware == "luxos":  # of whose one session nobody is deprived between commands
            await cost(rig, between(await rig.device.operating_points()))
            await rig.device.read()
        assert await cost(rig, OFF) == Counter({Effect.STOP: 1}) + READ_BACK.get(firmware, Counter())


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_throttle_is_one_write(firmware: str) -> None:
    async with rig_of(firmware) as rig:
        points = await warm(rig)
        if firmware == "luxos":
            await cost(rig, points.points[1])
            await rig.device.read()
        assert await cost(rig, between(points)) == THROTTLING[firmware] + READ_BACK.get(firmware, Counter())


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_off_as_the_first_word_to_a_device_is_no_more_than_it_needs(firmware: str) -> None:
    async with rig_of(firmware) as rig:
        before = Counter({Effect.READ: COLD[firmware]}) + READ_BACK.get(firmware, Counter())
        assert await cost(rig, OFF) == before + Counter({Effect.STOP: 1})


@pytest.mark.parametrize("firmware", ["whatsminer-v2", "luxos", "vnish", "vnish-1.3", "braiins", "auradine"])
async def test_a_token_that_has_ended_costs_a_refusal_and_one_login(firmware: str) -> None:
    async with rig_of(firmware) as rig:
        points = await warm(rig)
        await rig.device.apply(points.points[1])
        rig.unit().board.wall_clock = lambda: time.monotonic() + 7_200.0
        assert await cost(rig, OFF) == Counter({Effect.READ: 2, Effect.STOP: 1})


async def test_a_luxos_without_a_session_in_hand_is_asked_for_one_first() -> None:
    async with rig_of("luxos") as rig:
        await warm(rig)
        assert await cost(rig, OFF) == Counter({Effect.STOP: 1, Effect.READ: 1})


async def test_a_luxos_whose_session_is_kept_is_asked_for_nothing_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig_of("luxos") as rig:
        rig.device = rig.open_another(luxos_session="kept")
        points = await rig.device.operating_points()
        await rig.device.read()
        await rig.device.read()
        assert await cost(rig, between(points)) == ONE_COMMAND
        await rig.device.read()
        monkeypatch.setattr(luxos, "_RENEW_BEFORE_S", 3_600.0)
        before = rig.unit().answered[Effect.READ]
        await rig.device.read()
        assert rig.unit().answered[Effect.READ] - before == 2, "its reading and its logon, after a logoff"
        assert await cost(rig, OFF) == Counter({Effect.STOP: 1})


async def test_a_token_that_will_soon_end_is_renewed_by_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btminer_token, "_LIFETIME_S", 299.0)
    async with rig_of("whatsminer-v2") as rig:
        device = rig.open_another(recheck_s=1e-6)
        await device.read()
        before = rig.unit().answered[Effect.READ]
        await device.read()
        assert rig.unit().answered[Effect.READ] - before == 3, "its summary, its status, and another token"


async def test_a_whatsminer_of_api_v3_and_a_braiins_are_called_once() -> None:
    for firmware in ("whatsminer-v3", "braiins"):
        async with rig_of(firmware) as rig:
            for _ in range(3):
                await rig.device.identify()
                await warm(rig)
                await rig.device.apply(OFF)
            assert rig.emulated.open_calls == 1, firmware
