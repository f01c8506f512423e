"""Rehearsing: how long an hour of a site takes, the daemon's own core against the emulated plant, in virtual time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.table import Row
from curtaild.rehearse.emulated import Emulated, emulate
from curtaild.rehearse.run import rehearse
from curtaild.rehearse.signals import SIGNALS
from curtaild.rehearse.troubles import Troubles
from curtaild_config import load_site

HOUR_S = 3_600.0
TIMES_REAL_TIME = 1_000.0
GROUPS = {"whatsminer-v3": 3, "luxos": 3, "antminer": 2, "braiins": 2}
"""Of ten devices: two firmwares with limits and power, one without power, and one that measures no watts."""


def rehearsal_rows(devices: int, signals: tuple[str, ...], progress: Callable[[str], None]) -> Iterator[Row]:
    """For each signal the CPU seconds that an hour of it takes. The start, before which nothing is judged, counts."""
    for signal in signals:
        progress(signal)
        emulated = _emulated(devices)
        play = SIGNALS[signal](emulated.capacity)
        begin = time.thread_time()
        rehearse(emulated, play, Troubles(), seed=1)
        took_s = time.thread_time() - begin
        yield Row(
            f"rehearsal of {devices} devices: an hour of {signal}",
            "s",
            took_s / play.duration_s * HOUR_S,
            bar=HOUR_S / TIMES_REAL_TIME,
        )


def _emulated(devices: int) -> Emulated:
    """Two metered rows, half of the firmwares on each."""
    with tempfile.TemporaryDirectory(prefix="curtaild-rehearsal-") as folder:
        path = Path(folder) / "site.toml"
        path.write_text(_site(devices))
        return emulate(load_site(path, {}), {}, Troubles(), seed=1)


def _site(devices: int) -> str:
    rating_w = 3_600 * devices
    lines = [
        '[site]\nname = "bench"',
        f'[grid]\nbrokers = ["mqtt://127.0.0.1:1883"]\nfailsafe_limit_w = {rating_w // 4}',
        "[policy]\nhashprice_usd_per_ph_day = 50.0",
        _feeder("site", None, rating_w, 40 * devices),
        *(_feeder(row, "site", rating_w, 0) for row in ("row-1", "row-2")),
    ]
    for number, (firmware, share) in enumerate(GROUPS.items()):
        addresses = f"10.0.{number + 1}.1-{max(1, share * devices // 10)}"
        lines.append(
            f'[[devices]]\nname = "{firmware}"\ndriver = "asic"\nfeeder = "row-{number % 2 + 1}"\n'
            f'addresses = ["{addresses}"]\nsettings = {{ firmware = "{firmware}" }}'
        )
    return "\n".join(lines) + "\n"


def _feeder(name: str, parent: str | None, rating_w: int, auxiliary_w: int) -> str:
    above = f'parent = "{parent}"\n' if parent is not None else ""
    return (
        f'[[feeder]]\nid = "{name}"\n{above}rating_w = {rating_w}\nauxiliary_w = {auxiliary_w}\n'
        '[feeder.meter]\naddress = "10.0.0.1:502"\nsettings = { preset = "eastron-sdm630" }'
    )
