"""AxeOS: frequencies instead of watts, never above what has run there, and a pause where its release has one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
    AuthFailed,
    Device,
    Identity,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, HttpAsked, Server, http_answer, plain_http

OFF = OperatingPoint("off", 3, 0.0)


def at(mhz: int) -> OperatingPoint:
    return OperatingPoint(f"{mhz} MHz", mhz * 0.03, mhz * 2e9)


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command; `paused` is `None` before release 2.14."""

    mhz: Any = 600
    paused: bool | None = False
    nerd: dict[str, Any] | None = None
    has_asic_page: bool = True
    ghs: Any = 1_200.0
    watts: Any = 18.0
    verdict: Answer | None = None
    obeyed: list[Any] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: HttpAsked) -> Answer:
        if asked.method == "GET" and asked.page == "asic":
            if not self.has_asic_page:
                return http_answer(b"Redirect to the captive portal", 302)
            model = "Gamma" if self.nerd is None else "NerdQAxe++"
            return {"deviceModel": model, "defaultFrequency": 525, "frequencyOptions": [400, 525, 575, 625, "x"]}
        if asked.method == "GET":
            paused = {} if self.paused is None else {"miningPaused": self.paused}
            told = {"ASICModel": "BM1370", "version": "v2.14.0", "macAddr": "aa:bb", "uptimeSeconds": 9_000}
            if self.nerd is not None:
                told |= {"deviceModel": "NerdQAxe++", "shutdown": self.paused, "defaultFrequency": 525, **self.nerd}
                paused = {}
            told |= {"frequency": self.mhz, "coreVoltage": 1150, "power": self.watts, "hashRate": self.ghs, "temp": 58}
            return told | paused
        self.obeyed.append(asked.body or asked.page)
        if self.verdict is not None:
            return self.verdict
        if asked.method == "PATCH":
            self.mhz = asked.body["frequency"]
            self.watts, self.ghs = self.mhz * 0.03, self.mhz * 2.0
        else:
            self.paused = asked.page in ("pause", "shutdown")
            self.watts, self.ghs = (2.5, 0.0) if self.paused else (self.mhz * 0.03, self.mhz * 2.0)
        return http_answer(b"")


@asynccontextmanager
async def running(miner: Miner, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with plain_http(miner.answer) as miner.wire:
        chosen = {"http_port": miner.wire.port, **IN_TIME}
        known = Identity("Bitaxe", "Gamma", "axeos")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known)
        )
        yield device
        await device.close()


async def test_a_reading_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, 18.0, 1.2e12)
    assert (reading.point_key, reading.temperature_c) == ("600 MHz", 58.0)
    assert len(miner.wire.asked) == 1


async def test_points_are_its_own_frequencies_up_to_what_has_run_there() -> None:
    async with running(Miner()) as device:
        points = (await device.operating_points()).points
        assert [p.key for p in points] == ["off", "400 MHz", "525 MHz", "575 MHz", "600 MHz"]
        assert points[1].draw_w == pytest.approx(12.0)
        await device.apply(at(400))
        highest = (await device.operating_points()).highest
        assert highest.key == "600 MHz", "which it was found at, and not 625, which it never ran at"


async def test_only_the_frequency_is_written() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(at(400)) is Outcome.ACKNOWLEDGED
        assert (await device.read()).point_key == "400 MHz"
        assert await device.apply(at(400)) is Outcome.ALREADY_THERE
    assert miner.obeyed == [{"frequency": 400}]


@pytest.mark.parametrize("mhz", [625, 450, 10_000])
async def test_a_frequency_it_does_not_offer_is_never_sent(mhz: int) -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(at(mhz))
    assert miner.obeyed == []


async def test_it_resumes_at_what_it_paused_at_and_another_frequency_is_set_before() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        reading = await device.read()
        assert (reading.state, reading.power_w, reading.point_key) == (RunState.ASLEEP, 2.5, "off")
        await device.apply(at(600))
        await device.apply(OFF)
        await device.apply(at(400))
    assert miner.obeyed == ["pause", "resume", "pause", {"frequency": 400}, "resume"]


