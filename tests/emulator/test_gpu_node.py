"""GPU nodes in virtual time: what they draw under caps, through power states, and with their faults."""

from __future__ import annotations

import pytest

from curtaild_drivers.contract import DeviceId, FeederId, RunState
from curtaild_emulator import NODE_MODELS, BmcFault, GpuNode, Plant, PlantFeeder, PlantNode
from curtaild_emulator.gpu_node import Power

SITE = FeederId("site")
BITES_S = 10.0
SETTLED_S = 1_000.0
H100 = NODE_MODELS["hgx-h100"]


def plant_of(*faults: BmcFault, count: int = 1, feeder: PlantFeeder | None = None) -> Plant:
    """A site with H100 nodes named a, b, c …, and nothing else."""
    nodes = [PlantNode(DeviceId(chr(97 + n)), H100, SITE, frozenset(faults)) for n in range(count)]
    return Plant([], [feeder or PlantFeeder(SITE, meter_noise=0.0)], 1, nodes=nodes)


@pytest.fixture
def plant() -> Plant:
    return plant_of()


def settled_w(plant: Plant, name: str = "a") -> float:
    """Let everything happen that was set going; what a node then truly draws."""
    plant.advance(plant.now + SETTLED_S)
    return plant.true_power_w(name)


def cap_all(node: GpuNode, cap_w: float, now: float) -> None:
    for gpu in range(node.model.gpus):
        node.cap_gpu(gpu, cap_w, now, BITES_S)


@pytest.mark.parametrize("name", sorted(NODE_MODELS))
def test_caps_of_gpus_hold_the_node_between_its_ends(name: str) -> None:
    model = NODE_MODELS[name]
    plant = Plant([], [PlantFeeder(SITE)], 1, nodes=[PlantNode(DeviceId("a"), model, SITE)])
    node = plant.node("a")
    assert 0.85 * model.max_w < plant.true_power_w("a") <= model.max_w
    cap_all(node, model.gpu_min_w, plant.now)
    assert settled_w(plant) == pytest.approx(model.min_w)
    node.set_work(0.0, plant.now)
    assert settled_w(plant) == pytest.approx(model.node_w(model.gpu_idle_w))
    assert node.state is RunState.IDLE


def test_eight_h100_draw_what_was_measured_and_more_than_their_gpus(plant: Plant) -> None:
    assert H100.node_w(700.0) == pytest.approx(8_240.0)
    cap_all(plant.node("a"), 400.0, 0.0)
    assert settled_w(plant) == pytest.approx(1_800.0 + 1.15 * 8 * 400.0)


def test_a_cap_bites_slowly_and_its_energy_is_counted(plant: Plant) -> None:
    before_w = plant.true_power_w("a")
    plant.node("a").cap_node(5_000.0, 0.0, BITES_S)
    assert plant.true_power_w("a") == before_w
    plant.advance(BITES_S / 4)
    assert plant.true_power_w("a") == pytest.approx(5_000.0 + (before_w - 5_000.0) * 0.3679, rel=1e-3)
    plant.advance(100.0)
    assert plant.true_power_w("a") == pytest.approx(5_000.0)
    swing_j = (before_w - 5_000.0) * BITES_S / 4
    assert plant.true_feeder_energy_j("site") == pytest.approx(5_000.0 * 100.0 + swing_j, rel=1e-6)


def test_a_node_s_cap_below_its_floor_holds_the_floor(plant: Plant) -> None:
    plant.node("a").cap_node(1_000.0, 0.0, BITES_S)
    assert settled_w(plant) == pytest.approx(H100.min_w)


def test_the_lesser_of_both_caps_holds_and_lifting_one_leaves_the_other(plant: Plant) -> None:
    node = plant.node("a")
    node.cap_node(6_000.0, 0.0, BITES_S)
    cap_all(node, 300.0, 0.0)
    assert settled_w(plant) == pytest.approx(H100.node_w(300.0))
    cap_all(node, 700.0, plant.now)
    assert settled_w(plant) == pytest.approx(6_000.0)
    node.cap_node(None, plant.now, BITES_S)
    assert settled_w(plant) > 7_000.0


