"""One question, one answer: what the driver says of a far end that is silent, absent, endless or in pieces."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from curtaild_drivers.asic.cgminer import (
    MinerStopped,
    ask_json,
    first,
    hashrate,
    number,
    parse,
    question,
    status,
    watts,
)
from curtaild_drivers.asic.wire import MOST_REPLY_BYTES, Deadline, Unanswered, command_sent
from curtaild_drivers.contract import BadReply, OutcomeUnknown, Unreachable
from drivers.tiny_servers import CLOSE, HANG, HOST, Answer, rpc
from loop_clock import put_forward


def soon(seconds: float = 120.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def ask(answer: Answer, piece: int = 1 << 20) -> dict[str, object]:
    async with rpc(lambda asked: answer, piece) as server:
        return await ask_json(HOST, server.port, question("summary"), soon())


async def test_an_answer_in_single_bytes_is_one_answer() -> None:
    assert await ask({"STATUS": "S", "Msg": "é" * 50}, piece=1) == {"STATUS": "S", "Msg": "é" * 50}


async def test_an_answer_without_nul_ends_with_the_connection() -> None:
    assert await ask(b'{"STATUS":"S"}') == {"STATUS": "S"}


async def test_refused_connection_is_unreachable_and_nothing_left() -> None:
    async with rpc(lambda asked: CLOSE) as server:
        port = server.port
    with pytest.raises(Unreachable) as caught:
        await ask_json(HOST, port, question("summary"), soon())
    assert not isinstance(caught.value, Unanswered)


@pytest.mark.parametrize("answer", [HANG, CLOSE])
async def test_silence_after_the_question_is_unanswered(answer: str) -> None:
    with pytest.raises(Unanswered):
        await ask(answer)


async def test_a_deadline_already_past_sends_nothing() -> None:
    async with rpc(lambda asked: {}) as server:
        with pytest.raises(Unreachable):
            await ask_json(HOST, server.port, question("summary"), soon(-1))
        assert server.asked == []


async def test_an_endless_answer_is_cut_off() -> None:
    with pytest.raises(BadReply, match="256 KiB"):
        await ask(b'{"x":"' + b"a" * (MOST_REPLY_BYTES + 10))


def test_what_befalls_a_sent_command_is_an_unknown_outcome() -> None:
    with pytest.raises(OutcomeUnknown, match="did not answer"), command_sent():
        raise Unanswered("it did not answer in time")
    with pytest.raises(OutcomeUnknown), command_sent():
        raise BadReply("half a word")
    with pytest.raises(Unreachable), command_sent():
        raise Unreachable("never connected")


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        (b'{"A":[{"x":1}{"y":2}]}\0', {"A": [{"x": 1}, {"y": 2}]}),  # stock Antminer stats
        (b'{"A":{"x":1,},"B":[1,2,],}', {"A": {"x": 1}, "B": [1, 2]}),  # btminer
        (b'{"A":[,{"x":1}]}', {"A": [{"x": 1}]}),  # bmminer
        (b'{"Power":nan,"MHS":-nan,"T":inf}', {"Power": None, "MHS": None, "T": None}),  # printf of a float
        (b'{"A"\n:\n1}\0\0', {"A": 1}),
    ],
)
def test_known_breakage_is_mended(raw: bytes, meant: object) -> None:
    assert parse(raw) == meant


DEEP = [b"[" * 100_000, b'{"a":' * 50_000, b'{"n":' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("raw", [b"", b"\0", b"[]", b"1", b"null", b"<html>", b'{"A":', b"\xff\xfe\x00", *DEEP])
def test_all_other_bytes_are_a_bad_reply(raw: bytes) -> None:
    with pytest.raises(BadReply):
        parse(raw)


def test_a_stopped_miner_process_says_so_in_words() -> None:
    with pytest.raises(MinerStopped):
        parse(b"Socket connect failed: Connection refused\n")


NO_NUMBERS: list[object] = [None, float("nan"), float("inf"), "nan", "", "x", True, [], {}, 10**400]


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1, -0.1, 20_001])
def test_nonsense_is_no_watts(value: object) -> None:
    assert watts(value) is None


def test_no_powered_board_draws_nothing_at_all() -> None:
    assert watts(0) is None
    assert (watts("3312"), watts(25)) == (3312.0, 25.0)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -5, 1e30])
def test_nonsense_is_no_hashrate(value: object) -> None:
    assert hashrate(value, 1e9) is None


def test_numbers_come_as_text_too() -> None:
    assert (number("1.5"), number(2), number("")) == (1.5, 2.0, None)
    assert hashrate("95000.5", 1e9) == 95000.5e9


@pytest.mark.parametrize("section", [None, [], [[]], ["x"], {}, 5])
def test_an_empty_section_is_empty(section: object) -> None:
    assert first({"SUMMARY": section}, "SUMMARY") == {}


def test_status_is_said_in_a_list_or_flatly() -> None:
    assert status({"STATUS": [{"STATUS": "S", "Code": 11, "Msg": "Summary"}]}) == (True, 11, "Summary")
    assert status({"STATUS": "E", "Code": 136, "Msg": "over max connect"}) == (False, 136, "over max connect")
    assert status({}) == (False, None, "null")


async def test_a_deadline_leaves_a_task_as_it_was() -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    with pytest.raises(TimeoutError), Deadline(loop.time(), loop):
        await asyncio.Event().wait()
    assert task.cancelling() == 0
    with Deadline(soon(), loop):
        await asyncio.sleep(0)
    put_forward()
    await asyncio.sleep(0.001)  # one that was left in time is over


async def test_who_ends_a_task_at_its_deadline_ends_it() -> None:
    loop = asyncio.get_running_loop()

    async def wait_in_vain() -> None:
        with suppress(TimeoutError), Deadline(soon(), loop):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait_in_vain())
    await asyncio.sleep(0)
    put_forward()
    loop.call_later(0.0, waiting.cancel)  # in the same turn of the loop
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
