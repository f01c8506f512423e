"""Miners and GPUs in one market: the watts that earn least go first, whoever draws them; what is spared is told."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hybrid.site import Miners, Nodes, hybrid_site
from running_site import METER_NOISE, RunningSite, until

pytestmark = pytest.mark.broker

MINERS: Miners = {"whatsminer-m60": 10, "luxos-s21": 10}
NODES: Nodes = {("nvidia-dgx", "hgx-h100"): 2, ("openbmc", "hgx-h200"): 2}
"""Inference and research. At 16 USD/h every watt of the one earns more than a miner's; at 1 USD/h the first two fifths
of the other's GPU power earn less, the rest more."""


async def test_the_watts_that_earn_least_go_first_and_what_was_spared_is_told(tmp_path: Path) -> None:
    async with hybrid_site(tmp_path, 62, hosts=0, miners=MINERS, nodes=NODES) as (site, _):
        site.file.policy["hashprice_usd_per_ph_day"] = 50.0
        groups = {group["name"]: group for group in site.file.groups}
        groups["bmc-nvidia-dgx-hgx-h100"].update(earns_usd_per_h=16.0, flex_fraction=0.1)
        groups["bmc-openbmc-hgx-h200"].update(earns_usd_per_h=1.0)
        await site.start()
        await site.all_known()
        await site.operator.release()
        await site.true_over(0.99 * site.full_w)
        await site.lives_on(4.0)  # what each draws of what it may is learned
        before = draws(site)

        await followed(site, site.full_w - 2_000)
        after = draws(site)
        assert after["research"] < 2 * 6_500, "what hardly earns goes first, though GPUs draw it"
        assert after["miners"] > 0.95 * before["miners"], "before any miner sleeps"
        assert after["inference"] == pytest.approx(before["inference"], rel=0.02)

        await followed(site, site.full_w - 40_000)
        after = draws(site)
        assert after["miners"] < before["miners"] - 30_000, "then miners"
        assert after["research"] > 2 * 5_300, "before what is left of the research, which earns more than they"
        assert after["inference"] == pytest.approx(before["inference"], rel=0.02)

        routine = await site.operator.allocate(20_000)
        await site.acks.stage(routine, "shortfall")
        await site.lives_on(3.0)
        assert draws(site)["inference"] > 2 * 5_900, "a tenth of its throughput, no more"
        spared = await until("it is told", lambda: ledger(site, "deficit", lambda body: body["spared_w"] > 0))
        deficit = spared[-1]
        assert deficit["deficit_w"] >= deficit["spared_w"] > 2_000

        await followed(site, 20_000, emergency=True)
        assert draws(site)["inference"] < 2 * 5_500
        past = ledger(site, "actuation", lambda body: "past the flex" in body["rule"])
        assert {body["device"].partition("/")[0] for body in past} == {"bmc-nvidia-dgx-hgx-h100"}


async def followed(site: RunningSite, limit_w: float, emergency: bool = False) -> None:
    published_at = time.monotonic()
    allocation = await site.operator.allocate(limit_w, emergency=emergency)
    await site.acks.stage(allocation, "reached")
    await site.lives_on(3.0)
    under_at = site.trace.first_under(limit_w, published_at)
    assert site.trace.highest_w(under_at, time.monotonic()) <= METER_NOISE * limit_w


def draws(site: RunningSite) -> dict[str, float]:
    """What each kind truly draws, W."""
    site.trace.sample()
    plant = site.farm.plant
    return {
        "miners": sum(plant.true_power_w(device) for device in plant.device_ids),
        "inference": sum(plant.true_power_w(node) for node in plant.node_ids if "h100" in node),
        "research": sum(plant.true_power_w(node) for node in plant.node_ids if "h200" in node),
    }


def ledger(site: RunningSite, kind: str, fits: Any) -> list[dict[str, Any]]:
    """The bodies of the ledger's records of a kind, in order."""
    with closing(sqlite3.connect(f"file:{site.ledger}?mode=ro", uri=True)) as file:
        bodies = [
            json.loads(row[0]) for row in file.execute("SELECT body FROM ledger WHERE kind = ? ORDER BY seq", (kind,))
        ]
    return [body for body in bodies if fits(body)]
