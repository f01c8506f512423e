"""Bare clients for the emulated devices' wires, and farms to call with them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any

from curtaild_emulator import EmulatedFarm, FarmPlan, Ports

ANY = Ports(http=0, rpc=0, whatsminer_v3=0, braiins=0, auradine=0, redfish=0, modbus=0, control=0)
DEADLINE_S = 60.0
LONGEST_RESTART_S = 1_000.0


def farm_of(*models: str) -> EmulatedFarm:
    """One device per model on any free ports, in real time; `settle` takes it past any restart."""
    plan = FarmPlan.mixed(
        len(models),
        feeders=1,
        network="127.62.0.0/24",
        models=models,  # type: ignore[arg-type]  # the plan itself rejects names it does not know
        latency_s=0.0,
        ports=ANY,
    )
    return EmulatedFarm(plan)


def only(farm: EmulatedFarm) -> str:
    """The id of the farm's first device."""
    return next(iter(farm.addresses))


def settle(farm: EmulatedFarm, device_id: str | None = None) -> float:
    """Let everything happen that was set going; the watts a device (the first) then truly draws."""
    farm.skip(LONGEST_RESTART_S)
    return farm.true_power_w(device_id or only(farm))


async def send(farm: EmulatedFarm, data: bytes, *, port: int | None = None, within_s: float = DEADLINE_S) -> bytes:
    """Send bytes to the first device's RPC port (or another) and read to the end of the connection."""
    reader, writer = await asyncio.open_connection(farm.addresses[only(farm)], port or farm.ports.rpc)
    try:
        writer.write(data)
        async with asyncio.timeout(within_s):
            return await reader.read()
    finally:
        writer.close()


async def is_shut(farm: EmulatedFarm, address: str | None = None, port: int | None = None) -> bool:
    """Is a connection to the first device's RPC port (or another) closed without a byte."""
    try:
        reader, writer = await asyncio.open_connection(address or farm.addresses[only(farm)], port or farm.ports.rpc)
        writer.write(b'{"command":"summary"}')
        async with asyncio.timeout(DEADLINE_S):
            answer = await reader.read()
        writer.close()
    except ConnectionError:
        return True
    return answer == b""


async def rpc(farm: EmulatedFarm, command: str, parameter: str | None = None) -> dict[str, Any]:
    """One request on the RPC port, decoded."""
    request = {"command": command} | ({} if parameter is None else {"parameter": parameter})
    answer = json.loads((await send(farm, json.dumps(request).encode())).rstrip(b"\0"))
    assert isinstance(answer, dict)
    return answer


async def framed(farm: EmulatedFarm, command: str, param: object = None, password: str | None = None) -> dict[str, Any]:
    """One frame on the Whatsminer v3 port; signed if there is a password."""
    reader, writer = await asyncio.open_connection(farm.addresses[only(farm)], farm.ports.whatsminer_v3)
    try:
        request: dict[str, Any] = {"cmd": command, "param": param}
        if password is not None:
            salt = (await _frame(reader, writer, {"cmd": "get.device.info", "param": "salt"}))["msg"]["salt"]
            digest = hashlib.sha256(f"{command}{password}{salt}1700000000".encode()).digest()
            token = base64.b64encode(digest).decode()[:8]
            request |= {"ts": 1_700_000_000, "account": "super", "token": token}
        return await _frame(reader, writer, request)
    finally:
        writer.close()


async def _frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(request).encode()
    writer.write(len(body).to_bytes(4, "little") + body)
    async with asyncio.timeout(DEADLINE_S):
        length = int.from_bytes(await reader.readexactly(4), "little")
        answer = json.loads(await reader.readexactly(length))
    assert isinstance(answer, dict)
    return answer
