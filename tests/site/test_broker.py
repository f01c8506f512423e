"""The broker dies, freezes, comes back; a second one stands by. Nobody has to lift a finger."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from curtaild.grid.operator import Operator, operator_access
from curtaild_emulator import FarmPlan
from running_site import ANY_PORTS, METER_NOISE, RunningSite, site_of

pytestmark = pytest.mark.broker

SILENCE_S = 6.0


def farm(network: str) -> FarmPlan:
    return FarmPlan.mixed(
        8, feeders=2, network=network, speed=20.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
    )


async def test_a_broker_that_dies_or_freezes_is_survived(tmp_path: Path) -> None:
    plan = farm("127.40.0.0/24")
    failsafe_w = round(0.4 * plan.plant().true_feeder_power_w("site"))
    async with RunningSite(tmp_path, plan, failsafe_w=failsafe_w, heartbeats=False) as site:
        site.file.grid.update(heartbeat_timeout_s=SILENCE_S, keepalive_s=5)
        await site.start()
        await site.all_known()
        for trouble in ("killed", "frozen"):
            async with operator(site) as grid:
                await grid.allocate(round(0.8 * site.full_w))
                await site.limited_to(round(0.8 * site.full_w))
                if trouble == "frozen":
                    site.broker.freeze()
            if trouble == "killed":
                site.broker.stop()
            status = await site.until("silence is noticed", lambda status: status["phase"] == "failsafe")
            assert status["heartbeat_age_s"] >= SILENCE_S
            await site.limited_to(failsafe_w)
            await site.true_under(METER_NOISE * failsafe_w)
            if trouble == "frozen":
                site.broker.thaw()
            else:
                site.broker.start()
            async with operator(site) as grid:
                again = await grid.allocate(round(0.7 * site.full_w))
                status = await site.limited_to(round(0.7 * site.full_w))
                assert status["allocation_id"] == again
        assert not site.daemon.lines("Traceback")


class operator:  # reads as a verb where it is used
    """An operator of our own with heartbeats, who may find the broker gone when he leaves."""

    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Operator:
        access = operator_access("127.0.0.1", self._site.broker.port)
        grid = await self._stack.enter_async_context(Operator(access, self._site.topics, "npcc"))
        await self._stack.enter_async_context(grid.heartbeats(0.5))
        return grid

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(20):
            await self._stack.aclose()


async def test_the_second_broker_carries_the_site_alone(tmp_path: Path) -> None:
    plan = farm("127.41.0.0/24")
    async with RunningSite(tmp_path, plan, failsafe_w=100_000, brokers=2) as site, AsyncExitStack() as stack:
        site.file.grid["heartbeat_timeout_s"] = SILENCE_S
        second, heard = await site.operate(stack, site.brokers[1], "second", heartbeats=True)
        await site.start()
        await site.all_known()
        first_w, second_w = round(0.7 * site.full_w), round(0.8 * site.full_w)
        first = await site.operator.allocate(first_w)
        await site.acks.stage(first, "reached")
        await heard.stage(await second.allocate(second_w), "reached")
        await site.limited_to(first_w)  # of two issuers the strictest
        await site.lives_on(1.0)
        await site.limited_to(first_w)

        site.brokers[0].stop()
        status = await site.lives_on(SILENCE_S + 2.0)
        assert (status["phase"], site_of(status)["limit_w"]) == ("limited", first_w)
        lower = await second.allocate(round(0.5 * site.full_w))
        await heard.stage(lower, "reached")
        await site.true_under(0.5 * site.full_w)
        for broker, is_connected in zip(site.brokers, (0, 1), strict=True):
            assert await site.metric(f'curtaild_broker_connected{{broker="{broker.url}"}}') == is_connected
