"""Braiins OS: a power target and a pause over one kept gRPC connection, against a far end that is grpclib's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.asic.grpc import GrpcChannel
from curtaild_drivers.asic.http2 import Http2Connection
from curtaild_drivers.asic.protobuf import Message
from curtaild_drivers.asic.wire import Unanswered
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    Device,
    DriverError,
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
from curtaild_emulator.wires.braiins import BraiinsUnit
from drivers.braiins_miner import Miner, serving
from drivers.conftest import Bench
from drivers.rigs import rig_of
from drivers.tiny_servers import HOST, IN_TIME
from loop_clock import cut_short

OFF = OperatingPoint("off", 50, 0.0)


def limit(draw_w: float) -> OperatingPoint:
    return OperatingPoint("limit", draw_w, 1.0, divisible=True)


def opened(port: int, password: str | None = None, **chosen: Any) -> Device:
    assert DRIVER.open_device is not None
    all_settings = {"braiins_port": port, **IN_TIME} | chosen
    known = Identity("Antminer", "S19j Pro", "braiins")
    secrets = {"password": password} if password else {}
    return DRIVER.open_device(
        HOST, DRIVER.settings.model_validate(all_settings), OpenContext(remembered=known, secrets=secrets)
    )


@asynccontextmanager
async def running(miner: Miner, **chosen: Any) -> AsyncIterator[Device]:
    async with serving(miner):
        device = opened(miner.port, **chosen)
        try:
            yield device
        finally:
            await device.close()


async def test_a_reading() -> None:
    async with running(Miner()) as device:
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, 3050.0, 100e12)
    assert (reading.point_key, reading.limit_w) == ("limit", 3100.0)


async def test_a_hot_reading_logs_in_once_and_asks_two_questions() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.asked)
        await device.read()
    assert sorted(miner.asked[before:]) == ["GetMinerDetails", "GetMinerStats"]
    assert miner.logins == 1


async def test_points_reach_from_its_least_target_to_what_it_is_set_to() -> None:
    async with running(Miner(target_w=3_100)) as device:
        points = await device.operating_points()
    assert [(p.key, p.draw_w, p.divisible) for p in points.points] == [
        ("off", 50.0, False),
        ("limit", 1100.0, False),
        ("limit", 3100.0, True),
    ]
    async with running(Miner(target_w=1_500)) as device:
        assert (await device.operating_points()).highest.draw_w == 3068.0, "its default, and no overclocking"


async def test_a_warm_pause_is_one_call() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.asked)
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert len(miner.asked) == before + 1
        reading = await device.read()
        assert await device.apply(OFF) is Outcome.ALREADY_THERE, "by its own word"
    assert (reading.state, reading.point_key, reading.limit_w, reading.power_w) == (RunState.ASLEEP, "off", None, 40.0)


async def test_a_target_is_whole_watts_under_what_was_asked() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(limit(1999.9)) is Outcome.ACKNOWLEDGED
        assert (await device.read()).limit_w == 1999.0
        assert await device.apply(limit(1999.5)) is Outcome.ALREADY_THERE
    assert miner.obeyed == ["target 1999"]


async def test_it_resumes_at_the_target_it_paused_at_and_another_is_set_before() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.apply(limit(3100))
        assert miner.obeyed == ["pause", "resume"]
        await device.apply(OFF)
        await device.apply(limit(2000))
    assert miner.obeyed[2:] == ["pause", "target 2000", "resume"]


async def test_another_target_than_asked_is_no_success() -> None:
    async with running(Miner(obeys=False)) as device:
        with pytest.raises(OutcomeUnknown, match="took 3100 W"):
            await device.apply(limit(2000))


async def test_a_point_it_does_not_have_is_never_sent() -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(OperatingPoint("low", 2000, 1.0))
    assert miner.asked == []


async def test_a_token_that_has_ended_is_replaced_within_the_same_call() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        miner.token = "somebody rebooted it"
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        miner.token = "and again"
        await device.read()
    assert (miner.obeyed, miner.logins) == (["pause"], 3)


async def test_a_wrong_password() -> None:
    async with running(miner := Miner(password="other")) as device:
        for call in (device.read(), device.apply(OFF)):
            with pytest.raises(AuthFailed):
                await call
    assert miner.obeyed == []


async def test_user_and_password_from_the_site_file() -> None:
    async with serving(Miner(user="site", password="other")) as miner:
        device = opened(miner.port, password="other", username="site")
        assert (await device.read()).state is RunState.RUNNING
        await device.close()


@pytest.mark.parametrize(
    ("code", "error"),
    [(3, Refused), (7, Refused), (9, Refused), (12, Refused), (13, OutcomeUnknown), (14, OutcomeUnknown)],
)
async def test_only_success_is_success(code: int, error: type[Exception]) -> None:
    async with serving(Miner()) as miner:
        from grpclib import Status  # only after pyasic's import has been tamed

        miner.verdict = Status(code)
        device = opened(miner.port)
        await device.read()
        with pytest.raises(error):
            await device.apply(OFF)
        await device.close()
    assert miner.obeyed == ["pause"], "one attempt"


async def test_a_command_without_an_answer_is_unknown_and_the_next_call_gets_a_new_connection() -> None:
    async with running(miner := Miner(verdict="hang")) as device:
        await device.read()
        with pytest.raises(OutcomeUnknown):
            await cut_short(device.apply(OFF), miner.is_asked.is_set)
        assert (await device.read()).state is RunState.RUNNING
    assert miner.obeyed == ["pause"], "one attempt"


async def test_a_hanging_call_delays_no_other() -> None:
    async with running(miner := Miner(verdict="hang")) as device:
        await device.read()
        hanging = asyncio.ensure_future(device.apply(OFF))
        await miner.is_asked.wait()
        assert (await device.read()).state is RunState.RUNNING
        assert not hanging.done()
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)


async def test_offline_with_a_connection_and_a_token_in_hand_is_unreachable() -> None:
    async with serving(Miner()) as miner:
        device = opened(miner.port)
        await device.read()
    for call in (device.read, lambda: device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call()
    await device.close()


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"status": 3, "ghs": 50_000.0}, RunState.RUNNING),
        ({"status": 3, "ghs": 0.0}, RunState.ASLEEP),
        ({"status": 1, "ghs": 0.0}, RunState.STARTING),
        ({"status": 4, "ghs": 0.0}, RunState.IDLE),
        ({"status": 5}, RunState.RUNNING),
        ({"ghs": 0.0}, RunState.IDLE),
        ({"ghs": 0.0, "uptime_s": 5}, RunState.STARTING),
        ({"tuner": 3, "uptime_s": 5}, RunState.STARTING),
        ({"ghs": float("nan")}, RunState.UNKNOWN),
        ({"status": 0}, RunState.UNKNOWN),
    ],
)
async def test_states(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(**changed)) as device:
        assert (await device.read()).state is state


@pytest.mark.parametrize("watts", [0, 10**12])
async def test_nonsense_watts_are_unknown(watts: int) -> None:
    async with running(Miner(watts=watts)) as device:
        assert (await device.read()).power_w is None


async def test_identity() -> None:
    async with running(Miner(), firmware="braiins") as device:
        identity = await device.identify()
    version = "2024-09-18-0-5c3ee0b2-24.09-plus"
    assert identity == Identity("Antminer", "S19j Pro", "braiins", version, "00:0a:95:9d:68:16", 3100.0)


@asynccontextmanager
async def raw(answer: bytes) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4_096)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 4_096, b"\xff" * 4_096, (b"\0\0\x08\x06\0\0\0\0\0" + b"x" * 8) * 50],
)
async def test_bytes_that_are_not_grpc(answer: bytes) -> None:
    async with raw(answer) as port:
        device = opened(port, read_deadline_s=0.5, write_deadline_s=0.5)
        with pytest.raises((BadReply, Unreachable)):
            await device.read()
        with pytest.raises((Unreachable, Refused)):
            await device.apply(OFF)
        await device.close()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(raw=st.binary(max_size=60))
def test_bytes_that_are_no_message(raw: bytes) -> None:
    try:
        message = Message(raw)
        for number in range(4):
            assert message.number(number) >= 0
            assert isinstance(message.text(number), str)
            message.double(number)
            message.message(number)
    except DriverError:
        pass


async def test_a_site_that_pauses_slowly_is_given_the_time() -> None:
    async with rig_of("braiins") as rig:
        assert isinstance(rig, Bench)
        unit = rig.unit()
        assert isinstance(unit, BraiinsUnit)
        before = rig.device.capabilities
        unit.ramp_down_s = 120
        points = await rig.device.operating_points()
        assert rig.device.capabilities == replace(before, settle_down_s=140.0)
        await rig.device.apply(OFF)
        rig.emulated.skip(20.0)
        reading = await rig.device.read()
        assert reading.power_w is not None
        assert reading.power_w > 0.4 * points.highest.draw_w, "it says that it is paused and draws on"
        assert rig.settings()["ramp_down_s"] == 120


async def test_a_tuner_that_runs_by_hashrate_is_left_so() -> None:
    async with rig_of("braiins") as rig:
        assert isinstance(rig, Bench)
        unit = rig.unit()
        assert isinstance(unit, BraiinsUnit)
        unit.tunes_by_hashrate = True
        points = await rig.device.operating_points()
        assert [point.key for point in points.points] == ["off", "normal"]
        before = rig.settings()
        assert await rig.device.apply(points.highest) is Outcome.ALREADY_THERE
        with pytest.raises(Unsupported, match="by power"):
            await rig.device.apply(limit(2_000))
        await rig.device.apply(OFF)
        rig.settle()
        assert (await rig.device.read()).state is RunState.ASLEEP
        assert await rig.device.apply(points.highest) is Outcome.ACKNOWLEDGED
        rig.settle()
        reading = await rig.device.read()
        assert (reading.state, reading.point_key, reading.limit_w) == (RunState.RUNNING, "normal", None)
        assert rig.settings() == before


@pytest.mark.parametrize(("tuner", "keys"), [(1, ["off", "normal"]), (4, ["off", "limit", "limit"])])
async def test_frequencies_set_by_hand_are_left_so(tuner: int, keys: list[str]) -> None:
    async with running(Miner(tuner=tuner)) as device:
        assert [point.key for point in (await device.operating_points()).points] == keys


class _ClosedAtOnce(GrpcChannel):
    """To a device that takes a connection and has closed it before a word was said."""

    async def _connected(self) -> Http2Connection:
        connection = await super()._connected()
        connection.retire()
        return connection


async def test_a_connection_that_is_closed_at_once_sends_nothing() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, HOST, 0)
    async with server:
        channel = _ClosedAtOnce(HOST, server.sockets[0].getsockname()[1])
        with pytest.raises(Unreachable) as told:
            await channel.call("/stop", b"", asyncio.get_running_loop().time() + 60.0)
        assert not isinstance(told.value, Unanswered), "it never left"
        channel.hang_up()
