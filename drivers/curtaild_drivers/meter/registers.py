"""Where a Modbus meter keeps its watts and joules: the driver's settings, the register maps of common meters, and how
registers become numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pymodbus.client.mixin import ModbusClientMixin

from curtaild_drivers.contract import Watts
from curtaild_drivers.registry import DriverSettings

_STORED_AS = {datatype.name.lower(): datatype for datatype in ModbusClientMixin.DATATYPE}
_POWER_UNITS_W = {"W": 1.0, "kW": 1e3, "MW": 1e6}
_ENERGY_UNITS_J = {"J": 1.0, "Wh": 3.6e3, "kWh": 3.6e6, "MWh": 3.6e9}


class Register(DriverSettings):
    """One number in a meter's registers."""

    address: Annotated[int, Field(ge=0, le=0xFFFF)]
    """As on the wire, counted from 0. Many manuals count from 1, or add 30001 or 40001: subtract that."""
    function: Literal["holding", "input"]
    """holding registers (function 3) or input registers (function 4)."""
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
    """How the number is stored."""
    word_order: Literal["big", "little"] = "big"
    """Whether the high or the low register comes first; the bytes within a register are big-endian always."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """What one count is worth in `unit`, such as 0.1."""

    @property
    def words(self) -> int:
        """How many registers it takes."""
        return int(_STORED_AS[self.type].value[1])

    @property
    def end(self) -> int:
        """The address after its last register."""
        return self.address + self.words

    @model_validator(mode="after")
    def _ends_within_the_address_space(self) -> Self:
        if self.end > 0x1_0000:
            raise ValueError(f"a {self.type} at {self.address} ends beyond register 65535")
        return self

    def number(self, words: Sequence[int]) -> float | None:
        """The scaled number in these registers; `None` where they hold the mark for "not available"."""
        raw = ModbusClientMixin.convert_from_registers(list(words), _STORED_AS[self.type], self.word_order)
        if not isinstance(raw, (int, float)) or raw == self._not_available or not math.isfinite(raw):
            return None
        return raw * self.scale

    @property
    def _not_available(self) -> int | None:
        # SunSpec and Schneider mark an absent integer by the lowest signed or the highest unsigned value.
        bits = 16 * self.words
        if self.type.startswith("uint"):
            return int(2**bits - 1)
        return -int(2 ** (bits - 1)) if self.type.startswith("int") else None


class PowerRegister(Register):
    """Total real power."""

    unit: Literal["W", "kW", "MW"] = "W"
    """The unit that the scaled number is in."""
    positive: Literal["import", "export"] = "import"
    """Which direction of power the meter counts as positive; "export" turns the sign."""

    def power_w(self, words: Sequence[int]) -> float | None:
        """Real power in W, import positive."""
        number = self.number(words)
        if number is None:
            return None
        power_w = number * _POWER_UNITS_W[self.unit]
        return (power_w if self.positive == "import" else -power_w) + 0.0  # -0.0 becomes 0.0


class EnergyRegister(Register):
    """The running total of imported energy."""

    unit: Literal["J", "Wh", "kWh", "MWh"] = "kWh"
    """The unit that the scaled number is in."""

    def energy_j(self, words: Sequence[int]) -> float | None:
        """Imported energy in J; `None` where the meter says nonsense."""
        number = self.number(words)
        if number is None or number < 0:
            return None
        energy_j = number * _ENERGY_UNITS_J[self.unit]
        return energy_j if math.isfinite(energy_j) else None


class RegisterMap(DriverSettings):
    """The registers read of one kind of meter."""

    power: PowerRegister
    energy: EnergyRegister | None = None

    @property
    def is_adjacent(self) -> bool:
        """Whether power and energy come in one request. A gap between them is not read over: many meters answer a
        request that touches an unmapped register with an exception."""
        power, energy = self.power, self.energy
        if energy is None or power.function != energy.function:
            return False
        return power.end == energy.address or energy.end == power.address


PRESETS = {
    # Eastron SDM630-Modbus user manual, part "Modbus protocol", input registers: 30053 (hex 00 34) "Total system
    # power", float, W; 30073 (hex 00 48) "Total import kWh", float, kWh.
    "eastron-sdm630": RegisterMap(
        power=PowerRegister(address=0x34, function="input", type="float32", unit="W"),
        energy=EnergyRegister(address=0x48, function="input", type="float32", unit="kWh"),
    ),
    # Schneider Electric PM5000 series, public register list: register 3060 "Active Power Total", FLOAT32, kW;
    # register 3204 "Active Energy Delivered (Into Load)", INT64, Wh. The list counts from 1, the wire from 0.
    "schneider-pm5xxx": RegisterMap(
        power=PowerRegister(address=3059, function="holding", type="float32", unit="kW"),
        energy=EnergyRegister(address=3203, function="holding", type="int64", unit="Wh"),
    ),
}


class ModbusMeterSettings(DriverSettings):
    """A meter's settings: a preset's name, or its power register and perhaps its energy register."""

    preset: Literal["eastron-sdm630", "schneider-pm5xxx"] | None = None
    """A common meter whose registers are known."""
    power: PowerRegister | None = None
    """Where total real power is, for any other meter."""
    energy: EnergyRegister | None = None
    """Where the total of imported energy is, if the meter keeps one."""
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    """The meter's Modbus unit; behind a gateway each meter has its own."""
    timeout_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 1.0
    """The deadline of one whole reading, connecting included."""
    most_w: Annotated[Watts, Field(gt=0, allow_inf_nan=False)] = 5e9
    """Watts above this are nonsense, and power is unknown."""

    @model_validator(mode="after")
    def _registers_come_from_one_place(self) -> Self:
        if self.preset is not None and (self.power is not None or self.energy is not None):
            raise ValueError("preset names the registers already: leave power and energy out")
        if self.preset is None and self.power is None:
            raise ValueError(f"needs a preset ({', '.join(PRESETS)}) or a power register")
        return self

    @property
    def registers(self) -> RegisterMap:
        """What is read."""
        if self.power is not None:
            return RegisterMap(power=self.power, energy=self.energy)
        assert self.preset is not None, "the validator lets no other case through"
        return PRESETS[self.preset]
