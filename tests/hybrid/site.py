"""A mining and AI site: miners of many firmwares, GPU nodes behind their BMCs over TLS, GPU hosts with daemons of their
own, one meter above them all. Everything speaks its real protocol; only the physics are emulated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from curtaild_emulator import NODE_MODELS, FarmPlan, FeederPlan, FleetPlan, NodeFleetPlan, Ports
from curtaild_emulator.bmc.profiles import PROFILES
from curtaild_emulator.plan import BmcName, ModelName, NodeModelName
from hybrid.hosts import BASE_W, FAILSAFE_W, LEAST_W, MOST_W, GpuHosts
from nvml_stub.library import NoCompiler, build
from running_site import RunningSite

Miners: TypeAlias = Mapping[ModelName, int]
"""How many of each model."""
Nodes: TypeAlias = Mapping[tuple[BmcName, NodeModelName], int]
"""How many of each model behind which BMC."""

MINERS: Miners = {
    "whatsminer-m50": 50,
    "whatsminer-m60": 50,
    "luxos-s21": 40,
    "braiins-s21": 20,
    "auradine-at1500": 10,
    "avalon-a1566": 10,
    "epic-s19j-pro": 10,
    "vnish-s19j-pro": 5,
    "antminer-s21": 5,
}
"""200 in all. Few stock Antminers: they measure no watts, and are believed asleep only after a minute."""
NODES: Nodes = {
    ("nvidia-dgx", "hgx-h100"): 2,
    ("openbmc", "hgx-h200"): 2,
    ("dell-idrac9", "pcie-l40s"): 4,
    ("hpe-ilo", "hgx-a100"): 2,
    ("lenovo-xcc", "pcie-l40s"): 2,
}
HOSTS = 12
CURVE = [[1.0, 1.0], [0.8, 0.96], [0.7, 0.92], [0.6, 0.86], [0.5, 0.72]]
AI_PRIORITY = 80


def plan_of(network: int, miners: Miners, nodes: Nodes) -> FarmPlan:
    """On 127.`network`.0.0/16: miners on one row, all that has GPUs on the other."""
    fleets = [
        FleetPlan(id=model, model=model, feeder="mine", address=f"127.{network}.{16 + place}.1", count=count)
        for place, (model, count) in enumerate(miners.items())
    ]
    node_fleets = [
        NodeFleetPlan(
            id=f"{bmc}-{model}",
            model=model,
            bmc=bmc,
            feeder="hall",
            address=f"127.{network}.{64 + place}.1",
            count=count,
        )
        for place, ((bmc, model), count) in enumerate(nodes.items())
    ]
    return FarmPlan(
        speed=20.0,
        latency_s=0.005,
        ports=Ports(http=0, rpc=0, whatsminer_v3=0, braiins=0, auradine=0, redfish=0, modbus=0, control=0),
        feeders=(
            FeederPlan(id="site", auxiliary_w=2_000.0, auxiliary_fraction=0.01, address=f"127.{network}.0.1"),
            FeederPlan(id="mine", parent="site", auxiliary_fraction=0.01),
            FeederPlan(id="hall", parent="site", auxiliary_fraction=0.01),
        ),
        fleets=tuple(fleets),
        node_fleets=tuple(node_fleets),
    )


@asynccontextmanager
async def hybrid_site(
    folder: Path,
    network: int,
    *,
    hosts: int = HOSTS,
    miners: Miners = MINERS,
    nodes: Nodes = NODES,
    heartbeat_timeout_s: float = 120.0,
) -> AsyncIterator[tuple[RunningSite, GpuHosts]]:
    """Broker, farm, hosts and operator run; the daemon of the site is not started. Skips where nothing can build the
    hosts' GPUs."""
    try:
        build()
    except NoCompiler as error:
        pytest.skip(str(error))
    plan = plan_of(network, miners, nodes)
    async with RunningSite(folder, plan, failsafe_w=1.0, rating_w=2e6) as site:
        below = GpuHosts(folder, hosts, site.broker.url, heartbeat_timeout_s)
        async with below:
            for host in below.hosts:
                site.farm.plant.carry("hall", host)
            site.full_w = site.trace.now_w()
            site.file.grid["failsafe_limit_w"] = 1.2 * site.full_w
            site.file.policy["ramp_up_w_per_min"] = 10 * site.full_w
            for feeder in site.file.tables["feeder"]:
                feeder.get("meter", {})["stale_after_s"] = (
                    10  # the farm and its meter share this machine with 13 daemons
                )
            password = folder / "bmc-password"
            password.write_text("emulated\n")
            site.file.groups.extend(_bmc_group(site, fleet, password) for fleet in plan.node_fleets)
            if hosts:
                site.file.groups.append(_host_group(site, below))
            await below.start()
            yield site, below


def _bmc_group(site: RunningSite, fleet: NodeFleetPlan, password: Path) -> dict[str, Any]:
    model = NODE_MODELS[fleet.model]
    return {
        "name": f"bmc-{fleet.id}",
        "driver": "redfish",
        "addresses": [node.address for node in fleet.nodes()],
        "feeder": "hall",
        "priority": AI_PRIORITY,
        "rated_w": model.max_w,
        "poll_s": 1,
        "stale_after_s": 10,
        "password_file": password,
        "settings": {
            "username": PROFILES[fleet.bmc].user,
            "port": site.farm.ports.redfish,
            "ca_file": site.farm.bmc_authority_file,
            "least_w": model.min_w,
            "base_w": model.base_w,
            "gpu_factor": model.overhead,
        },
    }


def _host_group(site: RunningSite, hosts: GpuHosts) -> dict[str, Any]:
    return {
        "name": "hosts",
        "driver": "downstream",
        "addresses": [host.name for host in hosts.hosts],
        "feeder": "hall",
        "priority": AI_PRIORITY,
        "poll_s": 1,
        "stale_after_s": 10,
        "min_off_s": 0,
        "settings": {
            "broker": site.broker.url,
            "heartbeat_s": 2,
            "failsafe_limit_w": FAILSAFE_W,
            "least_w": 1.06 * LEAST_W,
            "most_w": MOST_W,
            "base_w": BASE_W,
            "curve": CURVE,
            "settle_down_s": 5,
            "settle_up_s": 20,
            "read_deadline_s": 5,
        },
    }
