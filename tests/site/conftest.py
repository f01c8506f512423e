"""What every whole-site test needs installed."""

from __future__ import annotations

import pytest

from mosquitto import BINARY

NO_BROKER = "mosquitto is not installed (apt install mosquitto)"


@pytest.fixture(autouse=True)
def _broker_is_installed() -> None:
    if BINARY is None:
        pytest.skip(NO_BROKER)
