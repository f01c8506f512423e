"""Weather on the way to a broker: packets that get lost in one direction, in both, or every other one. By nftables, in
a network namespace of our own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NFT = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
_TABLE = "inet curtaild_weather"


class Weather:
    """Rules on the packets of TCP ports; each call adds to what holds, `clear` ends it all."""

    def half_open(self, port: int) -> None:
        """What the broker sends is lost; what it is sent arrives."""
        _nft(f"add rule {_TABLE} incoming tcp sport {port} drop")

    def partition(self, port: int) -> None:
        _nft(f"add rule {_TABLE} incoming tcp sport {port} drop")
        _nft(f"add rule {_TABLE} incoming tcp dport {port} drop")

    def loses_half(self, port: int) -> None:
        _nft(f"add rule {_TABLE} incoming tcp sport {port} numgen random mod 2 == 0 drop")
        _nft(f"add rule {_TABLE} incoming tcp dport {port} numgen random mod 2 == 0 drop")

    def clear(self) -> None:
        _nft(f"flush chain {_TABLE} incoming")


@contextmanager
def weather() -> Iterator[Weather]:
    """Fair at first. Skips where there is no nft, or where the rules would be the host's own."""
    if NFT is None:
        pytest.skip("nft is not installed (apt install nftables)")
    if os.geteuid() != 0 or socket.if_nameindex() != [(1, "lo")]:
        pytest.skip("needs a network namespace of its own: root, and pytest -n 1")
    _nft(f"add table {_TABLE}")
    try:
        _nft(f"add chain {_TABLE} incoming {{ type filter hook input priority 0; }}")
        yield Weather()
    finally:
        _nft(f"delete table {_TABLE}")


def _nft(rule: str) -> None:
    assert NFT is not None
    done = subprocess.run([NFT, rule], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{rule}: {done.stderr}"
