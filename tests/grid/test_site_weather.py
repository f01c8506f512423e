"""A whole site between two brokers in foul weather: what reaches it late, half, or not at all. Its limit holds, what it
says of itself is true, and when the sky clears nobody has to lift a finger."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan
from grid.weather import weather
from grid.wire import Wire, wire_to
from running_site import ANY_PORTS, METER_NOISE, RunningSite, Status, site_of, until

pytestmark = pytest.mark.broker

SILENCE_S = 6.0
PLAN = FarmPlan.mixed(
    6, feeders=2, network="127.46.0.0/24", speed=20.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
)


async def connected(site: RunningSite, wires: list[Wire], *expected: float) -> None:
    """`/metrics` says of each broker whether it is there."""

    async def so() -> tuple[float, ...] | None:
        names = [f'curtaild_broker_connected{{broker="mqtt://127.0.0.1:{wire.port}"}}' for wire in wires]
        return expected if [await site.metric(name) for name in names] == list(expected) else None

    told: tuple[float, ...] = await until(f"connected: {expected}", so)
    assert told == expected


async def test_foul_weather_is_survived(tmp_path: Path) -> None:
    failsafe_w = round(0.4 * PLAN.plant().true_feeder_power_w("site"))
    async with (
        RunningSite(tmp_path, PLAN, failsafe_w=failsafe_w, brokers=2) as site,
        AsyncExitStack() as stack,
    ):
        sky = stack.enter_context(weather())
        wires = [await stack.enter_async_context(wire_to(broker.port)) for broker in site.brokers]
        site.file.grid.update(brokers=[f"mqtt://127.0.0.1:{wire.port}" for wire in wires])
        site.file.grid.update(heartbeat_timeout_s=SILENCE_S, keepalive_s=5)
        south, _ = await site.operate(stack, site.brokers[1], "npcc", heartbeats=True)
        await site.start()
        await site.all_known()

        # The two brokers keep different words of one issuer: the newest counts, also where the older comes again.
        await south.allocate(round(0.9 * site.full_w))
        await site.limited_to(round(0.9 * site.full_w))
        newest_w = round(0.7 * site.full_w)
        newest = await site.operator.allocate(newest_w)
        await site.acks.stage(newest, "reached")
        back = len(site.daemon.lines("is up, after"))
        for wire in wires:
            wire.cut()
        await until("both are back", lambda: len(site.daemon.lines("is up, after")) >= back + 2)
        status = await site.lives_on(1.0)
        assert (status["phase"], status["allocation_id"]) == ("limited", newest)
        assert site_of(status)["limit_w"] == newest_w

        # One link half open, the other one parted: both are dead, and neither end was told.
        sky.half_open(wires[0].port)
        sky.partition(wires[1].port)
        status = await site.until("silence is noticed", lambda status: status["phase"] == "failsafe")
        assert "no sign of the grid" in status["phase_reason"]
        await site.limited_to(failsafe_w)
        await connected(site, wires, 0, 0)
        links = (await site.status())["links"]
        assert [link["connected"] for link in links] == [False, False]
        assert all(link["last_error"] for link in links)
        await site.true_under(METER_NOISE * failsafe_w)
        middle_w = round(0.6 * site.full_w)
        middle = await site.operator.allocate(middle_w)  # nobody hears it yet
        sky.clear()
        await site.limited_to(middle_w)
        await connected(site, wires, 1, 1)
        await site.acks.stage(middle, "reached")
        await site.at_rest()

        # Every other packet lost, and half a second for the rest: whatever gets through, never more than was granted.
        begun_at = time.monotonic()
        for wire in wires:
            wire.delay_s = 0.5
            sky.loses_half(wire.port)
        seen: list[Status] = [await site.lives_on(1.0) for _ in range(3)]
        low_w = round(0.5 * site.full_w)
        low = await site.operator.allocate(low_w)
        seen += [await site.lives_on(1.0) for _ in range(3)]
        assert {status["phase"] for status in seen} <= {"limited", "failsafe"}
        assert all(site_of(status)["limit_w"] <= middle_w for status in seen)
        assert site.trace.highest_w(begun_at, time.monotonic()) <= METER_NOISE * middle_w
        sky.clear()
        for wire in wires:
            wire.delay_s = 0.0
        await site.limited_to(low_w)
        await site.acks.stage(low, "reached")
        await connected(site, wires, 1, 1)
        assert (await site.status())["phase"] == "limited"
        assert not site.daemon.lines("Traceback")
