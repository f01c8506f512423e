"""`curtaild grid` as the other side of MaestroOS and DSX Flex, typed as a person types it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from joserfc.jwk import ECKey
from typer.testing import CliRunner

from curtaild.cli import grid_dsx
from curtaild.cli.main import app
from curtaild.grid.dsx.envelope import EventType, read_event
from curtaild.grid.keys import load_public_keys, load_signer, verify
from curtaild.grid.party import Party
from grid.rig import heard, onlooker
from mosquitto import BINARY, Mosquitto

SITE = """
[site]
name = "tried"
[grid]
failsafe_limit_w = 100000
heartbeat = "none"
[[grid.connection]]
name = "maestro"
dialect = "maestroos"
brokers = ["{url}"]
topic = "maestro/site"
[[grid.connection]]
name = "dsx"
dialect = "dsx-flex"
brokers = ["{url}"]
agent = "thar-1"
signing_key_file = "{folder}/agent.pem"
signing_key_id = "agent-1"
isvs = {{ acme-energy = "{folder}/acme.jwks" }}
feeds = {{ main-a = "main" }}
[[feeder]]
id = "main"
rating_w = 500000
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site file of both dialects, with keys; its broker does not exist."""
    isv = ECKey.generate_key("P-256", {"kid": "acme-1"})
    (tmp_path / "acme.jwk").write_text(json.dumps(isv.as_dict(private=True)))
    (tmp_path / "acme.jwks").write_text(json.dumps({"keys": [isv.as_dict(private=False)]}))
    (tmp_path / "agent.pem").write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    return written(tmp_path, "mqtt://127.0.0.1:1")


def written(folder: Path, url: str) -> Path:
    path = folder / "site.toml"
    path.write_text(SITE.format(url=url, folder=folder))
    return path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    (tmp_path / "mosquitto").mkdir()
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.stop()


async def typed(*words: str) -> Result:
    """The command in this process: its start alone takes a second."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["grid", *words])


@pytest.mark.broker
async def test_switching_as_maestroos_does(broker: Mosquitto, site: Path) -> None:
    path = str(written(site.parent, broker.url))
    async with onlooker(broker, "maestro/site") as client:
        for word, target in (("off", 0), ("on", 100)):
            done = await typed("switch", word, "--config", path)
            assert done.exit_code == 0, done.output
            message = json.loads((await heard(client)).payload)
            assert message["target"] == target
            assert abs(message["timestamp"] - time.time()) < 60


class FirstTwo:
    """Of what a party hears."""

    def __init__(self, party: Party) -> None:
        self._party = party

    async def heard(self) -> AsyncIterator[tuple[str, bytes]]:
        count = 0
        async for said in self._party.heard():
            yield said
            count += 1
            if count == 2:
                return


@pytest.fixture
def hears_two_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for answers waits until there are two, however long that takes."""
    print_all: Any = grid_dsx._print
    monkeypatch.setattr(grid_dsx, "_print", lambda party, *more: print_all(FirstTwo(party), *more))


@pytest.mark.broker
async def test_a_load_target_leaves_signed_and_what_the_agent_answers_is_checked(
    broker: Mosquitto, site: Path, hears_two_answers: None
) -> None:
    path, folder = str(written(site.parent, broker.url)), site.parent
    words = ("--isv-key-file", str(folder / "acme.jwk"), "--feed", "main-a", "--valid-for", "60", "--wait", "120")
    async with onlooker(broker, "grid/v1/isv/acme-energy/loadtarget/set") as client:
        typing = asyncio.create_task(typed("target", "250000", "--config", path, *words))
        envelope = json.loads((await heard(client)).payload)
        event = read_event(envelope, EventType.LOAD_TARGET_SET, "//grid/v1/isv/acme-energy")
        data: Any = verify(event.token, load_public_keys(folder / "acme.jwks"), frozenset(), time.time(), None).body
        (target,) = data["targets"]
        assert (target["load_constraint"], target["feed_tags"]) == ({"value": 250000.0, "unit": "watt"}, ["main-a"])
        for signer in ("agent.pem", "acme.jwk"):
            token = load_signer((folder / signer).read_text(), "agent-1", "here").sign(b'{"feeds":{}}')
            answer = {**envelope, "type": EventType.POWER_STATE.value, "source": "//grid/v1/dsx-flex-agent/thar-1"}
            topic = "grid/v1/dsx-flex-agent/thar-1/powerstate/status"
            await client.publish(topic, json.dumps({**answer, "data": token}), qos=1)
        finished = await typing
    assert finished.exit_code == 0, finished.output
    state, doubted, said = sorted(finished.output.splitlines(), key=lambda line: "{ns".index(line[0]))
    assert said == f"set {envelope['correlationid']}"
    assert json.loads(state) == {"type": "powerstate", "correlationid": envelope["correlationid"], "feeds": {}}
    assert doubted == "not believed: the signature does not fit"


async def test_the_sites_public_keys_are_what_an_isv_needs(site: Path) -> None:
    done = await typed("public-keys", "--config", str(site))
    assert done.exit_code == 0, done.output
    (site.parent / "agent.jwks").write_text(done.stdout)
    assert list(load_public_keys(site.parent / "agent.jwks").keys) == ["agent-1"]
    assert '"d"' not in done.stdout, "the private half stays here"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("release",), "no connection of the site file speaks the native dialect (those: none)"),
        (
            ("switch", "on", "--connection", "dsx"),
            "no connection 'dsx' of the site file speaks MaestroOS (those: maestro)",
        ),
        (("target", "-5", "--isv-key-file", "x"), "No such option"),
        (("target", "nan", "--isv-key-file", "x"), "nan is no load target"),
        (("target", "5", "--isv-key-file", "/nowhere"), "No such file"),
        (("switch", "on"), "broker: "),
    ],
)
async def test_what_cannot_be_said_is_one_line(site: Path, words: tuple[str, ...], why: str) -> None:
    done = await typed(words[0], "--config", str(site), *words[1:])
    assert done.exit_code in (1, 2)
    assert why in done.output
    assert "Traceback" not in done.output
