"""Lets the contract suite run against a real machine: `pytest tests/drivers --device 10.0.3.17`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("curtaild drivers")
    group.addoption("--device", metavar="ADDRESS", help="a real ASIC miner; it WILL be throttled and stopped")
    group.addoption("--device-password-file", metavar="FILE", help="where its password lies")
