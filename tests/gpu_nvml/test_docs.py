"""docs/gpu.md says every key there is, and its examples are taken."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer
from click import Group

from curtaild.cli.main import app
from curtaild_drivers.gpu.settings import ClockLock, HookStage, NodeSettings, NvmlSettings

PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
TABLE = PAGE.partition("## Every key")[2].partition("## AMD")[0]


@pytest.mark.parametrize("model", [NodeSettings, ClockLock, HookStage])
def test_every_key_is_said(model: type[NodeSettings | ClockLock | HookStage]) -> None:
    named = set(re.findall(r"`(\w+)`", TABLE))
    assert [key for key in model.model_fields if key not in named] == []


def test_the_examples_are_taken() -> None:
    examples = [tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
    groups = [example["devices"] for example in examples]
    taken = [
        NvmlSettings.model_validate((group[0] if isinstance(group, list) else group).get("settings", {}))
        for group in groups
    ]
    assert taken[0] == NvmlSettings()
    assert any(settings.suspend is not None for settings in taken)


def test_its_commands_are_there() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, Group)
    gpu = root.commands["gpu"]
    assert isinstance(gpu, Group)
    typed = set(re.findall(r"curtaild gpu (\w+)", PAGE))
    assert typed == set(gpu.commands)
