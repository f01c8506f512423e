"""The example of a mining and AI site fits the example farm: every device of the one stands in the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from click import Command, Group

from curtaild.cli.main import app
from curtaild_config import check_site
from curtaild_emulator import MODELS, NODE_MODELS, FarmPlan
from curtaild_emulator.bmc.profiles import PROFILES

FOLDER = Path(__file__).parents[2] / "config/hybrid"
SITE_FILE = FOLDER / "site.toml"


def test_each_device_of_the_farm_is_in_the_site_file_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bmc-password").touch(mode=0o600)
    Path("bmc-password").write_text("emulated\n")
    plan = FarmPlan.load(FOLDER / "farm.toml")
    site, problems = check_site(SITE_FILE, {})
    assert problems == []
    assert site is not None
    listed = {spec.address: spec for spec in site.expand_devices()}
    assert len(listed) == 224
    for miner in plan.all_devices():
        spec = listed.pop(miner.address)
        assert (spec.feeder, getattr(spec.settings, "firmware", None)) == (
            miner.feeder,
            MODELS[miner.model].firmware.value,
        )
    for node in plan.all_nodes():
        spec = listed.pop(node.address)
        assert (spec.feeder, spec.rated_w) == (node.feeder, NODE_MODELS[node.model].max_w)
        assert getattr(spec.settings, "username", None) == PROFILES[node.bmc].user
        assert getattr(spec.settings, "port", None) == plan.ports.redfish
    assert listed == {}
    meters = {meter.feeder: meter.address for meter in site.meters()}
    assert meters == {feeder.id: f"{feeder.address}:{plan.ports.modbus}" for feeder in plan.feeders}


@pytest.mark.parametrize("typed", re.findall(r"curtaild (.*?)(?: &|  #|$)", SITE_FILE.read_text(), re.MULTILINE))
def test_its_commands_are_there(typed: str) -> None:
    command: Command = typer.main.get_command(app)
    words = typed.split()
    while isinstance(command, Group):
        command = command.commands[words.pop(0)]
    taken = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= taken
