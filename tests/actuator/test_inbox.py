"""What devices say all at once is thought over in portions, the oldest first; what the grid says is not."""

from __future__ import annotations

from curtaild.core.allocation import HeartbeatReceived
from curtaild.core.cycle import Answer
from curtaild.core.events import ActuationId, ActuationStage
from curtaild.inbox import MOST_AT_ONCE, Inbox
from curtaild_drivers.contract import DeviceId, Reading, RunState


async def test_a_flood_of_answers_is_taken_in_portions_one_cycle_after_another() -> None:
    inbox, count = Inbox(), 2 * MOST_AT_ONCE + 7
    for number in range(count):
        device = DeviceId(f"miner-{number}")
        inbox.answer(Answer(device, ActuationId(f"a{number}"), ActuationStage.ANSWERED, 1.0))
        inbox.reading(device, Reading(1.0, RunState.ASLEEP, 30.0))
        inbox.grid(HeartbeatReceived())
    answered: list[str] = []
    read: list[str] = []
    heard: list[int] = []
    while len(answered) < count:
        await inbox.arrival(3600.0)
        inputs = inbox.take()
        answered += [answer.device for answer in inputs.answers]
        read += [device for device, _ in inputs.readings]
        heard.append(len(inputs.grid))
    assert answered == read == [f"miner-{number}" for number in range(count)]
    assert heard == [count, 0, 0]
    inbox.wake()
    assert not inbox.take().answers
