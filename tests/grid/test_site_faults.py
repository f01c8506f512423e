"""A whole site at one broker: poison kept for its start, a stranger under its name, a broker that forgot everything, a
flood. Its limit holds, what it says of itself is true, and it goes on by itself."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiomqtt
import pytest

from curtaild.grid.operator import Operator, operator_access
from curtaild_emulator import FarmPlan
from grid.rig import heard, onlooker
from running_site import ANY_PORTS, METER_NOISE, RunningSite, site_of, until

pytestmark = pytest.mark.broker

SILENCE_S = 12.0
"""More than a busy machine keeps a process waiting; nothing here waits for it."""
FLOOD = 50_000
"""At 10,000 a second or more, as fast as the broker takes them."""
PLAN = FarmPlan.mixed(
    6, feeders=2, network="127.47.0.0/24", speed=20.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
)
POISON = (b'{"id":"\\u0000","seq":1e400,"limit_w":-1', b"[" * 60_000, b'{"issuer":{},"allocations":' + b"[0," * 9_000)


async def operator(stack: AsyncExitStack, site: RunningSite) -> Operator:
    """One with heartbeats, who may find the broker gone when he leaves."""
    access = operator_access("127.0.0.1", site.broker.port)
    grid = await stack.enter_async_context(Operator(access, site.topics, "npcc"))
    await stack.enter_async_context(grid.heartbeats(0.5))
    return grid


def said_so_often(site: RunningSite, times: int) -> bool:
    return len(site.daemon.lines("is lost", "another client took our id")) >= times


async def stays(site: RunningSite, allocation: str, limit_w: float, seconds: float = 1.0) -> None:
    """The limit is in force, and so it remains."""
    for _ in range(2):
        status = await site.status()
        assert (status["phase"], status["allocation_id"]) == ("limited", allocation), status["phase_reason"]
        assert site_of(status)["limit_w"] == limit_w
        await site.lives_on(seconds / 2)


async def test_whatever_happens_at_the_broker_is_survived(tmp_path: Path) -> None:
    async with RunningSite(tmp_path, PLAN, failsafe_w=100, heartbeats=False) as site, AsyncExitStack() as stack:
        site.file.grid.update(heartbeat_timeout_s=SILENCE_S, keepalive_s=5)
        broker = f'curtaild_broker_connected{{broker="{site.broker.url}"}}'

        # Poison that the broker keeps for whoever comes.
        for topic, poison in zip((site.topics.allocation, site.topics.schedule), POISON[1:], strict=True):
            await site.publish(topic, POISON[0], poison, retain=True)
        await site.start()
        await site.all_known()
        assert (await site.status())["phase"] in ("starting", "failsafe")
        refused = 'curtaild_allocations_rejected_total{code="%s"}'
        for code in ("TOO_LARGE", "MALFORMED"):  # the allocation, 60,000 bytes of it, and the schedule
            assert await site.told(refused % code) == 1
        grid = await operator(stack, site)
        limit_w = round(0.7 * site.full_w)
        held = await grid.allocate(limit_w)
        await site.limited_to(limit_w)
        await site.true_under(METER_NOISE * limit_w)

        # Somebody comes again and again under our client id.
        begun_at = time.monotonic()
        for times in range(1, 4):
            async with aiomqtt.Client("127.0.0.1", site.broker.port, identifier="curtaild-site"):
                await until("it says so", partial(said_so_often, site, times))
            await stays(site, held, limit_w, 0.5)

        # Tens of thousands of words as fast as the broker takes them, none of them a limit.
        flooder = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("flooder.py")),
            *(str(site.broker.port), site.topics.allocation, str(FLOOD)),
            stdin=asyncio.subprocess.PIPE,
        )
        words = [json.dumps({"id": f"f-{n}", "limit_w": -n}).encode() for n in range(1, 501)]
        flooding = asyncio.create_task(flooder.communicate(b"\n".join(words)))
        await stays(site, held, limit_w)
        await flooding
        assert flooder.returncode == 0
        await stays(site, held, limit_w)
        await site.until("its status comes back", lambda status: status["links"][0]["is_heard"])
        assert await site.metric(broker) == 1
        (link,) = (await site.status())["links"]
        assert (link["connected"], link["last_error"]) == (True, None)
        assert link["rejected"] > len(POISON)
        assert link["reconnects"] >= 3

        # The broker forgets all it kept. The site does not, and tells it anew.
        await stack.aclose()
        site.broker.stop()
        (site.broker.folder / "mosquitto.db").unlink(missing_ok=True)
        site.broker.start()
        grid = await operator(stack, site)
        async with onlooker(site.broker, site.topics.status) as late:
            told = await heard(late, lambda body: body["state"] == "limited")
            assert json.loads(told.payload)["limit_w"] == limit_w
        await stays(site, held, limit_w)
        lower_w = round(0.5 * site.full_w)
        await grid.allocate(lower_w)
        await site.limited_to(lower_w)
        await site.true_under(METER_NOISE * lower_w)
        assert site.trace.highest_w(begun_at, time.monotonic()) <= METER_NOISE * limit_w
        assert not site.daemon.lines("Traceback")
