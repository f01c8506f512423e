"""The daemon is killed at any moment, again and again: no limit, device or raise is forgotten, and nothing is raised
before it was read again."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from curtaild.grid.native import GridAllocation, encode_allocation
from curtaild.ledger import connect_read_only, verify
from curtaild_emulator import FarmPlan
from curtaild_emulator.wires.exchange import Exchange
from curtaild_emulator.wires.unit import Answer, Effect
from running_site import ANY_PORTS, METER_NOISE, RunningSite, Status, until

pytestmark = pytest.mark.broker

DEVICES = 12
FEEDERS = ("row-1", "row-2", "site")
KILLS = 30
SEED = 20_261_120
LONGEST_LIFE_S = 1.5
CALM_EVERY = 4


@dataclass(frozen=True, slots=True)
class Stated:
    """One allocation as it was sent."""

    id: str
    feeder: str
    limit_w: float | None
    at: float


class Grid:
    """What the operator has stated, and what may therefore be in force."""

    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self.stated: list[Stated] = []
        self._calm_at: dict[str, list[float]] = {}
        plant = site.farm.plant
        self._miners = {
            feeder: [
                plant.miner(device.id) for device in site.farm.plan.all_devices() if feeder in (device.feeder, "site")
            ]
            for feeder in FEEDERS
        }

    async def state(self, feeder: str, limit_w: float | None) -> Stated:
        at = time.monotonic()
        limit_w = None if limit_w is None else round(limit_w)
        allocation = await self._site.operator.allocate(limit_w, feeder=feeder)
        self.stated.append(Stated(allocation, feeder, limit_w, at))
        return self.stated[-1]

    def possible(self, feeder: str) -> dict[str, float | None]:
        """The last whose `accepted` was heard, and all since: limits by id."""
        of_feeder = [stated for stated in self.stated if stated.feeder == feeder]
        accepted = [n for n, stated in enumerate(of_feeder) if "accepted" in self._site.acks.stages(stated.id)]
        return {stated.id: stated.limit_w for stated in of_feeder[accepted[-1] :]}

    async def calm(self) -> None:
        """Until the newest limits are in force, and nothing draws more or is on its way to more."""
        for feeder in FEEDERS:
            await self._calm(feeder, await self._accepted(feeder))

    async def _calm(self, feeder: str, newest: Stated) -> None:
        limit_w = math.inf if newest.limit_w is None else newest.limit_w
        await self._site.until(f"{newest} in force", lambda status: newest.id in sources(status))
        what = f"{newest} obeyed"
        under_w = METER_NOISE * limit_w  # a stock Antminer is given a minute to fall before others must stand in for it
        await self._site.until(what, lambda status: self._heading_w(feeder) <= under_w, 180, devices=True)
        self._calm_at[feeder] = [*self._calm_at.get(feeder, []), time.monotonic()]

    async def _accepted(self, feeder: str) -> Stated:
        """The newest of the feeder; stated again if the broker kept another feeder's in its place."""
        newest = [stated for stated in self.stated if stated.feeder == feeder][-1]
        if "accepted" not in self._site.acks.stages(newest.id):
            newest = await self.state(feeder, newest.limit_w)
            await self._site.acks.stage(newest.id, "accepted")
        return newest

    def _heading_w(self, feeder: str) -> float:
        """What flows into the feeder once every device has got where it is going."""
        rising_w = sum(max(0.0, miner.heading_w - miner.power_w) for miner in self._miners[feeder])
        return self._site.trace.now_w(feeder) + 1.05 * rising_w

    def kept_within(self, feeder: str) -> None:
        """From calm to calm, the plant never drew more than the highest limit stated meanwhile."""
        allowed = [
            (stated.at, math.inf if stated.limit_w is None else stated.limit_w)
            for stated in self.stated
            if stated.feeder == feeder
        ]
        for begin, end in itertools.pairwise(self._calm_at[feeder]):
            in_force_w = [limit_w for at, limit_w in allowed if at <= begin][-1]
            highest_w = max([in_force_w, *(limit_w for at, limit_w in allowed if begin < at < end)])
            assert self._site.trace.highest_w(begin, end, feeder) <= METER_NOISE * highest_w, feeder

    async def roll_back(self) -> None:
        """An old sequence number under a new id; not retained, so that the broker's copy stays. It is said again until
        it is answered: a daemon just born has thought once before it listens."""
        old = GridAllocation(f"old-{time.monotonic()}", 1, "npcc", time.time(), None, time.time(), None)

        async with asyncio.timeout(60.0):
            while not self._site.acks.of(old.id):
                await self._site.publish(self._site.topics.allocation, encode_allocation(old))
                with suppress(AssertionError):
                    await self._site.acks.stage(old.id, "accepted", "rejected", within_s=2.0)
        rejected = self._site.acks.of(old.id)[0]
        assert (rejected["stage"], rejected["code"]) == ("rejected", "STALE_SEQ")


