"""GPU nodes in a rehearsal: built from the site file's words, limited by their drivers' points, at their own price."""

from __future__ import annotations

from pathlib import Path

import pytest

from curtaild.rehearse.emulated import CannotEmulate, Emulated, emulate
from curtaild.rehearse.nodes import NodeKind
from curtaild.rehearse.optimum import Optimum
from curtaild.rehearse.play import Order, Play
from curtaild.rehearse.run import rehearse
from curtaild.rehearse.score import score
from curtaild.rehearse.troubles import Troubles
from curtaild.rehearse.ways import find_ways
from curtaild_config import load_site
from curtaild_drivers.contract import DeviceId, FeederId
from rehearse.sites import SITE, site_file

NODES = """
[[devices]]
name = "training"
driver = "redfish"
addresses = ["10.0.3.1-3"]
feeder = "site"
rated_w = 8_000
earns_usd_per_h = 16
password_file = "secret"
settings = { username = "root", curve = [[1.0, 1.0], [0.5, 0.8]] }
"""
PRICES = "[policy]\nhashprice_usd_per_ph_day = 50.0\nenergy_price_usd_per_mwh = 60.0\n"


def hybrid(folder: Path, models: dict[str, str] | None = None) -> Emulated:
    """Twenty miners and three GPU nodes."""
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0o600)
    text = SITE.replace("[[feeder]]", PRICES + "\n[[feeder]]", 1) + NODES
    return emulate(load_site(site_file(folder, text), {}), models or {}, Troubles(), seed=1)


def test_a_node_is_what_its_group_says(tmp_path: Path) -> None:
    emulated = hybrid(tmp_path)
    kind = emulated.models[DeviceId("training/10.0.3.2")]
    assert isinstance(kind, NodeKind)
    base_w = 0.22 * 8_000
    points = kind.operating_points()
    assert [point.draw_w for point in points.points] == pytest.approx([4_000, (8_000 + base_w) / 2, 8_000])
    assert points.points[1].rate == pytest.approx(0.8)
    assert not points.lowest.is_off
    (taken,) = (assumed for assumed in emulated.assumed if assumed.group == "training")
    assert (taken.count, taken.model) == (3, "hgx-h100")
    assert "rated_w = 8000 W" in taken.because


def test_what_it_gets_done_follows_its_curve(tmp_path: Path) -> None:
    emulated = hybrid(tmp_path)
    (found, *_) = (ways for device, ways in find_ways(emulated).items() if device.startswith("training"))
    best, least = found[0], found[-1]
    assert best.earns_per_h == pytest.approx(16 - best.draw_w * 60e-6, rel=1e-3)
    assert least.draw_w == pytest.approx(4_000, rel=0.01)
    assert 8 < least.earns_per_h < 12


def test_miners_go_first_where_nodes_earn_more(tmp_path: Path) -> None:
    """The upper half of a node's power earns 1.0 USD/kWh, a miner's 0.1."""
    emulated = hybrid(tmp_path)
    order = Order(60.0, emulated.capacity.at(0.3))
    found = rehearse(emulated, Play("cut", "one cut", (order,), 600.0), Troubles(), seed=1)
    scored = score(found, FeederId("site"))
    assert not scored.is_broken
    before_w, after_w = (found.trace.groups_w["training"][slot] for slot in (10, -1))
    assert before_w > 20_000
    assert after_w > 0.95 * before_w
    assert found.trace.groups_w["luxos"][-1] < 0.2 * found.trace.groups_w["luxos"][10]
    assert 0.8 < scored.earned / Optimum(emulated).earned(found.trace) <= 1.001


def test_below_the_miners_floor_the_nodes_are_limited(tmp_path: Path) -> None:
    emulated = hybrid(tmp_path)
    order = Order(60.0, emulated.capacity.floor_w + 1_000.0)
    found = rehearse(emulated, Play("cut", "one cut", (order,), 300.0), Troubles(), seed=1)
    assert 3 * 3_990 <= found.trace.groups_w["training"][-1] <= 3 * 4_000 + 1_000
    assert not score(found, FeederId("site")).is_broken


def test_a_node_may_be_told_what_it_is(tmp_path: Path) -> None:
    kind = hybrid(tmp_path, {"training": "pcie-l40s"}).models[DeviceId("training/10.0.3.1")]
    assert kind.name == "pcie-l40s"
    with pytest.raises(CannotEmulate, match='did you mean "hgx-h100"'):
        hybrid(tmp_path, {"training": "hgx-h10"})


def test_what_is_not_worth_its_energy_is_no_demand(tmp_path: Path) -> None:
    emulated = hybrid(tmp_path)
    dear = SITE.replace("[[feeder]]", PRICES.replace("60.0", "400.0") + "\n[[feeder]]", 1) + NODES
    site = load_site(site_file(tmp_path, dear), {})
    demand_w = emulate(site, {}, Troubles(), seed=1).capacity.demand_w
    nodes_w = sum(emulated.plant.true_power_w(device) for device in emulated.plant.node_ids)
    assert demand_w == pytest.approx(nodes_w + emulated.capacity.floor_w - 3 * 4_000, rel=0.02)
    assert demand_w < 0.4 * emulated.capacity.demand_w
