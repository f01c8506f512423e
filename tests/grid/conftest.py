"""A real broker for the tests that need one; they are skipped, with the reason, where none is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mosquitto import BINARY, Mosquitto

NO_BROKER = "mosquitto is not installed (apt install mosquitto)"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One open broker for all tests that leave it alone; each uses a site name of its own."""
    if BINARY is None:
        pytest.skip(NO_BROKER)
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts brokers that the test may freeze, stop or configure as it likes."""
    if BINARY is None:
        pytest.skip(NO_BROKER)
    started: list[Mosquitto] = []

    def start(*config: str) -> Mosquitto:
        folder = tmp_path / f"mosquitto-{len(started)}"
        folder.mkdir()
        broker = Mosquitto(folder, config or ("allow_anonymous true",))
        started.append(broker)
        broker.start()
        return broker

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def site(request: pytest.FixtureRequest) -> str:
    """A site name that no other test uses."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
