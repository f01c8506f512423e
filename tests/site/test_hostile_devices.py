"""Devices and meters that hang, lie, refuse and talk nonsense: the limit is held by the others, each trouble is told
once and its end once, and nobody healthy waits for anybody ill."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan, Fault, MeterFault
from running_site import ANY_PORTS, METER_NOISE, PATIENCE_S, RunningSite, Status, until

pytestmark = pytest.mark.broker

QUICK = {"read_deadline_s": 5, "write_deadline_s": 5}
LONG = {"read_deadline_s": 2 * PATIENCE_S, "write_deadline_s": 2 * PATIENCE_S}
"""Longer than a test waits for anybody."""

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
        site.file.for_every_group(stale_after_s=15, settings=QUICK)
        await site.start()
        await site.all_known()
        names = {device: site.file.device_id(site.farm.addresses[device]) for device in ILL}
        await site.acks.stage(await site.operator.allocate(round(1.1 * site.full_w)), "reached")

        for device, (fault, _) in ILL.items():
            site.farm.set_fault(device, fault)
        await shows(site, {names[d]: said for d, (_, said) in ILL.items() if said in ("unreachable", "bad_reply")})
        limit_w = round(0.45 * site.full_w)
        allocation = await site.operator.allocate(limit_w)
        await site.acks.stage(allocation, "reached", within_s=180)
        await site.true_under(METER_NOISE * limit_w)
        under_at = time.monotonic()

        lowest = await site.operator.allocate(0)  # so that those who refuse or lie are asked as well
        liars = {device for device, (_, said) in ILL.items() if said == "diverged"}
        for found_out in (ILL.keys() - liars, liars):  # who lies is waited for longest; the others get well meanwhile
            await shows(site, {names[device]: ILL[device][1] for device in found_out}, within_s=180)
            for device in found_out:
                fault, said = ILL[device]
                feeder = names[device].split("-")[0] + "-" + names[device].split("-")[1]
                series = f'curtaild_device_condition{{device="{names[device]}",feeder="{feeder}",condition="{said}"}}'
                assert await site.told(series) == 1
                site.farm.set_fault(device, fault, on=False)
        assert await site.acks.stage(lowest, "shortfall")
        assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w

        await site.until("all have recovered", lambda status: not any(conditions(status).values()), 300, devices=True)
        told_once(site.daemon.log, set(names.values()))
        assert await site.metric('curtaild_polls_total{driver="asic",outcome="bad_reply"}')
        assert not site.daemon.lines("Traceback")


async def shows(site: RunningSite, expected: dict[str, str], within_s: float = PATIENCE_S) -> None:
    """Each of these devices has its condition."""

    def all_shown(status: Status) -> bool:
        return all(said in conditions(status)[device] for device, said in expected.items())

    await site.until(f"{expected}", all_shown, within_s, devices=True)


def told_once(log: str, ill: set[str]) -> None:
    """One line at the start, one at the recovery, for each of these devices and each thing that is the matter with it,
    and no more."""
    begun = Counter(told for told in re.findall(r"WARNING (\S+/\S+): ([a-z_]+): ", log) if told[0] in ill)
    ended = Counter(told for told in re.findall(r"INFO +(\S+/\S+): no longer ([a-z_]+)", log) if told[0] in ill)
    assert {device for device, _ in begun} == ill
    assert begun == ended
    assert set(begun.values()) == {1}


async def test_a_hung_device_delays_no_healthy_one(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(
        60, feeders=2, network="127.37.0.0/24", speed=40.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
    )
    async with RunningSite(tmp_path, plan, failsafe_w=500_000) as site:
        site.file.for_every_group(settings=LONG)
        await site.start()
        await site.all_known()
        await site.acks.stage(await site.operator.allocate(round(1.1 * site.full_w)), "reached")
        hung = list(site.farm.addresses)[::5]
        for device in hung:
            site.farm.set_fault(device, Fault.HANG)
        plant = site.farm.plant
        hanging = {site.file.device_id(site.farm.addresses[device]) for device in hung}
        await site.lives_on(2.0)  # each is asked once a second: all of them hang now

        await site.operator.allocate(0)
        healthy = [plant.miner(device) for device in site.farm.addresses if device not in hung]
        await until("all others are told", lambda: all(miner.setting.asleep for miner in healthy))

        def seen_asleep(status: Status) -> bool:
            return all(each["confirmed"] == "off" for each in status["devices"] if each["id"] not in hanging)

        await site.until("all others are seen asleep", seen_asleep, devices=True)
        assert not any(plant.miner(device).setting.asleep for device in hung)


async def test_a_meter_that_cannot_be_believed_is_none(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(12, feeders=2, network="127.38.0.0/24", speed=20.0, ports=ANY_PORTS)
    async with RunningSite(tmp_path, plan, failsafe_w=100_000) as site:
        for feeder in site.file.tables["feeder"]:
            feeder.get("meter", {})["stale_after_s"] = 4
        await site.start()
        limit_w = round(0.6 * site.full_w)
        allocation = await site.operator.allocate(limit_w)
        await site.acks.stage(allocation, "reached")
        await site.true_under(limit_w)
        under_at = time.monotonic()
        for fault in (MeterFault.NAN, MeterFault.NEGATIVE, MeterFault.DEAD, MeterFault.FROZEN):
            stale, fresh = told_of_meter(site)
            site.farm.set_meter_fault("site", fault)
            await site.until(f"meter {fault.value}", lambda status: not status["feeders"][0]["meter_is_fresh"], 120)
            assert await site.metric('curtaild_feeder_metered_watts{feeder="site"}') is None
            assert told_of_meter(site) == (stale + 1, fresh)
            site.farm.set_meter_fault("site", None)
            await site.until("the meter is well", lambda status: status["feeders"][0]["meter_is_fresh"])
            assert told_of_meter(site) == (stale + 1, fresh + 1)
        assert (await site.status())["allocation_id"] == allocation
        assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w


def told_of_meter(site: RunningSite) -> tuple[int, int]:
    """How often the log says that the site's meter is stale, and that it is fresh."""
    log = site.daemon.lines("meter of site: ")
    return sum("WARNING" in line and ": stale" in line for line in log), sum(": fresh" in line for line in log)
