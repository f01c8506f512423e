"""The modbus driver against whatever else may listen on a meter's port: nothing gets out but a `DriverError`, in time,
and the next reading starts afresh.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild_drivers.contract import BadReply, DriverError, Meter, MeterReading, Unreachable
from curtaild_drivers.meter import DRIVER
from curtaild_drivers.meter.modbus import ModbusMeter
from curtaild_drivers.registry import OpenContext
from drivers_meter.far_ends import Behaviour, raw_server
from loop_clock import comes_true, put_forward

POWER = {"address": 100, "function": "holding", "type": "uint32"}
ENERGY = {"address": 500, "function": "holding", "type": "uint32"}
QUESTION_BYTES = 12


def meter_at(address: str, timeout_s: float = 60.0, **keys: Any) -> Meter:
    assert DRIVER.open_meter is not None
    model = DRIVER.settings.model_validate({"power": POWER, "timeout_s": timeout_s} | keys)
    return DRIVER.open_meter(address, model, OpenContext())


def frame(question: bytes, pdu: bytes, **other: int) -> bytes:
    """A reply to `question`; `other` replaces fields of its header."""
    transaction, _, _, unit = struct.unpack(">HHHB", question[:7])
    fields = {"transaction": transaction, "protocol": 0, "length": len(pdu) + 1, "unit": unit} | other
    return struct.pack(">HHHB", *(fields[k] for k in ("transaction", "protocol", "length", "unit"))) + pdu


def right_answer(question: bytes, value: int = 7_000) -> bytes:
    return frame(question, b"\x03\x04" + struct.pack(">I", value))


async def honest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(right_answer(await reader.readexactly(QUESTION_BYTES)))


def replying(*replies: Any) -> Behaviour:
    """Answers one question with each of `replies` in turn, made from the question, then waits for the other end."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            writer.write(reply(await reader.readexactly(QUESTION_BYTES)))
        await reader.read()

    return behave


async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(QUESTION_BYTES)


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(QUESTION_BYTES)
    writer.transport.abort()


async def half_a_frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(right_answer(await reader.readexactly(QUESTION_BYTES))[:9])


async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\x00" * 65_536)
        await writer.drain()


WRONG = {
    "wrong transaction": lambda q: frame(q, right_answer(q)[7:], transaction=0x7777),
    "transaction 0": lambda q: frame(q, right_answer(q)[7:], transaction=0),
    "wrong unit": lambda q: frame(q, right_answer(q)[7:], unit=9),
    "wrong protocol": lambda q: frame(q, right_answer(q)[7:], protocol=1),
    "length 0": lambda q: frame(q, b"", length=0),
    "length 65535": lambda q: frame(q, right_answer(q)[7:], length=65_535),
    "other function": lambda q: frame(q, b"\x04" + right_answer(q)[8:]),
    "exception of another function": lambda q: frame(q, b"\x84\x02"),
    "too few registers": lambda q: frame(q, b"\x03\x02\x00\x07"),
    "too many registers": lambda q: frame(q, b"\x03\x06" + bytes(6)),
    "byte count above the bytes": lambda q: frame(q, b"\x03\xff" + bytes(4)),
    "byte count below the bytes": lambda q: frame(q, b"\x03\x02" + bytes(4)),
    "byte count odd": lambda q: frame(q, b"\x03\x03" + bytes(3)),
    "HTTP": lambda q: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "garbage": lambda q: b"\xde\xad\xbe\xef" * 64,
}


