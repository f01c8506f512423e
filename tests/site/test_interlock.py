"""The real daemon, a real wire to a contactor: miners of a row wait until its fans are seen running."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan
from curtaild_emulator.wires.contactor import Contactor
from running_site import ANY_PORTS, RunningSite, until

pytestmark = pytest.mark.broker


async def test_fans_before_restore(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(
        6, feeders=2, network="127.47.0.0/24", speed=20.0, ports=ANY_PORTS, models=("whatsminer-m60",)
    )
    contactor = Contactor(time.monotonic, is_stuck=True)
    server = await contactor.listen("127.47.1.1", 0)
    async with server, RunningSite(tmp_path, plan, failsafe_w=100_000) as site:
        row = next(feeder for feeder in site.file.tables["feeder"] if feeder["id"] == "row-1")
        row["interlock"] = {
            "address": f"127.47.1.1:{server.sockets[0].getsockname()[1]}",
            "draw_w": 500,
            "poll_s": 0.1,
            "stale_after_s": 5,
            "settings": {"coil": 0, "running": {"address": 0}},
        }
        await site.start()
        await site.all_known()
        cut = await site.operator.allocate(1_500)
        await site.acks.stage(cut, "reached")
        await site.until("all are asleep", lambda status: asleep(status) == {"row-1", "row-2"}, devices=True)

        await site.operator.allocate(round(site.full_w))
        await site.until("row-2 is back, row-1 waits", lambda status: asleep(status) == {"row-1"}, devices=True)
        await until("they are asked to start, and do not", lambda: contactor.is_on)
        await until("that is told", lambda: site.daemon.lines("fans of row-1: standing still"))

        contactor.is_stuck = False
        await site.until("row-1 is back", lambda status: asleep(status) == set(), devices=True)
        await until("that is told", lambda: site.daemon.lines("fans of row-1: running"))
        assert set(contactor.writes) == {True}


def asleep(status: dict[str, object]) -> set[str]:
    """The feeders all of whose devices sleep."""
    devices = status["devices"]
    assert isinstance(devices, list)
    rows = {device["feeder"] for device in devices}
    return rows - {device["feeder"] for device in devices if (device["setpoint"] or "off") != "off"}
