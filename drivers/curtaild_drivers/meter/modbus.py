"""The `modbus` driver: reads a feeder's real power, and its energy where kept, from a meter over Modbus TCP."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress

from curtaild_drivers.contract import DriverError, Meter, MeterReading, Unreachable, watts_or_none
from curtaild_drivers.meter.line import ModbusLine
from curtaild_drivers.meter.registers import EnergyRegister, ModbusMeterSettings
from curtaild_drivers.registry import DriverSettings, OpenContext

MODBUS_PORT = 502


def open_meter(address: str, settings: DriverSettings, context: OpenContext) -> Meter:
    """A meter at `host`, `host:port` or `[v6]:port`. Raises ValueError where the address is none of these."""
    del context  # Modbus knows no secrets and no identity
    if not isinstance(settings, ModbusMeterSettings):
        raise TypeError(f"needs ModbusMeterSettings, not {type(settings).__name__}")
    return ModbusMeter(*parse_address(address), settings)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port; raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?", address)
    port = int(match.group(3) or MODBUS_PORT) if match else 0
    if match is None or not 0 < port <= 65_535:
        raise ValueError(f"{address!r} is no meter address: write host:port, such as 10.0.0.5:502")
    return match.group(1) or match.group(2), port


class ModbusMeter:
    """One power meter. Connects on the first reading and keeps the connection; after a failure the next reading
    connects anew, and never is a question asked twice."""

    def __init__(self, host: str, port: int, settings: ModbusMeterSettings) -> None:
        self._line = ModbusLine(host, port)
        self._settings = settings
        self._map = settings.registers
        self._turn = asyncio.Lock()

    async def read(self) -> MeterReading:
        """Power and energy now. `power_w` is `None` where the meter says NaN, a negative or an absurd number.

        Raises `Unreachable` and `BadReply`, at the latest after `timeout_s`.
        """
        try:
            async with asyncio.timeout(self._settings.timeout_s) as deadline, self._turn:
                await self._line.connect()
                if self._map.is_adjacent:
                    return await self._read_together()
                return await self._read_apart(deadline)
        except TimeoutError:
            raise Unreachable(f"{self._line} gave no answer within {self._settings.timeout_s:g} s") from None

    async def close(self) -> None:
        """Ends the connection."""
        self._line.drop()

    async def _read_together(self) -> MeterReading:
        power, energy = self._map.power, self._map.energy
        assert energy is not None, "only a map with both is adjacent"
        start = min(power.address, energy.address)
        taken_at = time.monotonic()
        words = await self._line.registers(self._settings.unit_id, power.function, start, power.words + energy.words)
        return MeterReading(
            taken_at=taken_at,
            power_w=self._believed(power.power_w(words[power.address - start :][: power.words])),
            energy_j=energy.energy_j(words[energy.address - start :][: energy.words]),
        )

    async def _read_apart(self, deadline: asyncio.Timeout) -> MeterReading:
        power, energy = self._map.power, self._map.energy
        taken_at = time.monotonic()
        words = await self._line.registers(self._settings.unit_id, power.function, power.address, power.words)
        power_w = self._believed(power.power_w(words))
        energy_j = None
        if energy is not None:
            # The watts are in hand: losing them because the joules failed would blind the loop that keeps the limit.
            # So what is left of the deadline now ends the second question only.
            ends_at = deadline.when()
            deadline.reschedule(None)
            with suppress(DriverError, TimeoutError):
                async with asyncio.timeout_at(ends_at):
                    energy_j = await self._energy_j(energy)
        return MeterReading(taken_at=taken_at, power_w=power_w, energy_j=energy_j)

    async def _energy_j(self, energy: EnergyRegister) -> float | None:
        unit_id = self._settings.unit_id
        return energy.energy_j(await self._line.registers(unit_id, energy.function, energy.address, energy.words))

    def _believed(self, power_w: float | None) -> float | None:
        return watts_or_none(power_w, self._settings.most_w)
