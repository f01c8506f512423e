"""docs/downstream.md tells every key, with the default that it has."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from curtaild_config import DeviceGroup
from curtaild_drivers.downstream.settings import DownstreamSettings

PAGE = (Path(__file__).parents[2] / "docs/downstream.md").read_text()


def test_every_key_is_told() -> None:
    assert [key for key in DownstreamSettings.model_fields if f"`{key}`" not in PAGE] == []


def test_the_group_shown_is_one() -> None:
    (group,) = tomllib.loads(PAGE.split("```toml\n")[1].split("```")[0])["devices"]
    settings = DownstreamSettings.model_validate(DeviceGroup.model_validate(group).settings)
    assert settings.endpoint == ("broker.example", 8883)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("broker", "http://x", "mqtt://"),
        ("broker", "mqtt://user:secret@x", "password_file"),
        ("broker", "mqtt://x:99999", "port"),
        ("broker", "mqtt://x/path", "host:port"),
        ("prefix", "a/+", "wildcards"),
        ("ca_file", "ca.pem", "not mqtts"),
        ("password_file", "secret", "username"),
        ("cert_file", "cert.pem", "key_file"),
        ("least_w", 9_000, "must rise"),
        ("curve", [[1.0, 1.0], [1.0, 0.5]], "fall"),
    ],
)
def test_what_cannot_be_meant_is_refused(key: str, value: object, reason: str) -> None:
    given = {"broker": "mqtt://x", "most_w": 8_000, key: value}
    with pytest.raises(ValueError, match=reason):
        DownstreamSettings.model_validate(given)