def test_it_shuts_down_boots_and_goes_back_to_work_with_gpu_caps_forgotten(plant: Plant) -> None:
    node = plant.node("a")
    cap_all(node, 300.0, 0.0)
    node.cap_node(6_500.0, 0.0, BITES_S)
    settled_w(plant)
    node.shut_down(plant.now)
    assert (node.power, node.state) == (Power.POWERING_OFF, RunState.STARTING)
    plant.advance(plant.now + H100.shutdown_s - 1.0)
    assert plant.true_power_w("a") == pytest.approx(H100.node_w(H100.gpu_idle_w), rel=0.01)
    assert settled_w(plant) == pytest.approx(H100.standby_w)
    assert (node.power, node.state) == (Power.OFF, RunState.ASLEEP)
    node.switch_on(plant.now)
    plant.advance(plant.now + H100.boot_s / 2)
    assert node.power is Power.POWERING_ON
    assert plant.true_power_w("a") == pytest.approx(H100.node_w(H100.gpu_idle_w))
    assert settled_w(plant) == pytest.approx(6_500.0)  # the node's own cap survives
    assert node.gpu_caps_w == [700.0] * 8


def test_power_can_be_cut_even_from_a_hung_host() -> None:
    plant = plant_of(BmcFault.HUNG_OS)
    node = plant.node("a")
    node.shut_down(0.0)
    assert settled_w(plant) > 7_000.0
    node.cut_power(plant.now)
    assert settled_w(plant) == pytest.approx(H100.standby_w)


def test_cutting_the_power_ends_a_boot(plant: Plant) -> None:
    node = plant.node("a")
    node.cut_power(0.0)
    settled_w(plant)
    node.switch_on(plant.now)
    plant.advance(plant.now + 10.0)
    node.cut_power(plant.now)
    assert settled_w(plant) == pytest.approx(H100.standby_w)


@pytest.mark.parametrize(
    ("fault", "told_w", "draws"),
    [
        (BmcFault.ACK_NO_OBEY, 4_000.0, "what it drew"),
        (BmcFault.WRITE_FORGOTTEN, None, "what it drew"),
        (BmcFault.CAPS_LATE, 4_000.0, "the cap, late"),
    ],
)
def test_caps_that_are_not_kept(fault: BmcFault, told_w: float | None, draws: str) -> None:
    plant = plant_of(fault)
    node, before_w = plant.node("a"), plant.true_power_w("a")
    node.cap_node(4_000.0, 0.0, BITES_S)
    assert node.node_cap_w == told_w
    plant.advance(BITES_S)
    if draws == "the cap, late":
        assert plant.true_power_w("a") > 5_000.0
        assert settled_w(plant) == pytest.approx(4_000.0)
    else:
        assert settled_w(plant) == before_w


def test_a_node_that_never_comes_on() -> None:
    plant = plant_of(BmcFault.POWER_ON_NEVER)
    plant.node("a").cut_power(0.0)
    settled_w(plant)
    plant.node("a").switch_on(plant.now)
    assert settled_w(plant) == pytest.approx(H100.standby_w)


def test_its_own_reading_is_a_little_off_and_with_a_fault_a_lot(plant: Plant) -> None:
    node, true_w = plant.node("a"), plant.true_power_w("a")
    samples = {node.measured_w() for _ in range(50)}
    assert len(samples) > 1
    assert max(samples) == pytest.approx(true_w, rel=0.05)
    node.set_fault(BmcFault.BIAS, True)
    assert 0.03 < abs(node.measured_w() / true_w - 1.0) < 0.25
    node.set_fault(BmcFault.BIAS, False)
    node.set_fault(BmcFault.FROZEN_POWER, True)
    cap_all(node, 200.0, plant.now)
    frozen_w = node.measured_w()
    settled_w(plant)
    assert node.measured_w() == frozen_w > 7_000.0


def test_the_feeder_s_meter_counts_nodes() -> None:
    plant = plant_of(count=3, feeder=PlantFeeder(SITE, auxiliary_w=500.0, auxiliary_fraction=0.1, meter_noise=0.0))
    nodes_w = sum(plant.true_power_w(name) for name in plant.node_ids)
    assert plant.read_meter("site", 0.0).power_w == pytest.approx(1.1 * nodes_w + 500.0)
    assert len({plant.true_power_w(name) for name in plant.node_ids}) == 3  # no two units alike


def test_ids_and_feeders_must_hold_together() -> None:
    node = PlantNode(DeviceId("a"), H100, SITE)
    with pytest.raises(ValueError, match="two devices bear the id 'a'"):
        Plant([], [PlantFeeder(SITE)], 1, nodes=[node, node])
    with pytest.raises(ValueError, match="hangs on feeder 'site', which does not exist"):
        Plant([], [PlantFeeder(FeederId("row"))], 1, nodes=[node])
