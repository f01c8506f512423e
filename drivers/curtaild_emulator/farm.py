"""A whole farm on loopback sockets, in real time: the plant, its devices' wires, its meters, and a control API."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from curtaild_drivers.contract import Seconds
from curtaild_emulator.control import serve_control
from curtaild_emulator.faults import Fault, MeterFault
from curtaild_emulator.gpu_node import BmcFault
from curtaild_emulator.models import DeviceModel, Firmware
from curtaild_emulator.plan import FarmPlan, Passwords, Ports
from curtaild_emulator.plant import Plant
from curtaild_emulator.wires.antminer import AntminerUnit
from curtaild_emulator.wires.auradine import AuradineExchange, AuradineUnit
from curtaild_emulator.wires.avalon import AvalonUnit
from curtaild_emulator.wires.axeos import AxeosUnit, NerdAxeUnit
from curtaild_emulator.wires.braiins import BraiinsUnit
from curtaild_emulator.wires.cgminer import RpcExchange
from curtaild_emulator.wires.epic import EpicUnit
from curtaild_emulator.wires.listening import NotPermitted, listen
from curtaild_emulator.wires.luxos import LuxosUnit
from curtaild_emulator.wires.marathon import MarathonUnit
from curtaild_emulator.wires.modbus import LAYOUTS, MeterBoard, ModbusExchange
from curtaild_emulator.wires.unit import Board, Unit, Wire
from curtaild_emulator.wires.vnish import VnishUnit
from curtaild_emulator.wires.web import WebExchange
from curtaild_emulator.wires.whatsminer_v2 import WhatsminerV2Unit
from curtaild_emulator.wires.whatsminer_v3 import FramedExchange, WhatsminerV3Unit

if TYPE_CHECKING:
    from curtaild_emulator.bmc.service import Bmc

_LOG = logging.getLogger(__name__)
_UNITS: Mapping[Firmware, type[Unit]] = MappingProxyType(
    {
        Firmware.ANTMINER: AntminerUnit,
        Firmware.WHATSMINER_V2: WhatsminerV2Unit,
        Firmware.WHATSMINER_V3: WhatsminerV3Unit,
        Firmware.LUXOS: LuxosUnit,
        Firmware.AVALON: AvalonUnit,
        Firmware.AXEOS: AxeosUnit,
        Firmware.BRAIINS: BraiinsUnit,
        Firmware.EPIC: EpicUnit,
        Firmware.AURADINE: AuradineUnit,
        Firmware.MARATHON: MarathonUnit,
        Firmware.VNISH: VnishUnit,
    }
)
_EXCHANGES: Mapping[Wire, Callable[[Board], asyncio.BaseProtocol]] = MappingProxyType(
    {Wire.HTTP: WebExchange, Wire.RPC: RpcExchange, Wire.WHATSMINER_V3: FramedExchange, Wire.AURADINE: AuradineExchange}
)
_UNPRIVILEGED = MappingProxyType({80: 8000, 443: 4443, 502: 5020})


class EmulatedFarm:
    """Serves a plan's devices and meters while its context is open.

    With `one_socket` a port is served by one socket for all addresses; without, each address has its own, so that
    farms on different addresses can share a machine's ports. Ports that need root fall back (80 → 8000, 443 → 4443,
    502 → 5020) with a line in the log; `ports` says where things really listen. Raises `CannotListen` where a port is
    taken.
    """

    def __init__(self, plan: FarmPlan, *, one_socket: bool = True) -> None:
        self.plan = plan
        self._one_socket = one_socket
        self._began = time.monotonic()
        self._skipped_s = 0.0
        self.plant: Plant = plan.plant(start=self._began)
        self._exit = AsyncExitStack()
        self._ports = plan.ports
        self._bmc_authority_file: Path | None = None
        members = plan.all_devices()
        self.addresses: Mapping[str, str] = MappingProxyType({d.id: d.address for d in members})
        self.meter_addresses: Mapping[str, str] = MappingProxyType(
            {f.id: f.address for f in plan.feeders if f.address is not None}
        )
        self._board = Board(self.now, plan.latency_s)
        for device in members:
            miner = self.plant.miner(device.id)
            password = _password(plan.passwords, miner.model.firmware)
            self._board.units[device.address] = _unit_of(miner.model)(self._board, miner, device.address, password)
        self.bmcs: Mapping[str, Bmc] = MappingProxyType(_bmcs(self) if plan.all_nodes() else {})
        self.bmc_addresses: Mapping[str, str] = MappingProxyType({node.id: node.address for node in plan.all_nodes()})
        self._meters = MeterBoard(self.plant, self.now, plan.latency_s)
        for feeder in plan.feeders:
            if feeder.address is not None:
                self._meters.meters[feeder.address] = (feeder.id, LAYOUTS[feeder.layout])

    def now(self) -> Seconds:
        """Plant time: real time since the farm was made, times the plan's speed, on the monotonic clock's scale."""
        return self._began + (time.monotonic() - self._began) * self.plan.speed + self._skipped_s

    def skip(self, seconds: Seconds) -> None:
        """Let so much plant time pass at once: what was warming up has warmed up."""
        if not seconds >= 0.0:
            raise ValueError(f"time does not run backwards: {seconds} s")
        self._skipped_s += seconds

    @property
    def ports(self) -> Ports:
        """Where the wires listen, once the farm is open."""
        return self._ports

    def unit(self, device_id: str) -> Unit:
        """A device's side of its wires: its pools, its blinking, its clock."""
        return self._board.units[self.addresses[device_id]]

    @property
    def open_calls(self) -> int:
        """How many connections to its devices are open."""
        return len(self._board.calls)

    def true_power_w(self, device_id: str) -> float:
        """What a device really draws now, in W."""
        self.plant.advance(self.now())
        return self.plant.true_power_w(device_id)

    def set_fault(self, device_id: str, fault: Fault, on: bool = True, probability: float = 1.0) -> None:
        """Switch a device's fault, live. Raises `KeyError` for an unknown device."""
        self.plant.set_fault(device_id, fault, on, probability)

    def set_bmc_fault(self, node_id: str, fault: BmcFault, on: bool = True) -> None:
        """Switch a GPU node's fault, live. Raises `KeyError` for an unknown node."""
        node = self.plant.node(node_id)
        node.advance(self.now())
        node.set_fault(fault, on)

    @property
    def bmc_authority_file(self) -> Path:
        """The certificate that clients of the BMCs must trust, in PEM. Raises `LookupError` while the farm is closed or
        where it has no BMCs."""
        if self._bmc_authority_file is None:
            raise LookupError("the farm has no BMCs, or is not open")
        return self._bmc_authority_file

    def set_meter_fault(self, feeder_id: str, fault: MeterFault | None) -> None:
        """Give a feeder's meter a fault, or heal it, live. Raises `KeyError` for an unknown feeder."""
        self.plant.set_meter_fault(feeder_id, fault)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            opening.callback(self._hang_up)
            ports = self.plan.ports
            chosen = {
                "http": await self._serve_devices(opening, Wire.HTTP, ports.http),
                "rpc": await self._serve_devices(opening, Wire.RPC, ports.rpc),
                "whatsminer_v3": await self._serve_devices(opening, Wire.WHATSMINER_V3, ports.whatsminer_v3),
                "auradine": await self._serve_devices(opening, Wire.AURADINE, ports.auradine),
                "braiins": await self._serve_devices(opening, Wire.BRAIINS, ports.braiins),
                "redfish": await self._serve_bmcs(opening, ports.redfish),
                "modbus": await self._serve(
                    opening, tuple(self._meters.meters), ports.modbus, lambda: ModbusExchange(self._meters)
                ),
                "control": await serve_control(opening, self, ports.control),
            }
            self._ports = Ports(**chosen)
            self._exit = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def _hang_up(self) -> None:
        """End the calls that are still open: a closed server keeps them otherwise."""
        for transport in (*self._board.calls, *self._meters.calls):
            transport.abort()

    async def _serve_bmcs(self, opening: AsyncExitStack, port: int) -> int:
        if not self.bmcs:
            return port
        from curtaild_emulator.bmc.certificates import Certificates
        from curtaild_emulator.bmc.door import serve_bmcs

        certificates = Certificates()
        folder = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="emulated-bmcs-")))
        self._bmc_authority_file = Path(self.plan.bmc_authority_file or folder / "authority.pem")
        certificates.write_authority(self._bmc_authority_file)
        bmcs = {self.bmc_addresses[name]: bmc for name, bmc in self.bmcs.items()}
        try:
            return await serve_bmcs(opening, bmcs, port, certificates)
        except NotPermitted as error:
            fallback = _UNPRIVILEGED.get(port)
            if fallback is None:
                raise
            _LOG.warning("%s: listening on %d instead", error, fallback)
            return await serve_bmcs(opening, bmcs, fallback, certificates)

    async def _serve_devices(self, opening: AsyncExitStack, wire: Wire, port: int) -> int:
        addresses = tuple(address for address, unit in self._board.units.items() if wire in unit.speaks)
        if not addresses:
            return port
        exchange = _grpc_exchange() if wire is Wire.BRAIINS else _EXCHANGES[wire]
        return await self._serve(opening, addresses, port, lambda: exchange(self._board))

    async def _serve(
        self,
        opening: AsyncExitStack,
        addresses: Sequence[str],
        port: int,
        protocol: Callable[[], asyncio.BaseProtocol],
    ) -> int:
        if not addresses:
            return port
        try:
            sockets = listen(addresses, port, one_socket=self._one_socket)
        except NotPermitted as error:
            fallback = _UNPRIVILEGED.get(port)
            if fallback is None:
                raise
            _LOG.warning("%s: listening on %d instead; scanners will not find it there", error, fallback)
            sockets = listen(addresses, fallback, one_socket=self._one_socket)
        loop = asyncio.get_running_loop()
        for listener in sockets:
            server = await loop.create_server(protocol, sock=listener)
            opening.callback(server.close)
        return int(sockets[0].getsockname()[1])


