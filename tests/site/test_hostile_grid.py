"""Whatever anybody sends on the site's topics: the limit in force stays, each word is answered, the site goes on."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from curtaild.grid.fields import timestamp
from curtaild_emulator import FarmPlan
from running_site import ANY_PORTS, METER_NOISE, RunningSite, until

pytestmark = pytest.mark.broker

FLOODER = Path(__file__).parents[1] / "grid/flooder.py"


def spoken(**changed: Any) -> dict[str, Any]:
    """An allocation that would release the site, but for what is `changed`."""
    now = time.time()
    whole = {"id": f"bad-{now}", "seq": int(now * 1000) + 60_000, "issuer": "somebody", "issued_at": timestamp(now)}
    return {**whole, "limit_w": None, "valid_from": timestamp(now), "valid_until": None, **changed}


def nonsense() -> list[tuple[bytes, str]]:
    """Words and the codes they deserve."""
    past, future = timestamp(time.time() - 60), timestamp(time.time() + 3_600)
    wrong: list[tuple[dict[str, Any], str]] = [
        (spoken(limit_w=-1), "NOT_A_LIMIT"),
        (spoken(limit_w="0"), "NOT_A_LIMIT"),
        (spoken(limit_w=True), "NOT_A_LIMIT"),
        (spoken(limit_w=float("nan")), "NOT_A_LIMIT"),
        (spoken(seq="1"), "MALFORMED"),
        (spoken(issuer=None), "MALFORMED"),
        (spoken(valid_from=0), "MALFORMED"),
        (spoken(id=["x"]), "MALFORMED"),
        (spoken(feeder="row-9"), "UNKNOWN_FEEDER"),
        (spoken(valid_from=timestamp(time.time() - 120), valid_until=past), "EXPIRED"),
        (spoken(issued_at=future), "CLOCK_SKEW"),
        (spoken(padding="x" * 20_000), "TOO_LARGE"),
    ]
    raw = [(b"\xff\xfe{", "MALFORMED"), (b"}{", "MALFORMED"), (b"[]", "MALFORMED"), (b"[" * 9_000, "MALFORMED")]
    return [*((json.dumps(body).encode(), code) for body, code in wrong), *raw]


async def test_nonsense_changes_nothing(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(8, feeders=2, network="127.36.0.0/24", speed=20.0, ports=ANY_PORTS)
    async with RunningSite(tmp_path, plan, failsafe_w=100_000) as site:
        await site.start()
        limit_w = round(0.6 * site.full_w)
        held = await site.operator.allocate(limit_w)
        await site.acks.stage(held, "reached")
        begun_at = time.monotonic()

        cases = nonsense()
        heard = len(site.acks.all)
        await site.publish(site.topics.allocation, *(payload for payload, _ in cases))
        await until("all are answered", lambda: len(site.acks.all) >= heard + len(cases))
        answers = [(ack["stage"], ack["code"]) for ack in site.acks.all[heard:]]
        assert answers == [("rejected", code) for _, code in cases]
        counted = {code: [known for _, known in cases].count(code) for _, code in cases}
        for code, times in counted.items():
            assert await site.metric(f'curtaild_allocations_rejected_total{{code="{code}"}}') == times
        await site.publish(site.topics.heartbeat, b"", b"{}", b"\0" * 100)
        await site.publish(site.topics.schedule, b"null", b'{"allocations": 5}')

        await flood(site, [payload for payload, _ in cases], 5_000)
        status = await site.lives_on(2.0)
        assert (status["phase"], status["allocation_id"]) == ("limited", held)
        assert site.trace.highest_w(begun_at, time.monotonic()) <= METER_NOISE * limit_w
        lower = await site.operator.allocate(round(0.3 * site.full_w))
        await site.acks.stage(lower, "reached")
        await site.true_under(0.3 * site.full_w)
        assert not site.daemon.lines("Traceback")


async def flood(site: RunningSite, payloads: list[bytes], count: int) -> None:
    """As fast as the broker takes them, from a process of its own."""
    command = [sys.executable, str(FLOODER), str(site.broker.port), site.topics.allocation, str(count)]
    flooder = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    await flooder.communicate(b"\n".join(payload for payload in payloads if b"\n" not in payload))
    assert flooder.returncode == 0
