"""`curtaild status --why DEVICE` against a running daemon: a whole site on loopback, with one device that refuses."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from curtaild_emulator import FarmPlan, Fault
from mosquitto import BINARY
from running_site import ANY_PORTS, RunningSite, Status

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(BINARY is None, reason="mosquitto is not installed (apt install mosquitto)"),
]
REFUSER = "whatsminer-m50-2"


async def status_why(site: RunningSite, device: str, *options: str) -> tuple[int, str, str]:
    """The exit code, and what was printed: the answer, and what went wrong."""
    words = ["-c", "from curtaild.cli import main; main()", "status", "--url", site.url, "--why", device, *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, " ".join(out.decode().split()), " ".join(err.decode().split())


async def test_a_live_device_is_explained_down_to_the_rule_and_the_evidence(tmp_path: Path) -> None:
    plan = FarmPlan.mixed(8, feeders=2, network="127.77.0.0/24", speed=20.0, ports=ANY_PORTS)
    async with RunningSite(tmp_path, plan, failsafe_w=200_000) as site:
        site.file.for_every_group(stale_after_s=30, settings={"read_deadline_s": 8, "write_deadline_s": 8})
        await site.start()
        await site.all_known()
        refuser = site.file.device_id(site.farm.addresses[REFUSER])
        site.farm.set_fault(REFUSER, Fault.WRONG_PASSWORD)
        allocation = await site.operator.allocate(0)
        await site.until("it is found out", lambda status: "refused" in conditions(status, refuser), devices=True)

        code, said, _ = await status_why(site, refuser)
        assert code == 0
        for words in (
            f"{refuser} on row-",
            "It is refused: it is asked last in a shed, and no watt of it is counted on.",
            "refused since 20",
            "auth failed",
            "as high as it goes",
            "is left alone for another",
            "site over by",
            allocation,
        ):
            assert words in said, said

        honest = next(site.file.device_id(site.farm.addresses[d.id]) for d in plan.devices if d.id != REFUSER)
        code, text, _ = await status_why(site, honest.rpartition("/")[2], "--json")
        answer = json.loads(text)
        assert (code, answer["device"], answer["conditions"]) == (0, honest, [])
        assert answer["deeds"][-1]["rule"].endswith(" W")
        assert answer["deeds"][-1]["allocation_id"] == allocation
        assert "off" in answer["stands"][0]
        assert not answer["may_rise"]
        assert any("site is over its limit: nothing rises" in reason for reason in answer["held_by"])

        code, out, err = await status_why(site, honest[:-1] + "x")
        assert (code, out) == (1, "")
        assert "no device" in err
        assert f'did you mean "{honest}"' in err
        assert await site.code("/why") == 404
        assert not site.daemon.lines("Traceback")


def conditions(status: Status, device: str) -> list[str]:
    found: list[str] = next(known["conditions"] for known in status["devices"] if known["id"] == device)
    return found
