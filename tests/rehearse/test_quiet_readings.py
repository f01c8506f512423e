"""A reading that says what the last one said is only counted: what follows from it must be the same as if it were
judged in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from curtaild.core import reserve
from curtaild.core.cycle import Command
from curtaild.core.device import RESTLESS
from curtaild.core.inputs import Inputs
from curtaild.rehearse.play import Order, Play
from curtaild.rehearse.run import Core, Rehearsal, rehearse
from curtaild.rehearse.troubles import Troubles
from curtaild_drivers.contract import Seconds
from rehearse.sites import small_site

TROUBLES = Troubles(devices=0.1, meter_noise=0.005, bias=0.03, loss_s=60.0, loss_every_s=900.0)


class Counting(Core):
    """Counts the readings after which only a draw was counted anew."""

    quiet = 0
    under_way = 0
    readings = 0

    def cycle(self, inputs: Inputs, now: Seconds) -> Sequence[Command]:
        self.readings += len(inputs.readings)
        quiet = [device for device, _ in inputs.readings if self.site.devices[device].quiet_w != RESTLESS]
        self.quiet += len(quiet)
        self.under_way += sum(self.site.devices[device].in_flight for device in quiet)
        return super().cycle(inputs, now)


def played(folder: Path) -> tuple[Rehearsal, Counting]:
    emulated = small_site(folder, TROUBLES)
    at = emulated.capacity.at
    orders = [Order(300.0 * n, at((0.9, 0.4, 0.7, 0.2)[n % 4])) for n in range(8)]
    core = Counting(emulated)
    return rehearse(emulated, Play("hops", "up and down", tuple(orders), 2_400.0), TROUBLES, 1, core), core


def test_what_is_only_counted_leads_where_a_full_judgement_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, quick_core = played(tmp_path)
    monkeypatch.setattr(reserve, "_is_at_rest", lambda *_: False)
    monkeypatch.setattr(reserve, "_is_under_way", lambda *_: False)
    full, full_core = played(tmp_path)
    assert quick.trace.commands
    assert quick.trace == full.trace
    assert quick_core.readings == full_core.readings
    assert full_core.quiet == 0
    assert quick_core.quiet > quick_core.readings / 3
    assert quick_core.under_way > quick_core.readings / 10
    for name, device in quick_core.site.devices.items():
        other = full_core.site.devices[name]
        assert (device.reading, device.draw_w, device.recent_w) == (other.reading, other.draw_w, other.recent_w)
        assert (device.learned, device.share) == (other.learned, other.share)
