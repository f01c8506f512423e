"""The demo's child processes: the farm, the broker and the daemon, each `python -m curtaild.demo.child WHAT …`.

A child ends with its parent, however that ends. Farm and broker say on standard output, as JSON lines, where they
listen; the farm then goes on to tell the truth of its plant.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from curtaild_drivers.contract import Watts
from curtaild_emulator import CannotListen, EmulatedFarm, FarmPlan, Miner

SCAN_S = 0.02
"""How often the farm looks for devices that were told something: so exact is the time of the first command."""
TELL_S = 0.1

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`PARENT_PID (farm PLAN.json | broker | daemon ARGUMENTS…)`."""
    parent, what, *rest = sys.argv[1:]
    _end_with(int(parent))
    if what == "daemon":
        from curtaild.cli import main as curtaild  # only here: the farm and the broker need none of it

        sys.argv = ["curtaild", *rest]
        curtaild()
    elif what == "broker":
        asyncio.run(_broker())
    else:
        try:
            asyncio.run(_farm(FarmPlan.model_validate_json(Path(rest[0]).read_bytes())))
        except CannotListen as error:
            sys.exit(str(error))


def _end_with(parent: int) -> None:
    """Ask Linux for SIGTERM when the parent dies; elsewhere an orderly end of the parent ends its children."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the demo has ended already")


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()


# ---- the broker -------------------------------------------------------------------------------------


async def _broker() -> None:
    """amqtt on a free port of the loopback, for anybody there."""
    from amqtt.broker import Broker  # type: ignore[import-untyped]  # amqtt comes without types

    logging.disable(logging.CRITICAL)  # amqtt tells of every packet, and of every client's leaving as of an error
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    sockets: Any = broker._servers["default"].instance  # amqtt tells nowhere else which free port it was given
    _say({"port": sockets.sockets[0].getsockname()[1]})
    await asyncio.Event().wait()


# ---- the farm ---------------------------------------------------------------------------------------


async def _farm(plan: FarmPlan) -> None:
    """Serve the plan, and tell what really flows and how many commands have arrived."""
    logging.basicConfig(level=logging.WARNING)
    async with EmulatedFarm(plan) as farm:
        _say(farm.ports.model_dump())
        watch = _Watch(farm)
        told_at = 0.0
        while True:
            changed = watch.scan()
            now = time.monotonic()
            if changed or now - told_at >= TELL_S:
                told_at = now
                _say(watch.truth(now))
            await asyncio.sleep(SCAN_S)


class _Watch:
    """Looks behind the devices' answers: what each is told to draw, before its draw has moved."""

    def __init__(self, farm: EmulatedFarm) -> None:
        self._farm = farm
        self._miners = [farm.plant.miner(device) for device in farm.addresses]
        self._told_w = [_told_w(miner) for miner in self._miners]
        self._lowered = self._raised = 0

    def scan(self) -> bool:
        """Whether a device was told something new since the last look."""
        before = self._lowered + self._raised
        for number, miner in enumerate(self._miners):
            told_w = _told_w(miner)
            if told_w != self._told_w[number]:
                if told_w < self._told_w[number]:
                    self._lowered += 1
                else:
                    self._raised += 1
                self._told_w[number] = told_w
        return self._lowered + self._raised != before

    def truth(self, now: float) -> dict[str, Any]:
        farm = self._farm
        farm.plant.advance(farm.now())
        return {
            "at": now,
            "feeders_w": {str(name): round(farm.plant.true_feeder_power_w(name), 1) for name in farm.plant.feeder_ids},
            "lowered": self._lowered,
            "raised": self._raised,
        }


def _told_w(miner: Miner) -> Watts:
    """What a device's settings ask of it, in nominal watts."""
    setting, model = miner.setting, miner.model
    if setting.asleep:
        return model.standby_w
    preset_w = model.preset_w(setting.preset)
    limit_w = miner.set_limit_w
    return min(value_w for value_w in (preset_w, limit_w, model.rated_w) if value_w is not None)


if __name__ == "__main__":
    main()
