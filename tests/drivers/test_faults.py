"""What real miners do wrong, on emulated ones: the driver says what happened, and never that all is well."""

from __future__ import annotations

import asyncio
import time

import pytest

from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Unreachable,
)
from curtaild_emulator import Fault
from drivers.conftest import FIRMWARES, Bench, emulated_bench
from drivers.test_contract import read_until

OFF = OperatingPoint("off", 30, 0.0)
ALL = pytest.mark.parametrize("firmware", FIRMWARES)
WHATSMINERS = pytest.mark.parametrize("firmware", ["whatsminer-v2", "whatsminer-v3"])


def is_asleep(reading: Reading) -> bool:
    return reading.state is RunState.ASLEEP


async def warmed_up(bench: Bench) -> None:
    """Everything a shed needs beforehand is there: configuration, token, salt, session."""
    points = await bench.device.operating_points()
    await bench.device.apply(points.highest)
    await bench.device.read()


@ALL
async def test_the_answer_to_a_stop_never_comes(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.HANG_WRITE_APPLIED)
        impatient = bench.open_another(write_deadline_s=0.5)
        with pytest.raises(OutcomeUnknown):
            await impatient.apply(OFF)
        bench.set_fault(Fault.HANG_WRITE_APPLIED, on=False)
        assert is_asleep(await read_until(bench, is_asleep, time.monotonic())), "reading back tells that it worked"


@ALL
async def test_the_connection_closes_instead_of_an_answer_to_a_stop(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.CLOSE_AFTER_POWER_OFF)
        with pytest.raises(OutcomeUnknown):
            await bench.device.apply(OFF)
        assert is_asleep(await read_until(bench, is_asleep, time.monotonic()))


@ALL
async def test_accepts_and_never_answers(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.HANG)
        impatient = bench.open_another(read_deadline_s=0.3, write_deadline_s=0.3)
        begun = time.monotonic()
        with pytest.raises(Unreachable):
            await impatient.read()
        with pytest.raises((Unreachable, OutcomeUnknown)):
            await impatient.apply(OFF)
        assert time.monotonic() - begun < 1.5


@ALL
async def test_hangs_up_at_once(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.REFUSE_CONNECTION)
        with pytest.raises(Unreachable):
            await bench.device.read()
        with pytest.raises((Unreachable, OutcomeUnknown)):
            await bench.device.apply(OFF)
        assert not bench.miner.setting.asleep


@ALL
async def test_answers_with_garbage(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.GARBAGE)
        # What is no frame of HTTP/2 may be skipped, by its rules, and then there is no answer.
        with pytest.raises((BadReply, Unreachable) if firmware == "braiins" else BadReply):
            await bench.device.read()
        with pytest.raises(
            (OutcomeUnknown, Refused, Unreachable) if firmware == "braiins" else (OutcomeUnknown, Refused)
        ):
            await bench.device.apply(OFF)