async def test_a_nerdaxe_is_shut_down_and_comes_back_by_a_restart_at_what_it_ran_at() -> None:
    async with running(miner := Miner(nerd={}), firmware="axeos") as device:
        assert (await device.identify()).make == "NerdAxe"
        assert (await device.operating_points()).lowest.is_off
        assert device.capabilities.stops
        await device.apply(OFF)
        assert (await device.read()).state is RunState.ASLEEP
        assert await device.apply(at(600)) is Outcome.ACKNOWLEDGED
        assert await device.apply(at(600)) is Outcome.ALREADY_THERE
        await device.apply(at(400))
    assert miner.obeyed == ["shutdown", "restart", {"frequency": 400}]


async def test_a_nerdaxe_that_hashes_is_never_restarted_for_a_word_it_does_not_say() -> None:
    async with running(miner := Miner(nerd={})) as device:
        await device.operating_points()
        miner.nerd = None
        miner.paused = None
        assert await device.apply(at(400)) is Outcome.ACKNOWLEDGED
        assert await device.apply(at(400)) is Outcome.ALREADY_THERE
    assert miner.obeyed == [{"frequency": 400}]


async def test_a_nerdaxe_of_an_older_release_offers_what_it_runs_at_and_ships_with() -> None:
    async with running(miner := Miner(nerd={}, has_asic_page=False), firmware="axeos") as device:
        assert (await device.identify()).model == "NerdQAxe++"
        assert [p.key for p in (await device.operating_points()).points] == ["off", "525 MHz", "600 MHz"]
        await device.apply(at(525))
        assert (await device.operating_points()).highest.key == "600 MHz"
        with pytest.raises(Unsupported):
            await device.apply(at(400))
    assert miner.obeyed == [{"frequency": 525}]


async def test_one_that_wants_one_time_passwords_is_told_nothing() -> None:
    """A few wrong attempts lock its settings page for its owner too."""
    async with running(miner := Miner(nerd={"otp": True})) as device:
        for point in (OFF, at(400)):
            with pytest.raises(AuthFailed, match="one-time"):
                await device.apply(point)
        assert (await device.read()).state is RunState.RUNNING
    assert miner.obeyed == []


async def test_a_throttle_after_a_look_at_its_points_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        await device.operating_points()
        before = len(miner.wire.asked)
        await device.apply(at(400))
        assert [asked.method for asked in miner.wire.asked[before:]] == ["PATCH"]


async def test_an_older_release_has_no_off() -> None:
    async with running(miner := Miner(paused=None)) as device:
        assert not (await device.operating_points()).lowest.is_off
        assert not device.capabilities.stops
        with pytest.raises(Unsupported, match="pause"):
            await device.apply(OFF)
        assert await device.apply(at(400)) is Outcome.ACKNOWLEDGED
    assert miner.obeyed == [{"frequency": 400}]


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (http_answer(b"", 400), Refused),
        (http_answer(b"Unauthorized", 401), AuthFailed),
        (http_answer(b"", 404), Refused),
        (http_answer(b"", 500), OutcomeUnknown),
        (b"<html>", OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_success_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.obeyed == ["pause"], "one attempt"


async def test_offline_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.read()
    for call in (device.read, lambda: device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call()


@pytest.mark.parametrize("watts", ["nan", -5, 0, None, 10**400])
async def test_nonsense_watts_are_unknown(watts: Any) -> None:
    async with running(Miner(watts=watts)) as device:
        assert (await device.read()).power_w is None


async def test_identity() -> None:
    async with running(Miner(), firmware="axeos") as device:
        assert await device.identify() == Identity("Bitaxe", "Gamma", "axeos", "v2.14.0", "aa:bb")
