"""The farm's control API, on loopback only: look behind the devices' answers, and change their faults live."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curtaild_emulator.faults import Fault, MeterFault
from curtaild_emulator.gpu_node import BmcFault

if TYPE_CHECKING:
    from curtaild_emulator.farm import EmulatedFarm

_HOST = "127.0.0.1"


class DeviceFault(BaseModel):
    """Body of POST /faults."""

    model_config = ConfigDict(extra="forbid")

    device: str
    fault: Fault
    on: bool = True
    probability: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class NodeFault(BaseModel):
    """Body of POST /faults where the device is a GPU node."""

    model_config = ConfigDict(extra="forbid")

    device: str
    fault: BmcFault
    on: bool = True


class NodeWork(BaseModel):
    """Body of POST /work: which share of a GPU node's range its work asks for."""

    model_config = ConfigDict(extra="forbid")

    device: str
    share: Annotated[float, Field(ge=0.0, le=1.0)]


class Named(BaseModel):
    """The part of a body that says which device it is about."""

    device: str


class FeederFault(BaseModel):
    """Body of POST /meters; `fault` null heals the meter."""

    model_config = ConfigDict(extra="forbid")

    feeder: str
    fault: MeterFault | None


Body = TypeVar("Body", bound=BaseModel)


async def serve_control(opening: AsyncExitStack, farm: EmulatedFarm, port: int) -> int:
    """Serve the API while `opening` is open; returns the port it listens on (0 takes any free one)."""
    desk = _Desk(farm)
    app = web.Application(client_max_size=64 * 1024)
    app.router.add_get("/devices", desk.devices)
    app.router.add_get("/feeders", desk.feeders)
    app.router.add_post("/faults", desk.switch_fault)
    app.router.add_post("/meters", desk.switch_meter)
    app.router.add_post("/work", desk.give_work)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    opening.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, _HOST, port)
    await site.start()
    return int(runner.addresses[0][1])


class _Desk:
    def __init__(self, farm: EmulatedFarm) -> None:
        self._farm = farm

    async def devices(self, request: web.Request) -> web.Response:
        """Every device: what it truly draws and does, what it says it is set to, and its faults."""
        farm = self._farm
        farm.plant.advance(farm.now())
        nodes = [self._node(name) for name in farm.bmcs]
        return web.json_response([*(self._device(name) for name in farm.addresses), *nodes])

    def _device(self, name: str) -> dict[str, Any]:
        miner = self._farm.plant.miner(name)
        return {
            "device": name,
            "model": miner.model.name,
            "address": self._farm.addresses[name],
            "true_power_w": round(miner.power_w, 1),
            "state": miner.state.value,
            "set_to": miner.point_key,
            "limit_w": miner.set_limit_w,
            "faults": _names(miner.faults),
        }

    def _node(self, name: str) -> dict[str, Any]:
        farm = self._farm
        node = farm.plant.node(name)
        return {
            "device": name,
            "model": node.model.name,
            "address": farm.bmc_addresses[name],
            "true_power_w": round(node.power_w, 1),
            "state": node.state.value,
            "set_to": node.power.value,
            "limit_w": node.node_cap_w,
            "gpu_limits_w": node.gpu_caps_w,
            "faults": _names(node.faults),
        }

    async def feeders(self, request: web.Request) -> web.Response:
        """Every feeder: what truly flows into it, where its meter is, and the meter's fault."""
        farm = self._farm
        farm.plant.advance(farm.now())
        rows = []
        for feeder_id in farm.plant.feeder_ids:
            fault = farm.plant.meter_fault(feeder_id)
            rows.append(
                {
                    "feeder": feeder_id,
                    "true_power_w": round(farm.plant.true_feeder_power_w(feeder_id), 1),
                    "true_energy_j": round(farm.plant.true_feeder_energy_j(feeder_id)),
                    "meter": farm.meter_addresses.get(feeder_id),
                    "fault": None if fault is None else fault.value,
                }
            )
        return web.json_response(rows)

    async def switch_fault(self, request: web.Request) -> web.Response:
        """Switch a fault of a device."""
        named = await _parse(request, Named)
        if named.device in self._farm.bmcs:
            change = await _parse(request, NodeFault)
            self._farm.set_bmc_fault(change.device, change.fault, change.on)
            return web.json_response(self._node(change.device))
        body = await _parse(request, DeviceFault)
        if body.device not in self._farm.addresses:
            raise _refusal(404, f"no device {body.device!r}")
        self._farm.set_fault(body.device, body.fault, body.on, body.probability)
        return web.json_response(self._device(body.device))

    async def give_work(self, request: web.Request) -> web.Response:
        """Give a GPU node more or less to do."""
        body = await _parse(request, NodeWork)
        if body.device not in self._farm.bmcs:
            raise _refusal(404, f"no GPU node {body.device!r}")
        self._farm.plant.node(body.device).set_work(body.share, self._farm.now())
        return web.json_response(self._node(body.device))

    async def switch_meter(self, request: web.Request) -> web.Response:
        """Give a feeder's meter a fault, or heal it."""
        body = await _parse(request, FeederFault)
        if body.feeder not in self._farm.plant.feeder_ids:
            raise _refusal(404, f"no feeder {body.feeder!r}")
        self._farm.set_meter_fault(body.feeder, body.fault)
        return web.json_response({"feeder": body.feeder, "fault": body.fault and body.fault.value})


async def _parse(request: web.Request, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "body"
        raise _refusal(400, f"{place}: {first['msg']}") from None


def _refusal(status: int, text: str) -> web.HTTPException:
    kinds = {400: web.HTTPBadRequest, 404: web.HTTPNotFound}
    return kinds[status](text=json.dumps({"error": text}), content_type="application/json")


def _names(members: frozenset[Fault] | frozenset[BmcFault]) -> list[str]:
    return sorted(member.value for member in members)