@pytest.mark.parametrize("firmware", [name for name in FIRMWARES if name not in ("avalon", "axeos")])  # which have none
async def test_another_password(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        bench.set_fault(Fault.WRONG_PASSWORD)
        if firmware in ("braiins", "auradine"):
            with pytest.raises(AuthFailed):
                await bench.device.read()
        else:
            assert (await bench.device.read()).state is RunState.RUNNING, "reading needs none"
        with pytest.raises(Refused if firmware == "luxos" else AuthFailed):  # LuxOS has sessions, not passwords
            await bench.device.apply(OFF)
        assert not bench.miner.setting.asleep


@ALL
async def test_acknowledges_and_does_not_obey(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        full = (await bench.device.operating_points()).highest
        bench.set_fault(Fault.ACK_NO_OBEY)
        assert await bench.device.apply(OFF) is Outcome.ACKNOWLEDGED, "its word, and nothing more"
        reading = await bench.device.read()
        assert reading.state is RunState.RUNNING
        assert reading.rate
        if bench.device.capabilities.measures_power:
            assert reading.power_w is not None
            assert reading.power_w > 0.8 * full.draw_w


@ALL
async def test_answers_come_in_fragments(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        bench.set_fault(Fault.FRAGMENT)
        await warmed_up(bench)
        assert await bench.device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert is_asleep(await read_until(bench, is_asleep, time.monotonic()))


@pytest.mark.parametrize("firmware", ["whatsminer-v2", "whatsminer-v3", "luxos", "vnish", "avalon", "epic", "auradine"])
async def test_power_reads_nan(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        bench.set_fault(Fault.NAN_POWER)
        reading = await bench.device.read()
        assert (reading.power_w, reading.state) == (None, RunState.RUNNING)


@ALL
async def test_the_summary_is_empty_while_asleep(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        points = await bench.device.operating_points()
        bench.set_fault(Fault.EMPTY_SUMMARY_ASLEEP)
        await bench.device.apply(OFF)
        # These have nothing else to ask: then nobody can know, and they can be woken all the same.
        expected = RunState.UNKNOWN if firmware in ("avalon", "epic", "axeos") else RunState.ASLEEP
        reading = await read_until(bench, lambda reading: reading.state is expected, time.monotonic())
        assert reading.state is expected
        assert reading.power_w != 0.0
        assert await bench.device.apply(points.highest) is Outcome.ACKNOWLEDGED
        await read_until(bench, lambda _: not bench.miner.setting.asleep, time.monotonic())
        assert not bench.miner.setting.asleep


@ALL
async def test_keys_vanish_after_sleep(firmware: str) -> None:
    """Nothing is made up for what is missing: neither watts nor a working miner."""
    async with emulated_bench(firmware) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.KEYS_VANISH_AFTER_SLEEP)
        await bench.device.apply(OFF)
        stopped = (RunState.ASLEEP, RunState.UNKNOWN)
        reading = await read_until(bench, lambda reading: reading.state in stopped, time.monotonic())
        assert reading.power_w is None
        assert reading.state in stopped
        points = await bench.device.operating_points()
        assert await bench.device.apply(points.highest) is Outcome.ACKNOWLEDGED
        await read_until(bench, lambda _: not bench.miner.setting.asleep, time.monotonic())
        assert not bench.miner.setting.asleep


@ALL
async def test_the_api_is_gone_while_it_boots(firmware: str) -> None:
    async with emulated_bench(firmware, speed=20.0) as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.API_GONE_WHILE_BOOTING)
        bench.miner.reboot(bench.emulated.now())
        try:
            reading = await bench.device.read()
        except Unreachable:
            return
        assert reading.state is RunState.STARTING
        assert reading.power_w is None


@WHATSMINERS
async def test_a_numeric_percent_is_refused_and_text_is_taken(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        bench.set_fault(Fault.NUMERIC_PERCENT_REFUSED)
        points = await bench.device.operating_points()
        half = OperatingPoint("limit", points.highest.draw_w * 0.6, 0.0, divisible=True)
        assert await bench.device.apply(half) is Outcome.ACKNOWLEDGED
        assert bench.miner.setting.percent == 60


async def test_the_seventeenth_token_is_refused_and_one_is_enough() -> None:
    async with emulated_bench("whatsminer-v2") as bench:
        bench.set_fault(Fault.TOKEN_LIMIT)
        await warmed_up(bench)
        for _ in range(15):
            one_more = bench.open_another()
            await warmed_up_by_token(one_more)
        late = bench.open_another()
        with pytest.raises(Refused, match="token"):
            await late.apply(OFF)
        assert await bench.device.apply(OFF) is Outcome.ACKNOWLEDGED, "the token in hand still serves"


async def warmed_up_by_token(device: object) -> None:
    points = await device.operating_points()  # type: ignore[attr-defined]
    await device.apply(points.highest)  # type: ignore[attr-defined]


async def test_http_500_costs_an_antminer_nothing() -> None:
    async with emulated_bench("antminer") as bench:
        await warmed_up(bench)
        pools = bench.pools()
        bench.set_fault(Fault.HTTP_500)
        with pytest.raises((OutcomeUnknown, Refused)):
            await bench.device.apply(OFF)
        with pytest.raises(Refused):
            await bench.device.apply(OFF)  # its configuration is no longer known, and cannot be read
        bench.set_fault(Fault.HTTP_500, on=False)
        assert bench.pools() == pools
        assert any(pool.url for pool in pools)


async def test_an_antminers_pools_outlive_a_hundred_mode_changes() -> None:
    async with emulated_bench("antminer") as bench:
        pools = bench.pools()
        points = (await bench.device.operating_points()).points
        for number in range(100):
            await bench.device.apply(points[number % 3])
        assert bench.pools() == pools
        assert any(pool.url for pool in pools)


@WHATSMINERS
async def test_resume_is_acknowledged_and_never_comes(firmware: str) -> None:
    async with emulated_bench(firmware) as bench:
        points = await bench.device.operating_points()
        await bench.device.apply(OFF)
        await read_until(bench, is_asleep, time.monotonic())
        await read_until(bench, lambda _: bench.true_power_w() < 100, time.monotonic())
        bench.set_fault(Fault.RESUME_NEVER)
        assert await bench.device.apply(points.highest) is Outcome.ACKNOWLEDGED
        reading = await bench.device.read()
        assert reading.state is not RunState.RUNNING
        assert not reading.rate


async def test_a_shed_does_not_wait_for_a_reading_that_hangs() -> None:
    async with emulated_bench("whatsminer-v2") as bench:
        await warmed_up(bench)
        bench.set_fault(Fault.HANG)
        reading = asyncio.ensure_future(bench.open_another(read_deadline_s=30).read())
        hung = asyncio.ensure_future(bench.device.read())
        await asyncio.sleep(0)
        bench.set_fault(Fault.HANG, on=False)
        begun = time.monotonic()
        assert await bench.device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert time.monotonic() - begun < 1.0
        for task in (reading, hung):
            task.cancel()
        await asyncio.gather(reading, hung, return_exceptions=True)
