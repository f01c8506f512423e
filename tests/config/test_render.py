"""The tree that `curtaild check` shows."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from config.site_files import FEEDERS, GRID, SITE, written
from curtaild_config import load_site, render_tree

ROWS = """
[[feeder]]
id = "row-1"
parent = "root"
rating_w = 512_500
auxiliary_w = 90
[[devices]]
name = "miners"
driver = "asic"
addresses = ["10.0.0.0/21"]
feeder = "row-1"
rated_w = 3_400
[[devices]]
name = "one"
driver = "asic"
addresses = ["miner-7"]
feeder = "root"
priority = 90
"""


def test_the_tree(tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(render_tree(load_site(written(tmp_path, SITE + GRID + FEEDERS + ROWS), {})))
    assert console.export_text() == (
        "korangi · 2,047 devices · fail-safe 250 kW\n"
        "└── root 1 MW · meter modbus 10.0.0.5:502\n"
        "    ├── one: 1 device · asic · priority 90\n"
        "    └── row-1 512.5 kW, auxiliary 90 W\n"
        "        └── miners: 2,046 devices × 3.4 kW · asic · priority 50\n"
    )
