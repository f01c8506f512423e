"""A real mosquitto, children on paper, and the driver that drives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curtaild_drivers.contract import Device, Identity
from curtaild_drivers.downstream import DRIVER, child
from curtaild_drivers.registry import OpenContext
from downstream.paper_child import PaperChild
from drivers.conftest import Bench
from mosquitto import BINARY, Mosquitto

Opener = Callable[..., Device]

LONG_S = 50.0
"""For every deadline: where an answer comes, a busy machine may take its time."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    made = Mosquitto(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def opener(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Opens a child's device: settings by name. What a child says is believed after less than it takes in life."""
    monkeypatch.setattr(child, "STANDS_STILL_S", 0.1)
    monkeypatch.setattr(child, "RESTATE_S", 0.5)
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", LONG_S)

    def opened(
        site: str = "gpu-01",
        remembered: Identity | None = None,
        flex: float | None = None,
        signing_key: str | None = None,
        **settings: Any,
    ) -> Device:
        assert DRIVER.open_device is not None
        chosen = {"broker": broker.url, "read_deadline_s": LONG_S, "write_deadline_s": LONG_S, **settings}
        secrets = {} if signing_key is None else {"signing_key": signing_key}
        return DRIVER.open_device(
            site, DRIVER.settings.model_validate(chosen), OpenContext(remembered, secrets, flex=flex)
        )

    return opened


@pytest.fixture
async def paper(broker: Mosquitto) -> AsyncIterator[PaperChild]:
    async with PaperChild("gpu-01").at(broker.port) as made:
        yield made


@pytest.fixture
async def bench(paper: PaperChild, opener: Opener) -> AsyncIterator[Bench]:
    device = opener(least_w=3_000, base_w=400)
    await device.apply((await device.operating_points()).highest)
    yield Bench(device, lambda remembered=None: opener(remembered=remembered, least_w=3_000, base_w=400), LONG_S)
    await device.close()
