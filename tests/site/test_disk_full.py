"""The disk gives out: the limit is followed all the same, and nothing is called accepted that a crash would forget."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from curtaild.ledger import verify
from curtaild_emulator import FarmPlan
from running_site import ANY_PORTS, METER_NOISE, RunningSite, until

pytestmark = pytest.mark.broker

NO_ROOM_BYTES = 3 * 4_096
"""No file may grow past this: less than what SQLite's log needs for any one commit, enough for the daemon's own log."""


async def test_a_limit_is_followed_but_not_accepted_while_the_disk_fails(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(
        8, feeders=2, network="127.43.0.0/24", speed=20.0, ports=ANY_PORTS, models=("whatsminer-m60", "luxos-s21")
    )
    async with RunningSite(tmp_path, plan, failsafe_w=100_000) as site:
        await site.start()
        await site.all_known()
        first = await site.operator.allocate(round(0.9 * site.full_w))
        await site.acks.stage(first, "reached")
        unlimited = resource.prlimit(site.daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(site.daemon.pid, resource.RLIMIT_FSIZE, (NO_ROOM_BYTES, unlimited[1]))

        limit_w = round(0.6 * site.full_w)
        last = await site.operator.allocate(limit_w)
        await site.limited_to(limit_w)
        await until("the disk's failure is told", lambda: site.daemon.lines("ERROR", str(site.ledger)))
        await site.true_under(METER_NOISE * limit_w)
        assert site.acks.stages(last) == []
        assert len(site.daemon.lines("ERROR", str(site.ledger))) == 1

        await site.lives_on(1.0)
        assert await site.metric("curtaild_ledger_writing") == 0
        assert await site.metric("curtaild_ledger_pending_records")
        assert await site.code("/healthz") == 200, "it does its work"

        resource.prlimit(site.daemon.pid, resource.RLIMIT_FSIZE, unlimited)
        await site.acks.stage(last, "accepted")
        await site.acks.stage(last, "reached")
        await until("all is written", lambda: site.daemon.lines("WARNING", "is written again"))
        assert await site.daemon.stop() == 0
        assert verify(site.ledger).ok
