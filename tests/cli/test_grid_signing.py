"""`curtaild grid` with a key: what it says is signed; a site that takes only signed words is not spoken to without."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from curtaild.cli.main import app
from curtaild.core.allocation import AllocationReceived, GridMessage
from curtaild.grid.keys import load_public_keys, load_signer, verify
from curtaild.grid.opening import open_grid
from curtaild_config import load_site
from grid.dsx import ec_signer, jwks
from grid.rig import CLOCK, ROOT, at_work, limit_of
from mosquitto import BINARY, Mosquitto

SITE = """
[site]
name = "tried"
[grid]
failsafe_limit_w = 100000
brokers = ["{url}"]
[[grid.issuer]]
name = "npcc"
keys_file = "{folder}/npcc.jwks"
[[feeder]]
id = "main"
rating_w = 500000
"""


def site_file(folder: Path, url: str) -> Path:
    (folder / "npcc.jwk").write_text(json.dumps(ec_signer("npcc-1").key.as_dict(private=True)))
    (folder / "npcc.jwks").write_text(jwks(ec_signer("npcc-1")))
    (folder / "site.toml").write_text(SITE.format(url=url, folder=folder))
    return folder / "site.toml"


async def typed(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["grid", *words])


@pytest.mark.broker
async def test_what_is_stated_with_a_key_is_taken(tmp_path: Path) -> None:
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        path = site_file(tmp_path, broker.url)
        delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
        link = open_grid(load_site(path), ROOT, CLOCK, delivered.put_nowait, str(path), {})
        async with at_work(link, delivered) as run:
            await run.connected()
            key = ("--key-file", str(tmp_path / "npcc.jwk"), "--issuer", "npcc", "--wait", "0")
            done = await typed("allocation", "250000", "--config", str(path), *key)
            assert done.exit_code == 0, done.output
            taken = await run.next(AllocationReceived)
            assert (limit_of(taken), taken.allocation.issuer) == (250_000, "npcc")
    finally:
        broker.stop()


async def test_a_new_key_signs_and_its_public_half_is_what_a_site_needs(tmp_path: Path) -> None:
    private, public = tmp_path / "npcc.jwk", tmp_path / "npcc.jwks"
    made = await typed("new-key", str(private), "--key-id", "npcc-9")
    assert made.exit_code == 0, made.output
    public.write_text(made.stdout)
    assert private.stat().st_mode & 0o777 == 0o600
    assert '"d"' not in made.stdout, "the private half stays in its file"
    token = load_signer(private.read_text(), None, "here").sign(b'{"said":1}')
    assert verify(token, load_public_keys(public), frozenset(), 0.0, None).kid == "npcc-9"
    again = await typed("new-key", str(private), "--key-id", "npcc-9")
    assert (again.exit_code, "File exists" in again.output) == (1, True)


def test_check_names_every_file_of_keys_that_cannot_be_used(tmp_path: Path) -> None:
    path = site_file(tmp_path, "mqtt://127.0.0.1:1")
    good = CliRunner().invoke(app, ["check", str(path)])
    assert "is good: 0 error(s)" in good.output
    second = f'[[grid.issuer]]\nname = "back-up"\nkeys_file = "{tmp_path}/nowhere"\n[[feeder]]'
    path.write_text(path.read_text().replace("[[feeder]]", second))
    (tmp_path / "npcc.jwks").write_text('{"keys": []}')
    wrong = CliRunner().invoke(app, ["check", str(path)])
    assert wrong.exit_code == 1
    assert "grid.issuer[npcc].keys_file" in wrong.output
    assert "it has no keys" in wrong.output
    assert "grid.issuer[back-up].keys_file" in wrong.output
    assert "2 error(s)" in wrong.output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "takes only what its issuers sign (npcc): sign with --key-file"),
        (("--key-file", "/nowhere"), "No such file"),
        (("--key-file", "{folder}/npcc.jwks"), "neither an EC nor an RSA key"),
    ],
)
async def test_without_a_key_that_signs_it_is_one_line(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    path = site_file(tmp_path, "mqtt://127.0.0.1:1")
    done = await typed("release", "--config", str(path), *(word.format(folder=tmp_path) for word in words))
    assert done.exit_code == 1
    assert why in done.output
    assert "Traceback" not in done.output
