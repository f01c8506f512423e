"""Each known defect on each firmware: no success is claimed for a write that did not happen, and nothing changes on a
device that nobody asked to change. What a defect is, and where it cannot exist, stands in `defects.py`."""

from __future__ import annotations

import pytest

from curtaild_drivers.asic.identify import OWN
from curtaild_emulator import MODELS
from drivers.conftest import FIRMWARES
from drivers.defects import DEFECTS
from drivers.rigs import rig_of

CELLS = [
    (firmware, name) for name, defect in DEFECTS.items() for firmware in FIRMWARES if firmware not in defect.cannot
]


@pytest.mark.parametrize(("firmware", "name"), CELLS)
async def test_a_defect(firmware: str, name: str) -> None:
    defect = DEFECTS[name]
    async with rig_of(firmware) as rig:
        before = rig.settings()
        await defect.check(rig)
        after = rig.settings()
    assert {key for key in after if after[key] != before[key]} <= defect.may_change


def test_every_defect_is_tried_on_every_firmware_or_explained() -> None:
    firmwares = set(FIRMWARES)
    assert {MODELS[model].firmware.value for model in FIRMWARES.values()} == set(OWN), "all that are told anything"
    for name, defect in DEFECTS.items():
        tried = {firmware for firmware, cell in CELLS if cell == name}
        explained = {firmware for firmware, reason in defect.cannot.items() if reason}
        assert tried | explained == firmwares, name
        assert not tried & explained, name
        assert tried, f"{name} is tried nowhere"
