"""What a scan writes into a site file: found devices at its end, no change, and no file that would not run."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

import pytest

from curtaild.survey.addition import Addition, CannotAdd, Credentials, addition, feeder_for, write
from curtaild_config import Site, check_site, load_site
from curtaild_drivers.contract import Identity
from scan.site_files import SITE

S21 = Identity("Antminer", "S21", "luxos", rated_w=3500.0)
UNRATED = Identity("Bitaxe", "Gamma", "axeos")
TODAY = date(2026, 11, 21)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    file.chmod(0o640)
    return file


def added(path: Path, found: dict[str, Identity], credentials: Credentials | None = None) -> Addition:
    made = addition(load_site(path), found, "row-1", credentials or Credentials(), TODAY)
    if made.groups:
        write(path, made)
    return made


def devices(path: Path) -> dict[str, str]:
    site: Site = load_site(path)
    return {spec.address: spec.group for spec in site.expand_devices()}


def test_what_a_person_wrote_stays_to_the_letter(path: Path) -> None:
    added(path, {"10.0.1.7": S21, "10.0.1.8": S21, "10.0.1.20": UNRATED})
    text = path.read_text()
    assert text.startswith(SITE)
    assert path.stat().st_mode & 0o777 == 0o640
    assert devices(path) == {"10.0.1.7": "row-1-luxos", "10.0.1.8": "row-1-luxos", "10.0.1.20": "row-1-axeos"}
    assert '"10.0.1.7-8",  # Antminer S21' in text
    assert "nobody knows what Bitaxe Gamma draws" in text
    assert [file.name for file in path.parent.iterdir()] == ["site.toml"]


def test_a_second_scan_adds_only_what_is_new_and_under_a_name_of_its_own(path: Path) -> None:
    added(path, {"10.0.1.7": S21})
    once = path.read_text()
    assert added(path, {"10.0.1.7": S21}).groups == {}
    assert path.read_text() == once
    assert added(path, {"10.0.1.7": S21, "10.0.1.9": S21}).groups == {"row-1-luxos-2": 1}
    assert path.read_text().startswith(once)
    assert devices(path) == {"10.0.1.7": "row-1-luxos", "10.0.1.9": "row-1-luxos-2"}


def test_the_password_is_named_by_where_it_lies(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "row-1-password"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    added(path, {"10.0.1.7": S21}, Credentials(password_file=secret))
    assert tomllib.loads(path.read_text())["devices"][0]["password_file"] == str(secret)
    assert "hunter2" not in path.read_text()
    site, problems = check_site(path)
    assert site is not None
    assert all("password" not in problem.key_path for problem in problems)


def test_a_device_cannot_write_keys_by_the_name_it_gives_itself(path: Path) -> None:
    hostile = Identity("Antminer", 'S21\n[policy]\nmax_starts_per_s = 1\n# "\u2028\ud800', "luxos")
    added(path, {"10.0.1.7": hostile})
    assert "policy" not in tomllib.loads(path.read_text())


def test_a_file_that_would_not_run_is_left_as_it_is(path: Path) -> None:
    inline = SITE + "policy = 7\n"
    path.write_text(inline)
    with pytest.raises(CannotAdd, match="would not run"):
        write(path, Addition("\n[[devices]]\n", {"x": 1}))
    assert path.read_text() == inline
    assert [file.name for file in path.parent.iterdir()] == ["site.toml"]


def test_the_feeder_is_asked_for_where_there_are_several(path: Path) -> None:
    site = load_site(path)
    assert feeder_for(site, "main") == "main"
    with pytest.raises(CannotAdd, match="--feeder row-1"):
        feeder_for(site, None)
    with pytest.raises(CannotAdd, match="it has main, row-1"):
        feeder_for(site, "row-2")
