"""Avalon: text on cgminer's port, three work modes, and stops that are due by the miner's own clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
    BadReply,
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
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, Server, text_rpc

OFF = OperatingPoint("off", 20, 0.0)
LOW = OperatingPoint("low", 837, 54e12)
HIGH = OperatingPoint("high", 1674, 90e12)
OK = "STATUS=S,When={when},Code=119,Msg=ASC 0 set OK,Description=cgminer 4.11.1|"
INFO = "STATUS=I,When={when},Code=118,Msg=ASC 0 set info: {said},Description=cgminer 4.11.1|"
NO = "STATUS=E,When={when},Code=120,Msg=ASC 0 set failed: {said},Description=cgminer 4.11.1|"


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command; its clock runs `ahead_s` of ours."""

    work: str = "In Work"
    ghs: str = "90123.45"
    supply: str = "PS[0 1216 2411 53 1298 2412 1391]"
    mode: int = 2
    lever: str = "workmode"
    elapsed: int = 9_000
    ahead_s: float = 0.0
    verdict: Answer | None = None
    obeyed: list[str] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def now(self) -> int:
        return int(time.time() + self.ahead_s)

    def answer(self, asked: str) -> Answer:
        if asked.startswith("ascset|0,"):
            what = asked.removeprefix("ascset|0,")
            self.obeyed.append(what.partition(":")[0])
            if self.verdict is not None:
                return self.verdict
            return self._carry_out(what).encode() + b"\0"
        told = {
            "estats": f"STATS=0,ID=AVA100,MM ID0:Summary='STATS':{{{self.stats()}}},MM Count=1,Nonce Mask=25|",
            "version": "VERSION,CGMiner=4.11.1,API=3.7,PROD=Avalon Q,MODEL=Q,LVERSION=25052801_14a19a2,DNA=0201|",
        }.get(asked)
        if told is None:
            return b""
        status = f"STATUS=S,When={self.now()},Code=70,Msg=CGMiner {asked},Description=cgminer 4.11.1|"
        return (status + told).encode() + b"\0"

    def _carry_out(self, what: str) -> str:
        if what.startswith(f"{self.lever},set,"):
            self.mode = int(what[-1])
            return OK.format(when=self.now())
        if not what.startswith("soft"):
            return NO.format(when=self.now(), said="Unknown option")
        due = int(what.rpartition(":")[2])
        if not self.now() <= due <= self.now() + 60:
            return NO.format(when=self.now(), said="time")
        self.work, self.ghs = ("In Idle", "0.00") if what.startswith("softoff") else ("In Init", "0.00")
        self.supply = "PS[0 1216 1 0 0 2243 17]"
        return INFO.format(when=self.now(), said=f"success {what}")

    def stats(self) -> str:
        work = f"SYSTEMSTATU[Work: {self.work}, Hash Board: 1]" if self.work else ""
        return (
            f"Ver[Q-25052801] NETFAIL[0 0 0] {work} Elapsed[{self.elapsed}]BOOTBY[0x01] TMax[65] {self.supply} "
            f"GHSspd[{self.ghs}] GHSmm[90000.00] GHSavg[89000.00] MGHS[30000.00 30000.00 29000.00] "
            f"SoftOFF[0] {self.level()} MPO[1600]"
        )

    def level(self) -> str:
        home, rack = f"WORKMODE[{self.mode}] WORKLEVEL[0]", f"WORKLEVEL[{self.mode}]"
        return {"workmode": home, "worklevel": rack}.get(self.lever, "")


@asynccontextmanager
async def running(miner: Miner, piece: int = 1 << 20, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with text_rpc(miner.answer, piece) as miner.wire:
        chosen = {"rpc_port": miner.wire.port, **IN_TIME}
        known = Identity("Avalon", "Avalon Q", "avalon")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known)
        )
        yield device
        await device.close()


async def test_a_reading_is_one_command_in_text() -> None:
    async with running(miner := Miner(), piece=17) as device:
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key) == (RunState.RUNNING, 1391.0, "high")
    assert (reading.rate, reading.temperature_c) == (90123.45e9, 65.0)
    assert miner.wire.asked == ["estats"]


@pytest.mark.parametrize(
    ("supply", "power_w"),
    [
        ("PS[0 1209 1187 297 3526 1188 3731] WALLPOWER[3700]", 3700.0),
        ("PS[0 1209 1187 297 3526 1188 3731]", 3731.0),
        ("PS[0 1228 1299 238 3086 1296]", 3086 / 0.95),
        ("PS[0 1228 1299 238 0 1296]", None),
        ("PS[0 1 2 3 4 5 99999999]", None),
        ("PS[nan nan nan nan nan nan nan]", None),
        ("PS[]", None),
        ("", None),
    ],
)
async def test_watts_at_the_wall(supply: str, power_w: float | None) -> None:
    async with running(Miner(supply=supply)) as device:
        assert (await device.read()).power_w == power_w


