"""docs/hardware.md says what the code says, of every firmware that has wire code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from curtaild_drivers.asic import SUPPORT
from curtaild_drivers.asic.identify import OWN
from curtaild_drivers.maturity import Maturity
from curtaild_drivers.registry import drivers

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_hardware", DOCS / "build_hardware.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_the_one_the_code_makes() -> None:
    made = generator().page(drivers())
    assert (DOCS / "hardware.md").read_text() == made, "run: python docs/build_hardware.py"


def test_each_firmware_with_wire_code_states_its_maturity_once() -> None:
    stated = [support.firmware for support in SUPPORT]
    assert [name for name in OWN if stated.count(name) != 1] == []


def test_each_quirk_of_a_miner_names_its_source() -> None:
    quirks = [quirk for support in SUPPORT for quirk in support.quirks]
    assert [quirk for quirk in quirks if not re.search(r"\([^()]{3,}\)\.$", quirk)] == []


def test_what_says_hardware_names_the_machine() -> None:
    rows = [support for driver in drivers().values() for support in driver.support]
    proven = [row for row in rows if row.maturity is Maturity.HARDWARE]
    assert all(any(letter.isdigit() for letter in row.proven) for row in proven), "which model, which release?"
