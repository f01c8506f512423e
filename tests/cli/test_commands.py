"""What a person types, and what they get: output, errors in one line each, exit codes. The real command, run as one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mosquitto import BINARY, Mosquitto

COMMAND = shutil.which("curtaild", path=str(Path(sys.executable).parent)) or "curtaild"
GOOD = """
[site]
name = "tried"
[grid]
brokers = ["{url}"]
failsafe_limit_w = 100000
[[feeder]]
id = "main"
rating_w = 500000
[[devices]]
name = "hall"
driver = "asic"
addresses = ["127.9.9.1-12"]
feeder = "main"
[telemetry]
listen = "127.0.0.1:0"
"""


def curtaild(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=200, check=False)


def site_file(folder: Path, text: str = GOOD, url: str = "mqtt://127.0.0.1:1883") -> Path:
    path = folder / "site.toml"
    path.write_text(text.format(url=url))
    return path


def test_check_prints_the_tree_of_a_good_file(tmp_path: Path) -> None:
    done = curtaild("check", str(site_file(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert "main 500 kW" in done.stdout
    assert "hall: 12 devices" in done.stdout


def test_check_names_everything_wrong_at_once_and_the_nearest_right_word(tmp_path: Path) -> None:
    wrong = GOOD.replace("failsafe_limit_w", "failsafe_limit").replace('feeder = "main"', 'feeder = "mian"')
    path = site_file(tmp_path, wrong)
    done = curtaild("check", str(path))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(str(path) in line for line in lines)
    assert any("grid.failsafe_limit:" in line and 'did you mean "failsafe_limit_w"' in line for line in lines)
    assert any("devices[hall].feeder" in line and 'did you mean "main"' in line for line in lines)


@pytest.mark.parametrize("words", [("run", "--config"), ("check",), ("grid", "heartbeat", "--config")])
def test_a_file_that_is_not_there_is_one_line_with_a_remedy(words: tuple[str, ...], tmp_path: Path) -> None:
    done = curtaild(*words, str(tmp_path / "nowhere.toml"))
    assert done.returncode == 1
    assert "nowhere.toml: does not exist; config/site.example.toml explains every key" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_negative_limit_is_not_sent(tmp_path: Path) -> None:
    done = curtaild("grid", "allocation", "--config", str(site_file(tmp_path)), "--", "-5")
    assert done.returncode == 2
    assert "LIMIT_W" in done.stderr


def test_a_broker_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = curtaild("grid", "release", "--config", str(site_file(tmp_path, url="mqtt://127.0.0.1:1")))
    assert done.returncode == 1
    assert done.stderr.startswith("broker: ")
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.mark.broker
def test_the_operators_words_reach_the_broker_as_the_dialect_has_them(broker: Mosquitto, tmp_path: Path) -> None:
    path = str(site_file(tmp_path, url=broker.url))
    stated = curtaild("grid", "allocation", "250000", "--config", path, "--reach-by", "30", "--wait", "0")
    assert stated.returncode == 0, stated.stderr
    name = stated.stdout.split()[-1]
    message = retained(broker, "curtaild/v1/tried/allocation")
    assert (message["id"], message["limit_w"], message["reach_by_s"], message["class"]) == (name, 250000, 30, "normal")

    released = curtaild("grid", "release", "--config", path, "--wait", "0")
    assert released.returncode == 0, released.stderr
    newer = retained(broker, "curtaild/v1/tried/allocation")
    assert newer["limit_w"] is None
    assert newer["seq"] > message["seq"]
    assert curtaild("grid", "heartbeat", "--config", path).returncode == 0


def retained(broker: Mosquitto, topic: str) -> dict[str, Any]:
    """What the broker keeps there, as any client of its own kind sees it."""
    words = ["mosquitto_sub", "-p", str(broker.port), "-t", topic, "-C", "1", "-W", "60"]
    seen: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=100).stdout)
    return seen