async def test_old_firmware_says_the_hashrate_by_board_only() -> None:
    async with running(Miner(ghs="0.00")) as device:
        assert (await device.read()).rate == 89e12


async def test_points_are_off_and_the_three_modes() -> None:
    async with running(Miner()) as device:
        points = await device.operating_points()
    assert [point.key for point in points.points] == ["off", "low", "normal", "high"]
    assert points.highest.draw_w == 1674


@pytest.mark.parametrize("ahead_s", [0.0, -1.7e9, 3e6])
async def test_a_stop_is_due_by_the_miners_own_clock(ahead_s: float) -> None:
    async with running(miner := Miner(ahead_s=ahead_s)) as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key) == (RunState.ASLEEP, 17.0, "off")
    assert miner.obeyed == ["softoff,1"]


async def test_a_warm_stop_is_one_command() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        await device.apply(OFF)
    assert len(miner.wire.asked) == 2


async def test_it_wakes_as_it_slept_and_another_mode_is_chosen_before() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.apply(HIGH)
        assert miner.obeyed == ["softoff,1", "softon,1"]
        assert (await device.read()).state is RunState.STARTING
        await device.apply(OFF)
        await device.apply(LOW)
    assert miner.obeyed[2:] == ["softoff,1", "workmode,set,0", "softon,1"]
    assert miner.mode == 0


async def test_the_rack_series_has_levels_where_the_home_series_has_modes() -> None:
    async with running(miner := Miner(lever="worklevel")) as device:
        assert (await device.read()).point_key == "high"
        assert await device.apply(LOW) is Outcome.ACKNOWLEDGED
        points = await device.operating_points()
    assert miner.obeyed == ["worklevel,set,0"]
    assert points.points[1].draw_w == pytest.approx(0.7 * 1674)


async def test_one_that_says_no_level_is_told_none() -> None:
    async with running(miner := Miner(lever="")) as device:
        with pytest.raises(Refused, match="neither its work mode"):
            await device.apply(LOW)
    assert miner.obeyed == []


async def test_what_is_there_already_is_not_written() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(HIGH) is Outcome.ALREADY_THERE
    assert miner.obeyed == []


async def test_a_point_it_does_not_have_is_never_sent() -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(OperatingPoint("eco", 1200, 1.0))
    assert miner.wire.asked == []


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (NO.format(when=1, said="x").encode(), Refused),
        (INFO.format(when=1, said="softoff is 0").encode(), OutcomeUnknown),
        (b"STATUS=X|", OutcomeUnknown),
        (b'{"STATUS":', OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_success_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.obeyed == ["softoff,1"], "one attempt"


async def test_offline_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.read()
    for call in (device.read(), device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"work": "In Idle", "ghs": "60000"}, RunState.RUNNING),
        ({"work": "In Idle", "ghs": "0.00"}, RunState.ASLEEP),
        ({"work": "In Init", "ghs": "0.00"}, RunState.STARTING),
        ({"work": "In Fault", "ghs": "0.00"}, RunState.FAULT),
        ({"work": "In Work", "ghs": "nan"}, RunState.RUNNING),
        ({"work": "", "ghs": "0.00"}, RunState.UNKNOWN),
        ({"work": "Else", "ghs": "0.00", "elapsed": 10}, RunState.STARTING),
        ({"work": "Else", "ghs": "0.00"}, RunState.IDLE),
    ],
)
async def test_states(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(**changed)) as device:
        assert (await device.read()).state is state


@pytest.mark.parametrize("mode", [3, -1, 12])
async def test_a_mode_nobody_knows_is_none(mode: int) -> None:
    async with running(Miner(mode=mode)) as device:
        assert (await device.read()).point_key is None


async def test_another_firmware_at_the_same_address_is_noticed() -> None:
    miner = Miner()
    miner.answer = lambda asked: b"STATUS=S,Description=LUXminer 2025|"  # type: ignore[method-assign]
    async with running(miner) as device:
        with pytest.raises(BadReply, match="identify it again"):
            await device.read()


async def test_identity() -> None:
    async with running(Miner(), firmware="avalon") as device:
        identity = await device.identify()
    assert identity == Identity("Avalon", "Avalon Q", "avalon", "25052801_14a19a2", "0201", 1674.0)
