"""Rehearsals of a small site: the daemon's own core, followed by the plant's truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from curtaild.rehearse.emulated import CannotEmulate, emulate
from curtaild.rehearse.play import Order, Play
from curtaild.rehearse.run import WARM_UP_S, Core, Rehearsal, rehearse
from curtaild.rehearse.score import score
from curtaild.rehearse.shell import Shell
from curtaild.rehearse.summary import summarise
from curtaild.rehearse.trace import SLOT_S
from curtaild.rehearse.troubles import MISDEEDS, Troubles
from curtaild_config import load_site
from curtaild_drivers.contract import FeederId
from curtaild_emulator import DeviceModel, Fault
from rehearse.sites import SITE, site_file, small_site

ROOT = FeederId("site")


def cut(folder: Path, share: float, troubles: Troubles | None = None, announced_s: float = 0.0) -> Rehearsal:
    """One limit after a minute, held for four."""
    emulated = small_site(folder, troubles)
    order = Order(60.0, emulated.capacity.at(share), announced_s=announced_s)
    return rehearse(emulated, Play("cut", "one cut", (order,), 300.0), troubles or Troubles(), seed=1)


def test_a_cut_is_followed_and_held(tmp_path: Path) -> None:
    found = cut(tmp_path, 0.5)
    trace, limit_w = found.trace, found.emulated.capacity.at(0.5)
    assert (trace.seconds, trace.slots) == (300, 300 // SLOT_S)
    assert list(trace.limit_w[58:62]) == [120_000, 120_000, limit_w, limit_w]
    assert trace.true_w[59] == pytest.approx(found.emulated.capacity.demand_w, rel=0.01)
    assert max(trace.true_w[120:]) < limit_w
    scored = score(found, ROOT)
    (response,) = scored.responses
    assert response.lowers
    assert response.first_s is not None
    assert response.first_s <= 2.0
    assert response.within_s is not None
    assert response.within_s <= 60.0
    assert not scored.is_broken
    assert scored.actuations == len(trace.commands) > 0
    assert scored.allowed_wh == pytest.approx((60 * found.emulated.capacity.demand_w + 240 * limit_w) / 3600)
    assert 0.8 < scored.utilisation < 1.0


def test_what_is_lost_is_all_accounted_for(tmp_path: Path) -> None:
    found = cut(tmp_path, 0.5)
    lost_j = sum(found.losses.parts().values())
    missing = [
        SLOT_S * (min(limit_w, found.emulated.capacity.demand_w) - true_w)
        for limit_w, true_w in zip(found.trace.limit_w[3::4], found.trace.true_w[3::4], strict=True)
        if limit_w < found.emulated.capacity.demand_w and true_w < 0.998 * limit_w
    ]
    assert lost_j == pytest.approx(sum(missing), rel=1e-6)


def test_the_same_seed_gives_the_same_rehearsal(tmp_path: Path) -> None:
    troubles = Troubles.parse("devices=20%,bias=3%")
    one, two = cut(tmp_path, 0.4, troubles), cut(tmp_path, 0.4, troubles)
    assert one.trace.true_w == two.trace.true_w
    assert one.trace.commands == two.trace.commands
    assert len(one.misdeeds) == 4


def test_a_limit_that_devices_will_not_obey_is_broken(tmp_path: Path) -> None:
    emulated = small_site(tmp_path)
    for device in emulated.plant.device_ids:
        emulated.plant.set_fault(device, Fault.ACK_NO_OBEY, True)
    order = Order(60.0, emulated.capacity.at(0.5))
    found = rehearse(emulated, Play("cut", "one cut", (order,), 300.0), Troubles(), seed=1)
    over = score(found, ROOT).overshoot[ROOT]
    assert over.broken_at_s[0] == 120.0  # the response time after the limit began
    assert over.worst_w == pytest.approx(emulated.capacity.demand_w - emulated.capacity.at(0.5), rel=0.02)
    assert summarise(found, solve=False).score.is_broken


def test_telemetry_that_is_lost_brings_nothing(tmp_path: Path) -> None:
    emulated = small_site(tmp_path)
    core = Core(emulated)
    shell = Shell(emulated, core, (), WARM_UP_S, lambda now: now >= 100.0)
    while shell.now < 160.0:
        shell.tick()
    meter = core.site.meters[ROOT]
    assert not meter.is_fresh
    assert meter.read_at is not None
    assert meter.read_at < 100.0
    readings = [device.reading for device in core.site.devices.values()]
    assert all(reading is not None and reading.taken_at < 100.0 for reading in readings)


def test_a_scheduled_limit_is_told_before_and_kept_when_it_begins(tmp_path: Path) -> None:
    found = cut(tmp_path, 0.5, announced_s=200.0)
    assert found.trace.true_w[60] < found.trace.limit_w[60]
    assert found.trace.commands[0][0] < 60.0


def test_stopped_devices_start_again_where_fans_must_run_first(tmp_path: Path) -> None:
    interlock = (
        '[feeder.interlock]\ndriver = "modbus-coil"\naddress = "10.0.0.6:502"\ndraw_w = 500\nsettings = { coil = 1 }\n'
    )
    text = SITE.replace("rating_w = 60_000\n", f"rating_w = 60_000\n{interlock}")
    emulated = emulate(load_site(site_file(tmp_path, text), {}), {}, Troubles(), seed=1)
    off, on = Order(60.0, emulated.capacity.floor_w), Order(180.0, None)
    found = rehearse(emulated, Play("off and on", "", (off, on), 480.0), Troubles(), seed=1)
    row = found.trace.feeders[FeederId("row-1")].true_w
    assert row[170 // SLOT_S] < 1_000
    assert row[-1] > 20_000


def test_a_group_is_taken_for_what_it_most_likely_is(tmp_path: Path) -> None:
    emulated = small_site(tmp_path)
    taken = {assumed.group: (assumed.count, assumed.model) for assumed in emulated.assumed}
    assert taken == {"whatsminers": (10, "whatsminer-m60"), "luxos": (10, "luxos-s19")}
    told = {assumed.group: assumed.model for assumed in small_site(tmp_path, models={"luxos": "luxos-s21"}).assumed}
    assert told["luxos"] == "luxos-s21"


def test_a_machine_of_another_size_is_scaled(tmp_path: Path) -> None:
    text = SITE.replace('feeder = "row-1"\n', 'feeder = "row-1"\nrated_w = 6_800\n').replace("60_000", "90_000")
    emulated = emulate(load_site(site_file(tmp_path, text), {}), {}, Troubles(), seed=1)
    model = next(model for device, model in emulated.models.items() if device.startswith("whatsminers"))
    assert isinstance(model, DeviceModel)
    assert model.rated_w == model.presets[-1].draw_w == 6_800
    assert "6800 W" in emulated.assumed[0].because


@pytest.mark.parametrize(
    ("group", "model", "said"),
    [("luxoss", "luxos-s21", 'did you mean "luxos"?'), ("luxos", "luxos-s99", 'did you mean "luxos-s')],
)
def test_an_unknown_group_or_model_is_refused_with_the_nearest(
    tmp_path: Path, group: str, model: str, said: str
) -> None:
    with pytest.raises(CannotEmulate) as refused:
        small_site(tmp_path, models={group: model})
    assert said in str(refused.value)


def test_each_misdeed_is_dealt_out_in_turn(tmp_path: Path) -> None:
    devices = small_site(tmp_path).plant.device_ids
    dealt = Troubles(devices=0.5).misdeeds(devices, seed=7)
    assert len(dealt) == 10
    assert set(dealt.values()) == set(MISDEEDS)
    assert Troubles(devices=0.5).misdeeds(devices, seed=8).keys() != dealt.keys()
