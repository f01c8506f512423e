"""pyasic-rs as its documentation shows it: `MinerFactory().get_miner`, then `get_data`, two single values, `pause`."""

from __future__ import annotations

from typing import Any

import uvloop
from pyasic_rs import MinerFactory

from bench.peer_program import obey


class Fleet:
    """The miners by address; each has to be identified by asking it."""

    def __init__(self) -> None:
        self._factory = MinerFactory()
        self._miners: dict[str, Any] = {}

    async def identify(self, address: str) -> bool:
        self._miners[address] = await self._factory.get_miner(address)
        return self._miners[address] is not None

    async def read(self, address: str) -> bool:
        miner = self._miners[address]
        rate = await miner.get_hashrate()
        await miner.get_wattage()
        return rate is not None

    async def data(self, address: str) -> bool:
        data = await self._miners[address].get_data()
        return data.hashrate is not None

    async def stop(self, address: str) -> bool:
        return bool(await self._miners[address].pause())


async def main() -> None:
    fleet = Fleet()
    await obey({"identify": fleet.identify, "read": fleet.read, "data": fleet.data, "stop": fleet.stop})


if __name__ == "__main__":
    uvloop.run(main())