@pytest.mark.parametrize("kind", WRONG)
async def test_what_is_no_answer_is_a_bad_reply_and_the_next_reading_is_right(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with raw_server(replying(WRONG[kind])) as far:
            meter = meter_at(far.address)
            with pytest.raises(BadReply):
                await meter.read()
            far.behaviour = honest
            assert (await meter.read()).power_w == 7_000.0
            assert far.connections == 2, "an answer out of step ends its connection"
            await meter.close()
    assert caplog.records == [], "drivers do not log per poll, and nothing reaches the loop's exception handler"


@pytest.mark.parametrize("behaviour", [hanging_up, resetting, half_a_frame])
async def test_a_lost_connection_is_noticed_at_once(behaviour: Behaviour) -> None:
    async with raw_server(behaviour) as far:
        meter = meter_at(far.address)
        async with asyncio.timeout(30):
            with pytest.raises(Unreachable, match="closed the connection without a whole answer"):
                await meter.read()
            assert far.connections == 1, "no question is asked twice"
            far.behaviour = honest
            assert (await meter.read()).power_w == 7_000.0
        await meter.close()


@pytest.mark.parametrize(
    ("code", "error", "name"),
    [
        (1, BadReply, "illegal function"),
        (4, BadReply, "device failure"),
        (6, Unreachable, "device busy"),
        (10, Unreachable, "gateway path"),
        (11, Unreachable, "gateway no response"),
        (200, BadReply, "unknown"),
    ],
)
async def test_modbus_exceptions(code: int, error: type[DriverError], name: str) -> None:
    async with raw_server(replying(lambda q: frame(q, bytes([0x83, code])), right_answer)) as far:
        meter = meter_at(far.address)
        with pytest.raises(error, match=rf"Modbus exception {code} \({name}"):
            await meter.read()
        assert (await meter.read()).power_w == 7_000.0
        assert far.connections == 1, "an exception leaves the line in step"
        await meter.close()


def silence(question: bytes) -> bytes:
    """No answer, while the loop's time passes."""
    put_forward()
    return b""


async def test_a_silent_meter_costs_its_deadline_and_no_more() -> None:
    async with raw_server(replying(silence)) as far:
        meter = meter_at(far.address)
        with pytest.raises(Unreachable, match=r"gave no answer within 60 s"):
            await meter.read()
        await far.ended.wait()  # the connection was given up, so that no late answer can come


async def test_a_meter_that_never_finishes_its_frame_costs_its_deadline() -> None:
    async def dribble_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.readexactly(QUESTION_BYTES)
        writer.write(frame(question, b"\x03", length=254))
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            writer.write(b"\x00")
            put_forward(10.0)
            await asyncio.wait([gone], timeout=0.01)

    async with raw_server(dribble_on) as far:
        meter = meter_at(far.address)
        with pytest.raises(Unreachable, match="gave no answer"):
            await meter.read()
        await far.ended.wait()


async def test_a_frame_that_arrives_in_single_bytes_is_read() -> None:
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in right_answer(await reader.readexactly(QUESTION_BYTES)):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)  # a turn of the loop: one segment each
        await reader.read()

    async with raw_server(dribble) as far:
        meter = meter_at(far.address)
        assert (await meter.read()).power_w == 7_000.0
        await meter.close()


async def test_a_flood_is_cut_off() -> None:
    async with raw_server(flooding) as far:
        meter = meter_at(far.address)
        with pytest.raises(DriverError):
            await meter.read()
        await far.ended.wait()  # the flooding end sees its connection gone
        far.behaviour = honest
        assert (await meter.read()).power_w == 7_000.0
        await meter.close()


async def test_a_late_answer_does_not_meet_the_next_question() -> None:
    late: list[tuple[asyncio.StreamWriter, bytes]] = []

    async def keep_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late.append((writer, right_answer(await reader.readexactly(QUESTION_BYTES), 1)))
        put_forward()
        await reader.read()

    async def answer_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.readexactly(QUESTION_BYTES)
        late[0][0].write(late[0][1])
        writer.write(right_answer(question, 2))
        await reader.read()

    async with raw_server(keep_waiting) as far:
        meter = meter_at(far.address)
        with pytest.raises(Unreachable):
            await meter.read()
        far.behaviour = answer_both
        assert (await meter.read()).power_w == 2.0
        await meter.close()


async def test_a_server_that_hangs_up_after_each_answer_is_no_failure() -> None:
    async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(right_answer(await reader.readexactly(QUESTION_BYTES)))

    async with raw_server(one_answer) as far:
        meter = meter_at(far.address)
        assert isinstance(meter, ModbusMeter)
        for _ in range(3):
            assert (await meter.read()).power_w == 7_000.0
            await comes_true(lambda: meter._line._streams is not None and meter._line._streams[0].at_eof())
        assert far.connections == 3
        await meter.close()


@pytest.mark.parametrize("energy_reply", [silence, WRONG["garbage"], WRONG["wrong transaction"]])
async def test_power_survives_an_energy_question_that_fails(energy_reply: Any) -> None:
    async with raw_server(replying(right_answer, energy_reply)) as far:
        meter = meter_at(far.address, energy=ENERGY)
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (7_000.0, None)
        far.behaviour = honest
        reading = await meter.read()
        assert (reading.power_w, reading.energy_j) == (7_000.0, 7_000 * 3.6e6)
        await meter.close()


async def test_a_cancelled_reading_leaves_nothing_behind() -> None:
    asked = asyncio.Event()

    async def tell_and_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(QUESTION_BYTES)
        asked.set()
        await reader.read()

    async with raw_server(tell_and_wait) as far:
        meter = meter_at(far.address)
        reading = asyncio.create_task(meter.read())
        await asked.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await far.ended.wait()
        far.behaviour = honest
        assert (await meter.read()).power_w == 7_000.0
        await meter.close()


async def test_close_ends_the_connection() -> None:
    async with raw_server(honest) as far:
        meter = meter_at(far.address)
        await meter.read()
        await meter.close()
        await far.ended.wait()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4))
def test_no_bytes_make_the_driver_raise_anything_else(replies: list[bytes]) -> None:
    async def read_once() -> MeterReading | DriverError:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            question = await reader.readexactly(QUESTION_BYTES)
            for number, part in enumerate(replies):
                writer.write(frame(question, part) if number % 2 == 0 else part)

        async with raw_server(reply) as far:
            meter = meter_at(far.address)
            try:
                return await meter.read()
            except DriverError as error:
                return error
            finally:
                await meter.close()

    outcome = asyncio.run(read_once())
    assert isinstance(outcome, (MeterReading, Unreachable, BadReply))
