"""pyasic as its documentation shows it: `get_miner`, `miner.get_data()`, `miner.stop_mining()`, gathered; on uvloop, so
that the loops are the same. To its advantage, one device of each kind is identified, and the others are made of the
same class without a question."""

from __future__ import annotations

import asyncio
import importlib
import warnings
from typing import Any

import uvloop

from bench.peer_program import obey

_PYASIC: Any = importlib.import_module("pyasic")  # it ships no types
_OPTIONS: Any = importlib.import_module("pyasic.miners.data").DataOptions
_TWO_FIELDS = [_OPTIONS.HASHRATE, _OPTIONS.WATTAGE]


class Fleet:
    """The miners by address; kinds share the first two bytes of theirs."""

    def __init__(self) -> None:
        self._miners: dict[str, Any] = {}
        self._class_of: dict[str, type[Any]] = {}
        self._identifying = asyncio.Lock()

    async def identify(self, address: str) -> bool:
        kind = ".".join(address.split(".")[:2])
        async with self._identifying:
            if kind not in self._class_of:
                self._class_of[kind] = type(await _PYASIC.get_miner(address))
        return await self._miner(address) is not None

    async def read(self, address: str) -> bool:
        """The least that tells what a device does: hashrate and watts."""
        data = await (await self._miner(address)).get_data(include=_TWO_FIELDS)
        return data.hashrate is not None

    async def data(self, address: str) -> bool:
        data = await (await self._miner(address)).get_data()
        return data.hashrate is not None

    async def stop(self, address: str) -> bool:
        return bool(await (await self._miner(address)).stop_mining())

    async def _miner(self, address: str) -> Any:
        if address not in self._miners:
            self._miners[address] = self._class_of[".".join(address.split(".")[:2])](address)
        return self._miners[address]


async def main() -> None:
    fleet = Fleet()
    await obey({"identify": fleet.identify, "read": fleet.read, "data": fleet.data, "stop": fleet.stop})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    uvloop.run(main())
