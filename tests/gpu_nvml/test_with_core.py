"""The core and a GPU node, in virtual time: eight H100 under an allocation, through NVML's own bindings.

A node without hooks offers no off: its lowest point is all GPUs at their least limit. Several points share the key
"limit", for the curve's corners are points of one divisible range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest

from core.rig import PaperSite, spec_of, tree_of
from curtaild.core.allocation import Allocation, AllocationReceived, HeartbeatReceived
from curtaild.core.cycle import Command, step
from curtaild.core.device import Device, reported_point
from curtaild.core.events import ActuationStage, DeficitChanged
from curtaild.core.feeders import FeederSpec
from curtaild.core.hull import hull, point_at
from curtaild.core.inputs import Answer, Described, Inputs
from curtaild_drivers.contract import DeviceId, FeederId, MeterReading, Reading, RunState
from curtaild_drivers.gpu.node import GpuNode
from gpu_nvml.conftest import OpenNode
from gpu_nvml.test_node import busy, near, wall_w
from gpu_nvml.test_stages import CLOCK_LOCK, hook_stage
from loop_clock import comes_true
from nvml_stub.fixtures import MakeGpus
from nvml_stub.gpus import StubGpus

SITE, NODE = FeederId("site"), DeviceId("ai/localhost")


@dataclass
class NodeSite:
    """One node on one metered feeder. `tick` is one second of the GPUs' and of the core's time."""

    gpus: StubGpus
    node: GpuNode
    paper: PaperSite

    async def tick(self, *said: Allocation) -> list[Command]:
        paper = self.paper
        paper.now += 1.0
        self.gpus.pass_time(1.0)
        inputs = Inputs(grid=[HeartbeatReceived(), *(AllocationReceived(one) for one in said)])
        if paper.device(NODE).spec.points is None:
            identity, abilities = await self.node.identify(), self.node.capabilities
            points = await self.node.operating_points()
            found = Described(NODE, points, identity.rated_w, abilities.settle_down_s, abilities.settle_up_s)
            inputs.described.append(found)
        for command in paper._unanswered:
            outcome = await self.node.apply(command.target)
            inputs.answers.append(
                Answer(NODE, command.actuation, ActuationStage.ANSWERED, paper.now - 0.5, outcome.value)
            )
        reading = replace(await self.node.read(), taken_at=paper.now)
        await comes_true(lambda: all(slot.is_idle for slot in self.node._slots))  # what they do is asked after it
        inputs.readings.append((NODE, reading))
        inputs.meters.append((SITE, MeterReading(paper.now, self.true_w() + paper.now % 2)))
        decision = step(paper.site, inputs, paper.now)
        paper._unanswered = list(decision.commands)
        paper.events += decision.events
        return paper._unanswered

    def true_w(self) -> float:
        return wall_w(sum(self.gpus.power_w(gpu) for gpu in range(8)))

    async def run(self, seconds: int) -> list[float]:
        """What was truly drawn in each second."""
        drawn = []
        for _ in range(seconds):
            await self.tick()
            drawn.append(self.true_w())
        return drawn

    @property
    def device(self) -> Device:
        return self.paper.device(NODE)


OpenSite = Callable[..., Any]


@pytest.fixture
def open_site(make_gpus: MakeGpus, open_node: OpenNode) -> OpenSite:
    @asynccontextmanager
    async def opened(demand_w: float = 700.0, **settings: Any) -> AsyncIterator[NodeSite]:
        gpus = make_gpus(speed=0.0)
        busy(gpus, demand_w)
        tree = tree_of(FeederSpec(SITE, None, 20_000.0, meter_stale_after_s=10.0))
        async with open_node(gpus, **settings) as node:
            spec = spec_of(NODE, points=None, rated_w=9_000.0)
            yield NodeSite(gpus, node, PaperSite(tree, [spec], failsafe_w=20_000.0))

    return opened


async def test_a_node_follows_an_allocation_down_and_up(open_site: OpenSite) -> None:
    async with open_site() as site:
        await site.tick(site.paper.states(20_000.0))
        await site.run(20)
        assert site.device.setpoint is not None
        assert site.device.setpoint.draw_w == near(wall_w(5_600))
        for limit_w in (7_000.0, 5_000.0, 4_000.0):
            await site.tick(site.paper.states(limit_w))
            settled = (await site.run(30))[10:]
            assert max(settled) <= limit_w
            assert min(settled) > 0.9 * limit_w, "any limit in the range is held, so none of it is lost"
            assert not site.device.conditions
        await site.tick(site.paper.states(None))
        assert (await site.run(60))[-1] == near(wall_w(5_600))


async def test_below_its_least_a_node_without_off_is_held_there_and_the_deficit_is_told(open_site: OpenSite) -> None:
    async with open_site() as site:
        await site.tick(site.paper.states(20_000.0))
        await site.run(20)
        await site.tick(site.paper.states(1_000.0))
        await site.run(40)
        assert [site.gpus.requested_w(gpu) for gpu in range(8)] == [200.0] * 8
        deficits = [event for event in site.paper.events if isinstance(event, DeficitChanged)]
        assert deficits[-1].deficit_w > 2_000
        await site.tick(site.paper.states(None))
        assert (await site.run(90))[-1] == near(wall_w(5_600)), "and it comes back"


async def test_below_its_least_a_node_with_hooks_is_suspended_and_woken(open_site: OpenSite, tmp_path: Any) -> None:
    stage = hook_stage(tmp_path, "suspend", 2_600.0)
    async with open_site(suspend=stage) as site:
        await site.tick(site.paper.states(20_000.0))
        await site.run(20)
        commands = await site.tick(site.paper.states(2_700.0))
        for _ in range(5):
            commands += await site.tick()
        assert [command.target.key for command in commands] == ["suspend"]
        for gpu in range(8):
            site.gpus.demand_w(gpu, 70.0)  # what the site's program does to the work
        await site.run(20)
        assert site.device.setpoint is not None
        assert site.device.setpoint.key == "suspend"
        assert site.device.reserved_w <= 2_700.0
        assert not site.device.conditions


# ---- the core's arithmetic on a node's points -----------------------------------------------------


async def test_the_curve_s_corners_are_points_of_one_divisible_range(open_site: OpenSite, tmp_path: Any) -> None:
    async with open_site(suspend=hook_stage(tmp_path, "s", 2_000.0), clock_lock=CLOCK_LOCK) as site:
        points = await site.node.operating_points()
    kept = hull(points)
    assert [point.key for point in kept[:3]] == ["suspend", "clocks", "limit"]
    assert kept[-1] == points.highest
    slopes = [(b.rate - a.rate) / (b.draw_w - a.draw_w) for a, b in pairwise(kept)]
    assert slopes == sorted(slopes, reverse=True)
    at_5_kw = point_at(points, 5_000.0)
    assert (at_5_kw.key, at_5_kw.draw_w) == ("limit", near(5_000.0))
    assert 0.41 < at_5_kw.rate < 0.72, "on the line between its neighbours"
    between = point_at(points, wall_w(1_600) - 100)
    assert between.key == "clocks", "between the stages and the least limit nothing is held"
    device = Device(spec_of(NODE, points))
    said = Reading(1.0, RunState.RUNNING, 5_000.0, point_key="limit", limit_w=5_000.0)
    assert reported_point(device, said) == at_5_kw
    asleep = Reading(1.0, RunState.ASLEEP, 2_000.0, point_key="suspend")
    assert reported_point(device, asleep) == points.lowest
