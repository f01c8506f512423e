"""docs/grid/native.md says what the code does: its examples are read, and written, key by key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from curtaild.core.allocation import AllocationReceived, HeartbeatReceived, RejectCode
from curtaild.core.events import AckStage, BreachChanged, BreachId, BreachStage, LinkPhase
from curtaild.core.limits import Limit
from curtaild.grid.dsx.isv import LoadTarget
from curtaild.grid.native import Context, decode, encode_ack, encode_breach, encode_status
from grid.dsx import Agent, data_of, ec_signer, event
from grid.rig import CLOCK, ROOT, a_status, an_ack, topics
from grid.test_maestroos import Maestro, ceilings

PAGE = (Path(__file__).parents[2] / "docs" / "grid" / "native.md").read_text()
EXAMPLES: list[str] = [block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "…" not in block]
BREACH = BreachChanged(0.0, BreachId("b"), ROOT, BreachStage.ACTIVE, 1.0, 1.0, 1.0, 0.0)


def example(key: str) -> str:
    """The one example with this key at its top."""
    found = [block for block in EXAMPLES if key in json.loads(block)]
    assert len(found) == 1
    return found[0]


class EveningOfTheExamples:
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 1_795_180_000.0  # 2026-11-20T13:06:40Z


CONTEXT = Context(topics("thar-1"), ROOT, EveningOfTheExamples(), 300.0, 16_384)


def test_the_allocation_shown_is_taken() -> None:
    message = decode(CONTEXT.topics.allocation, example("valid_until").encode(), False, CONTEXT)
    assert isinstance(message, AllocationReceived)
    assert message.allocation.reach_by_s == 300


def test_the_heartbeat_shown_is_taken() -> None:
    (beat,) = [block for block in EXAMPLES if set(json.loads(block)) == {"at", "seq"}]
    assert decode(CONTEXT.topics.heartbeat, beat.encode(), False, CONTEXT) == HeartbeatReceived()


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("applied_w", encode_ack(an_ack(1), CLOCK)),
        ("worst_over_w", encode_breach(BREACH, CLOCK)),
        ("flexible_up_w", encode_status(a_status(), CLOCK)),
    ],
)
def test_what_the_site_writes_has_the_keys_shown_in_their_order(key: str, written: bytes) -> None:
    shown, body = json.loads(example(key)), json.loads(written)
    assert list(shown) == list(body)
    for name, value in shown.items():
        if isinstance(value, list):
            feeders: list[dict[str, Any]] = body[name]
            assert list(value[0]) == list(feeders[0])


def test_the_words_of_maestroos_shown_are_taken() -> None:
    (block,) = json_blocks("maestroos")
    maestro = Maestro()
    maestro.clock.moved_s = json.loads(block)["timestamp"] - maestro.clock.wall()
    assert ceilings(maestro.hear(block.encode())) == [Limit(0.0)]


def test_the_load_target_shown_is_taken() -> None:
    envelope, data = json_blocks("dsx-flex")
    assert set(json.loads(envelope)) == {*json.loads(event(LoadTarget(1.0)))}
    (allocation,) = [
        message.allocation
        for message in Agent().hear(data_of(ec_signer("acme-1"), json.loads(data)))
        if isinstance(message, AllocationReceived)
    ]
    assert allocation.ceiling == Limit(12_500_000.0)


def json_blocks(page: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "grid" / f"{page}.md").read_text()
    return re.findall(r"```json\n(.*?)```", text, re.DOTALL)


def test_every_stage_code_and_state_is_explained() -> None:
    for word in (*AckStage, *RejectCode, *LinkPhase, *BreachStage):
        assert f"`{word.value}`" in PAGE
