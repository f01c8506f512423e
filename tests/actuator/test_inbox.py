"""What devices say all at once is absorbed in parts, the oldest first; what the grid says is not, and calls for a
decision."""

from __future__ import annotations

import asyncio

from curtaild.core.allocation import HeartbeatReceived
from curtaild.core.events import ActuationId, ActuationStage
from curtaild.core.inputs import Answer, DeviceNews
from curtaild.inbox import PART, Inbox
from curtaild_drivers.contract import DeviceId, Reading, RunState


def answer(number: int, stage: ActuationStage = ActuationStage.ANSWERED) -> Answer:
    return Answer(DeviceId(f"miner-{number}"), ActuationId(f"a{number}"), stage, 1.0)


async def test_a_flood_of_answers_is_taken_in_parts_one_after_another() -> None:
    inbox, count = Inbox(), 2 * PART + 7
    for number in range(count):
        inbox.answer(answer(number))
        inbox.reading(DeviceId(f"miner-{number}"), Reading(1.0, RunState.ASLEEP, 30.0))
        inbox.grid(HeartbeatReceived())
    assert inbox.calls
    first = inbox.take()
    assert len(first.grid) == count
    parts: list[DeviceNews] = [first]
    while sum(len(part.answers) for part in parts) < count:
        await inbox.arrival(3600.0)
        assert not inbox.calls, "the rest can wait for a cycle, but not to be heard"
        parts.append(inbox.take_news())
    assert [len(part.readings) for part in parts] == [PART, PART, 7]
    assert [one.device for part in parts for one in part.answers] == [f"miner-{number}" for number in range(count)]
    assert [device for part in parts for device, _ in part.readings] == [f"miner-{number}" for number in range(count)]
    inbox.wake()
    assert not inbox.take().answers


async def test_what_the_grid_says_is_kept_while_devices_are_listened_to() -> None:
    inbox = Inbox()
    inbox.reading(DeviceId("miner"), Reading(1.0, RunState.ASLEEP, 30.0))
    inbox.grid(HeartbeatReceived())
    assert len(inbox.take_news().readings) == 1
    assert inbox.calls
    await inbox.arrival(3600.0)
    inputs = inbox.take()
    assert (len(inputs.grid), inputs.readings) == (1, [])


async def test_a_command_that_failed_calls_for_a_decision_and_one_that_was_taken_does_not() -> None:
    inbox = Inbox()
    async with asyncio.timeout(20):
        inbox.answer(answer(0))
        await inbox.arrival(3600.0)
        assert not inbox.calls
        inbox.answer(answer(1, ActuationStage.REFUSED))
        assert len(inbox.take_news().answers) == 2
        await inbox.arrival(3600.0)
        assert inbox.calls
