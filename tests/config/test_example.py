"""The example site file holds every key there is, says the true defaults, and works."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from config.site_files import written
from curtaild_config import GridConnection, Site, check_site, load_site
from curtaild_drivers.meter.registers import ModbusMeterSettings

EXAMPLE = Path(__file__).parents[2] / "config" / "site.example.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
CONNECTION = re.compile(r"(?:^# \[\[grid\.(?:connection|issuer)\]\]\n)(?:^# (?:\[|#?[a-z_]+ = ).*\n)+", re.MULTILINE)
"""A whole connection or issuer behind a comment sign."""
WITH_CONNECTIONS = CONNECTION.sub(lambda block: re.sub(r"^# ", "", block[0], flags=re.MULTILINE), TEXT)
COMMENTED_KEY = re.compile(r"^#([a-z_]+ = .*)$", re.MULTILINE)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def keys(model: type[BaseModel], table: str = "") -> Iterator[tuple[str, str]]:
    """(table, key) of every key of the site file."""
    for name, field in model.model_fields.items():
        path = f"{table}.{name}" if table else name
        inner = list(dict.fromkeys(models_in(field.annotation)))
        if inner:
            for below in inner:
                yield from keys(below, path)
        else:
            yield table, name


ALL_KEYS = [*keys(Site), *keys(ModbusMeterSettings, "feeder.meter.settings")]


def tables() -> dict[str, str]:
    """The example's text by table, the connections let in; an inline table counts as its own."""
    found: dict[str, str] = {}
    for part in re.split(r"^(?=\[)", WITH_CONNECTIONS, flags=re.MULTILINE):
        if header := re.match(r"\[+([a-z.]+)\]+", part):
            found[header[1]] = found.get(header[1], "") + part
            for key, inline in re.findall(r"^#?([a-z_]+) = \{(.*)\}", part, flags=re.MULTILINE):
                found[f"{header[1]}.{key}"] = re.sub(r"(^|,) *", "\n", inline)
    return found


@pytest.mark.parametrize(("table", "key"), ALL_KEYS, ids=lambda part: str(part))
def test_every_key_stands_in_the_example(table: str, key: str) -> None:
    stands = re.search(rf"^#?{key} = ", tables().get(table, ""), flags=re.MULTILINE)
    assert stands or f"{table}.{key}" in tables(), f"[{table}] {key}"


def test_the_example_works() -> None:
    site, problems = check_site(EXAMPLE, {})
    assert problems == []
    assert site is not None
    assert len(site.expand_devices()) == 100
    assert [meter.feeder for meter in site.meters()] == ["site"]


def test_every_connection_shown_works_when_let_in(tmp_path: Path) -> None:
    (key := tmp_path / "key.pem").touch(mode=0o600)
    key.write_text("a key")
    text = re.sub("/etc/curtaild/(dsx-key.pem|vtn-secret)", str(key), WITH_CONNECTIONS)
    site, problems = check_site(written(tmp_path, text), {})
    assert problems == []
    assert site is not None
    dialects = {get_args(model.model_fields["dialect"].annotation)[0] for model in models_in(GridConnection)}
    assert {connection.dialect for connection in site.grid.connection} == dialects


OWN_WORDS = {
    ("grid", "brokers"),
    ("feeder", "auxiliary_w"),
    ("feeder", "meter"),
    ("feeder.meter", "settings"),
    ("devices", "settings"),
}
"""Where the example shows a small site rather than a default."""


def test_what_the_example_gives_as_default_is_the_default() -> None:
    example, site = tomllib.loads(TEXT), load_site(EXAMPLE, {})
    meter = site.feeder[0].meter
    assert meter is not None
    once: list[tuple[str, dict[str, Any], BaseModel]] = [
        (name, example[name], getattr(site, name)) for name in example if name not in ("feeder", "devices")
    ]
    compared = 0
    for table, stands, model in [
        *once,
        ("feeder", example["feeder"][0], site.feeder[0]),
        ("feeder.meter", example["feeder"][0]["meter"], meter),
        ("devices", example["devices"][0], site.devices[0]),
    ]:
        for key in stands:
            field = type(model).model_fields[key]
            if not field.is_required() and (table, key) not in OWN_WORDS:
                default = field.get_default(call_default_factory=True, validated_data={})
                assert getattr(model, key) == default, f"[{table}] {key}"
                compared += 1
    assert compared == 31


@pytest.mark.parametrize("line", COMMENTED_KEY.findall(TEXT))
def test_every_key_behind_a_comment_sign_works_when_let_in(tmp_path: Path, line: str) -> None:
    key = line.partition(" = ")[0]
    text = TEXT.replace(f"#{line}", line)
    if key in ("power", "energy"):
        text = text.replace('preset = "schneider-pm5xxx"', "")
        text = text.replace("#power = ", "power = ")
    if key in ("cert_file", "key_file", "ca_file"):
        text = text.replace("mqtt://", "mqtts://").replace("#cert_file", "cert_file").replace("#key_file", "key_file")
    if key.startswith("password"):
        text = text.replace("#username", "username")
    assert tomllib.loads(text) != tomllib.loads(TEXT)
    load_site(written(tmp_path, text), {})
