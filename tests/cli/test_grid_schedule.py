"""`curtaild grid schedule | watch`: the file that a rehearsal plays, stated to a real broker; what a site answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curtaild.cli.main import app
from curtaild.grid.fields import moment
from grid.rig import heard, onlooker
from mosquitto import BINARY, Mosquitto
from running_site import until

SITE = """
[site]
name = "tried"
[grid]
brokers = ["{url}"]
failsafe_limit_w = 100000
[[feeder]]
id = "main"
rating_w = 500000
"""
EVENTS = """
[[event]]
at_s = 600
limit_w = 0
lasts_s = 60
class = "emergency"
[[event]]
at_s = 60
limit_w = 250_000
feeder = "main"
reach_by_s = 30
[[event]]
at_s = 660
"""
jsonschema: Any = import_module("jsonschema")  # it ships no types
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "grid" / "native.schema.json").read_text())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    (tmp_path / "mosquitto").mkdir()
    broker = Mosquitto(tmp_path / "mosquitto", ("allow_anonymous true", "log_type all"))
    broker.start()
    yield broker
    broker.stop()


def typed(folder: Path, events: str, url: str) -> tuple[int, str]:
    (folder / "site.toml").write_text(SITE.format(url=url))
    (folder / "events.toml").write_text(events)
    words = ["grid", "schedule", str(folder / "events.toml"), "--config", str(folder / "site.toml"), "--wait", "0"]
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


@pytest.mark.broker
async def test_a_rehearsed_file_is_stated_as_the_list_of_what_comes(broker: Mosquitto, tmp_path: Path) -> None:
    before = time.time()
    code, output = await asyncio.to_thread(typed, tmp_path, EVENTS, broker.url)
    assert code == 0, output
    async with onlooker(broker, "curtaild/v1/tried/schedule") as client:
        message = await heard(client)
    assert message.retain, "a site that was away finds it"
    stated = json.loads(message.payload)
    jsonschema.validate(stated, {"$ref": "#/$defs/schedule", **SCHEMA})
    first, second, third = stated["allocations"]
    assert output.splitlines() == [f"stated {each['id']}" for each in (first, second, third)]
    assert (first["limit_w"], first["feeder"], first["reach_by_s"], first["class"]) == (250_000, "main", 30, "normal")
    assert (second["limit_w"], second["class"]) == (0, "emergency")
    assert third["limit_w"] is None, "without a limit it releases"
    for each, at_s in ((first, 60), (second, 600), (third, 660)):
        assert before + at_s - 1 < moment(each, "valid_from") < time.time() + at_s + 1
    assert moment(second, "valid_until") - moment(second, "valid_from") == pytest.approx(60, abs=0.01)
    assert first["valid_until"] is third["valid_until"] is None


@pytest.mark.broker
async def test_what_the_site_says_is_printed_until_the_line_is_down(broker: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE.format(url=broker.url))
    words = ["grid", "watch", "--config", str(tmp_path / "site.toml")]
    watching = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, app, words))
    async with onlooker(broker) as client:
        stem = "curtaild/v1/tried"
        await client.publish(f"{stem}/status", json.dumps({"state": "limited"}), qos=1, retain=True)
        await until("it listens", lambda: "Sending PUBLISH to curtaild-operator" in broker.log)
        for kind, payload in (("ack", '{"stage":"reached"}'), ("breach", "{"), ("breach", '{"stage":"active"}')):
            await client.publish(f"{stem}/{kind}", payload, qos=1)
        await until("it has heard all four", lambda: broker.log.count("Received PUBACK from curtaild-operator") == 4)
    broker.stop()
    done = await watching
    *said, last = done.output.splitlines()
    assert [json.loads(line) for line in said] == [
        {"status": {"state": "limited"}},
        {"ack": {"stage": "reached"}},
        {"breach": {"stage": "active"}},
    ]
    assert (done.exit_code, last.startswith("broker: ")) == (1, True)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ("[[event]]\nat_s = 0\nshare = 0.5\n", "a share is of an emulated plant: give limit_w"),
        ("[[event]]\nat_s = -1\nlimit_w = 5\n", "1 thing(s) to mend"),
        ("[[event]]\nat_s = 0\nlimit_w = 5\n", "broker: "),
    ],
)
def test_what_cannot_be_stated_is_said(tmp_path: Path, events: str, why: str) -> None:
    code, output = typed(tmp_path, events, "mqtt://127.0.0.1:1")
    assert (code, why in output) == (1, True), output
