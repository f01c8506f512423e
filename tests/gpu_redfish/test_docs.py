"""docs/redfish.md says every key and every profile there is, the true defaults, and its examples are taken."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from curtaild_config import check_site
from curtaild_drivers.gpu.redfish import DRIVER, RedfishSettings
from curtaild_drivers.gpu.redfish.profiles import PROFILES

PAGE = (Path(__file__).parents[2] / "docs" / "redfish.md").read_text()
SITE = """
[site]
name = "s"
[grid]
brokers = ["mqtt://127.0.0.1:1883"]
failsafe_limit_w = 0
[[feeder]]
id = "row-2"
rating_w = 1e6
meter = { address = "10.0.0.5", settings = { preset = "schneider-pm5xxx" } }
"""


def section(heading: str) -> str:
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_every_key_is_said() -> None:
    named = set(re.findall(r"`(\w+)`", section("Every key")))
    assert [key for key in RedfishSettings.model_fields if key not in named] == []


def test_every_profile_is_said_with_the_mode_that_is_written() -> None:
    rows = {row.split("|")[1].strip(" `"): row.split("|") for row in section("Profiles").splitlines() if "|" in row}
    for name, profile in PROFILES.items():
        assert rows[name][5].strip(" `–") == (profile.mode or ""), name
    assert {support.firmware for support in DRIVER.support} == set(PROFILES)


def test_the_defaults_are_the_true_ones() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| `?\"?([\w.]+)\"?`? \|", section("Every key"), re.MULTILINE))
    own = {name: field.default for name, field in RedfishSettings.model_fields.items()}
    compared = {key: text for key, text in told.items() if isinstance(own[key], str | float) and key != "port"}
    assert len(compared) >= 6
    assert [key for key, text in compared.items() if text != str(own[key]).removesuffix(".0")] == []


EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_its_example_is_a_group_of_a_site(tmp_path: Path) -> None:
    (password := tmp_path / "password").touch(mode=0o600)
    password.write_text("secret")
    file = tmp_path / "site.toml"
    file.write_text(SITE + EXAMPLES[0].replace("/etc/curtaild/bmc-password", str(password)))
    site, problems = check_site(file, {})
    assert problems == []
    assert site is not None
    devices = site.expand_devices()
    assert len(devices) == 8
    assert isinstance(devices[0].settings, RedfishSettings)


def test_its_hooks_are_settings() -> None:
    (example,) = [text for text in EXAMPLES if "suspend" in text]
    settings = RedfishSettings.model_validate(tomllib.loads(example)["devices"]["settings"])
    assert settings.suspend is not None
    assert set(settings.node_names) == {"10.0.3.11", "10.0.3.12"}


@pytest.mark.parametrize("example", [text for text in EXAMPLES[1:] if "fingerprints" in text])
def test_its_other_examples_are_settings(example: str) -> None:
    digits = iter(["ab" * 32, "cd" * 32])
    text = re.sub(r'"[0-9A-F]{2}:[0-9A-F]{2}:…"', lambda _: f'"{next(digits)}"', example)
    settings = RedfishSettings.model_validate(tomllib.loads(text)["devices"]["settings"])
    assert set(settings.fingerprints) == {"10.0.3.11", "10.0.3.12"}


def test_a_wrong_key_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    wrong = EXAMPLES[0].replace("ca_file", "cafile").replace('username = "curtaild"\n', "")
    file.write_text(SITE + wrong)
    _, problems = check_site(file, {})
    told = {problem.key_path: problem.remedy for problem in problems}
    assert "ca_file" in told["devices[ai-row].settings.cafile"]
    assert "devices[ai-row].settings.username" in told
