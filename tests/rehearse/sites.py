"""Small sites for rehearsals: a file as an engineer would write it, and what it becomes."""

from __future__ import annotations

from pathlib import Path

from curtaild.rehearse.emulated import Emulated, emulate
from curtaild.rehearse.troubles import Troubles
from curtaild_config import load_site

SITE = """
[site]
name = "rehearsed"

[grid]
brokers = ["mqtt://127.0.0.1:1883"]
failsafe_limit_w = 20_000

[[feeder]]
id = "site"
rating_w = 120_000
auxiliary_w = 1_000
[feeder.meter]
address = "10.0.0.5:502"
settings = { preset = "eastron-sdm630" }

[[feeder]]
id = "row-1"
parent = "site"
rating_w = 60_000

[[devices]]
name = "whatsminers"
driver = "asic"
addresses = ["10.0.1.1-10"]
feeder = "row-1"
settings = { firmware = "whatsminer-v3" }

[[devices]]
name = "luxos"
driver = "asic"
addresses = ["10.0.2.1-10"]
feeder = "site"
settings = { firmware = "luxos" }
"""


def site_file(folder: Path, text: str = SITE) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


def small_site(folder: Path, troubles: Troubles | None = None, models: dict[str, str] | None = None) -> Emulated:
    """Twenty devices, their plant at full power."""
    return emulate(load_site(site_file(folder), {}), models or {}, troubles or Troubles(), seed=1)
