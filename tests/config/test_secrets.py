"""Secrets come from files and systemd credentials, and show themselves nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.site_files import WHOLE, checked, written
from curtaild_config import SecretSource, SiteFileError, grid_secret_sources, load_site, resolve_secrets


def test_a_file_and_a_credential(tmp_path: Path) -> None:
    (tmp_path / "mqtt").write_text("pa ss\n")
    (tmp_path / "row").write_text("w0rd")
    text = WHOLE.replace("[grid]\n", f'[grid]\nusername = "u"\npassword_file = "{tmp_path}/mqtt"\n')
    text += 'password_credential = "row"\n'
    site = load_site(written(tmp_path, text), {})
    brokers = resolve_secrets(grid_secret_sources(site))
    assert {name: value.get_secret_value() for name, value in brokers.items()} == {"password": "pa ss"}
    device = site.expand_devices()[0]
    miners = resolve_secrets(device.secret_sources, env={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert miners["password"].get_secret_value() == "w0rd"
    assert "w0rd" not in repr(miners)
    assert "pa ss" not in repr((brokers, site, device))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "is not UTF-8 text")],
)
def test_a_file_without_a_secret(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SiteFileError) as caught:
        resolve_secrets([SecretSource("password", "grid.password_file", file=path)], "site.toml", {})
    (problem,) = caught.value.problems
    assert (problem.key_path, problem.reason) == ("grid.password_file", f"{path} {reason}")
    assert problem.remedy == f"create {path} with the secret as its only line, readable by the daemon alone"


def test_a_secret_is_no_endless_file() -> None:
    with pytest.raises(SiteFileError, match="is far too long"):
        resolve_secrets([SecretSource("password", "grid.password_file", file=Path("/dev/zero"))])


def test_every_missing_secret_is_named_at_once_by_check(tmp_path: Path) -> None:
    text = WHOLE.replace("[grid]\n", '[grid]\nusername = "u"\npassword_file = "/nowhere/p"\n')
    text += 'settings = { token_credential = "fleet" }\n'
    problems = {problem.key_path: problem for problem in checked(tmp_path, text)[1]}
    assert problems["grid.password_file"].reason == "/nowhere/p does not exist"
    token = problems["devices[row-1].settings.token_credential"]
    assert token.reason == "systemd handed over no credentials ($CREDENTIALS_DIRECTORY is not set)"
    assert token.remedy == "add LoadCredential=fleet:/etc/curtaild/fleet to the unit"