def _grpc_exchange() -> Callable[[Board], asyncio.BaseProtocol]:
    """Its message classes come with pyasic, which takes a second to import and rearranges the root logger: only for
    farms that need them, and with the logger put back."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    from curtaild_emulator.wires.braiins_grpc import GrpcExchange

    root.setLevel(level)
    root.handlers[:] = handlers
    return GrpcExchange


def _bmcs(farm: EmulatedFarm) -> dict[str, Bmc]:
    """The BMCs by their nodes' ids. Imported for farms that have some: they bring a TLS authority with them."""
    from curtaild_emulator.bmc.profiles import PROFILES
    from curtaild_emulator.bmc.service import Bmc

    return {
        node.id: Bmc(
            farm.plant.node(node.id),
            PROFILES[node.bmc],
            farm.plan.passwords.bmc,
            clock=farm.now,
            wall_clock=time.monotonic,
            speed=farm.plan.speed,
            latency_s=farm.plan.latency_s,
        )
        for node in farm.plan.all_nodes()
    }


def _unit_of(model: DeviceModel) -> type[Unit]:
    return NerdAxeUnit if model.make == "NerdAxe" else _UNITS[model.firmware]


def _password(passwords: Passwords, firmware: Firmware) -> str:
    """LuxOS, Avalons and Bitaxes have none."""
    known = {
        Firmware.ANTMINER: passwords.antminer,
        Firmware.WHATSMINER_V2: passwords.whatsminer_v2,
        Firmware.WHATSMINER_V3: passwords.whatsminer_v3,
        Firmware.VNISH: passwords.vnish,
        Firmware.BRAIINS: passwords.braiins,
        Firmware.EPIC: passwords.epic,
        Firmware.AURADINE: passwords.auradine,
        Firmware.MARATHON: passwords.marathon,
    }
    return known.get(firmware, "")


async def run_farm(path: Path | str, *, stop: asyncio.Event | None = None) -> None:
    """Emulate a farm file until `stop` is set (or for ever). Raises `BadPlan`, `CannotListen`, `OSError`."""
    plan = FarmPlan.load(path)
    async with EmulatedFarm(plan) as farm:
        ports = farm.ports
        if farm.bmcs:
            _LOG.info(
                "emulating %d GPU nodes: their BMCs' Redfish on %d, its authority in %s",
                len(farm.bmcs),
                ports.redfish,
                farm.bmc_authority_file,
            )
        _LOG.info(
            "emulating %d devices and %d meters: http %d, rpc %d, whatsminer v3 %d, braiins %d, auradine %d, "
            "modbus %d; control at http://127.0.0.1:%d",
            len(farm.addresses),
            len(farm.meter_addresses),
            ports.http,
            ports.rpc,
            ports.whatsminer_v3,
            ports.braiins,
            ports.auradine,
            ports.modbus,
            ports.control,
        )
        await (stop or asyncio.Event()).wait()
