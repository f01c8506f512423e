"""Devices and meters that hang, lie, refuse and talk nonsense: the limit is held by the others, each trouble is told
once and its end once, and nobody healthy waits for anybody ill."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan, Fault, MeterFault
from running_site import ANY_PORTS, METER_NOISE, RunningSite, Status, until

pytestmark = pytest.mark.broker

QUICK = {"read_deadline_s": 1, "write_deadline_s": 1.5}

ILL = {
    # what befalls a device, and what the site says of it
    "luxos-s21-4": (Fault.HANG, "unreachable"),
    "whatsminer-m60-3": (Fault.REFUSE_CONNECTION, "unreachable"),
    "antminer-s19j-pro-1": (Fault.GARBAGE, "bad_reply"),
    "whatsminer-m50-2": (Fault.GARBAGE, "bad_reply"),
    "whatsminer-m60-7": (Fault.GARBAGE, "bad_reply"),
    "luxos-s21-8": (Fault.GARBAGE, "bad_reply"),
    "whatsminer-m50-6": (Fault.WRONG_PASSWORD, "refused"),
    "luxos-s21-12": (Fault.ACK_NO_OBEY, "diverged"),
}


def conditions(status: Status) -> dict[str, set[str]]:
    return {device["id"]: set(device["conditions"]) for device in status["devices"]}


async def test_the_ill_are_told_of_once_and_the_others_hold_the_limit(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(32, feeders=2, network="127.35.0.0/24", speed=20.0, ports=ANY_PORTS)
    async with RunningSite(tmp_path, plan, failsafe_w=200_000) as site:
        site.file.for_every_group(stale_after_s=5, settings=QUICK)
        await site.start()
        await site.all_known()
        names = {device: site.file.device_id(site.farm.addresses[device]) for device in ILL}
        await site.acks.stage(await site.operator.allocate(round(1.1 * site.full_w)), "reached")

        for device, (fault, _) in ILL.items():
            site.farm.set_fault(device, fault)
        await shows(site, {names[d]: said for d, (_, said) in ILL.items() if said in ("unreachable", "bad_reply")})
        limit_w = round(0.45 * site.full_w)
        allocation = await site.operator.allocate(limit_w)
        await site.acks.stage(allocation, "reached", within_s=60)
        await site.true_under(limit_w)
        under_at = time.monotonic()

        lowest = await site.operator.allocate(0)  # so that those who refuse or lie are asked as well
        await shows(site, {names[d]: said for d, (_, said) in ILL.items()}, within_s=90)
        assert await site.acks.stage(lowest, "shortfall")
        for device, (_, said) in ILL.items():
            feeder = names[device].split("-")[0] + "-" + names[device].split("-")[1]
            series = f'curtaild_device_condition{{device="{names[device]}",feeder="{feeder}",condition="{said}"}}'
            assert await site.metric(series) == 1
        assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w

        for device, (fault, _) in ILL.items():
            site.farm.set_fault(device, fault, on=False)
        await site.until("all have recovered", lambda status: not any(conditions(status).values()), 120, devices=True)
        told_once(site.daemon.log)
        assert await site.metric('curtaild_polls_total{driver="asic",outcome="bad_reply"}')
        assert not site.daemon.lines("Traceback")


async def shows(site: RunningSite, expected: dict[str, str], within_s: float = 40.0) -> None:
    """Each of these devices has its condition."""

    def all_shown(status: Status) -> bool:
        return all(said in conditions(status)[device] for device, said in expected.items())

    await site.until(f"{expected}", all_shown, within_s, devices=True)


def told_once(log: str) -> None:
    """One line at the start, one at the recovery, for each device and each thing that is the matter with it."""
    begun = Counter(re.findall(r"WARNING (\S+/\S+): ([a-z_]+): ", log))
    ended = Counter(re.findall(r"INFO +(\S+/\S+): no longer ([a-z_]+)", log))
    assert begun
    assert begun == ended
    assert set(begun.values()) == {1}


async def test_a_hung_device_delays_no_healthy_one(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(
        60, feeders=2, network="127.37.0.0/24", speed=40.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
    )
    async with RunningSite(tmp_path, plan, failsafe_w=500_000) as site:
        site.file.for_every_group(settings=QUICK)
        await site.start()
        await site.all_known()
        hung = list(site.farm.addresses)[::5]
        healthy = [device for device in site.farm.addresses if device not in hung]
        all_well_s = await shed_all(site, healthy)
        await site.operator.release()
        await site.true_over(0.98 * site.full_w, 60)
        await site.at_rest()
        for device in hung:
            site.farm.set_fault(device, Fault.HANG)
        a_fifth_hung_s = await shed_all(site, healthy)
        assert a_fifth_hung_s <= all_well_s + 1.0, "the least deadline of a hung device is 1 s"


async def shed_all(site: RunningSite, devices: list[str]) -> float:
    """How long it takes until the last of `devices` has been told to go to its lowest."""
    miners = [site.farm.plant.miner(device) for device in devices]
    await site.acks.stage(await site.operator.allocate(round(1.1 * site.full_w)), "reached")
    begun_at = time.monotonic()
    await site.operator.allocate(0)
    await until("all are told", lambda: all(miner.setting.asleep for miner in miners))
    return time.monotonic() - begun_at


async def test_a_meter_that_cannot_be_believed_is_none(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(12, feeders=2, network="127.38.0.0/24", speed=20.0, ports=ANY_PORTS)
    async with RunningSite(tmp_path, plan, failsafe_w=100_000) as site:
        await site.start()
        limit_w = round(0.6 * site.full_w)
        allocation = await site.operator.allocate(limit_w)
        await site.acks.stage(allocation, "reached")
        await site.true_under(limit_w)
        under_at = time.monotonic()
        for number, fault in enumerate((MeterFault.NAN, MeterFault.NEGATIVE, MeterFault.DEAD, MeterFault.FROZEN), 1):
            site.farm.set_meter_fault("site", fault)
            await site.until(f"meter {fault.value}", lambda status: not status["feeders"][0]["meter_is_fresh"], 40)
            assert await site.metric('curtaild_feeder_metered_watts{feeder="site"}') is None
            assert len(site.daemon.lines("WARNING", "meter of site: stale")) == number
            site.farm.set_meter_fault("site", None)
            await site.until("the meter is well", lambda status: status["feeders"][0]["meter_is_fresh"])
            assert len(site.daemon.lines("INFO", "meter of site: fresh")) == number + 1
        assert (await site.status())["allocation_id"] == allocation
        assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w
