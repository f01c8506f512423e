"""The curve that a node's own throughput teaches: what is learned, what is not, and how the daemon comes to know it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild.clock import SystemClock
from curtaild.fleet import open_devices
from curtaild.inbox import Inbox
from curtaild.poller import Poller
from curtaild_config import load_site
from curtaild_drivers.gpu import throughput as fed
from curtaild_drivers.gpu.curve import DEFAULT_CURVE, Curve, checked, throughput
from curtaild_drivers.gpu.learning import FULL_HOLDS_S, FULL_SAMPLES, LearnedCurve
from curtaild_drivers.gpu.node import GpuNode
from curtaild_drivers.gpu.throughput import FedCurve
from gpu_nvml.conftest import OpenNode
from gpu_nvml.test_daemon import site_file
from gpu_nvml.test_node import at, busy, wall_w
from nvml_stub.fixtures import MakeGpus
from nvml_stub.models import H100

PRIOR = tuple(DEFAULT_CURVE)
DECODE: Curve = ((1.0, 1.0), (0.8, 1.0), (0.7, 0.99), (0.6, 0.97), (0.5, 0.93))
"""Work that waits for memory hardly feels a limit."""
CLIFF: Curve = ((1.0, 1.0), (0.8, 0.93), (0.7, 0.86), (0.6, 0.74), (0.5, 0.55))


def after_full_power(achieved: float = 1_000.0, at: float = 0.0) -> LearnedCurve:
    learned = LearnedCurve(PRIOR)
    for _ in range(FULL_SAMPLES):
        learned = learned.seen(1.0, achieved, at)
    return learned


# ---- what is learned ------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [DECODE, CLIFF])
def test_it_comes_to_know_what_the_node_really_keeps(truth: Curve) -> None:
    learned = after_full_power()
    for _ in range(60):
        for fraction in (0.95, 0.8, 0.75, 0.7, 0.6, 0.55, 0.5, 0.3):
            learned = learned.seen(fraction, 1_000.0 * throughput(truth, fraction), 1.0)
    assert learned.differs_from(truth) < 0.01
    assert learned.differs_from(PRIOR) > 0.1


def test_what_one_limit_costs_those_above_it_do_not_exceed() -> None:
    learned = after_full_power()
    for _ in range(60):
        learned = learned.seen(0.5, 980.0, 1.0)
    assert all(rate > 0.95 for _, rate in learned.curve), "half the power costs nothing, so 60 % does not"


@given(st.lists(st.tuples(st.floats(0, 1.2), st.floats(allow_nan=True), st.floats(0, 4_000)), max_size=60))
def test_whatever_it_is_told_it_stays_a_curve(samples: list[tuple[float, float, float]]) -> None:
    learned = after_full_power()
    for fraction, achieved, moment in samples:
        learned = learned.seen(fraction, achieved, moment)
    checked(learned.curve)
    assert [power for power, _ in learned.curve] == [power for power, _ in PRIOR]
    assert all(0 < rate <= 1 for _, rate in learned.curve)


def test_without_a_fresh_measure_at_full_power_nothing_is_learned() -> None:
    assert LearnedCurve(PRIOR).seen(0.5, 900.0, 0.0).curve == PRIOR
    assert LearnedCurve(PRIOR).seen(1.0, 1_000.0, 0.0).seen(0.5, 900.0, 0.0).curve == PRIOR, "one is not enough"
    assert after_full_power().seen(0.5, 900.0, FULL_HOLDS_S + 1).curve == PRIOR
    assert after_full_power().seen(0.5, 900.0, 1.0).curve != PRIOR


def test_other_work_at_full_power_is_another_measure() -> None:
    learned = after_full_power(1_000.0)
    for _ in range(FULL_SAMPLES):
        learned = learned.seen(1.0, 50.0, 2 * FULL_HOLDS_S)
    assert learned.full == 50.0


# ---- the site's file ------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written just before the limit changed counts already."""
    monkeypatch.setattr(fed, "STANDS_STILL_S", -10.0)


class Site:
    """A site's program that writes throughput, and a curve that is learned from it."""

    def __init__(self, folder: Path, prior: Curve = PRIOR) -> None:
        self.file, self.kept = folder / "throughput", folder / "state.curve.json"
        self.curve = FedCurve(self.file, self.kept, prior)

    async def says(self, text: str, fraction: float | None, age_s: float = 0.0, times: int = 1) -> Curve:
        for _ in range(times):
            self.file.write_text(text)
            written_ns = time.time_ns() - round(age_s * 1e9)
            os.utime(self.file, ns=(written_ns, written_ns))
            self.curve.note(fraction)
            await self.is_read()
        return self.curve.tell()

    async def is_read(self) -> None:
        await self.curve._lane.call(lambda: None, asyncio.get_running_loop().time() + 30)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_site_s_numbers_bend_the_curve_and_survive_a_restart(site: Site, tmp_path: Path, fast: None) -> None:
    assert await site.says("1000\n", 1.0, times=FULL_SAMPLES) == PRIOR
    assert not site.curve.has_learned
    learned = await site.says("930", 0.5, times=40)
    assert throughput(learned, 0.5) == pytest.approx(0.93, abs=0.02)
    again = Site(tmp_path)
    again.curve.note(None)
    again.curve.note(1.0)
    await again.is_read()
    assert again.curve.has_learned
    assert throughput(again.curve.tell(), 0.5) == pytest.approx(0.93, abs=0.04)
    other = Site(tmp_path, CLIFF)
    other.curve.note(1.0)
    await other.is_read()
    assert other.curve.tell() == CLIFF, "the site file's new word counts"


