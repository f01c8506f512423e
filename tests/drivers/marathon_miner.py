"""A miner of the long tail for the table of defects: MARA's web API as far as pyasic uses it, with the same faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import Device, Identity
from curtaild_drivers.registry import OpenContext
from curtaild_emulator import Fault
from drivers.tiny_servers import CLOSE, HANG, HOST, Answer, http_answer, plain_http

_FULL_THS = 95.0


@dataclass
class MarathonBench:
    """The driver's device and the far end, as `conftest.Bench` is for the firmwares that are emulated."""

    mode: str = "Fixed"
    obeys_mode: str = "Fixed"
    pools: list[dict[str, str]] = field(default_factory=lambda: [{"url": "pool.example", "user": "farm.1"}])
    fan: int = 70
    faults: set[Fault] = field(default_factory=set)
    writes: int = 0
    port: int = 1
    offline: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def device(self) -> Device:
        if self._device is None:
            self._device = self.open_another()
        return self._device

    _device: Device | None = None

    def open_another(self, **settings: Any) -> Device:
        assert DRIVER.open_device is not None
        chosen = {"http_port": self.port, "rpc_port": 1, "read_deadline_s": 3, "write_deadline_s": 3} | settings
        known = Identity("Antminer", "S19", "marathon")
        return DRIVER.open_device(HOST, DRIVER.settings.model_validate(chosen), OpenContext(remembered=known))

    def set_fault(self, fault: Fault, on: bool = True) -> None:
        (self.faults.add if on else self.faults.discard)(fault)

    def settings(self) -> dict[str, object]:
        pools = tuple(tuple(pool.items()) for pool in self.pools)
        return {"mode": self.mode, "pools": pools, "fan": self.fan}

    def settle(self) -> None:
        """It does at once what it does."""

    def is_stopped(self) -> bool:
        return self.mode == "Sleep"

    async def go_offline(self) -> None:
        await self.offline.aclose()

    def answer(self, asked: Any) -> Answer:
        if Fault.HANG in self.faults:
            return HANG
        if Fault.REFUSE_CONNECTION in self.faults:
            return CLOSE
        if Fault.HTTP_500 in self.faults:
            return http_answer(b"", 500)
        if Fault.WRONG_PASSWORD in self.faults:
            return http_answer(b"", 401)
        told = self._told(asked)
        return b"\x15\x03<nonsense>" if Fault.GARBAGE in self.faults else told

    def _told(self, asked: Any) -> Answer:
        if asked.method == "POST":
            return self._write(asked.body)
        if asked.page == "miner_config":
            if Fault.SETTINGS_UNREADABLE in self.faults:
                return http_answer(b"", 500)
            return {"mode": {"work-mode-selector": self.mode}, "pools": self.pools, "fan": self.fan}
        return {"hashrate_realtime": 0.0 if self.obeys_mode == "Sleep" else _FULL_THS}

    def _write(self, body: Any) -> Answer:
        self.writes += 1
        is_stop = body["mode"]["work-mode-selector"] == "Sleep"
        self.mode, self.pools, self.fan = body["mode"]["work-mode-selector"], body.get("pools", []), body.get("fan", 0)
        is_deaf = Fault.ACK_NO_OBEY in self.faults or (Fault.RESUME_NEVER in self.faults and not is_stop)
        self.obeys_mode = self.obeys_mode if is_deaf else self.mode
        if Fault.HANG_WRITE_APPLIED in self.faults:
            return HANG
        return CLOSE if is_stop and Fault.CLOSE_AFTER_POWER_OFF in self.faults else http_answer(b"{}")


@asynccontextmanager
async def marathon_bench() -> AsyncIterator[MarathonBench]:
    """One that sleeps and wakes as it is told, unless a fault is switched on."""
    bench = MarathonBench()
    async with bench.offline:
        server = await bench.offline.enter_async_context(plain_http(bench.answer))
        bench.port = server.port
        yield bench