class Witness:
    """What came over the wires: each device's answers, and those of them by which it was sent higher."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[float, str]] = []
        self.raises: list[tuple[float, str]] = []
        self._heading_w: dict[str, float] = {}
        answer = Exchange.answer

        def witnessed(exchange: Exchange, said: Answer | None) -> None:
            if exchange.unit is not None and said is not None:
                self._note(exchange.unit.miner.id, exchange.unit.miner.heading_w, said.effect)
            answer(exchange, said)

        monkeypatch.setattr(Exchange, "answer", witnessed)

    def _note(self, device: str, heading_w: float, effect: Effect) -> None:
        if effect is Effect.READ:
            self.reads.append((time.monotonic(), device))
        elif heading_w > self._heading_w.get(device, heading_w) + 50.0:
            self.raises.append((time.monotonic(), device))
        self._heading_w[device] = heading_w

    def raised_unread(self, since: float, until: float) -> list[str]:
        """Devices that a daemon born at `since` raised before it had read them."""
        first_reads: dict[str, float] = {}
        for at, device in self.reads:
            if at > since:
                first_reads.setdefault(device, at)
        return [device for at, device in self.raises if since < at <= until and first_reads.get(device, until) >= at]


@dataclass(frozen=True, slots=True)
class Remains:
    """What one life left on the disk: its records, and the raises that it had written down and not seen confirmed."""

    records: list[tuple[str, dict[str, Any]]]
    intents: set[str]
    head: int

    @classmethod
    def of(cls, ledger: Path, since: int) -> Remains:
        result = verify(ledger)
        assert result.ok, result.broken
        with closing(connect_read_only(ledger)) as connection:
            rows = connection.execute("SELECT kind, body FROM ledger WHERE seq > ? ORDER BY seq", (since,)).fetchall()
            keys = connection.execute("SELECT key FROM state WHERE key LIKE 'intent/%'").fetchall()
        records = [(kind, json.loads(body)) for kind, body in rows]
        return cls(records, {key.removeprefix("intent/") for (key,) in keys}, result.head.seq)

    @property
    def resumed(self) -> set[str]:
        """Devices whose raise an earlier life left open, as this life went on with it."""
        return {body["device"] for body in self.of_kind("actuation") if body["rule"] == "found unconfirmed at start"}

    def began_under(self, failsafe_w: float) -> bool:
        """Whether this life began as it must, so far as it lived to write that down."""
        changes = [body for body in self.of_kind("limit") if body["feeder"] == "site"]
        phases = [body["before"] for body in self.of_kind("link")]
        if changes:
            assert changes[0]["after"]["limit_w"] <= failsafe_w
        assert phases[:1] in ([], ["starting"])
        return bool(changes)

    def of_kind(self, kind: str) -> Iterator[dict[str, Any]]:
        return (body for found, body in self.records if found == kind)


async def test_nothing_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(SEED)
    witness = Witness(monkeypatch)
    plan = FarmPlan.mixed(DEVICES, feeders=2, network="127.34.0.0/24", speed=20.0, ports=ANY_PORTS)
    failsafe_w = round(0.5 * plan.plant().true_feeder_power_w("site"))
    lives_under_failsafe = intents_resumed = 0
    async with RunningSite(tmp_path, plan, failsafe_w=failsafe_w) as site:
        grid = Grid(site)
        await site.start()
        await site.all_known()
        # The broker keeps the last of these only: the others live in the daemon's memory, or nowhere.
        for feeder, share in (("row-1", 0.3), ("row-2", 0.4), ("site", 0.6)):
            stated = await grid.state(feeder, share * site.full_w)
            await site.acks.stage(stated.id, "accepted")
        await grid.calm()

        head, born_at, intents = 0, time.monotonic(), set[str]()
        for kill in range(KILLS):
            is_calm = kill % CALM_EVERY == 0
            if is_calm:
                await follow_down_and_begin_to_rise(grid, site, witness)
            else:
                await stimulate(grid, site, chance)
            await asyncio.sleep(chance.uniform(0.0, LONGEST_LIFE_S))  # the moment of death is what is tried
            site.daemon.kill()
            await until("nothing of what it sent is on its way", lambda: not site.farm.open_calls)

            remains = Remains.of(site.ledger, head)
            assert not witness.raised_unread(born_at, time.monotonic())
            lives_under_failsafe += kill > 0 and remains.began_under(failsafe_w)
            intents_resumed += len(intents & remains.resumed)
            head, intents = remains.head, remains.intents

            if chance.random() < 0.3:
                await stimulate(grid, site, chance)  # meets it while it boots
            possible = {feeder: grid.possible(feeder) for feeder in FEEDERS}
            born_at = time.monotonic()
            await site.start()
            status = await site.until("a first cycle", lambda status: status["feeders"][0]["limit_source"])
            still_in_force(status, possible, failsafe_w)
            if is_calm:
                await grid.roll_back()

        await grid.calm()
        for feeder in FEEDERS:
            grid.kept_within(feeder)
    assert len(witness.reads) > KILLS * DEVICES // 2, "it should live long enough to be dangerous"
    assert lives_under_failsafe >= KILLS // 2
    assert len(witness.raises) >= KILLS // CALM_EVERY
    assert intents_resumed >= KILLS // CALM_EVERY


async def stimulate(grid: Grid, site: RunningSite, chance: random.Random) -> None:
    """Something to be in the middle of: a shed, a raise, a release, or nothing."""
    match chance.choice(["lower", "higher", "row", "release", "nothing"]):
        case "lower":
            await grid.state("site", chance.uniform(0.3, 0.5) * site.full_w)
        case "higher":
            await grid.state("site", chance.uniform(0.55, 0.8) * site.full_w)
        case "row":
            await grid.state("row-2", chance.uniform(0.1, 0.4) * site.full_w)
        case "release":
            await grid.state("row-2", None)


async def follow_down_and_begin_to_rise(grid: Grid, site: RunningSite, witness: Witness) -> None:
    """A life that is long enough to do its work: the next one finds raises half done."""
    await grid.state("site", 0.35 * site.full_w)
    await grid.calm()
    before = len(witness.raises)
    await grid.state("row-2", None)
    await grid.state("site", 0.9 * site.full_w)
    await until("raises have begun", lambda: len(witness.raises) > before)


def still_in_force(status: Status, possible: Mapping[str, Mapping[str, float | None]], failsafe_w: float) -> None:
    """At the first cycle of a life: the ceilings are those that accepted allocations account for, and at the root at
    first the fail-safe limit where that is lower."""
    feeders = {feeder["id"]: feeder for feeder in status["feeders"]}
    for row in ("row-1", "row-2"):
        found = feeders[row]["limit_source"], feeders[row]["ceiling_w"]
        assert found in possible[row].items()
    allowed = [limit_w for limit_w in possible["site"].values() if limit_w is not None]
    if status["phase"] == "starting":
        allowed = [min(failsafe_w, limit_w) for limit_w in allowed]
    assert feeders["site"]["ceiling_w"] in allowed


def sources(status: Status) -> set[str]:
    return {feeder["limit_source"] for feeder in status["feeders"]}