async def test_a_number_counts_once_and_only_while_it_is_fresh(site: Site, fast: None) -> None:
    await site.says("1000", 1.0, times=FULL_SAMPLES)
    assert await site.says("900", 0.5, age_s=fed.FRESH_S + 1) == PRIOR
    assert await site.says("900", 0.5, age_s=-60) == PRIOR, "from the future"
    once = await site.says("900", 0.5)
    assert once != PRIOR
    for _ in range(5):
        site.curve.note(0.5)
        await site.is_read()
    assert site.curve.tell() == once


async def test_what_was_measured_while_the_limit_moved_does_not_count(site: Site) -> None:
    assert await site.says("1000", 1.0, times=2 * FULL_SAMPLES) == PRIOR
    assert await site.says("500", 0.5) == PRIOR
    assert site.curve._learned.full_samples == 0, "the limit has not stood still for as long as the mean may reach"


async def test_a_node_that_is_not_at_work_under_a_limit_teaches_nothing(site: Site, fast: None) -> None:
    await site.says("1000", 1.0, times=FULL_SAMPLES)
    assert await site.says("10", None, times=20) == PRIOR


@pytest.mark.parametrize("text", ["", "many", "nan", "inf", "-5", "0", "9" * 1_000, "1000 2000", "\0"])
async def test_what_is_no_throughput_is_passed_over(site: Site, fast: None, text: str) -> None:
    await site.says("1000", 1.0, times=FULL_SAMPLES)
    assert await site.says(text, 0.5, times=3) == PRIOR


async def test_a_file_that_is_not_there_is_told_of_once_and_once_again_when_it_is(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=fed.log.name)
    for _ in range(3):
        site.curve.note(1.0)
        await site.is_read()
    await site.says("1000", 1.0, times=2)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"no throughput in {site.file}, so nothing is learned of the curve",
        f"throughput is read from {site.file} again",
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"prior": 1, "curve": 2}', '{"prior": [[1, 1]], "curve": [[1, 7]]}'])
async def test_what_is_kept_and_damaged_is_not_believed(site: Site, text: str) -> None:
    site.kept.write_text(text)
    assert await site.says("1000", 1.0) == PRIOR


# ---- the node and the daemon ----------------------------------------------------------------------


async def test_a_node_offers_what_its_throughput_shows(
    make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path, fast: None
) -> None:
    gpus, file = make_gpus([H100] * 2, speed=0.0), tmp_path / "throughput"
    busy(gpus)

    async def works_at(node: GpuNode, gpu_w: float, achieved: float, enough: Callable[[], bool]) -> None:
        await node.apply(at(wall_w(2 * gpu_w)))
        async with asyncio.timeout(60):
            while not enough():
                file.write_text(str(achieved))
                await node.read()
                await node.read()  # what it is doing is asked after the first

    async with open_node(gpus, throughput_file=file) as node:
        before = {point.draw_w: point.rate for point in (await node.operating_points()).points}
        assert node._fed is not None
        learned = node._fed
        await works_at(node, 700.0, 2_000.0, lambda: learned._learned.full_samples >= FULL_SAMPLES)
        assert not node.has_learned
        await works_at(node, 350.0, 1_900.0, lambda: node.has_learned)
        after = {point.draw_w: point.rate for point in (await node.operating_points()).points}
        assert not node.has_learned, "told"
    assert list(after) == list(before), "the same watts"
    assert after[wall_w(700)] > before[wall_w(700)] + fed.NEWS / 2


@pytest.mark.parametrize(("percent", "learns"), [(60, False), (95, True)])
async def test_gpus_with_time_to_spare_show_what_is_asked_of_them_and_teach_nothing(
    make_gpus: MakeGpus, open_node: OpenNode, tmp_path: Path, fast: None, percent: int, learns: bool
) -> None:
    gpus, file = make_gpus([H100], speed=0.0), tmp_path / "throughput"
    gpus.demand_w(0, 700.0, utilisation_percent=percent)
    async with open_node(gpus, throughput_file=file) as node:
        await node.operating_points()
        fed_curve = node._fed
        assert fed_curve is not None
        for _ in range(10):
            file.write_text("1000")
            await node.read()
            await fed_curve._lane.call(lambda: None, asyncio.get_running_loop().time() + 30)
        assert (fed_curve._learned.full_samples > 0) is learns


async def test_the_poller_asks_anew_what_is_offered_once_more_is_known(make_gpus: MakeGpus, tmp_path: Path) -> None:
    """As after a restart: what was learned before is on the disk, and known once the first reading is over."""
    (tmp_path / "gpu-state.curve.json").write_text(json.dumps({"prior": PRIOR, "curve": DECODE}))
    file = site_file(tmp_path, f'throughput_file = "{tmp_path}/throughput"')
    (spec,) = (replace(spec, poll_s=0.01) for spec in load_site(file).expand_devices())
    gpus, inbox = make_gpus([H100], speed=0.0), Inbox()
    busy(gpus)
    with gpus.here():
        fleet = open_devices([spec], {}, str(file))
        poller = Poller(
            fleet,
            [],
            inbox,
            SystemClock(),
            8,
            is_watched=lambda _: False,
            stands_back=lambda: False,
            observe=lambda *_: None,
            on_identity=lambda *_: None,
        )
        polling = asyncio.create_task(poller.run())
        described: list[float] = []
        try:
            async with asyncio.timeout(60):
                while len(described) < 2:
                    described += [found.points.points[1].rate for found in inbox.take().described]
                    await asyncio.to_thread(os.sched_yield)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            await fleet[spec.id].driver.close()
    assert described == [throughput(PRIOR, 0.5), throughput(DECODE, 0.5)]
