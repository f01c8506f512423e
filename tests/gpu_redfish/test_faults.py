"""What the driver makes of a node or BMC that is broken, lies or is slow: emulated ones, over real TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest

from curtaild_drivers.contract import (
    OFF,
    AuthFailed,
    BadReply,
    DriverError,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Unreachable,
)
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.redfish.device import SETTLE_DOWN_S
from curtaild_emulator import BmcFault
from drivers.conftest import Bench
from gpu_redfish.conftest import H100, ID, STANDS_STILL, emulated_node, set_fault
from loop_clock import cut_short

FIVE_KW = OperatingPoint(LIMIT, 5_000.0, 0.8, divisible=True)
OFF_POINT = OperatingPoint(OFF, H100.standby_w, 0.0)
T = TypeVar("T")


async def met(bench: Bench, fault: BmcFault, ask: Coroutine[Any, Any, T]) -> T:
    """What comes of a question that meets this fault: one that hangs is given up once it has arrived."""
    requests = bench.emulated.bmcs[ID].requests
    return await (
        cut_short(ask, lambda: bench.emulated.bmcs[ID].requests != requests) if fault is BmcFault.HANG else ask
    )


async def settled(bench: Bench, plant_s: float = 1_000.0) -> Reading:
    """What it says once so much of its time has passed."""
    bench.emulated.skip(plant_s)
    return await bench.device.read()


NO_READING: list[tuple[BmcFault, type[DriverError], str]] = [
    (BmcFault.HANG, Unreachable, "did not answer in time"),
    (BmcFault.HTTP_500, Unreachable, "HTTP 500"),
    (BmcFault.BUSY, Unreachable, "HTTP 503"),
    (BmcFault.GARBAGE, BadReply, "not JSON"),
    (BmcFault.OVERSIZED, BadReply, "longer than 1024 KiB"),
    (BmcFault.REDIRECT, BadReply, "redirects to 'https://192.0.2.1"),
]


@pytest.mark.parametrize(("fault", "error", "reason"), NO_READING)
async def test_it_gives_no_reading_takes_no_command_and_recovers(
    fault: BmcFault, error: type[DriverError], reason: str
) -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        await bench.device.read()
        set_fault(bench, fault)
        with pytest.raises(error, match=reason):
            await met(bench, fault, bench.device.read())
        with pytest.raises((Unreachable, Refused)):
            await met(bench, fault, bench.device.apply(FIVE_KW))
        set_fault(bench, fault, on=False)
        assert (await bench.device.read()).limit_w == H100.max_w


async def test_a_command_that_was_obeyed_and_never_answered() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        await bench.device.read()
        set_fault(bench, BmcFault.HANG_WRITE_APPLIED)
        with pytest.raises(OutcomeUnknown):
            await cut_short(bench.device.apply(FIVE_KW), lambda: bench.emulated.bmcs[ID]._writes > 0)
        assert (await bench.device.read()).limit_w == 5_000.0, "the next reading tells"
        assert await bench.device.apply(FIVE_KW) is Outcome.ALREADY_THERE
        set_fault(bench, BmcFault.HANG_WRITE_APPLIED, on=False)


async def test_a_yes_that_is_not_obeyed_shows_in_the_watts() -> None:
    async with emulated_node("openbmc", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.ACK_NO_OBEY)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        reading = await settled(bench)
        assert reading.limit_w == 5_000.0
        assert reading.power_w is not None
        assert reading.power_w > 7_000.0


@pytest.mark.parametrize("fault", [BmcFault.WRITE_FORGOTTEN, BmcFault.TASK_FAILS])
async def test_a_yes_that_comes_to_nothing_shows_in_the_limit(fault: BmcFault) -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        set_fault(bench, fault)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        assert (await settled(bench)).limit_w == H100.max_w


async def test_a_task_that_is_done_later() -> None:
    async with emulated_node("lenovo-xcc", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.TASK)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        assert (await bench.device.read()).limit_w == H100.max_w, "accepted is not done"
        assert (await settled(bench)).limit_w == 5_000.0


async def test_a_cap_that_bites_late_is_down_within_what_the_driver_declares() -> None:
    async with emulated_node("openbmc", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.CAPS_LATE)
        await bench.device.apply(FIVE_KW)
        await settled(bench, 2 * SETTLE_DOWN_S)  # for so long the daemon waits
        assert bench.true_power_w() == pytest.approx(5_000.0, rel=0.02)


async def test_a_bmc_that_takes_forty_seconds_for_each_answer() -> None:
    async with emulated_node("dell-idrac9") as bench:  # 0.04 s at this speed
        set_fault(bench, BmcFault.SLOW)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        assert (await bench.device.read()).limit_w == 5_000.0


@pytest.mark.parametrize("fault", [BmcFault.NO_POWER_READING, BmcFault.NAN_POWER])
async def test_watts_that_are_none_are_unknown_and_the_limit_is_told_all_the_same(fault: BmcFault) -> None:
    async with emulated_node("openbmc", STANDS_STILL) as bench:
        await bench.device.read()
        set_fault(bench, fault)
        reading = await bench.device.read()
        assert (reading.power_w, reading.limit_w) == (None, H100.max_w)


@pytest.mark.parametrize("bmc", ["nvidia-dgx", "ami"])
async def test_tags_that_move_all_the_time(bmc: str) -> None:
    async with emulated_node(bmc, STANDS_STILL) as bench:
        set_fault(bench, BmcFault.ETAG_MOVES)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        limit_w = (await bench.device.read()).limit_w
        assert limit_w == pytest.approx(5_000.0, abs=9.2)


async def test_a_bmc_that_forgets_each_session_after_a_request() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.SESSION_FORGOTTEN)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        assert (await bench.device.read()).limit_w == 5_000.0


async def test_a_bmc_whose_sessions_are_all_taken() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.SESSIONS_TAKEN)
        with pytest.raises(Unreachable, match="no session"):
            await bench.device.read()


async def test_a_changed_password() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.WRONG_PASSWORD)
        with pytest.raises(AuthFailed, match="'root' gets no session"):
            await bench.device.read()
        with pytest.raises(AuthFailed):
            await bench.device.apply(FIVE_KW)


CERTIFICATES = {
    BmcFault.OTHER_AUTHORITY: "signed by nobody in ca_file",
    BmcFault.OTHER_NAME: "not for 127.0.42.1",
    BmcFault.EXPIRED: "expired on",
}


@pytest.mark.parametrize(("fault", "reason"), CERTIFICATES.items())
async def test_a_certificate_that_proves_nothing(fault: BmcFault, reason: str) -> None:
    async with emulated_node("hpe-ilo", STANDS_STILL) as bench:
        set_fault(bench, fault)
        with pytest.raises(Unreachable, match=reason):
            await bench.device.read()
        assert bench.emulated.bmcs[ID].requests == []


async def test_a_host_that_ignores_a_shutdown_is_forced_only_after_its_time() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.HUNG_OS)
        await bench.device.apply(OFF_POINT)
        await bench.device.apply(OFF_POINT)
        assert (await settled(bench)).state is RunState.RUNNING
        hasty = bench.open_another(force_off_after_s=0)
        for _ in range(2):
            await hasty.apply(OFF_POINT)
        await hasty.close()
        assert (await settled(bench)).state is RunState.ASLEEP


async def test_a_node_that_does_not_start() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        await bench.device.apply(OFF_POINT)
        assert (await settled(bench)).state is RunState.ASLEEP
        set_fault(bench, BmcFault.POWER_ON_NEVER)
        assert await bench.device.apply(FIVE_KW) is Outcome.ACKNOWLEDGED
        assert (await settled(bench)).state is RunState.ASLEEP


async def test_of_the_four_clients_that_a_bmc_bears_it_is_one() -> None:
    async with emulated_node("cray", STANDS_STILL) as bench, AsyncExitStack() as people:
        farm = bench.emulated
        trusts = ssl.create_default_context(cafile=str(farm.bmc_authority_file))
        for _ in range(3):
            _, line = await asyncio.open_connection(farm.bmc_addresses[ID], farm.ports.redfish, ssl=trusts)
            people.callback(line.transport.abort)
        device = bench.device
        await asyncio.gather(device.identify(), device.read(), device.apply(FIVE_KW), device.operating_points())
        assert (await device.read()).limit_w == 5_000.0
        assert len(farm.bmcs[ID].sessions.live()) == 1
        await device.close()
        assert farm.bmcs[ID].sessions.live() == []


async def test_a_bmc_that_takes_no_connection() -> None:
    async with emulated_node("dell-idrac9", STANDS_STILL) as bench:
        set_fault(bench, BmcFault.REFUSE_CONNECTION)
        with pytest.raises(Unreachable):
            await bench.device.read()
        with pytest.raises(Unreachable):
            await bench.device.apply(FIVE_KW)
