"""The `modbus-coil` driver: starts fans or pumps by a contactor on Modbus TCP, and sees whether they run."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import Field

from curtaild_drivers.contract import Interlock, Seconds, Unreachable
from curtaild_drivers.meter.line import ModbusLine
from curtaild_drivers.meter.modbus import parse_address
from curtaild_drivers.registry import DriverSettings, OpenContext


class Bit(DriverSettings):
    """One bit of the contactor's controller."""

    function: Literal["coil", "discrete"] = "discrete"
    """coils (function 1) or discrete inputs (function 2)."""
    address: Annotated[int, Field(ge=0, le=0xFFFF)]
    """As on the wire, counted from 0. Many manuals count from 1, or add 10001: subtract that."""


class ModbusCoilSettings(DriverSettings):
    """An interlock's settings."""

    coil: Annotated[int, Field(ge=0, le=0xFFFF)]
    """The coil that is switched on to start (function 5), counted from 0."""
    running: Bit | None = None
    """Where the contactor's auxiliary contact, or an air-flow switch, says that they run; left out, the coil is read
    back, which proves no more than that the controller took the command."""
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    """The controller's Modbus unit."""
    timeout_s: Annotated[Seconds, Field(gt=0, le=60, allow_inf_nan=False)] = 2.0
    """The deadline of one question, connecting included."""


def open_interlock(address: str, settings: DriverSettings, context: OpenContext) -> Interlock:
    """A contactor at `host`, `host:port` or `[v6]:port`. Raises ValueError where the address is none of these."""
    del context  # Modbus knows no secrets and no identity
    if not isinstance(settings, ModbusCoilSettings):
        raise TypeError(f"needs ModbusCoilSettings, not {type(settings).__name__}")
    return ModbusContactor(*parse_address(address), settings)


class ModbusContactor:
    """One contactor. It is only ever switched on: what stops fans is not for a daemon to decide."""

    def __init__(self, host: str, port: int, settings: ModbusCoilSettings) -> None:
        self._line = ModbusLine(host, port)
        self._settings = settings
        self._turn = asyncio.Lock()

    async def is_running(self) -> bool:
        """Whether they run now. Raises `Unreachable` and `BadReply`, at the latest after `timeout_s`."""
        running = self._settings.running or Bit(function="coil", address=self._settings.coil)
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._turn:
                await self._line.connect()
                return await self._line.bit(self._settings.unit_id, running.function, running.address)
        except TimeoutError:
            raise self._silent() from None

    async def start(self) -> None:
        """Switch the coil on. Raises as `is_running`; whether they run is for `is_running` to say."""
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._turn:
                await self._line.connect()
                await self._line.set_coil(self._settings.unit_id, self._settings.coil, is_on=True)
        except TimeoutError:
            raise self._silent() from None

    async def close(self) -> None:
        """Ends the connection; what runs goes on."""
        self._line.drop()

    def _silent(self) -> Unreachable:
        return Unreachable(f"{self._line} gave no answer within {self._settings.timeout_s:g} s")
