"""Builds docs/hardware.md from what the drivers state: `python docs/build_hardware.py`. The result is committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

from curtaild_drivers.maturity import Maturity, Support
from curtaild_drivers.registry import Driver, drivers

PAGE = Path(__file__).with_name("hardware.md")

_HEAD = """\
# Hardware: what is supported, and how far it has been proven

There is a section for each driver, under the name that `driver = "…"` takes in the site file: {contents}.
It says what the driver speaks to and how far that has been proven; then for each device its ports, its access as
shipped, and what it does otherwise than one would think; last the driver's settings. Which of them a machine of
yours is, and what it offers, `curtaild probe ADDRESS` tells without writing anything to it
([commissioning.md](commissioning.md)).

## What the words mean

**Emulated**: our driver passes the contract and fault suites (`tests/drivers`) against our own emulator, or against
answers imitated in the tests. Both sides were written by us, from the published sources that the row names and not from
each other. A source that is wrong, or that we misread twice in the same way, would not be noticed.

**Independent peer**: the same, and software that is not ours has spoken to the same emulator and agreed with it:
[pyasic](https://github.com/UpstreamData/pyasic), the field's open client, on the questions and commands that the row
names (`tests/emulator/test_pyasic.py`). So the emulator is checked by an independent implementation, and the driver by
that emulator. Not proven: what pyasic does not do, what it and we both have wrong, and all that real machines do and
nobody wrote down: their timings, their draws, their releases.

**Hardware**: the contract suite has passed on a real machine, whose model and firmware release the row names. Other
models and releases may differ.

{verdict}

To raise a row, try a machine of yours and send the transcript: [commissioning.md](commissioning.md).

"""

_FOOT = """
---

This page is generated from what stands beside each driver's code (`SUPPORT`, see
[maturity.py](../drivers/curtaild_drivers/maturity.py)): change it there, then run `python docs/build_hardware.py`.
"""

_NO_ROW_YET = "**No row says hardware yet: none of this has been run on a real machine.** Begin with a few devices."


def page(installed: dict[str, Driver]) -> str:
    """The whole page."""
    stated = {name: driver.support for name, driver in sorted(installed.items()) if driver.support}
    rows = [row for support in stated.values() for row in support]
    is_proven = any(row.maturity is Maturity.HARDWARE for row in rows)
    contents = ", ".join(f"[`{name}`](#driver-{name})" for name in stated)
    parts = [_HEAD.format(contents=contents, verdict="" if is_proven else _NO_ROW_YET)]
    for name, support in stated.items():
        parts.append(_table(name, support))
        parts += [_details(row) for row in support]
        parts.append(_settings(installed[name]))
    silent = [f"`{name}`" for name, driver in sorted(installed.items()) if not driver.support]
    if silent:
        parts.append(f"## Drivers that state nothing\n\n{', '.join(silent)}: take them for emulated at best.\n")
    return "".join(parts).rstrip("\n") + "\n" + _FOOT


def _table(name: str, support: tuple[Support, ...]) -> str:
    lines = [
        f"## Driver `{name}`\n",
        "| device | maturity | reads watts | throttled by | stopped by |",
        "|---|---|---|---|---|",
    ]
    for row in support:
        cells = (row.device, f"**{row.maturity.value}**", row.reads_watts, row.throttled_by, row.stopped_by)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"


def _details(row: Support) -> str:
    known_as = f" (`{row.firmware}`)" if row.firmware else ""
    lines = [f"**{row.device}**{known_as}\n", f"- Proven: {row.proven}.", f"- Ports: {row.ports}. Access: {row.auth}."]
    lines += [f"- {quirk}" for quirk in row.quirks]
    if row.sources:
        lines.append(f"- Written from: {'; '.join(row.sources)}.")
    return "\n".join(lines) + "\n\n"


def _settings(driver: Driver) -> str:
    """The driver's own keys, where it describes them."""
    fields = driver.settings.model_fields.items()
    rows = [f"| `{key}` | {_default(field.default)} | {' '.join(field.description.split())}{_words(field.annotation)} |"
            for key, field in fields if field.description]  # fmt: skip
    if not rows:
        return ""
    head = f"**Settings of `{driver.name}`**, in a device group's `settings = {{ … }}`; "
    head += "where a password lies stands in the group itself:\n\n"
    return head + "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n\n"


def _words(annotation: object) -> str:
    """The words that a key takes, where it takes no others."""
    kinds = (annotation, *get_args(annotation))
    words = [f"`{json.dumps(word)}`" for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return f" One of {', '.join(words)}." if words else ""


def _default(value: object) -> str:
    return "–" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(drivers()), encoding="utf-8")
